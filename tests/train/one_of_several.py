"""Runs under torchrun with all that several processes do, also where there is one: so a machine
with one GPU shows NCCL, DDP and FSDP at work.

    torchrun … one_of_several.py FOLDER DEVICE
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import several
import torch
from torch.nn.parallel import DistributedDataParallel

from windtunnel.train.distributed import world as world_module
from windtunnel.train.distributed.world import World, joined
from windtunnel.train.runner import train_run

NAMES = (
    "ddp", "fsdp", "ddp in pieces", "ddp bfloat16", "fsdp bfloat16", "fsdp small", "ddp muon",
    "ddp watched", "fsdp all of these",
)  # fmt: skip


ARCH = several.ARCH


class NotAlone(int):
    """A number of processes that passes for more than one, also where it is 1."""

    def __eq__(self, other: object) -> bool:
        return other != 1 and int(self) == other

    def __gt__(self, other: int) -> bool:
        return other == 1 or int(self) > other

    __hash__ = int.__hash__


def without_dropout(tree: Any) -> Any:
    """On a GPU one process draws other masks than several."""
    if isinstance(tree, Mapping):
        return {key: without_dropout(value) for key, value in tree.items() if key != "dropout"}
    return [without_dropout(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def train(out: Path, name: str, world: World, device: str) -> None:
    several.ON_THE_SPHERE = without_dropout(several.ON_THE_SPHERE)
    several.ARCH = without_dropout(ARCH)
    if "bfloat16" in name:  # its rounding, other for other pieces, makes a router choose otherwise
        several.ARCH["layers"] = [layer | {"mlp": "glu"} for layer in several.ARCH["layers"]]
    parts = several.parts_of(name, world, device=device, lr=0.005)
    folder = several.begun(out / name.replace(" ", "-"), world)
    train_run(replace(parts, samples=None), folder)


class EarlierDDP(DistributedDataParallel):
    """Of a torch before 2.13, which has another name for one of its arguments."""

    def __init__(self, module: Any, *, forward_sync_buffers: bool, **more: Any) -> None:
        super().__init__(module, broadcast_buffers=forward_sync_buffers, **more)


def main(out: Path, device: str) -> None:
    torch.set_num_threads(1)
    if "forward_sync_buffers" not in inspect.signature(DistributedDataParallel).parameters:
        torch.nn.parallel.DistributedDataParallel = EarlierDDP
    started = world_module.processes
    world_module.processes = lambda *_: NotAlone(started())
    with joined("ddp", device) as world:
        for name in NAMES:
            train(out, name, world, device)
        backend = torch.distributed.get_backend_config()
        if world.first:
            (out / "backend.txt").write_text(str(backend))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
