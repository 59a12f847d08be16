"""Running an evaluation: worker processes, a file of results, a summary."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from windtunnel.config import decode, load_document
from windtunnel.errors import RunError, UsageError
from windtunnel.hyper.config import GhnConfig
from windtunnel.hyper.evaluation.config import EvaluationConfig
from windtunnel.hyper.evaluation.inits import initial, scaling_of
from windtunnel.hyper.evaluation.plan import AS_IS, Course, groups_of, ranks_of
from windtunnel.hyper.evaluation.text import Text, read_text
from windtunnel.hyper.evaluation.unit import first_gradient, train_unit
from windtunnel.hyper.evaluation.units import Outcome, Results, Unit
from windtunnel.hyper.initial import network_digest
from windtunnel.hyper.launch import CODE, load_ghn, space_digest
from windtunnel.hyper.members import Members
from windtunnel.hyper.predict import predict, same_ids
from windtunnel.hyper.stored import Stored, ghn_run, open_stored, training_seconds
from windtunnel.runs import RunLock, code_digest
from windtunnel.runs.durable import strict_json, write_atomic
from windtunnel.spaces.declared import load_space
from windtunnel.train.interrupts import Interrupted, StopRequest

logger = logging.getLogger(__name__)

PINNED = "evaluation.json"
UNITS = "units.jsonl"
SUMMARY = "summary.json"
LOCK = "evaluation.lock"

STOPPED = "stopped; the same command goes on from here"
POLL_SECONDS = 0.2

Tell = Callable[[str, int, int], None]
"""Told the part of the course, how many of its trainings have ended, and how many it has."""


def load_evaluation(path: Path, edits: Sequence[str] = ()) -> EvaluationConfig:
    """Reads the file of an evaluation; paths in it become absolute.

    Raises:
        ConfigError: every mistake at once, with its place.
    """
    document = load_document(path)
    for edit in edits:
        document = document.edit(edit)
    config = decode(document, EvaluationConfig)
    base = path.parent.absolute()
    others = {name: str(base / folder) for name, folder in config.others.items()}
    return config.replace(ghn=str(base / config.ghn), others=others)


@dataclass(frozen=True)
class Context:
    """All that units need, made once in each process."""

    config: EvaluationConfig

    @cached_property
    def ghn(self) -> GhnConfig:
        """The config of the hypernetwork's run."""
        return load_ghn(ghn_run(Path(self.config.ghn)).config_path)

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """The hypernetwork and the others."""
        named = {"ghn": self.config.ghn, **self.config.others}
        found = {}
        for name, folder in named.items():
            try:
                path = ghn_run(Path(folder)).path if name == "ghn" else Path(folder)
                found[name] = open_stored(path)
            except UsageError as error:
                key = name if name == "ghn" else f"others.{name}"
                raise UsageError(f"{key}: {error}") from error
        own = found["ghn"].tokenizer
        for name, stored in found.items():
            if not same_ids(stored.tokenizer, own):
                raise UsageError(f"others.{name}: has another tokenizer than the hypernetwork")
        return found

    @cached_property
    def members(self) -> Members:
        """The architectures, split as the hypernetwork's file says."""
        tokenizer = self.stored["ghn"].tokenizer
        space = load_space(
            self.ghn.space, vocab_size=tokenizer.vocab_size, max_seq_len=self.ghn.train.seq_len
        )
        return Members.of(self.ghn, space)

    @cached_property
    def text(self) -> Text:
        """The documents."""
        source: Any = self.ghn.data.source
        return read_text(self.config.text, source, self.stored["ghn"].tokenizer)

    def cost(self, name: str) -> float | None:
        """Seconds of computing that the making of a hypernetwork or of single models took; None
        where the folder does not tell."""
        path = Path({"ghn": self.config.ghn, **self.config.others}[name])
        return training_seconds(path)

    def run(self, unit: Unit) -> Outcome:
        """Trains one unit."""
        config, text = self.config, self.text
        architecture = self.members.space.whole[unit.index].architecture
        if unit.init in self.stored:
            weights = predict(self.stored[unit.init], architecture, seed=unit.seed).weights
        else:
            weights = initial(unit.init, architecture, unit.seed, text.counts)
        found = train_unit(
            architecture, weights, lr=unit.lr, seed=unit.seed, steps=self._steps(unit),
            batch_size=config.batch_size, train=text.train,
            held=text.test if unit.side == "test" else text.tune, eval_tokens=config.eval_tokens,
            mup=scaling_of(unit.init, architecture),
        )  # fmt: skip
        if unit.side != "early":
            return found
        signs = first_gradient(architecture, weights, seed=unit.seed, train=text.train)
        return Outcome(found.losses, {**found.more, **signs})

    def _steps(self, unit: Unit) -> Sequence[int]:
        """Where a unit's losses are measured."""
        if unit.lr == AS_IS:
            return (0,)
        by_side = {
            "early": (0, *self.config.early),
            "tune": self.config.steps[-1:],  # nothing else is looked at
        }
        return by_side.get(unit.side, self.config.steps)


_CONTEXT: list[Context] = []


def _begin(config: EvaluationConfig) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends its workers
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _CONTEXT[:] = [Context(config)]


def _end_with_the_parent() -> None:
    """A worker whose parent was killed would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(unit: Unit) -> Outcome:
    return _CONTEXT[0].run(unit)


def evaluate_ghn(
    config: EvaluationConfig,
    out: Path,
    *,
    workers: int = 1,
    tell: Tell = lambda part, done, total: None,
) -> dict[str, Any]:
    """Runs what is not yet in ``out``, and writes the summary there; the summary.

    Raises:
        UsageError: the folder is of something else or another evaluation, or the files do not fit.
        RunError: another process evaluates there, or a worker was killed.
        Interrupted: on a signal; what has ended is kept.
    """
    from windtunnel.hyper.evaluation.summary import summarized

    _check_folder(out)
    context = Context(config)
    groups = groups_of(context.members.parts, config)
    ranks = ranks_of(context.members.parts, config, groups)
    assert context.text.counts.sum()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be made: {error.strerror}") from error
    try:
        with RunLock(out / LOCK):
            _check_same(context, out)
            course = Course(config, groups, Results(out / UNITS), ranks=ranks)
            _go(course, out, workers, tell)
            found = summarized(course, context)
            write_atomic(out / SUMMARY, strict_json(found, indent=1) + "\n")
    except KeyboardInterrupt:
        raise Interrupted(STOPPED, signal.SIGINT) from None
    return found


def _check_folder(out: Path) -> None:
    """Raises UsageError where a folder holds something else than an evaluation."""
    if not out.is_dir() or (out / PINNED).is_file():
        return
    own = (LOCK, f".{PINNED}.")  # what an evaluation leaves that was killed in its first moments
    if not all(path.name.startswith(own) for path in out.iterdir()):
        raise UsageError(f"{out}: exists and is not an evaluation's folder; nothing was changed")


def _go(course: Course, out: Path, workers: int, tell: Tell) -> None:
    """Runs a course in worker processes."""
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    with (
        StopRequest() as stop,
        ProcessPoolExecutor(workers, spawn, initializer=_begin, initargs=(course.config,)) as pool,
    ):
        try:
            course.go(partial(_run, course, pool, stop, tell))
        except BrokenProcessPool as error:
            if stop.signum is not None:  # the workers got it too
                raise Interrupted(STOPPED, stop.signum) from None
            raise RunError(f"{out}: a worker was killed; start again to go on") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what waits is not begun
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _run(
    course: Course, pool: ProcessPoolExecutor, stop: StopRequest, tell: Tell, units: Sequence[Unit]
) -> None:
    """Trains units, and keeps each as it ends."""
    with _sigint_held():  # workers that begin now never see it, even before they ignore it
        units_of = {pool.submit(_work, unit): unit for unit in units}
    waiting, done = set(units_of), 0
    while waiting:
        if stop.signum is not None:
            raise Interrupted(STOPPED, stop.signum)
        ended, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
        for future in ended:
            found = future.result()
            course.results.add(units_of[future], found.losses, **found.more)
            done += 1
            tell(course.part, done, len(units_of))


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Ctrl-C waits until the end; processes that are started meanwhile are born deaf to it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_same(context: Context, out: Path) -> None:
    """What the folder's results are of, written at the first start: the config, and digests of
    weights, text and space. More splits, seeds, candidates and rivals may come later."""
    path = out / PINNED
    now = {
        "config": context.config.model_dump(mode="json"),
        "text": context.text.digest,
        "space": space_digest(context.members),
        "code": code_digest(layers=CODE),
        "weights": {name: network_digest(stored) for name, stored in context.stored.items()},
    }
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = _differences(before, now)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: is damaged ({error})") from error
        if before.get("code") != now["code"]:
            logger.warning("%s: the code has changed since; its units may differ in digits", out)
        if changed:
            told = "; ".join(changed)
            raise UsageError(
                f"{out}: holds results of another evaluation ({told}); choose another folder"
            )
    write_atomic(path, strict_json(now, indent=1) + "\n")


_MAY_GROW = frozenset({"splits", "others", "seeds", "name", "ranking", "candidates"})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed that results hang on, in words: each key with what it was and what it is."""
    known = EvaluationConfig.model_validate_json(json.dumps(before["config"]))
    old, new = known.model_dump(mode="json"), now["config"]  # keys that came later: as by default
    found = []
    for key in (key for key in new if key not in _MAY_GROW and new[key] != old.get(key)):
        parts = new[key] if isinstance(new[key], dict) else {}
        pairs = {f"{key}.{name}": (old[key][name], new[key][name]) for name in parts}
        pairs = pairs or {key: (old.get(key), new[key])}
        found += [f"{name} was {a}, is {b}" for name, (a, b) in pairs.items() if a != b]
    if before["text"] != now["text"] and old["text"] == new["text"]:
        found.append("text: what the documents say has changed")
    if before["space"] != now["space"]:
        found.append("ghn: its space or split has other architectures")
    weights = before["weights"]
    changed = [n for n, digest in now["weights"].items() if weights.get(n, digest) != digest]
    return found + [f"{name} has other weights" for name in changed]
