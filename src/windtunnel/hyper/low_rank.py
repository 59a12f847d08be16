"""The decoder of LoGAH: a map is a product of two thin matrices."""

from __future__ import annotations

from torch import Tensor

from windtunnel.hyper.coded import CodedDecoder, network
from windtunnel.hyper.config import LowRankConfig
from windtunnel.hyper.limits import TABLES, Limits


class LowRankDecoder(CodedDecoder):
    """Vectors of operations n w -> tensors by name (Zhou et al. 2024, arXiv 2405.16287, section
    3.1).

    With r the rank and K the longest side of any map, a network of one hidden layer makes 2·K·r
    numbers of a code: A (K, r) and B (r, K). The map is (A·B / √r)[:out, :in], and the size of the
    network grows with K·r, not with K². Vectors come from a network of their own.

    Deviations: see :class:`~windtunnel.hyper.coded.CodedDecoder`. LoGAH makes 2·r² numbers and
    spreads them over the rows of A and B by one map r -> K that all tensors share; here every
    number has its own output, so that no tensor is bound to the rows of another.
    """

    def __init__(self, config: LowRankConfig, limits: Limits, width: int) -> None:
        super().__init__(limits, width, config.table_std)
        self.config = config
        sides = [
            size for role in limits.roles if role.name not in TABLES for size in limits.shape(role)
        ]
        self.longest = max(sides, default=1)
        self.factors = network(width, config.hidden, 2 * self.longest * config.rank)
        self.lines = network(width, config.hidden, self.longest)

    def maps(self, codes: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
        r = self.config.rank
        factors = self.factors(codes).view(len(codes), 2, self.longest, r) * r**-0.25
        found = []
        for (a, b), (rows, columns) in zip(factors, shapes, strict=True):
            self._check(max(rows, columns))
            found.append(a[:rows] @ b[:columns].T)
        return found

    def vectors(self, codes: Tensor, sizes: list[int]) -> list[Tensor]:
        self._check(max(sizes))
        lines = self.lines(codes)
        return [line[:size] for line, size in zip(lines, sizes, strict=True)]

    def _check(self, size: int) -> None:
        assert size <= self.longest, f"a side of {size}: longer than the limits, {self.longest}"
