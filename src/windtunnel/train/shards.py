"""Which process writes which tensor of a checkpoint, so that any number of them can read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from windtunnel.train.distributed.world import World, whole_tensor
from windtunnel.train.tensors import read_shapes, read_tensors, write_tensors


def part_name(file: str, world: World) -> str:
    """``model.safetensors``, or of several processes ``model-00001-of-00002.safetensors``."""
    if world.size == 1:
        return file
    stem, dot, suffix = file.partition(".")
    return f"{stem}-{world.rank + 1:05d}-of-{world.size:05d}{dot}{suffix}"


def parts_in(folder: Path, file: str) -> list[Path]:
    """The files of a checkpoint that hold ``file``, whole or in parts; none where there is none."""
    stem, _, suffix = file.partition(".")
    whole = folder / file
    return [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))


def own_part(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """The tensors that this process writes, each whole; a collective call.

    Each process gets about equally many numbers, in an order that depends on names and sizes alone.
    """
    if world.size == 1:
        return dict(tensors)
    load = [0] * world.size
    owner: dict[str, int] = {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].numel(), name)):
        owner[name] = load.index(min(load))
        load[owner[name]] += tensors[name].numel()
    own = {}
    for name in sorted(tensors):
        whole = whole_tensor(tensors[name])
        if owner[name] == world.rank:
            own[name] = whole.cpu()
    return own


@torch.no_grad()
def spread_as(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread over the processes as ``like`` is (a collective call)."""
    if not hasattr(like, "placements") or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    placed: Any = like
    return distribute_tensor(value.to(placed.device), placed.device_mesh, placed.placements)


def shapes_in(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """The shapes in files, by name, without reading their tensors."""
    return {name: shape for file in files for name, shape in read_shapes(file).items()}


def tensors_in(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of files, on the CPU."""
    return {name: value for file in files for name, value in read_tensors(file).items()}


def write_parts(
    folder: Path, contents: Mapping[str, Mapping[str, Tensor]], world: World
) -> dict[str, str]:
    """Each process writes its part of each file; the checksums of all parts, by file name."""
    files: dict[str, str] = {}
    for file, tensors in contents.items():
        name = part_name(file, world)
        written = write_tensors(folder / name, own_part(tensors, world))
        files |= {part.split()[0]: part.split()[1] for part in world.texts(f"{name} {written}")}
    return files
