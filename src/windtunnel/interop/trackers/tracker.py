"""The contract of a tracker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Tracker(ABC):
    """Takes the numbers of one run, in the order of their steps."""

    @abstractmethod
    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        """Numbers of one moment, by their names; ``time`` in seconds since 1970."""

    @abstractmethod
    def close(self, status: str) -> None:
        """No more numbers come; ``status`` is the run's: finished, diverged, interrupted or
        failed."""
