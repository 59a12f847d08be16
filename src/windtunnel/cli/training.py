"""One run from the command line: its folder, its progress, its last words."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.options import note
from windtunnel.cli.tracking import check_names, tracked
from windtunnel.errors import RunError, UsageError
from windtunnel.report.progress import ProgressDisplay, open_progress
from windtunnel.runs import Event, RunFolder, RunStore
from windtunnel.runs.folder import IDENTITY
from windtunnel.train.branch import branch_of, with_weights
from windtunnel.train.distributed.parallel import check_distribution
from windtunnel.train.distributed.world import World, joined
from windtunnel.train.launch import (
    ReadyRun,
    create_run_folder,
    ready_run,
    remake_run_folder,
    run_in_folder,
)
from windtunnel.train.run_config import LoadedRun, load_run


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
        init: a run whose weights it begins with.
        lenient: of them, those that fit.
    """
    check_names(track)
    loaded = load_run(file, edits)
    if init is not None:
        loaded = with_weights(loaded, RunStore(runs).select(init), lenient=lenient)
    elif lenient:
        raise UsageError("--lenient has no effect without --init")
    return _train(loaded, out=out, resume=resume, runs=runs, track=track)


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
    return _train(loaded, out=out, resume=False, runs=runs, track=track)


def _train(
    loaded: LoadedRun, *, out: Path | None, resume: bool, runs: Path, track: Sequence[str]
) -> dict[str, Any]:
    train = loaded.config.train
    with joined(train.distributed, train.device) as world:
        if not world.first:
            return _follow_the_first(loaded, world)
        ready = ready_run(loaded, dataset=prepare_with_progress(loaded.config.data))
        check_distribution(ready.config.train, world)
        folder, there = _folder(ready, out, resume, runs)
        with nullcontext() if there else _gone_unless_it_began(folder):
            return _train_first(ready, folder, world, begun=folder.has_begun(), track=track)


def _train_first(
    ready: ReadyRun, folder: RunFolder, world: World, *, begun: bool, track: Sequence[str]
) -> dict[str, Any]:
    """The part of the process that writes, and tells the user."""
    world.tell(str(folder.path.resolve()))
    record = folder.read_record()
    if record is not None:
        note(f"{folder.path}: this run has ended ({record['status']}); nothing to do")
        return record
    asked = ready.config.train.processes
    if asked not in (1, world.size):
        note(
            f"warning: train.processes: {asked} is what a study starts; here there "
            f"is {world.size}, since torchrun decides"
        )
    many = f" with {world.size} processes" if world.size > 1 else ""
    note(f"{'continuing' if begun else 'training'} {ready.name} in {folder.path}{many}")
    with open_progress() as display, tracked(folder, track, display.say) as tell:
        shown = _Follow(display, ready)

        def on_event(event: Event) -> None:
            shown.event(event)
            tell(event)

        world.wait()  # all have seen whether it had begun
        record = run_in_folder(folder, ready=ready, resume=begun, on_event=on_event, world=world)
    _say_how_it_ended(record, folder, labelled=ready.config.data.kind == "labels")
    return record


@contextmanager
def _gone_unless_it_began(folder: RunFolder) -> Iterator[None]:
    """A run that fails before its first event (no memory holds its model, say) leaves no folder."""
    try:
        yield
    except Exception:
        # Another process may have found it and begin it now: then it has the lock.
        with suppress(RunError), folder.lock():
            if not folder.has_begun():
                shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _follow_the_first(loaded: LoadedRun, world: World) -> dict[str, Any]:
    """The part of a process that computes and writes nothing, in the folder of the first one."""
    folder = RunFolder.open(Path(world.told()))  # once its data is prepared
    record = folder.read_record()
    if record is not None:
        return record
    begun = folder.has_begun()
    world.wait()
    return run_in_folder(folder, ready=ready_run(loaded), resume=begun, world=world)


def _folder(ready: ReadyRun, out: Path | None, resume: bool, runs: Path) -> tuple[RunFolder, bool]:
    """The run's folder, and whether it was there before."""
    store = RunStore(runs)
    if out is not None and out.exists() and not (out / IDENTITY).is_file():
        raise UsageError(f"{out}: exists and is not a run's folder; nothing was changed")
    existing = RunFolder.open(out) if out is not None and out.exists() else None
    if out is None:
        existing = store.find(ready.key)
        out = store.path_for(ready.key, ready.name)
    if existing is None:
        if resume:
            note(f"nothing to resume in {out}: the run starts now")
        return create_run_folder(ready, out), False
    if existing.read_record() is None:
        if not existing.has_begun():
            if existing.key != ready.key:
                note(f"{existing.path}: was made for another run, which never began; made anew")
                existing = remake_run_folder(existing, ready)
            return existing, True
        if not resume:
            raise UsageError(f"{existing.path}: this run has begun; continue it with --resume")
    elif existing.key != ready.key:
        raise UsageError(
            f"{existing.path}: holds a run that has ended, with another config or another version "
            "of the code; choose another --out"
        )
    return existing, True


class _Follow:
    """Shows a run's events on a progress display."""

    def __init__(self, display: ProgressDisplay, ready: ReadyRun) -> None:
        self._ended = False
        self._display = display
        self._steps = ready.config.train.steps
        self._loss = ""
        self._evaluated = ""
        display.start("run", ready.name, self._steps)

    def event(self, event: Event) -> None:
        values = event.values
        if event.kind in ("step", "resume"):
            if "loss" in values:
                self._loss = f"train {_number(values['loss'])}"
            self._display.update("run", values["step"], note=self._note())
        elif event.kind == "eval":
            self._evaluated = f"valid {_number(values['loss'])}"
            if "stage" in values:
                self._evaluated += f", stage {values['stage']}"
            self._display.update("run", values["step"], note=self._note())
        elif event.kind == "nonfinite":
            self._display.say(
                f"step {values['step']}: the {values['what']} is not finite; the update is skipped "
                f"({values['in_a_row']} in a row)"
            )
        elif event.kind == "compile":
            self._display.say(f"from step {values['step']} on {values['message']}")
        elif event.kind == "warning":
            self._display.say(f"warning: {values['message']}")
        elif event.kind == "end" and not self._ended:  # it may fail after its last step, too
            self._ended = True
            self._display.finish("run", values["status"])

    def _note(self) -> str:
        return ", ".join(text for text in (self._loss, self._evaluated) if text)


def _number(value: float | None) -> str:
    """A loss with four digits; null stands for what is not finite."""
    return "not finite" if value is None else f"{value:.4f}"


def _say_how_it_ended(record: dict[str, Any], folder: RunFolder, *, labelled: bool) -> None:
    final = record["final"]
    bits = final["bits_per_byte"]
    note(
        f"{record['status']}: validation loss {_number(final['loss'])} nats/token, "
        + (f"{_number(bits)} bits/byte, " if bits is not None else "")
        + f"accuracy {final['accuracy']:.3f}, after {record['tokens']:,} tokens in "
        f"{record['train_seconds']:.0f} s"
    )
    if record["status"] == "finished":
        verb = "classify" if labelled else "generate"
        note(f'next: windtunnel {verb} {folder.path} "…"')
