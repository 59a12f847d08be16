"""The verbs train and branch: one run of a file, or one that goes on from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.one_run import Job, Place, train_job
from windtunnel.cli.options import note
from windtunnel.cli.tracking import check_names
from windtunnel.config import nearest
from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.train.branch import branch_of, with_weights
from windtunnel.train.launch import (
    TOKENIZER,
    ReadyRun,
    create_run_folder,
    ready_run,
    remake_run_folder,
    run_in_folder,
)
from windtunnel.train.run_config import LoadedRun, load_run

if TYPE_CHECKING:
    from windtunnel.hyper.initial import FirstWeights

GHN = "ghn:"


def train_verb(
    file: Path,
    edits: list[str],
    *,
    out: Path | None,
    resume: bool,
    runs: Path,
    track: Sequence[str] = (),
    init: str | None = None,
    lenient: bool = False,
) -> dict[str, Any]:
    """Trains (or continues) the run of a file, with progress on standard error; its record.

    Args:
        init: a run whose weights it begins with, or ``ghn:`` and a hypernetwork.
        lenient: of a run's weights, those that fit.
    """
    check_names(track)
    loaded = load_run(file, edits)
    place = Place(out, runs, resume, track)
    if init is not None and init.startswith(GHN):
        if lenient:
            raise UsageError("--lenient has no effect with ghn: what is not predicted stays")
        return _train_predicted(loaded, init.removeprefix(GHN), place)
    if init is not None:
        loaded = with_weights(loaded, _run_named(init, runs), lenient=lenient)
    elif lenient:
        raise UsageError("--lenient has no effect without --init")
    return _train(loaded, place)


def _run_named(init: str, runs: Path) -> RunFolder:
    """The run of ``--init``.

    Raises:
        UsageError: there is none; where a hypernetwork may be meant, the message says how.
    """
    try:
        return RunStore(runs).select(init)
    except UsageError as error:
        from windtunnel.hyper.stored import NETWORK

        if (Path(init) / NETWORK).is_file():
            raise UsageError(
                f"--init {init}: is a hypernetwork's release; did you mean {GHN}{init}?"
            ) from error
        kind, colon, rest = init.partition(":")
        if colon and nearest(f"{kind}:", [GHN]):
            raise UsageError(f"--init {init}: did you mean {GHN}{rest}?") from error
        raise


def branch_verb(
    run: str,
    edits: list[str],
    *,
    step: int | None,
    best: bool,
    lenient: bool,
    out: Path | None,
    runs: Path,
    track: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains a new run from another's checkpoint; its record."""
    check_names(track)
    if step is not None and best:
        raise UsageError("give --step or --best, not both")
    parent = RunStore(runs).select(run)
    loaded = branch_of(parent, edits, step=step, best=best, lenient=lenient)
    origin = loaded.config.origin
    assert origin is not None
    note(f"{parent.path}: branching at step {origin.step}")
    return _train(loaded, Place(out, runs, track=track))


def _train(loaded: LoadedRun, place: Place) -> dict[str, Any]:
    def prepare() -> Job:
        return _job(ready_run(loaded, dataset=prepare_with_progress(loaded.config.data)))

    def follow(folder: RunFolder) -> Job:
        return _job(ready_run(loaded))

    return train_job(loaded.config.train, prepare, follow, place)


def _train_predicted(loaded: LoadedRun, reference: str, place: Place) -> dict[str, Any]:
    """The run of a file, with the first weights that a hypernetwork predicts."""
    from windtunnel.hyper.initial import begun_with, find_stored, first_weights

    def prepare() -> Job:
        stored = find_stored(reference, place.runs)
        dataset = prepare_with_progress(loaded.config.data)
        first = first_weights(stored, loaded, dataset)
        for line in prediction_lines(first):
            note(line)
        return _job(ready_run(begun_with(loaded, first, place.runs), dataset=dataset))

    def follow(folder: RunFolder) -> Job:
        origin = load_run(folder.config_path).config.origin  # what the first process predicted
        return _job(ready_run(replace(loaded, config=loaded.config.replace(origin=origin))))

    return train_job(loaded.config.train, prepare, follow, place)


def prediction_lines(first: FirstWeights) -> list[str]:
    """What a hypernetwork predicts for a run, and what not."""
    found = first.prediction
    lines = [
        f"{first.stored.name} predicts {found.values:,} of the {found.params:,} parameters of "
        f"{first.architecture.name} ({first.share:.1%}) in {first.seconds * 1e3:.0f} ms",
        *(f"  {text}" for text in found.notes),
    ]
    if not first.same_vocabulary:
        known = first.stored.path / TOKENIZER
        lines.append(f"  its own vocabulary: data.tokenizer: {{type: hf, path: {known}}}")
    if first.left:
        more = f" and {len(first.left) - 4} more" if len(first.left) > 4 else ""
        lines.append(f"  keep their own first values: {', '.join(first.left[:4])}{more}")
    return lines


def _job(ready: ReadyRun) -> Job:
    verb = "classify" if ready.config.data.kind == "labels" else "generate"
    return Job(
        ready.name,
        ready.key,
        ready.config.train,
        create=partial(create_run_folder, ready),
        remake=partial(remake_run_folder, ready=ready),
        run=partial(run_in_folder, ready=ready),
        next_command=lambda path: f'windtunnel {verb} {path} "…"',
    )
