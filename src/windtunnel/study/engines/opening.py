"""An engine by the name that a user gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.study.engines.engine import Engine
from windtunnel.study.engines.local import LocalEngine

ENGINES = ("local", "ray")


@contextmanager
def open_engine(text: str) -> Iterator[Engine]:
    """The engine of ``local``, ``ray`` or ``ray=ADDRESS``, for as long as the block lasts.

    Raises:
        UsageError: there is no such engine, or Ray is not installed.
        StudyError: Ray cannot be started or reached.
    """
    name, equals, address = text.partition("=")
    if name not in ENGINES:
        raise UsageError(f"--engine: {name!r}{suggestion(name, ENGINES)}")
    if equals and (name == "local" or not address):
        raise UsageError(f"--engine: {text!r} is none of local, ray and ray=ADDRESS")
    engine = _engine(name, address or None)
    try:
        yield engine
    finally:
        engine.close()


def _engine(name: str, address: str | None) -> Engine:
    if name == "local":
        return LocalEngine()
    from windtunnel.study.engines.ray_engine import RayEngine  # brings Ray

    return RayEngine(address)
