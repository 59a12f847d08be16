"""One knob of a space: the values it can take, and when it is there. No torch, no Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from windtunnel.config import Config, canonical_json

Whole: TypeAlias = int
"""The class below has a field named int."""
Number = Annotated[float, Field(allow_inf_nan=False)]
Params: TypeAlias = Mapping[str, Any]
"""What a trial has chosen, by the knobs' paths in the order of the space."""

range_ = range
"""The class below has a field named range."""
DIGITS = 4
"""Significant digits of numbers without a step: more change no run that matters, and fewer are
easier to read and to find again."""
_FORMS = ("choice", "range", "log", "int")


class KnobConfig(Config):
    """The values of one knob: exactly one of ``choice``, ``range``, ``log``, ``int``.

    >>> KnobConfig(int=(32, 128), step=32).values()
    (32, 64, 96, 128)
    >>> KnobConfig(log=(1e-4, 1e-2), points=3).values()
    (0.0001, 0.001, 0.01)
    """

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """Any values of the run's file: names, numbers, lists, mappings."""
    range: tuple[Number, Number] | None = None
    """From one number to another, evenly."""
    log: tuple[Number, Number] | None = None
    """From one number to another, evenly in the logarithm."""
    int: tuple[Whole, Whole] | None = None
    """From one whole number to another."""
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """range and int: between neighbours. None: 1 for int, any number for range."""
    scale: Literal["linear", "log"] = "linear"
    """int only: log is even in the logarithm."""
    points: Annotated[Whole, Field(ge=2)] | None = None
    """range and log: how many values a grid takes of it."""
    when: Mapping[str, Any] = {}
    """Other knobs, written before this one, with the values (one, or a list) for which this one is
    there; of a mapping its `type` is enough."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in _FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            told = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"needs exactly one of {', '.join(_FORMS)}{told}")
        if self.choice is None:
            self._check_bounds(given[0])
        self._check_options(given[0])
        return self

    def _check_bounds(self, form: str) -> None:
        low, high = self.bounds
        if low > high:
            raise ValueError(f"{form}: {low:g} is above {high:g}")
        if (form == "log" or self.scale == "log") and low <= 0:
            raise ValueError(f"{form}: a logarithm needs numbers above 0, not {low:g}")

    def _check_options(self, form: str) -> None:
        for name, forms in {"step": ("range", "int"), "points": ("range", "log")}.items():
            if getattr(self, name) is not None and form not in forms:
                raise ValueError(f"{name} is for {' and '.join(forms)}, not for {form}")
        if self.scale == "log" and (form != "int" or self.step is not None):
            raise ValueError("scale: log is for int without a step")
        if form == "int" and self.step is not None and self.step != math.floor(self.step):
            raise ValueError(f"step: whole numbers have no step of {self.step:g}")
        if self.step is not None and self.points is not None:
            raise ValueError("give step or points, not both")
        if self.choice is not None:
            texts = [canonical_json(value) for value in self.choice]
            if len(set(texts)) != len(texts):
                raise ValueError("choice: a value stands in it twice")

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number; of the three forms that have them."""
        found = self.range or self.log or self.int
        assert found is not None
        return found

    @property
    def logarithmic(self) -> bool:
        return self.log is not None or self.scale == "log"

    def values(self) -> tuple[Any, ...] | None:
        """All values in their order, as a grid takes them; None where they are without end."""
        if self.choice is not None:
            return self.choice
        low, high = self.bounds
        if self.int is not None:
            return tuple(range_(self.int[0], self.int[1] + 1, math.floor(self.step or 1)))
        if self.step is not None:
            count = math.floor((high - low) / self.step + 1e-9)
            return tuple(stepped(low + i * self.step) for i in range_(count + 1))
        if self.points is None:
            return None
        shares = [i / (self.points - 1) for i in range_(self.points)]
        if self.logarithmic:
            return self._points([low * (high / low) ** share for share in shares])
        return self._points([low + (high - low) * share for share in shares])

    def _points(self, values: list[float]) -> tuple[float, ...]:
        """Points of a grid, rounded where that leaves them apart; never beyond the bounds."""
        low, high = self.bounds
        short = tuple(min(max(rounded(value), low), high) for value in values)
        if len(set(short)) == len(short):
            return short
        return tuple(min(max(stepped(value), low), high) for value in values)

    def is_there(self, chosen: Params) -> bool:
        """Whether a trial that has chosen so far has this knob."""
        return all(
            path in chosen and _is_one_of(chosen[path], wanted)
            for path, wanted in self.when.items()
        )


def rounded(value: float) -> float:
    """To as many digits as a trial's numbers have.

    >>> rounded(0.000123456)
    0.0001235
    """
    return float(f"{value:.{DIGITS}g}")


def stepped(value: float) -> float:
    """A multiple of a step, without the last digits that a product leaves; all others are meant.

    >>> stepped(0.1 + 2 * 0.1), stepped(10_000 + 3 * 0.05)
    (0.3, 10000.15)
    """
    return float(f"{value:.12g}")


def _is_one_of(value: Any, wanted: Any) -> bool:
    return any(
        _is(value, one) for one in (wanted if isinstance(wanted, tuple | list) else [wanted])
    )


def _is(value: Any, wanted: Any) -> bool:
    """Whether a value is meant by one that was written under ``when``."""
    if isinstance(value, Mapping) and not isinstance(wanted, Mapping):
        value = value.get("type")
    return canonical_json(value) == canonical_json(wanted)
