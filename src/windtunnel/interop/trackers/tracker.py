"""The contract of a tracker, and what it calls a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a tracker calls a run."""

    name: str
    id: str
    """Unlike that of any other run; letters and digits."""
    group: str | None = None
    """What it stands with: the runs of one study."""
    main: Mapping[str, str | int | float] = field(default_factory=dict)
    """The few values by which runs of a study are told apart."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The whole config, resolved."""


class Tracker(ABC):
    """Takes the numbers of one run, in the order of their steps."""

    @abstractmethod
    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        """Numbers of one moment, by their names; ``time`` in seconds since 1970."""

    @abstractmethod
    def close(self, status: str) -> None:
        """No more numbers come; ``status`` is the run's: finished, diverged, interrupted or
        failed."""
