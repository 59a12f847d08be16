"""How good a model is on a fixed set of tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from windtunnel.errors import DataError
from windtunnel.nn.initialize import keyed_generator
from windtunnel.train.batch import IGNORED, TokenBatch, TokenLengths, moved, pieces
from windtunnel.train.distributed.world import ALONE, World
from windtunnel.train.objectives.config import NextTokenConfig
from windtunnel.train.objectives.next_token import NextToken
from windtunnel.train.objectives.objective import Objective


@dataclass(frozen=True)
class Evaluation:
    """Means over all evaluated targets, each with the same weight.

    ``bits_per_byte`` is None where the targets stand for no text at all, such as classes, or where
    some are unknown characters: what those cost counts, but nobody knows how much text they were.
    """

    loss: float
    """Nats a token."""
    bits_per_byte: float | None
    """Bits for each byte of the text: comparable between tokenizers."""
    accuracy: float
    """The part of tokens that the most likely token gets right; see :meth:`Objective.judged`."""
    tokens: int
    seconds: float
    measures_text: bool = True
    unknown: int = 0
    """Targets that are the tokenizer's ``unk``."""

    def values(self) -> dict[str, Any]:
        """The fields of an ``eval`` event."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "accuracy": self.accuracy,
            "eval_tokens": self.tokens,
            "eval_seconds": self.seconds,
        }

    @property
    def perplexity(self) -> float | None:
        """exp(loss); infinite where that is beyond a float; None where the loss is not of text."""
        if not self.measures_text:
            return None
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


def evaluate(
    model: nn.Module,
    batches: Iterable[TokenBatch],
    tokenizer: TokenLengths,
    objective: Objective[Any] | None = None,
    *,
    rows: int | None = None,
    world: World = ALONE,
) -> Evaluation:
    """Loss, bits per byte and accuracy, without dropout and without gradients.

    The objective is that of the next token unless told; what it draws at random for a row is the
    same in every evaluation of every run, whatever the size of the batches. Sums are kept in
    float64. Every module's mode is afterwards what it was. At most ``rows`` rows are computed at
    once. Of several processes each takes some of the batches, and all get the sums of all, added
    up in the same order as by one.

    Raises:
        DataError: there is no target in the batches.
    """
    started = time.perf_counter()
    sizes = torch.tensor(tokenizer.token_bytes, dtype=torch.long)
    unk = getattr(tokenizer, "unk", None)
    # Not inference_mode: what a module caches there could not be used in training afterwards.
    with evaluation_mode(model), torch.no_grad():
        objective = objective or NextToken(NextTokenConfig(), vocab_size=0)
        counted = [
            (own.number, _count(model, own, objective, sizes, rows, unk))
            for own in _own_batches(batches, world)
        ]
    loss, right, judged, tokens, text_bytes, unknown = _added(counted, world)
    if tokens == 0:
        raise DataError("the validation split has no token to evaluate on")
    bits = loss / math.log(2)
    return Evaluation(
        loss=loss / tokens,
        bits_per_byte=bits / text_bytes if text_bytes and not unknown else None,
        accuracy=right / judged,
        tokens=tokens,
        seconds=time.perf_counter() - started,
        measures_text=objective.measures_text,
        unknown=unknown,
    )


Counts = tuple[float, int, int, int, int, int]
"""Nats, hits, of how many, tokens, bytes of text, unknown tokens."""


class _Numbered(NamedTuple):
    """A batch of an evaluation."""

    number: int
    first_row: int
    """The number of its first row among all."""
    batch: TokenBatch


def _numbered(batches: Iterable[TokenBatch]) -> Iterator[_Numbered]:
    rows = 0
    for number, batch in enumerate(batches):
        yield _Numbered(number, rows, batch)
        rows += len(batch.targets)


def _own_batches(batches: Iterable[TokenBatch], world: World) -> Iterator[_Numbered]:
    """The batches that this process computes: r, r + n, …

    A process without a batch in the last round computes the round's first again, with the number
    −1: where a model is sharded, all must call it equally often.
    """
    if world.size == 1:
        yield from _numbered(batches)
        return
    numbered = _numbered(batches)
    while group := list(islice(numbered, world.size)):
        own = world.rank < len(group)
        yield group[world.rank] if own else group[0]._replace(number=-1)


def _count(
    model: nn.Module,
    own: _Numbered,
    objective: Objective[Any],
    sizes: Tensor,
    rows: int | None,
    unk: int | None,
) -> Counts:
    device = next(model.parameters()).device
    generator = keyed_generator(0, "evaluation", own.number)
    numbers = range(own.first_row, own.first_row + len(own.batch.targets))
    keyed = [keyed_generator(0, "evaluated row", number) for number in numbers]
    prepared = objective.prepare_rows(own.batch, keyed)
    nats, hits = 0.0, 0
    for piece in pieces(prepared, rows or len(prepared.targets)):
        found = objective.score(model, moved(piece, device), generator)
        nats, hits = nats + found[0], hits + found[1]
    targets = prepared.targets[prepared.targets != IGNORED].cpu()
    text_bytes = int(sizes[targets].sum()) if objective.measures_text else 0
    unknown = 0 if unk is None or not objective.measures_text else int((targets == unk).sum())
    return nats, hits, objective.judged(prepared), targets.numel(), text_bytes, unknown


def _added(counted: list[tuple[int, Counts]], world: World) -> Counts:
    """The sums over all batches of all processes, in the order of the batches."""
    if world.size > 1:
        count = world.largest(max((number for number, _ in counted), default=-1)) + 1
        table = torch.zeros(count, 6, dtype=torch.float64)
        for number, counts in counted:
            if number >= 0:
                table[number] = torch.tensor(counts, dtype=torch.float64)
        world.add(table)  # each row is another process's, so nothing is rounded
        counted = [
            (number, (n, *map(int, rest))) for number, (n, *rest) in enumerate(table.tolist())
        ]
    nats, whole = 0.0, [0, 0, 0, 0, 0]
    for _, (more, *numbers) in counted:
        nats += more
        whole = [total + number for total, number in zip(whole, numbers, strict=True)]
    hits, judged, tokens, text_bytes, unknown = whole
    return nats, hits, judged, tokens, text_bytes, unknown


def finite(value: float | None) -> float | None:
    """A number that can be compared, or None."""
    return value if value is not None and math.isfinite(value) else None


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module, and each module's own mode again afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
