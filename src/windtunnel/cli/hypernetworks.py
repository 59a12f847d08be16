"""Hypernetworks from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.one_run import Job, Place, train_job
from windtunnel.cli.options import note
from windtunnel.cli.tracking import check_names
from windtunnel.hyper.launch import (
    ReadyGhn,
    create_ghn_folder,
    load_ghn,
    ready_ghn,
    remake_ghn_folder,
    train_ghn,
)
from windtunnel.runs import RunFolder


def train_verb(
    file: Path,
    edits: list[str],
    *,
    out: Path | None,
    resume: bool,
    runs: Path,
    track: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains (or continues) the hypernetwork of a file, with progress on standard error; its
    record."""
    check_names(track)
    config = load_ghn(file, edits)

    def prepare() -> Job:
        ready = ready_ghn(config, dataset=prepare_with_progress(config.data))
        parts = {name: len(part) for name, part in ready.members.parts.items()}
        others = ", ".join(f"{count:,} {name}" for name, count in parts.items() if name != "train")
        note(f"{parts['train']:,} architectures to train on; held out: {others}")
        return _job(ready)

    def follow(folder: RunFolder) -> Job:
        return _job(ready_ghn(config))

    return train_job(config.train, prepare, follow, Place(out, runs, resume, track))


def _job(ready: ReadyGhn) -> Job:
    return Job(
        ready.name,
        ready.key,
        ready.config.train,
        create=partial(create_ghn_folder, ready),
        remake=partial(remake_ghn_folder, ready=ready),
        run=partial(train_ghn, ready=ready),
        next_command=lambda path: f"windtunnel train FILE --init ghn:{path}",
    )
