"""One run from the command line, whatever it trains: its folder, its progress, its last words."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.cli.options import note
from windtunnel.cli.tracking import tracked
from windtunnel.errors import RunError, UsageError
from windtunnel.report.progress import ProgressDisplay, open_progress
from windtunnel.runs import Event, RunFolder, RunStore
from windtunnel.runs.folder import IDENTITY
from windtunnel.train.config import TrainConfig
from windtunnel.train.distributed.parallel import check_distribution
from windtunnel.train.distributed.world import World, joined


@dataclass(frozen=True)
class Job:
    """A run that only needs to be trained, and what is particular about its kind."""

    name: str
    key: str
    train: TrainConfig
    create: Callable[[Path], RunFolder]
    """Makes its folder."""
    remake: Callable[[RunFolder], RunFolder]
    """Makes its folder of another one's, which never began."""
    run: Callable[..., dict[str, Any]]
    """Trains it in its folder: ``run_in_folder`` without ``ready``."""
    next_command: Callable[[Path], str]
    """What the user may do with the finished run."""


@dataclass(frozen=True)
class Place:
    """Where a run is to be, and how."""

    out: Path | None
    runs: Path
    resume: bool = False
    track: Sequence[str] = ()


def train_job(
    train: TrainConfig,
    prepare: Callable[[], Job],
    follow: Callable[[RunFolder], Job],
    place: Place,
) -> dict[str, Any]:
    """Trains (or continues) a run in this process, or in all that torchrun started; its record.

    Args:
        train: its recipe.
        prepare: prepares its data and all else, and shows that.
        follow: the same in the other processes, in silence, once the folder is there.
    """
    with joined(train.distributed, train.device) as world:
        if not world.first:
            return _follow_the_first(follow, world)
        job = prepare()
        check_distribution(job.train, world)
        folder, there = _folder(job, place)
        with nullcontext() if there else _gone_unless_it_began(folder):
            return _train_first(job, folder, world, begun=folder.has_begun(), track=place.track)


def _train_first(
    job: Job, folder: RunFolder, world: World, *, begun: bool, track: Sequence[str]
) -> dict[str, Any]:
    """The part of the process that writes, and tells the user."""
    world.tell(str(folder.path.resolve()))
    record = folder.read_record()
    if record is not None:
        note(f"{folder.path}: this run has ended ({record['status']}); nothing to do")
        return record
    asked = job.train.processes
    if asked not in (1, world.size):
        note(
            f"warning: train.processes: {asked} is what a study starts; here there "
            f"is {world.size}, since torchrun decides"
        )
    many = f" with {world.size} processes" if world.size > 1 else ""
    note(f"{'continuing' if begun else 'training'} {job.name} in {folder.path}{many}")
    with open_progress() as display, tracked(folder, track, display.say) as tell:
        shown = _Follow(display, job.name, job.train.steps)

        def on_event(event: Event) -> None:
            shown.event(event)
            tell(event)

        world.wait()  # all have seen whether it had begun
        record = job.run(folder, resume=begun, on_event=on_event, world=world)
    _say_how_it_ended(record)
    if record["status"] == "finished":
        note(f"next: {job.next_command(folder.path)}")
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


def _follow_the_first(follow: Callable[[RunFolder], Job], world: World) -> dict[str, Any]:
    """The part of a process that computes and writes nothing, in the folder of the first one."""
    folder = RunFolder.open(Path(world.told()))  # once its data is prepared
    record = folder.read_record()
    if record is not None:
        return record
    begun = folder.has_begun()
    world.wait()
    return follow(folder).run(folder, resume=begun, world=world)


def _folder(job: Job, place: Place) -> tuple[RunFolder, bool]:
    """The run's folder, and whether it was there before."""
    store, out = RunStore(place.runs), place.out
    if out is not None and out.exists() and not (out / IDENTITY).is_file():
        raise UsageError(f"{out}: exists and is not a run's folder; nothing was changed")
    existing = RunFolder.open(out) if out is not None and out.exists() else None
    if out is None:
        existing = store.find(job.key)
        out = store.path_for(job.key, job.name)
    if existing is None:
        if place.resume:
            note(f"nothing to resume in {out}: the run starts now")
        return job.create(out), False
    if existing.read_record() is None:
        if not existing.has_begun():
            if existing.key != job.key:
                note(f"{existing.path}: was made for another run, which never began; made anew")
                existing = job.remake(existing)
            return existing, True
        if not place.resume:
            raise UsageError(f"{existing.path}: this run has begun; continue it with --resume")
    elif existing.key != job.key:
        raise UsageError(
            f"{existing.path}: holds a run that has ended, with another config or another version "
            "of the code; choose another --out"
        )
    return existing, True


class _Follow:
    """Shows a run's events on a progress display."""

    def __init__(self, display: ProgressDisplay, name: str, steps: int) -> None:
        self._ended = False
        self._display = display
        self._loss = ""
        self._evaluated = ""
        display.start("run", name, steps)

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


def _say_how_it_ended(record: dict[str, Any]) -> None:
    final = record["final"]
    bits = final["bits_per_byte"]
    averaged = ""
    if "ema_loss" in final:
        averaged = f" ({_number(final['ema_loss'])} with the average of weights)"
    note(
        f"{record['status']}: validation loss {_number(final['loss'])} nats/token{averaged}, "
        + (f"{_number(bits)} bits/byte, " if bits is not None else "")
        + f"accuracy {final['accuracy']:.3f}, after {record['tokens']:,} tokens in "
        f"{record['train_seconds']:.0f} s"
    )
