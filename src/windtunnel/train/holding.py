"""What a process holds while it trains: the right to write the run, its events, its threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from windtunnel.runs import EventLog, RunFolder
from windtunnel.runs.lock import RunLock
from windtunnel.train.distributed.world import World


@contextmanager
def lock_of(folder: RunFolder, world: World) -> Iterator[RunLock | None]:
    """The right to write, for the process that does; None for the others."""
    if not world.first:
        yield None
        return
    with folder.lock() as lock:
        yield lock


@contextmanager
def events_of(folder: RunFolder, lock: RunLock | None) -> Iterator[EventLog | None]:
    """Where events are written, with the right to; else None."""
    if lock is None:
        yield None
        return
    with folder.open_events(lock) as log:
        yield log


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with that many threads; afterwards with as many as before."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
