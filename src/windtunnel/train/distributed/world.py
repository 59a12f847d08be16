"""The processes of a run: which one this is, and the few things that they tell each other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from windtunnel.errors import RunError, UsageError, WindtunnelError
from windtunnel.train.interrupts import Interrupted

_FAILED, _TOLD = "windtunnel/failed", "windtunnel/told"
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 15.0
"""How long a process may take to end by itself after another has failed; torchrun kills at 30."""


@dataclass(frozen=True)
class World:
    """Process ``rank`` of ``size``; alone, nothing is sent and nothing waits."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes events, the record and messages."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> None:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def largest(self, value: int) -> int:
        """The largest of the processes' numbers."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.long)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def texts(self, text: str) -> list[str]:
        """The short texts of all processes, in their order."""
        if self.size == 1:
            return [text]
        width = 256
        data = text.encode()[:width].ljust(width, b"\0")
        mine = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        all_of_them = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_of_them, mine)
        return [bytes(found.tolist()).rstrip(b"\0").decode() for found in all_of_them]

    def tell(self, text: str) -> None:
        """Lets the others go on from :meth:`told`."""
        if self.size > 1:
            _store().set(_TOLD, text)

    def told(self) -> str:
        """What the first process tells, as soon as it does; raises PeerFailed if it has failed."""
        store = _store()
        while not store.check([_TOLD]):
            failure = told_failure()
            if failure is not None:
                raise failure
            time.sleep(0.05)
        return str(store.get(_TOLD).decode())

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            self.largest(0)  # not a barrier: that of NCCL needs to know its device

    def explained(self, error: Exception) -> Exception:
        """What to say of an error: where another process failed first, that."""
        if self.size == 1 or isinstance(error, WindtunnelError):
            return error
        told = told_failure()
        if told is None and isinstance(error, (dist.DistError, RuntimeError)) and _is_lost(error):
            told = PeerFailed("another process of this run has died without a word")
        return error if told is None else told


ALONE = World()


class PeerFailed(RunError):
    """Another process of the run has failed; message and exit code are its own."""

    def __init__(self, message: str, exit_code: int = RunError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process holds a part (a collective call); others as is."""
    full: Any = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(environment.get("WORLD_SIZE", "1")) if "RANK" in environment else 1


@contextmanager
def joined(distributed: str | None, device: str) -> Iterator[World]:
    """Meets the other processes that torchrun started; alone, where it started none.

    Args:
        distributed: ``train.distributed``.
        device: ``train.device``; on GPUs each process of a machine takes its own.

    Raises:
        UsageError: there are several processes, but the recipe does not say how they share, or
            names one GPU for all.
    """
    size = processes()
    if size == 1:
        yield ALONE
        return
    world = World(int(os.environ["RANK"]), size)
    _check(world, distributed, device)
    on_gpu = torch.cuda.is_available() and device in ("auto", "cuda")
    if on_gpu:
        _check_gpus()
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    left = threading.Event()
    following = threading.Thread(target=_follow, args=(_store().clone(), left), daemon=True)
    following.start()
    try:
        yield world
        world.wait()
    except (PeerFailed, Interrupted):
        raise
    except Exception as error:
        found = world.explained(error)
        if found is error:
            _tell_failure(world, error)
        raise found from error
    finally:
        dist.destroy_process_group()
        left.set()
        following.join(_LOOK_SECONDS)


def _follow(store: Any, left: threading.Event) -> None:
    """Ends this process, with the words and the code of another that has failed, if it does not
    leave by itself: on GPUs it may wait for ever for what the other was to send, and neither
    errors nor signals reach it there. ``store`` is a connection of this thread alone."""
    failure = None
    while failure is None:
        if left.wait(_LOOK_SECONDS):
            return
        try:
            failure = _failure_in(store)
        except RuntimeError:  # gone, with the process that held it
            return
    if left.wait(_GRACE_SECONDS):
        return
    os.write(2, f"windtunnel: {failure}\n".encode())  # whatever the main thread holds
    os._exit(failure.exit_code)


def _check(world: World, distributed: str | None, device: str) -> None:
    problem = None
    if distributed is None:
        problem = (
            f"there are {world.size} processes, and train.distributed does not say how they share "
            "the run; set it to ddp or fsdp"
        )
    elif device == "mps" or (
        device == "auto" and not torch.cuda.is_available() and torch.backends.mps.is_available()
    ):
        problem = "train.device: several processes do not share an Apple GPU; set it to cpu"
    elif device.startswith("cuda:"):
        problem = f"train.device: {device} names one GPU for {world.size} processes; write cuda"
    if problem is not None:
        raise UsageError(problem) if world.first else SystemExit(UsageError.exit_code)


def _check_gpus() -> None:
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > gpus:
        problem = UsageError(
            f"train.device: each process takes a GPU of its own, and {here} processes were started "
            f"on a machine with {gpus}; start {gpus}, or set train.device to cpu"
        )
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        raise problem if first else SystemExit(UsageError.exit_code)


def _tell_failure(world: World, error: Exception) -> None:
    """So that the others can say why they end."""
    if isinstance(error, WindtunnelError):
        code, text = error.exit_code, " ".join(str(error).split())
    else:
        code, text = RunError.exit_code, repr(error)
    store = _store()
    if not store.check([_FAILED]):
        store.set(_FAILED, f"{code} process {world.rank} of {world.size} failed: {text}")


def told_failure() -> PeerFailed | None:
    """What a process said before it failed."""
    try:
        return _failure_in(_store())
    except RuntimeError:  # the store has gone with the process that held it
        return None


def _failure_in(store: Any) -> PeerFailed | None:
    if not store.check([_FAILED]):
        return None
    code, _, text = store.get(_FAILED).decode().partition(" ")
    return PeerFailed(text, int(code))


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _is_lost(error: Exception) -> bool:
    text = str(error)
    return any(word in text for word in ("Connection", "connection", "gloo", "NCCL", "peer"))
