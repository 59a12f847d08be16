"""The two grids of the seed: ``reasonable`` (16,704) and ``full`` (2,998,336 architectures).

Values, order and names are those of GHN-LM's generator, flaws included: in ``reasonable`` one
number runs through all families, in ``full`` each family counts anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.spaces.axis import Axis
from windtunnel.spaces.block import Block, Naming
from windtunnel.spaces.families import family_of
from windtunnel.spaces.space import Space

VOCAB_SIZE = 50_257
MAX_SEQ_LEN = 512
Values = Mapping[str, Sequence[Any]]

_TIED = (True, False)
_MOST = (64, 128, 256, 384, 512, 768, 1024)
_NARROW = (*range(32, 513, 32), *range(576, 1025, 64))
_DROPOUTS = tuple(round(0.05 * step, 2) for step in range(11))

_RECURRENT: dict[str, Values] = {
    "reasonable": {
        "d_model": _MOST,
        "n_layer": (1, 2, 3, 4, 6, 8, 12, 16),
        "p_drop": (0.0, 0.1, 0.2, 0.3),
        "tie_weights": _TIED,
    },
    "full": {
        "d_model": _NARROW,
        "n_layer": (*range(1, 11), 12, 14, 16, 18, 20, 24, 28, 32),
        "p_drop": _DROPOUTS,
        "tie_weights": _TIED,
    },
}
_TRANSFORMER: dict[str, Values] = {
    "reasonable": {
        "d_model": _MOST,
        "n_layer": (2, 3, 4, 6, 8, 12, 16, 24),
        "n_head": (2, 4, 6, 8, 12, 16),
        "ff_ratio": (2, 3, 4, 6, 8),
        "p_drop": (0.0, 0.1, 0.2),
        "tie_weights": _TIED,
    },
    "full": {
        "d_model": (*_NARROW, *range(1152, 2049, 128)),
        "n_layer": (*range(2, 11), 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64),
        "n_head": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
        "ff_ratio": (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32),
        "p_drop": _DROPOUTS,
        "tie_weights": _TIED,
    },
}
_ORDER = ("rnn", "lstm", "gru", "gpt_encoder", "mini_gpt")
GRIDS = ("reasonable", "full")


def grid_values(grid: str, family: str) -> Values:
    """The values of each axis of a family in a grid; empty for a family that is not in it.

    Raises:
        UsageError: there is no such grid.
    """
    if grid not in GRIDS:
        raise UsageError(f"unknown grid {grid!r}{suggestion(grid, GRIDS)}")
    if family not in _ORDER:
        return {}
    return (_RECURRENT if family in _ORDER[:3] else _TRANSFORMER)[grid]


def family_block(
    family: str,
    values: Values,
    naming: Naming,
    *,
    vocab_size: int = VOCAB_SIZE,
    max_seq_len: int = MAX_SEQ_LEN,
) -> Block:
    """A registered family over the values of its axes.

    Raises:
        UsageError: a missing axis, or one that the family does not have.
    """
    known = family_of(family)
    for name in values:
        if name not in known.axes:
            raise UsageError(f"family {family} has no axis {name!r}{suggestion(name, known.axes)}")
    axes = tuple(
        Axis(name, tuple(values[name]), structural=name not in known.free)
        for name in known.axes
        if name in values
    )
    return Block(known, axes, naming, vocab_size, max_seq_len)


def reasonable(vocab_size: int = VOCAB_SIZE, max_seq_len: int = MAX_SEQ_LEN) -> Space:
    """The 16,704 architectures of the seed's practical grid."""
    blocks: list[Block] = []
    for family in _ORDER:
        first = 1 + sum(block.size for block in blocks)
        naming = Naming(family.replace("_", "-"), first, decimals=1)
        values = grid_values("reasonable", family)
        blocks.append(family_block(family, values, naming, vocab_size=vocab_size,
                                   max_seq_len=max_seq_len))  # fmt: skip
    return Space("reasonable", blocks)


def full_prefix(family: str) -> str:
    """How the full grid names the members of a family."""
    return {"gpt_encoder": "gpt-enc"}.get(family, family.replace("_", "-"))


def full(vocab_size: int = VOCAB_SIZE, max_seq_len: int = MAX_SEQ_LEN) -> Space:
    """The 2,998,336 architectures of the seed's full grid."""
    blocks = [
        family_block(family, grid_values("full", family), Naming(full_prefix(family), decimals=2),
                     vocab_size=vocab_size, max_seq_len=max_seq_len)
        for family in _ORDER
    ]  # fmt: skip
    return Space("full", blocks)
