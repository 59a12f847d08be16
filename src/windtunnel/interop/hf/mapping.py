"""How tensors of ours correspond to tensors of theirs, both ways."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.errors import UsageError

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Transform:
    """From their tensors to ours and back; the two undo each other."""

    to_ours: Callable[[Tensors], Tensors]
    to_theirs: Callable[[Tensors], Tensors]


def _transposed(tensors: Tensors) -> Tensors:
    return [x.t() if x.dim() == 2 else x for x in tensors]


SAME = Transform(lambda tensors: tensors, lambda tensors: tensors)
TRANSPOSED = Transform(_transposed, _transposed)
"""For maps that are stored (in, out), as GPT-2's; biases stay as they are."""


def joined(parts: int, *, transposed: bool = False) -> Transform:
    """One tensor of theirs is so many equal ones of ours, one after the other along the outputs."""

    def split(tensors: Tensors) -> Tensors:
        (whole,) = _transposed(tensors) if transposed else tensors
        return whole.chunk(parts, 0)

    def join(tensors: Tensors) -> Tensors:
        whole = [torch.cat(list(tensors), 0)]
        return _transposed(whole) if transposed else whole

    return Transform(split, join)


def times(factor: float) -> Transform:
    """Theirs are so many times ours."""
    return Transform(
        lambda tensors: [x / factor for x in tensors], lambda tensors: [x * factor for x in tensors]
    )


def cut(sizes: Sequence[int]) -> Transform:
    """One tensor of theirs is several of ours of these sizes, one after the other along the
    outputs (GPT-BigCode, whose keys and values have one head)."""
    return Transform(
        lambda tensors: torch.split(tensors[0], list(sizes), 0),
        lambda tensors: [torch.cat(list(tensors), 0)],
    )


def joined_by_head(num_heads: int, parts: int = 3) -> Transform:
    """One tensor of theirs holds, head after head, that head's part of each of ours (GPT-NeoX)."""

    def split(tensors: Tensors) -> Tensors:
        (whole,) = tensors
        by_head = whole.view(num_heads, parts, -1, *whole.shape[1:])  # h·3·k … -> h 3 k …
        return [by_head[:, part].flatten(0, 1) for part in range(parts)]

    def join(tensors: Tensors) -> Tensors:
        by_head = torch.stack([x.reshape(num_heads, -1, *x.shape[1:]) for x in tensors], 1)
        return [by_head.flatten(0, 2)]

    return Transform(split, join)


@dataclass(frozen=True)
class TensorMap:
    """Which tensors of ours are which of theirs."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transform: Transform = SAME


def one(ours: str, theirs: str, transform: Transform = SAME) -> TensorMap:
    """One tensor is one tensor."""
    return TensorMap((ours,), (theirs,), transform)


def part(
    names: Collection[str], ours: str | Sequence[str], theirs: str, transform: Transform = SAME
) -> list[TensorMap]:
    """Weight and bias of a part, as far as our model has them (``names``: all of its tensors)."""
    own = (ours,) if isinstance(ours, str) else tuple(ours)
    maps = []
    for kind in ("weight", "bias"):
        full = tuple(f"{name}.{kind}" for name in own)
        if all(name in names for name in full):
            maps.append(TensorMap(full, (f"{theirs}.{kind}",), transform))
    return maps


def to_ours(
    maps: Iterable[TensorMap],
    theirs: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> dict[str, Tensor]:
    """Our tensors, in float32, from theirs; ``shapes`` are those of our model.

    Every tensor of both sides must be accounted for exactly once.

    Raises:
        UsageError: names every tensor that is missing, left over or of another shape; begins with
            ``where``.
    """
    maps = list(maps)
    _each_once(maps, shapes)
    wanted = {name for item in maps for name in item.theirs}
    problems = [f"{name} is missing" for name in sorted(wanted - theirs.keys())]
    problems += [f"{name} has no place in our model" for name in sorted(theirs.keys() - wanted)]
    if problems:
        raise UsageError(_told(where, problems))
    ours: dict[str, Tensor] = {}
    for item in maps:
        try:
            found = item.transform.to_ours([theirs[name] for name in item.theirs])
        except RuntimeError as error:
            shape = tuple(theirs[item.theirs[0]].shape)
            problems.append(f"{item.theirs[0]} of shape {shape} cannot be cut: {error}")
            continue
        for name, tensor in zip(item.ours, found, strict=True):
            if tuple(tensor.shape) != shapes[name]:
                problems.append(
                    f"{' + '.join(item.theirs)} gives {name} the shape {tuple(tensor.shape)}, "
                    f"and our model has {shapes[name]}"
                )
            ours[name] = tensor.to(torch.float32).contiguous()
    if problems:
        raise UsageError(_told(where, problems))
    return ours


def to_theirs(maps: Iterable[TensorMap], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors from ours."""
    maps = list(maps)
    _each_once(maps, ours)
    theirs: dict[str, Tensor] = {}
    for item in maps:
        found = item.transform.to_theirs([ours[name] for name in item.ours])
        for name, tensor in zip(item.theirs, found, strict=True):
            theirs[name] = tensor.contiguous()
    return theirs


def _each_once(maps: Sequence[TensorMap], names: Collection[str]) -> None:
    """A family that forgets a tensor, or maps it twice, is a mistake of ours."""
    mapped = [name for item in maps for name in item.ours]
    assert len(mapped) == len(set(mapped)), "a tensor of ours is mapped twice"
    written = [name for item in maps for name in item.theirs]
    assert len(written) == len(set(written)), "a tensor of theirs is mapped twice"
    forgotten = sorted(set(names) ^ set(mapped))
    assert not forgotten, f"tensors of ours without a map, or maps without a tensor: {forgotten}"


def _told(where: str, problems: Sequence[str], most: int = 8) -> str:
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join(f"{where}: {text}" for text in [*problems[:most], *more])
