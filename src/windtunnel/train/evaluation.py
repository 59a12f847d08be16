"""How good a model is on a fixed set of tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from windtunnel.errors import DataError
from windtunnel.nn.initialize import keyed_generator
from windtunnel.train.batch import IGNORED, TokenBatch, TokenLengths, moved
from windtunnel.train.objectives.config import NextTokenConfig
from windtunnel.train.objectives.next_token import NextToken
from windtunnel.train.objectives.objective import Objective


@dataclass(frozen=True)
class Evaluation:
    """Means over all evaluated targets, each with the same weight.

    ``bits_per_byte`` is None where the targets stand for no text at all, such as classes.
    """

    loss: float
    """Nats a token."""
    bits_per_byte: float | None
    """Bits for each byte of the text: comparable between tokenizers."""
    accuracy: float
    """The part of tokens that the most likely token gets right."""
    tokens: int
    seconds: float
    measures_text: bool = True

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
) -> Evaluation:
    """Loss, bits per byte and accuracy, without dropout and without gradients.

    The objective is that of the next token unless told; what it chooses at random is the same in
    every evaluation of every run. Sums are kept in float64. Every module's mode is afterwards what
    it was.

    Raises:
        DataError: there is no target in the batches.
    """
    started = time.perf_counter()
    sizes = torch.tensor(tokenizer.token_bytes, dtype=torch.long)
    device = next(model.parameters()).device
    loss, right, tokens, text_bytes = 0.0, 0, 0, 0
    # Not inference_mode: what a module caches there could not be used in training afterwards.
    with evaluation_mode(model), torch.no_grad():
        objective = objective or NextToken(NextTokenConfig(), vocab_size=0)
        for number, given in enumerate(batches):
            generator = keyed_generator(0, "evaluation", number)
            batch = moved(objective.prepare(given, generator), device)
            nats, hits = objective.score(model, batch, generator)
            loss += nats
            right += hits
            counted = batch.targets[batch.targets != IGNORED].cpu()
            tokens += counted.numel()
            if objective.measures_text:
                text_bytes += int(sizes[counted].sum())
    if tokens == 0:
        raise DataError("the validation split has no token to evaluate on")
    bits = loss / math.log(2)
    return Evaluation(
        loss=loss / tokens,
        bits_per_byte=bits / text_bytes if text_bytes else None,
        accuracy=right / tokens,
        tokens=tokens,
        seconds=time.perf_counter() - started,
        measures_text=objective.measures_text,
    )


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
