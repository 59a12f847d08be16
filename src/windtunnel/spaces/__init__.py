"""Spaces: indexed sets of architectures, up to millions, of which nothing is written down.

Only what builds models imports torch, and only when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from windtunnel.spaces.axis import Axis
from windtunnel.spaces.block import Block, Naming
from windtunnel.spaces.expression import Expression
from windtunnel.spaces.families import Family, family_names, family_of, register
from windtunnel.spaces.generator import Configs, ModelConfigGenerator
from windtunnel.spaces.grids import family_block, full, reasonable
from windtunnel.spaces.member import Member
from windtunnel.spaces.space import Space, union

if TYPE_CHECKING:
    from windtunnel.spaces.loaders import (
        ModelDataset,
        ModelLoader,
        create_full_model_dataloader,
        create_model_dataloader,
        create_reasonable_model_dataloader,
    )

__all__ = [
    "Axis",
    "Block",
    "Configs",
    "Expression",
    "Family",
    "Member",
    "ModelConfigGenerator",
    "ModelDataset",
    "ModelLoader",
    "Naming",
    "Space",
    "create_full_model_dataloader",
    "create_model_dataloader",
    "create_reasonable_model_dataloader",
    "family_block",
    "family_names",
    "family_of",
    "full",
    "reasonable",
    "register",
    "union",
]

_LOADERS = ("ModelDataset", "ModelLoader", "create_full_model_dataloader",
            "create_model_dataloader", "create_reasonable_model_dataloader")  # fmt: skip


def __getattr__(name: str) -> Any:
    """The loaders, which import torch, when one of them is asked for."""
    if name in _LOADERS:
        from windtunnel.spaces import loaders

        return getattr(loaders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
