"""One architecture of a space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.config import Document
from windtunnel.spaces.block import Block

if TYPE_CHECKING:
    from windtunnel.arch import Architecture, ArchSpec

_SIZES = (("arch", "vocab_size"), ("arch", "max_seq_len"))


class Member:
    """One architecture of a space; what it is gets worked out when it is asked for."""

    __slots__ = ("_block", "_row", "_values", "index")

    def __init__(self, index: int, block: Block, row: int) -> None:
        self.index = index
        """Its index in the whole space."""
        self._block = block
        self._row = row
        self._values: dict[str, Any] | None = None

    @property
    def block(self) -> Block:
        """The part of the space that it is of."""
        return self._block

    @property
    def family(self) -> str:
        """The name of its family."""
        return self._block.family.name

    @property
    def values(self) -> dict[str, Any]:
        """The value on each axis."""
        if self._values is None:
            self._values = self._block.values(self._row)
        return self._values

    @property
    def name(self) -> str:
        """The name that :meth:`Space.find` takes."""
        return self._block.name(self._row, self.values)

    @property
    def params(self) -> int:
        """The number of parameters; those of tied weights count once."""
        return self._block.params(self.values)

    @property
    def structure(self) -> int:
        """Equal for members that have the same tensors and use them alike."""
        return int(self._block.structures(np.array([self._row]))[0])

    @property
    def config(self) -> dict[str, Any]:
        """Its sizes, the vocabulary's and the context's among them."""
        constants = self._block.constants()
        config = self._block.family.config({**constants, **self.values})
        for axis in self._block.axes:
            sizes = [path[1] for path in axis.paths if path in _SIZES and path[1] in config]
            config |= {str(name): self.values[axis.name] for name in sizes}
        edits = {a.name: self.values[a.name] for a in self._block.axes if a.paths}
        return {**config, **edits}

    @property
    def metadata(self) -> dict[str, Any]:
        """``name``, ``model_type``, ``config`` and ``num_params``."""
        return {
            "name": self.name,
            "model_type": self.family,
            "config": self.config,
            "num_params": self.params,
        }

    @property
    def document(self) -> Document:
        """The run file that ``windtunnel check`` and ``train`` take."""
        return self._block.document(self.values, self.name)

    @property
    def arch(self) -> ArchSpec:
        """The architecture, as a run file has it."""
        return self._block.arch(self.values, self.name)

    @property
    def architecture(self) -> Architecture:
        """The architecture in its final form, which :func:`windtunnel.arch.build` takes."""
        return self._block.architecture(self.values, self.name)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Member)
            and self._block == other._block
            and self._row == other._row
            and self.index == other.index
        )

    def __hash__(self) -> int:
        return hash((self._block, self._row))

    def __repr__(self) -> str:
        return f"Member({self.index}, {self.name})"
