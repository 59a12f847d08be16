"""What an evaluation trains, as keys; finished ones stand in a file, so that it can be resumed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from windtunnel.errors import RunError


@dataclass(frozen=True)
class Unit:
    """One training."""

    index: int
    """Of the architecture in the space."""
    init: str
    lr: float
    seed: int
    side: str
    """Which text the losses are measured on: tune or test; early: a short training, tune."""

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Outcome:
    """What a unit found."""

    losses: Mapping[int, float]
    """By step."""
    more: Mapping[str, float] = field(default_factory=dict)
    """``seconds`` of computing; signs of the first gradient."""


class Results:
    """What finished units found, in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, Outcome] = {}
        if path.exists():
            content = path.read_bytes()
            whole = content.rpartition(b"\n")[0]
            if len(whole) + 1 < len(content):  # a last line that was not written to its end
                path.write_bytes(whole + b"\n" if whole else b"")
            for number, line in enumerate(whole.splitlines(), 1):
                self._read(line, number)

    def _read(self, line: bytes, number: int) -> None:
        try:
            value = json.loads(line)
            losses = {int(k): math.inf if v is None else float(v) for k, v in value["loss"].items()}
            more = {name: float(number) for name, number in value.get("more", {}).items()}
            self._found[Unit(**value["unit"]).key] = Outcome(losses, more)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.path}:{number}: is damaged ({error}); delete the line"
            ) from error

    def __contains__(self, unit: Unit) -> bool:
        return unit.key in self._found

    def __getitem__(self, unit: Unit) -> Mapping[int, float]:
        return self._found[unit.key].losses

    def more(self, unit: Unit) -> Mapping[str, float]:
        """What a unit found beside its losses."""
        return self._found[unit.key].more

    def add(self, unit: Unit, losses: Mapping[int, float], **more: float) -> None:
        """Keeps a finished unit; a line is written whole."""
        kept = {name: value for name, value in more.items() if math.isfinite(value)}
        losses = {step: v if math.isfinite(v) else math.inf for step, v in losses.items()}
        self._found[unit.key] = Outcome(losses, kept)
        told = {str(k): v if math.isfinite(v) else None for k, v in losses.items()}
        line = json.dumps({"unit": asdict(unit), "loss": told, "more": kept}) + "\n"
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


MOST_RATES = 12
"""Rates that are tried at most for one group."""


def next_rates(done: Mapping[float, float], first: float, factor: float) -> list[float]:
    """Rates to try next, given the mean loss at those done; none when the best lies between two
    others (or so many were tried).

    >>> next_rates({}, 1.0, 2.0)
    [0.5, 1.0, 2.0]
    >>> next_rates({0.5: 3.0, 1.0: 2.0, 2.0: 1.0}, 1.0, 2.0)
    [4.0]
    """
    if not done:
        return [first / factor, first, first * factor]
    if len(done) >= MOST_RATES:
        return []
    best = best_rate(done)
    rates = sorted(done)
    if best == rates[0]:
        return [best / factor]
    return [best * factor] if best == rates[-1] else []


def best_rate(done: Mapping[float, float]) -> float:
    """The rate of the lowest loss."""
    return min(sorted(done), key=lambda rate: done[rate])


def is_bracketed(done: Mapping[float, float]) -> bool:
    """Whether the best rate lies between two others."""
    return min(done) < best_rate(done) < max(done)


def unique_units(units: Iterable[Unit]) -> list[Unit]:
    """Each unit once, in order."""
    return list({unit.key: unit for unit in units}.values())
