"""Nested banks: tensors as corners of mixtures of matrices, which operations choose."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from windtunnel.hyper.anatomy import Anatomy, Slot, slots_by_role
from windtunnel.hyper.config import BanksConfig
from windtunnel.hyper.limits import POSITION_STD, TABLES, Limits, Role, corner, fan_in

_SPREAD = 4.0
"""Of mixtures at the start, over torch's initialisation: then they are of about unit size."""


class NestedBanks(nn.Module):
    """Vectors of operations n w -> tensors by name.

    A map of n inputs in layer l of L is

        W = exp(g) · √(N / n) · (Σⱼ hatⱼ((l + ½)/L) · Kⱼ + (1/K) Σₖ aₖ · Bₖ)[corner]

    with N the inputs at the largest width; g and aₖ come from the operation by a network of one
    hidden layer; the Kⱼ are banks at equally spaced depths, between which hat functions blend; the
    Bₖ start at 0. Vectors (biases, norms) are the same without the root. A table of tokens is
    exp(g) · T · (1 + Σₖ aₖ · Mₖ)[:, :d].

    Equal channels mean the same at every width, since all are prefixes of one bank: the nesting of
    slimmable networks (Yu et al. 2019, arXiv 1812.08928), with the mixture on top.
    """

    def __init__(self, config: BanksConfig, limits: Limits, width: int) -> None:
        super().__init__()
        self.config, self.limits = config, limits
        self.roles = {role.name: role for role in limits.roles}
        self.banks = nn.ParameterDict()
        self.mixes = nn.ParameterDict()
        for role in limits.roles:
            self.banks[role.name] = nn.Parameter(self._first_bank(role))
            if role.name in TABLES - {"position"}:
                d = limits.d_model
                self.mixes[role.name] = nn.Parameter(torch.zeros(config.components, d, d))
        outputs = 2 * (config.components + 1)
        self.hidden = nn.Linear(width, config.hidden)
        self.mixture = nn.Linear(config.hidden, outputs)
        with torch.no_grad():
            self.mixture.weight.mul_(_SPREAD)
            gains = [config.components, outputs - 1]
            self.mixture.weight[gains] = 0.0
            self.mixture.bias[gains] = 0.0

    def _first_bank(self, role: Role) -> Tensor:
        """Banks of depth at a usual initialisation, those to be mixed at zero."""
        limits, config = self.limits, self.config
        shape = limits.shape(role)
        if role.name in TABLES - {"position"}:
            return torch.randn(shape) * config.table_std
        knots = config.knots if role.layered else 1
        first = torch.zeros(knots, *shape)
        if role.name.endswith("norm_weight"):
            first.fill_(1.0)
        elif role.name == "position":
            first.normal_(0.0, POSITION_STD)
        elif len(role.axes) > 1:
            inputs = 4 * limits.d_model if role.axes[-1] == "ff" else limits.d_model
            gain = 0.5 if role.name.endswith(("out_weight", "down_weight")) else 0.8
            first.normal_(0.0, gain / math.sqrt(inputs))
        return torch.cat([first, torch.zeros(config.components, *shape)])

    def forward(self, anatomy: Anatomy, nodes: Tensor) -> dict[str, Tensor]:
        """The tensors of all known roles."""
        made = self.mixture(torch.nn.functional.gelu(self.hidden(nodes)))
        of_weights, of_vectors = made.chunk(2, dim=1)
        found: dict[str, Tensor] = {}
        for name, slots in slots_by_role(anatomy):
            role = self.roles.get(name)
            if role is None:
                continue
            chosen = of_vectors if len(role.axes) < 2 else of_weights
            rows = chosen[[slot.op for slot in slots]]
            if name in self.mixes:
                found |= self._table(slots, rows)
                continue
            for places in _alike(slots):
                own = [slots[place] for place in places]
                found |= self._mixed(role, own, rows[places], anatomy)
        return found

    def _table(self, slots: list[Slot], rows: Tensor) -> dict[str, Tensor]:
        """The rows of one table, turned as the operation asks."""
        (slot,) = slots
        table, mixes = self.banks[slot.role], self.mixes[slot.role]
        d = slot.shape[1]
        chosen = rows[0, :-1] / max(1, self.config.components)
        turn = torch.einsum("k,kij->ij", chosen, mixes[:, :, :d])
        value = table[:, :d] + table @ turn
        return {slot.name: value * rows[0, -1].exp()}

    def _mixed(
        self, role: Role, slots: list[Slot], rows: Tensor, anatomy: Anatomy
    ) -> dict[str, Tensor]:
        """The tensors of one role and shape, of all layers at once."""
        first = slots[0]
        cut = corner(self.banks[role.name], first, self.limits)
        knots = cut.shape[0] - self.config.components
        chosen = rows[:, :-1] / max(1, self.config.components)
        shares = torch.stack([self._hats(slot, anatomy, knots) for slot in slots]).to(rows)
        weights = torch.cat([shares, chosen], 1)
        inputs, usual = fan_in(first, self.limits)
        scale = rows[:, -1].exp() * math.sqrt(usual / inputs)
        values = (weights * scale[:, None]) @ cut.flatten(1)
        return {
            slot.name: value.view(slot.shape) for slot, value in zip(slots, values, strict=True)
        }

    def _hats(self, slot: Slot, anatomy: Anatomy, knots: int) -> Tensor:
        """The share of each bank of depth: (knots,), which sum to 1."""
        layer = anatomy.ops[slot.op].layer
        if layer is None or knots == 1:
            return torch.ones(knots) / knots
        place = (layer + 0.5) / anatomy.n_layer * knots - 0.5
        place = min(max(place, 0.0), knots - 1.0)
        return (1 - (torch.arange(knots) - place).abs()).clamp(min=0.0)


def _alike(slots: list[Slot]) -> list[list[int]]:
    """The places of slots of one shape and number of heads, for each of those."""
    found: dict[object, list[int]] = {}
    for place, slot in enumerate(slots):
        found.setdefault((slot.shape, slot.heads), []).append(place)
    return list(found.values())
