"""What a worker takes before its first step: it starts Python and torch, opens the corpus, builds
the model. The process that measures speeds does all of that too, and tells."""

from __future__ import annotations

START_SECONDS = 5.0
"""Where nothing was measured."""

_measured: list[float] = []


def keep_start(seconds: float) -> None:
    """Remembers what a process took here and now, for plans that are made later."""
    _measured.append(seconds)


def start_seconds() -> float:
    """As it was measured last; an estimate where it was not."""
    return _measured[-1] if _measured else START_SECONDS
