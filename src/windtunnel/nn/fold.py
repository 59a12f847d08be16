"""Folding: a trained part in its plain form, which computes the same with less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from windtunnel.errors import UsageError


class Folded(NamedTuple):
    """The plain form of a part."""

    config: Any
    """Its resolved config."""
    weights: dict[str, Tensor]
    """Its parameters and persistent buffers, by name."""


@runtime_checkable
class Foldable(Protocol):
    """A module that has a plain form, or holds parts that do."""

    def folded(self) -> Folded:
        """The plain form, whose outputs equal this module's in evaluation."""
        ...


def fold_part(module: nn.Module) -> Folded:
    """The plain form of a part; of one that is plain already, its own config and weights.

    Raises:
        UsageError: something inside can be folded, but the part around it does not say how.
    """
    if isinstance(module, Foldable):
        return module.folded()
    inside = [name for name, part in module.named_modules() if isinstance(part, Foldable)]
    if inside:
        where = type(module).__name__
        raise UsageError(f"{where} does not say how to fold {inside[0]}: it needs folded()")
    config: Any = module.config
    return Folded(config, dict(module.state_dict()))


def under(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a part, named as those of the module that holds it as ``name``."""
    return {f"{name}.{key}": value for key, value in weights.items()}
