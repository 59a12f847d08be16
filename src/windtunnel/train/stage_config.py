"""What is written under ``train.stages``. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from windtunnel.config import Config
from windtunnel.train.schedule_config import ScheduleConfig

MOST_ROWS_OF_A_CYCLE = 10_000
_LENGTHS = ("steps", "rows", "epochs")


def _weights(value: Any) -> Any:
    if isinstance(value, str):
        return {value: 1}
    if isinstance(value, list | tuple):
        if len(set(map(str, value))) != len(value):
            raise ValueError("names a source twice; give it a weight: {name: 2}")
        return dict.fromkeys(value, 1)
    return value


def _named(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


Weight = Annotated[int, Field(gt=0)]


class StageConfig(Config):
    """A part of a training plan: what is read, how long, and what differs from the recipe.

    >>> StageConfig(name="mix", data={"stories": 2, "plays": 1}, epochs=0.5).until
    'first_exhausted'
    """

    name: str = Field(min_length=1)
    """What events and records call it."""
    data: Annotated[
        Annotated[dict[str, Weight], Field(min_length=1)] | None,
        BeforeValidator(
            _weights, json_schema_input_type=str | list[str] | dict[str, Weight] | None
        ),
    ] = None
    """Names of `data.sources`, each with its weight: {stories: 2, plays: 1} reads two rows of the
    one for each row of the other. None: all sources as one."""
    steps: int | None = Field(default=None, gt=0)
    """How long: updates of the weights."""
    rows: int | None = Field(default=None, gt=0)
    """How long: sequences, or samples; the last batch may be short."""
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """How long: passes over a source, also fractions of one; with several see `until`."""
    until: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """With `epochs` of several sources: ends when the first of them has been read so often, or when
    all have (the others are then read again)."""
    batch_size: int | None = Field(default=None, gt=0)
    """Sequences in one update. None: the recipe's."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The highest learning rate. None: the recipe's."""
    schedule: (
        Annotated[
            ScheduleConfig,
            BeforeValidator(_named, json_schema_input_type=str | ScheduleConfig),
        ]
        | None
    ) = None
    """The learning rate over the steps of this stage. None: the recipe's, over the whole run."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in _LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"a stage has one of steps, rows and epochs, not {found}")
        if self.until != "first_exhausted" and (self.epochs is None or len(self.data or ()) < 2):
            raise ValueError("until has no effect but with epochs of several sources")
        if sum((self.data or {}).values()) > MOST_ROWS_OF_A_CYCLE:
            raise ValueError(
                f"the weights add up to more than {MOST_ROWS_OF_A_CYCLE:,}; use smaller numbers"
            )
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # weights are a dict, which has no hash

    def known_rows(self, batch_size: int) -> int | None:
        """Rows in all, at the recipe's batch size; None where that takes the data."""
        if self.rows is not None:
            return self.rows
        return None if self.steps is None else self.steps * (self.batch_size or batch_size)

    def known_steps(self, batch_size: int) -> int | None:
        """Updates; None where that takes the data."""
        rows = self.known_rows(batch_size)
        return None if rows is None else -(-rows // (self.batch_size or batch_size))
