"""What decoders without banks share: a code for every tensor, token tables, and rescaling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from windtunnel.hyper.anatomy import Anatomy, Slot
from windtunnel.hyper.limits import POSITION_STD, TABLES, Limits


class CodedDecoder(nn.Module, ABC):
    """Vectors of operations n w -> tensors by name, each from its code alone.

    A tensor's code is the vector of its operation plus a learned one of its role, over √2. Values
    of about unit size are rescaled as in the code of GHN-3 (Knyazev et al. 2023, arXiv 2303.04143):

        map √(2/fan-in) · p,  gain of a norm 2σ(p/2),  bias tanh(p/5)

    and maps that end a branch by 1/√(2·layers) besides, as in LoGAH's code for GPT-2.

    Deviations, all of which favour these baselines. An operation with several tensors (gates, their
    two maps) has a code for each, where the originals know no such operations. Tables of tokens and
    positions are learned as they are and cropped to the width, times exp(g) with g from the
    operation: GHN-3 tiles them, so that tokens far apart share a row, and LoGAH leaves them out.
    """

    def __init__(self, limits: Limits, width: int, table_std: float) -> None:
        super().__init__()
        self.limits = limits
        self.roles = {role.name: role for role in limits.roles}
        self._first: dict[str, int] = {}
        codes = 0
        self.tables = nn.ParameterDict()
        for role in limits.roles:
            if role.name not in TABLES:
                self._first[role.name] = codes
                codes += role.gates
            else:
                std = POSITION_STD if role.name == "position" else table_std
                self.tables[role.name] = nn.Parameter(torch.randn(limits.shape(role)) * std)
        self.codes = nn.Parameter(torch.randn(codes, width))
        self.gain = nn.Linear(width, 1)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)

    @abstractmethod
    def maps(self, codes: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
        """Matrices of these shapes with values of about unit size: m w -> m of them."""

    @abstractmethod
    def vectors(self, codes: Tensor, sizes: list[int]) -> list[Tensor]:
        """Vectors of these sizes: m w -> m of them."""

    def forward(self, anatomy: Anatomy, nodes: Tensor) -> dict[str, Tensor]:
        """The tensors of all known roles."""
        slots = [slot for slot in anatomy.slots if slot.role in self.roles]
        found = {s.name: self._table(s, nodes[s.op]) for s in slots if s.role in TABLES}
        maps = [s for s in slots if s.role not in TABLES and len(s.axes) == 2]
        vectors = [s for s in slots if len(s.axes) == 1]
        if maps:
            shapes = [(rows, s.shape[1]) for s in maps for rows in self._blocks(s)]
            made = iter(self.maps(self._codes(maps, nodes), shapes))
            found |= {
                s.name: _joined(made, self._blocks(s)) * _scale(s, anatomy.n_layer) for s in maps
            }
        if vectors:
            sizes = [rows for s in vectors for rows in self._blocks(s)]
            made = iter(self.vectors(self._codes(vectors, nodes), sizes))
            found |= {s.name: _squashed(s, _joined(made, self._blocks(s))) for s in vectors}
        return {slot.name: found[slot.name] for slot in slots}

    def _blocks(self, slot: Slot) -> list[int]:
        """The rows of each gate; of other tensors all rows at once."""
        gates = self.roles[slot.role].gates
        return [slot.shape[0] // gates] * gates

    def _codes(self, slots: list[Slot], nodes: Tensor) -> Tensor:
        """m w: a code for every block of these tensors."""
        ops, own = [], []
        for slot in slots:
            gates = self.roles[slot.role].gates
            ops += [slot.op] * gates
            own += [self._first[slot.role] + gate for gate in range(gates)]
        return (nodes[ops] + self.codes[own]) / math.sqrt(2)

    def _table(self, slot: Slot, node: Tensor) -> Tensor:
        """The rows of a table at this width; of positions as many as there are."""
        table: Tensor = self.tables[slot.role]
        rows, d = slot.shape
        assert d <= self.limits.d_model, f"{slot.name}: wider than the limits"
        if slot.role == "position":
            assert rows <= len(table), f"{slot.name}: longer than the limits"
            table = table[:rows]
        gain: Tensor = self.gain(node).exp()
        return table[:, :d] * gain


def network(width: int, hidden: int, outputs: int) -> nn.Sequential:
    """width -> hidden -> outputs of about unit size for inputs of unit size; with GELU, so that no
    unit is off for good where the originals have ReLU."""
    first, last = nn.Linear(width, hidden), nn.Linear(hidden, outputs)
    nn.init.normal_(first.weight, std=math.sqrt(2 / width))
    nn.init.normal_(last.weight, std=hidden**-0.5)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.GELU(), last)


def _joined(made: Iterator[Tensor], blocks: list[int]) -> Tensor:
    """The next blocks, one below the other."""
    return torch.cat([next(made) for _ in blocks])


def _scale(slot: Slot, n_layer: int) -> float:
    ends = slot.role.endswith(("out_weight", "down_weight"))
    return math.sqrt(2 / slot.shape[1] / (2 * n_layer if ends else 1))


def _squashed(slot: Slot, value: Tensor) -> Tensor:
    if slot.role.endswith("norm_weight"):
        return 2 * torch.sigmoid(value / 2)
    return torch.tanh(value / 5)
