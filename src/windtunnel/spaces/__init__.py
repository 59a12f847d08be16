"""Spaces: indexed sets of architectures, up to millions, of which nothing is written down.

Only what builds models imports torch, and only when it is asked for.
"""

from windtunnel.spaces.axis import Axis
from windtunnel.spaces.block import Block, Naming
from windtunnel.spaces.expression import Expression
from windtunnel.spaces.families import Family, family_names, family_of, register
from windtunnel.spaces.grids import family_block, full, reasonable
from windtunnel.spaces.space import Member, Space, union

__all__ = [
    "Axis",
    "Block",
    "Expression",
    "Family",
    "Member",
    "Naming",
    "Space",
    "family_block",
    "family_names",
    "family_of",
    "full",
    "reasonable",
    "register",
    "union",
]
