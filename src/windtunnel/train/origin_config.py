"""What is written under ``origin``: what a run begins with, another run or a file. No torch."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from windtunnel.config import Config


class OriginConfig(Config):
    """Where a run begins, if not with weights drawn anew: with a `run`, or with a file of
    `weights`."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"run", "weights"})

    run: str | None = Field(default=None, min_length=1)
    """The folder of the run to begin with."""
    weights: str | None = Field(default=None, min_length=1)
    """The safetensors file to begin with; its tensors are named as the parameters."""
    step: int | None = Field(default=None, ge=0)
    """The run's checkpoint. None: the newest."""
    key: str | None = None
    """The run's key, or the SHA-256 of the file; another run, or another content, is then an error.
    None: whatever is there."""
    carry: Literal["all", "weights"] = "all"
    """all: weights, optimizer, step and the place in the data; weights: these alone, at step 0.
    A file has weights alone."""
    lenient: bool = False
    """Take the weights that fit by name and shape, and report the others; else one that does not
    fit is an error."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.run is None) == (self.weights is None):
            raise ValueError("give either run (a folder) or weights (a file)")
        if self.weights is not None:
            if self.step is not None:
                raise ValueError("step: a file of weights has none; leave it out")
            if self.carry == "all":
                if "carry" in self.model_fields_set:
                    raise ValueError("carry: a file has weights alone; leave it out")
                object.__setattr__(self, "carry", "weights")  # what follows from the file
        return self
