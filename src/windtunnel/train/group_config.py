"""What is written under ``train.groups``, ``train.mup`` and ``train.ema``. No torch."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from windtunnel.config import Choice, Config
from windtunnel.train.optimizers.config import NotNegative, OptimizerConfig, Positive


class GroupConfig(Config):
    """A rule for the parameters whose names match. Later rules go over earlier ones, key by key.

    >>> GroupConfig(match="embedding.*", lr=3.0).matches("embedding.weight")
    True
    """

    match: str = Field(min_length=1)
    """Which parameters: a pattern of the whole name in which `*` stands for anything, or, between
    slashes, a regular expression that is found somewhere in it: `/layers.[02]..*norm/`."""
    lr: Positive | None = None
    """A factor of the learning rate."""
    weight_decay: NotNegative | None = None
    """In place of the decay that the parameters would have."""
    freeze: bool | None = None
    """Whether they stay as they begin: no gradient, no decay, no state."""
    optimizer: Literal["secondary"] | Annotated[OptimizerConfig, Choice("optimizer")] | None = None
    """What moves them in place of `train.optimizer`; secondary: `train.secondary_optimizer`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.expression is not None:
            try:
                re.compile(self.expression)
            except re.error as error:
                raise ValueError(f"match: no regular expression: {error}") from None
        given = (self.lr, self.weight_decay, self.freeze, self.optimizer)
        if all(value is None for value in given):
            raise ValueError("a group changes nothing without lr, weight_decay, freeze, optimizer")
        moving = [n for n in ("lr", "weight_decay", "optimizer") if getattr(self, n) is not None]
        if self.freeze and moving:
            raise ValueError(
                f"{' and '.join(moving)} of what is frozen: leave out one or the other"
            )
        return self

    @property
    def expression(self) -> str | None:
        """The regular expression, where one is written."""
        slashed = len(self.match) > 2 and self.match.startswith("/") and self.match.endswith("/")
        return self.match[1:-1] if slashed else None

    def matches(self, name: str) -> bool:
        """Whether the rule is for the parameter of that name."""
        if self.expression is not None:
            return re.search(self.expression, name) is not None
        return fnmatchcase(name, self.match)


class MupConfig(Config):
    """Initial weights and learning rates with which the best rate is the same at every width."""

    base_width: int = Field(ge=1)
    """The d_model at which nothing changes: where the learning rate was found."""
    base_head_dim: int | None = Field(default=None, ge=1)
    """The width of a head there, where wider models have wider heads; none where they have more
    heads of the same width."""


class EmaConfig(Config):
    """An average of the weights; a number alone (``ema: 0.999``) is its decay."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """How much of the average is kept at each update."""
    warmup: bool = True
    """Whether less is kept at first, at most (1 + t) / (10 + t) at update t."""
