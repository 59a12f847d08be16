"""What a worker takes before its first step: it starts Python and torch, opens the corpus, builds
the model. The process that measures speeds does all of that too, and tells."""

from __future__ import annotations

from collections.abc import Iterable

START_SECONDS = 5.0
"""Where nothing was measured."""

_measured: list[float] = []


def keep_start(seconds: float) -> None:
    """Remembers what a process took here and now, for plans that are made later."""
    _measured.append(seconds)


def recall_start(known: Iterable[float]) -> None:
    """Remembers what plans have that were made before this process began, where it has measured
    nothing itself: a study that is resumed measures no speed again."""
    if not _measured:
        _measured.extend(seconds for seconds in known if seconds != START_SECONDS)


def start_seconds() -> float:
    """As it was measured last; an estimate where it was not."""
    return _measured[-1] if _measured else START_SECONDS
