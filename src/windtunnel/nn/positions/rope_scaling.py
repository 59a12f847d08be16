"""Frequencies of RoPE changed for sequences longer than those of the first training."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from windtunnel.config import Config

_DEFAULTS: dict[str, dict[str, float]] = {
    "linear": {},
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"beta_fast": 32.0, "beta_slow": 1.0},
}


class RoPEScaling(Config):
    """How the frequency f of each pair of dimensions is changed.

    With n = f·original_max_seq_len / 2π the turns that it makes in the first context:

    linear: f / factor (Chen et al. 2023, arXiv 2306.15595).
    llama3: f where n ≥ high_freq_factor, f / factor where n ≤ low_freq_factor, and between them
    the mean of the two, weighted by where n lies (Llama 3.1, arXiv 2407.21783).
    yarn: f where n ≥ beta_fast, f / factor where n ≤ beta_slow, and between them a mean weighted
    by the number of the pair; what is turned is multiplied by ``attention_factor`` (Peng et al.
    2023, arXiv 2309.00071, section 3.2 and eq. 22).
    """

    type: Literal["linear", "llama3", "yarn"]
    """The rule."""
    factor: float = Field(gt=0, allow_inf_nan=False)
    """How many times longer the sequences are."""
    original_max_seq_len: int | None = Field(None, ge=1)
    """The longest sequence of the first training, in tokens. Not of linear."""
    low_freq_factor: float | None = Field(None, gt=0, allow_inf_nan=False)
    """llama3: at so few turns or fewer the frequency is divided; 1 when left out."""
    high_freq_factor: float | None = Field(None, gt=0, allow_inf_nan=False)
    """llama3: at so many turns or more the frequency stays; 4 when left out."""
    beta_fast: float | None = Field(None, gt=0, allow_inf_nan=False)
    """yarn: at so many turns or more the frequency stays; 32 when left out."""
    beta_slow: float | None = Field(None, gt=0, allow_inf_nan=False)
    """yarn: at so few turns or fewer the frequency is divided; 1 when left out."""
    truncate: bool | None = None
    """yarn: whether the two ends are rounded outwards to whole pairs; true when left out."""
    attention_factor: float | None = Field(None, gt=0, allow_inf_nan=False)
    """yarn: factor of turned queries and keys; 0.1·ln(factor) + 1 when left out. What is not turned
    keeps its size: of latent_attention's logits only the part of the turned keys grows."""

    @model_validator(mode="after")
    def _what_has_an_effect(self) -> Self:
        own = {"factor", "type", *_DEFAULTS[self.type]}
        if self.type != "linear":
            own.add("original_max_seq_len")
            if self.original_max_seq_len is None:
                raise ValueError(f"{self.type} needs original_max_seq_len")
        if self.type == "yarn":
            own |= {"truncate", "attention_factor"}
        for name in type(self).model_fields:
            if name not in own and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect on a scaling of type {self.type}")
        final = self.resolved() if self.type == "llama3" else None
        if final is not None and (final.low_freq_factor or 0) >= (final.high_freq_factor or 0):
            raise ValueError("low_freq_factor must be less than high_freq_factor")
        return self

    def resolved(self) -> RoPEScaling:
        """What was left out filled in."""
        values: dict[str, float | bool] = {**_DEFAULTS[self.type]}
        if self.type == "yarn":
            grown = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
            values |= {"truncate": True, "attention_factor": grown}
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return self.model_copy(update=missing)

    def scaled(self, frequencies: Tensor, theta: float) -> Tensor:
        """(r/2,) the frequencies theta^(−2i/r), changed."""
        divided = frequencies / self.factor
        if self.type == "linear":
            return divided
        final = self.resolved()
        assert final.original_max_seq_len is not None, "a validator has seen to it"
        if self.type == "llama3":
            low, high = final.low_freq_factor or 0.0, final.high_freq_factor or 0.0
            turns = frequencies * final.original_max_seq_len / (2 * math.pi)
            kept = ((turns - low) / (high - low)).clamp(0, 1)
        else:
            first, last = final._ramp(2 * len(frequencies), theta)
            places = torch.arange(
                len(frequencies), dtype=frequencies.dtype, device=frequencies.device
            )
            kept = 1 - ((places - first) / (last - first)).clamp(0, 1)
        return kept * frequencies + (1 - kept) * divided

    def _ramp(self, r: int, theta: float) -> tuple[float, float]:
        """yarn: the numbers of the pairs between which the frequencies change over."""
        length = self.original_max_seq_len or 1

        def pair(turns: float | None) -> float:
            assert turns is not None, "an unresolved scaling was asked"
            return r * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, r - 1)
        return first, last + 0.001 * (first == last)
