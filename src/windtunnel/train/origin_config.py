"""What is written under ``origin``: the run that another one begins with. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from windtunnel.config import Config


class OriginConfig(Config):
    """Where a run begins, if not with weights drawn anew."""

    run: str = Field(min_length=1)
    """The folder of the run to begin with."""
    step: int | None = Field(default=None, ge=0)
    """Its checkpoint. None: the newest."""
    key: str | None = None
    """Its key; another run in that folder is then an error. None: whatever is there."""
    carry: Literal["all", "weights"] = "all"
    """all: weights, optimizer, step and the place in the data; weights: these alone, at step 0."""
    lenient: bool = False
    """Take the weights that fit by name and shape, and report the others; else one that does not
    fit is an error."""
