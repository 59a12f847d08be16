"""An exponential moving average of the weights, beside those that are trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from windtunnel.train.group_config import EmaConfig


class Ema:
    """a ← d a + (1 − d) w after each update (Polyak and Juditsky 1992, with a fixed memory).

    With ``warmup`` d is at most (1 + t) / (10 + t) at update t, so that the average forgets the
    initial weights quickly. Float32, of the weights that are moved; ``values`` by parameter name.

    >>> w = {"w": torch.nn.Parameter(torch.zeros(1))}
    >>> ema = Ema(EmaConfig(decay=0.5, warmup=False), w)
    >>> with torch.no_grad(): _ = w["w"].fill_(1.0)
    >>> ema.update(w, 1)
    >>> ema.values["w"].item()
    0.5
    """

    def __init__(self, config: EmaConfig, parameters: Mapping[str, Tensor]) -> None:
        self.config = config
        self.values: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in parameters.items() if p.requires_grad
        }

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Takes in the weights after the update number ``step``, counted from 1."""
        decay = self.config.decay
        if self.config.warmup:
            decay = min(decay, (1 + step) / (10 + step))
        new = [parameters[name] for name in self.values]
        torch._foreach_lerp_(list(self.values.values()), new, 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: Mapping[str, Tensor]) -> None:
        """Exchanges the average and the weights, to the bit."""
        for name, average in self.values.items():
            kept = parameters[name].detach().clone()
            parameters[name].copy_(average)
            average.copy_(kept)
