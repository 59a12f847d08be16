"""Hypernetworks from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.one_run import Job, Place, train_job
from windtunnel.cli.options import note, print_table
from windtunnel.cli.tracking import check_names
from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.hyper.initial import (
    check_new_file,
    find_run,
    find_stored,
    first_weights,
    losses_at_start,
    write_weights,
)
from windtunnel.hyper.launch import (
    ReadyGhn,
    create_ghn_folder,
    load_ghn,
    ready_ghn,
    remake_ghn_folder,
    train_ghn,
)
from windtunnel.hyper.releasing import release
from windtunnel.hyper.rival import train_rival
from windtunnel.hyper.rounded import PRECISIONS, Precision
from windtunnel.report.hypernetwork_card import card_text
from windtunnel.runs import RunFolder
from windtunnel.train.run_config import load_run

ROUNDING = 1e-3
"""Nats a token that storing the weights with fewer bits may change."""


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


def predict_verb(
    reference: str,
    file: Path,
    edits: list[str],
    *,
    out: Path | None,
    runs: Path,
    evaluate: bool,
) -> dict[str, Any]:
    """What a hypernetwork predicts for a run's file, as plain JSON; written to ``out``."""
    loaded = load_run(file, edits)
    stored = find_stored(reference, runs)
    if out is not None:
        check_new_file(out)
    dataset = prepare_with_progress(loaded.config.data)
    first = first_weights(stored, loaded, dataset)
    found = first.prediction
    told: dict[str, Any] = {
        "hypernetwork": stored.name,
        "architecture": first.architecture.name,
        "params": found.params,
        "predicted": found.values,
        "share": first.share,
        "notes": list(found.notes),
        "same_vocabulary": first.same_vocabulary,
        "kept": list(first.left),
        "seconds": first.seconds,
        "loss": losses_at_start(first, dataset) if evaluate else None,
        "weights": None,
    }
    if out is not None:
        write_weights(out, first)
        told["weights"] = str(out)
    return told


def print_prediction(told: dict[str, Any]) -> None:
    """The same for the terminal."""
    print(
        f"{told['hypernetwork']} predicts {told['predicted']:,} of the {told['params']:,} "
        f"parameters of {told['architecture']} ({told['share']:.1%}) in "
        f"{told['seconds'] * 1e3:.0f} ms"
    )
    for text in told["notes"]:
        print(f"  {text}")
    if not told["same_vocabulary"]:
        print("  the run has another tokenizer than the hypernetwork")
    for name in told["kept"]:
        print(f"  keeps its own first values: {name}")
    if told["loss"] is not None:
        loss = told["loss"]
        print(
            f"validation loss before training: {loss['predicted']:.4f} nats/token, with the run's "
            f"own first weights {loss['own']:.4f}"
        )
    if told["weights"] is not None:
        note(f"wrote {told['weights']}; a run begins with it by origin: {{weights: …}}")


def singles_verb(reference: str, out: Path, *, runs: Path, seconds: float | None) -> dict[str, Any]:
    """Trains the rival of a hypernetwork's finished run; what each of its models took."""
    return train_rival(find_run(reference, runs).path, out, seconds=seconds, tell=note)


def print_singles(took: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """The same for the terminal."""
    rows = [
        [kind, f"{one['steps']:,}", f"{one['seconds']:,.3g}", f"{one['search_seconds']:,.3g}",
         f"{one['lr']:.3g}", "the last tried" if one["at_edge"] else "", f"{one['loss']:.4f}"]
        for kind, one in took.items()
    ]  # fmt: skip
    header = ["kind", "steps", "seconds", "for its rate", "rate", "", "loss"]
    print_table(header, rows, texts=1)
    note(f"next: others: {{singles: {out.absolute()}}} in the file of windtunnel ghn evaluate")


def release_verb(
    reference: str, out: Path, *, runs: Path, precision: str, name: str | None = None
) -> dict[str, Any]:
    """Writes a release of a hypernetwork's finished run; its facts."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision: {precision!r}{suggestion(precision, PRECISIONS)}")
    if out.exists():
        raise UsageError(f"{out}: exists already; nothing was written")
    folder = find_run(reference, runs)
    dataset = prepare_with_progress(load_ghn(folder.config_path).data)
    kept = cast("Precision", precision)
    facts = release(folder, out, card_text, precision=kept, name=name, dataset=dataset)
    if facts["loss"] is not None:
        change = facts["loss_as_stored"] - facts["loss"]
        note(
            f"{precision} changes the loss of held-out architectures from {facts['loss']:.4f} to "
            f"{facts['loss_as_stored']:.4f} nats/token ({change:+.1e})"
        )
        if abs(change) > ROUNDING:
            note(f"warning: more than {ROUNDING}; --precision float32 keeps all digits")
    return facts
