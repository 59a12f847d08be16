"""Training single models with the computing time that a hypernetwork had, and keeping them."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from windtunnel.arch import Architecture, build
from windtunnel.errors import UsageError
from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.evaluation.units import best_rate, is_bracketed, next_rates
from windtunnel.hyper.launch import ReadyGhn, load_ghn, ready_ghn, text_feed
from windtunnel.hyper.members import largest_of_each_kind
from windtunnel.hyper.singles import Singles, source_key, train_single
from windtunnel.hyper.stored import NETWORK, WEIGHTS, computing_seconds, singles_facts
from windtunnel.runs import RunFolder
from windtunnel.train.batch import BatchSource
from windtunnel.train.config import TrainConfig
from windtunnel.train.launch import TOKENIZER
from windtunnel.train.schedule_config import ScheduleConfig
from windtunnel.train.tensors import write_tensors

_FIRST_LR, _LR_FACTOR = 6e-3, 3.0
_SEARCH = 0.1

_PAUSE = 10.0
"""Seconds between two lines of progress."""

Tell = Callable[[str], None]


def train_rival(
    ghn: Path,
    out: Path,
    *,
    rates: Sequence[float] | None = None,
    batch_size: int = 16,
    seconds: float | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """One model of each kind, of the largest size that a hypernetwork was trained on, on its text,
    for as long as it was trained, all together; what it took. They are tied where some are: a tied
    model serves untied architectures as well.

    ``out`` then is a folder that :func:`windtunnel.hyper.stored.open_stored` opens.

    Args:
        ghn: the folder of the hypernetwork's finished run.
        rates: of which the best is taken, for each kind: a tenth of a model's time is spent on
            each, on top of all else. None: from 2e-3 in factors of 3, until the best lies between
            two others.
        seconds: of computing in all; None: as many as the hypernetwork's record tells.
        tell: is told in words how far it is, every few seconds.

    Raises:
        UsageError: the run has not ended, or the folder is there.
    """
    if out.exists():
        raise UsageError(f"{out}: already exists; choose another folder")
    record = RunFolder.open(ghn).read_record()
    if record is None or record["status"] != "finished":
        raise UsageError(f"{ghn}: this run has not ended, so its cost is not known")
    ready = ready_ghn(load_ghn(ghn / "config.yaml"))
    total = computing_seconds(record) if seconds is None else seconds
    with _appearing(out) as draft:  # asked for before anything is trained
        singles = _untrained(ready)
        took = _trained(singles, ready, total, rates, batch_size, tell)
        split = ready.config.split
        largest = {"d_model": split.d_model, "n_layer": split.n_layer}
        facts = {**singles_facts("singles", singles, largest), "training": took}
        try:
            shutil.copytree(ghn / TOKENIZER, draft / TOKENIZER)
            write_tensors(draft / WEIGHTS, dict(singles.named_parameters()))
            (draft / NETWORK).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    return took


def _trained(
    singles: Singles,
    ready: ReadyGhn,
    total: float,
    rates: Sequence[float] | None,
    batch_size: int,
    tell: Tell,
) -> dict[str, Any]:
    """Trains each model for its share of the time, at its own best rate; what each took."""
    each = total / len(singles.sources)
    train = _recipe(ready, batch_size)
    config = ready.config.replace(train=train, meta_batch=1)
    took: dict[str, Any] = {}
    count = len(singles.sources)
    tell(
        f"training {count} models for {total:,.3g} s of the processor in all, after short "
        f"trainings of {_SEARCH * each:,.3g} s each for their learning rates"
    )
    for number, (key, architecture) in enumerate(singles.sources.items(), 1):
        own = partial(_prefixed, tell, f"{key} ({number} of {count})")
        batches = text_feed(config, ready.dataset, architecture).batches
        began = time.process_time()
        lr, is_at_edge = _best_rate(architecture, batches, train, rates, _SEARCH * each, own)
        searched = time.process_time() - began
        model, recipe = singles.models[key], train.replace(lr=lr)
        took[key] = train_single(model, batches, recipe, seconds=each, tell=_progress(own))
        took[key] |= {"lr": lr, "at_edge": is_at_edge, "search_seconds": searched}
    return took


def _prefixed(tell: Tell, name: str, text: str) -> None:
    tell(f"{name}: {text}")


def _progress(tell: Tell) -> Callable[[int, int, float], None]:
    """Tells a step every few seconds, and the last."""
    told = time.monotonic()

    def step(number: int, steps: int, loss: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _PAUSE or number == steps:
            told = now
            tell(f"step {number:,} of {steps:,}, loss {loss:.4f}")

    return step


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder that gets its name once it is whole; nothing is left of one that fails."""
    draft = out.parent / f".{out.name}.{uuid.uuid4().hex}.tmp"
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be made: {error.strerror}") from error
    try:
        yield draft
        os.rename(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _untrained(ready: ReadyGhn) -> Singles:
    """The largest architectures that the hypernetwork is trained on."""
    space = ready.members.space.whole
    found = {}
    for index in largest_of_each_kind(ready.members.parts["train"]):
        architecture = space[index].architecture
        key, tied = source_key(anatomy_of(architecture)), architecture.embedding.tie
        if key not in found or tied:
            found[key] = architecture
    return Singles(found)


def _best_rate(
    architecture: Architecture,
    batches: BatchSource,
    train: TrainConfig,
    rates: Sequence[float] | None,
    seconds: float,
    tell: Tell,
) -> tuple[float, bool]:
    """The rate of the lowest training loss after so many seconds each, and whether it is the lowest
    or the highest that was tried."""
    done: dict[float, float] = {}
    asked = next_rates(done, _FIRST_LR, _LR_FACTOR) if rates is None else rates
    if len(asked) == 1:
        return asked[0], False
    while asked:
        for lr in asked:
            recipe = train.replace(lr=lr)
            loss = train_single(build(architecture), batches, recipe, seconds=seconds)["loss"]
            done[lr] = loss if math.isfinite(loss) else math.inf
            tell(f"rate {lr:.3g}: loss {done[lr]:.4f}")
        asked = next_rates(done, _FIRST_LR, _LR_FACTOR) if rates is None else ()
    return best_rate(done), not is_bracketed(done)


def _recipe(ready: ReadyGhn, batch_size: int) -> TrainConfig:
    given = ready.config.train
    return TrainConfig(
        batch_size=batch_size, seq_len=given.seq_len, seed=given.seed, device=given.device,
        threads=given.threads, schedule=ScheduleConfig(type="cosine", warmup=0.05), steps=100,
        ema=given.ema,
    )  # fmt: skip
