"""An engine by the name that a user gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.study.engines.engine import Engine
from windtunnel.study.engines.local import LocalEngine

ENGINES = ("local",)


@contextmanager
def open_engine(text: str) -> Iterator[Engine]:
    """The engine of ``local``, for as long as the block lasts.

    Raises:
        UsageError: there is no such engine.
    """
    name, _, _ = text.partition("=")
    if name not in ENGINES or text != name:
        raise UsageError(f"--engine: {text!r}{suggestion(name, ENGINES)}")
    engine: Engine = LocalEngine()
    try:
        yield engine
    finally:
        engine.close()
