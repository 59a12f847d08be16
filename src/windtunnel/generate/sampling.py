"""From logits to the next token: greedy, or drawn from a distribution that is first reshaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from windtunnel.config import Config
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.nn.initialize import keyed_generator
from windtunnel.nn.ops.widest import widest

_NEVER = float("-inf")


class SamplingConfig(Config):
    """How the next token is chosen. The steps are taken in the order of the fields."""

    repetition_penalty: float = Field(1.0, gt=0)
    """Logits of tokens already there: positive ones are divided by it, negative ones multiplied
    (Keskar et al. 2019, arXiv:1909.05858, with the sign put right); 1 changes nothing."""
    temperature: float = Field(1.0, ge=0)
    """Logits are divided by it; 0 takes the most likely token."""
    top_k: int | None = Field(None, ge=1)
    """Only the k most likely tokens stay."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Only the smallest set of tokens whose probabilities reach p stays (arXiv:1904.09751)."""
    min_p: float | None = Field(None, gt=0, le=1)
    """Only tokens at least p times as likely as the most likely stay (arXiv:2407.01082)."""

    @classmethod
    def checked(cls, **values: float | None) -> Self:
        """From values that a user gave; UsageError for those out of their range."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            found = error.errors()
            texts = [f"{d['loc'][0]} {d['input']}: {d['msg'].lower()}" for d in found]
            raise UsageError("; ".join(texts)) from None

    @property
    def greedy(self) -> bool:
        """Whether no randomness is left."""
        return self.temperature == 0


def check_finite(logits: Tensor) -> None:
    """Raises NotFiniteError where logits (… V) say nothing of the next token: one is NaN or +∞, or
    all are −∞. Single ones of −∞ are tokens that cannot come."""
    if not torch.isfinite(logits.amax(-1)).all():
        raise NotFiniteError(
            "the model's logits are not finite, so nothing can be chosen from them: its training "
            "has diverged; train again with a lower train.lr, or branch from an earlier checkpoint"
        )


def reshape_logits(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """The logits after temperature, top-k, top-p and min-p: b V -> b V, −∞ where excluded.

    At least one token of each row always stays.
    """
    logits = widest(logits)
    logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, _NEVER)
    if sampling.top_p is not None:
        ordered, index = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # the mass of all that is more likely
        outside = torch.zeros_like(before, dtype=torch.bool)
        outside.scatter_(-1, index, before >= sampling.top_p)
        logits = logits.masked_fill(outside, _NEVER)
    if sampling.min_p is not None:
        probabilities = logits.softmax(-1)
        floor = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < floor, _NEVER)
    return logits


def penalize_repetition(
    logits: Tensor, histories: Sequence[Sequence[int]], penalty: float
) -> Tensor:
    """Makes the tokens of each row's history less likely, whatever the sign of their logits."""
    if penalty == 1.0:
        return logits
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, history in enumerate(histories):
        seen[row, torch.tensor(sorted(set(history)), dtype=torch.long, device=logits.device)] = True
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def choose(
    logits: Tensor,
    sampling: SamplingConfig,
    histories: Sequence[Sequence[int]],
    *,
    seed: int,
    step: int,
    rows: Sequence[int] | None = None,
) -> list[int]:
    """The next token of each row of ``logits`` (b, V).

    The draw of a row is keyed by (seed, row, step): it does not depend on the rows beside it.
    ``rows`` gives the rows' numbers where some have ended.

    Raises:
        NotFiniteError: logits that are not finite.
    """
    check_finite(logits)
    logits = penalize_repetition(logits.float(), histories, sampling.repetition_penalty)
    if sampling.greedy:
        likeliest: list[int] = logits.argmax(-1).tolist()  # at once: a GPU is waited for
        return likeliest
    cumulative = reshape_logits(logits, sampling).softmax(-1).cpu().double().cumsum(-1)
    tokens = []
    for row, mass in zip(rows or range(len(cumulative)), cumulative, strict=True):
        generator = keyed_generator(seed, "sample", row, step)
        point = torch.rand(1, dtype=torch.float64, generator=generator) * mass[-1]
        # rand < 1, so the point lies below the last rise of the sum: always a token that stayed
        tokens.append(int(torch.searchsorted(mass, point, right=True)))
    return tokens
