"""Tasks whose answer at every place is the state that all symbols so far have led to."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field

from windtunnel.data.probe import Draw, Example, ProbeSource


class StateTracking(ProbeSource):
    """The word problem of a group: symbols are its elements, all equally likely; to be found at
    each place is the product of those up to it.

    The product of equally likely elements is equally likely to be any, so a blind answer is
    right once in as many times as the group has elements. Longer test sequences have answers
    beyond the trained length alone: what comes before was trained.

    Source: Liu et al. 2023 (arXiv 2210.10749); Merrill, Petty and Sabharwal 2024 (arXiv
    2404.08819, section 5).
    """

    length: int = Field(default=16, gt=1)
    """Symbols in a sequence."""

    @property
    @abstractmethod
    def order(self) -> int:
        """Elements of the group; element 0 is the neutral one."""

    @abstractmethod
    def product(self, before: int, element: int) -> int:
        """The state after an element: ``before`` first, then ``element``."""

    @property
    def chance(self) -> float:
        return 1 / self.order

    @property
    def span(self) -> int:
        return self.length

    def example(self, draw: Draw) -> Example:
        tokens = [draw.below(self.order) for _ in range(self.length)]
        state, answers = 0, []
        for place, element in enumerate(tokens):
            state = self.product(state, element)
            answers.append((place, state))
        return Example(tokens, answers)

    def longer_example(self, draw: Draw, length: int) -> Example:
        tokens, answers = super().longer_example(draw, length)
        return Example(tokens, answers[self.length :])
