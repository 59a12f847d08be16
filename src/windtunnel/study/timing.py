"""What runs took, and whether that tells two arms apart. Pure.

A clock hears all that a machine does beside: the median over an arm's runs stands for it, and how
far these lie apart for what the clock cannot tell.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pace:
    """Seconds a step of an arm's runs."""

    typical: float | None
    """The median; None where no run told."""
    spread: float | None
    """From the fastest run to the slowest, over the median; None with fewer than two runs."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Pace:
        """
        >>> Pace.of([1.0, 2.0, 1.5])
        Pace(typical=1.5, spread=0.6666666666666666)
        """
        if not seconds:
            return cls(None, None)
        typical = statistics.median(seconds)
        far = (max(seconds) - min(seconds)) / typical if len(seconds) > 1 and typical else None
        return cls(typical, far)


def time_tree(
    mine: Pace, first: Pace, seconds: float | None, difference: float | None
) -> dict[str, Any]:
    """An arm's time beside the first one's, as plain JSON.

    Args:
        seconds: of one run, by its pace.
        difference: how far that is from the first arm's.
    """
    known = [pace.spread for pace in (mine, first) if pace.spread is not None]
    uncertainty = max(known) if len(known) == 2 else None
    told_apart = None
    if uncertainty is not None and difference is not None:
        told_apart = abs(difference) > uncertainty
    return {
        "seconds": seconds,
        "spread": mine.spread,
        "difference": difference,
        "uncertainty": uncertainty,
        "told_apart": told_apart,
    }
