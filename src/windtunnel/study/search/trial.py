"""A trial: what was asked, what became of it; and the book that a search keeps of its trials."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from windtunnel.errors import StudyError
from windtunnel.runs import strict_json, write_atomic
from windtunnel.study.search.knob import Params
from windtunnel.study.search.sampling import Told
from windtunnel.train.run_config import LoadedRun

Status = Literal[
    "open", "complete", "pruned", "invalid", "too_large", "out_of_memory", "diverged", "failed"
]
UNTRAINED: tuple[Status, ...] = ("invalid", "too_large")
BOOK = "trials.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a configuration costs, by formula."""

    params: int
    flops: float
    """Of one run's training."""
    memory_bytes: int
    """Predicted peak of a run's process; without correction."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What was decided of a trial before it was trained: kept, since it depends on the machine."""

    status: Status = "open"
    reason: str = ""
    same_as: int | None = None
    """The earlier trial of the same configuration, which is not trained again."""


@dataclass
class Trial:
    """One configuration of a search."""

    number: int
    params: Params
    gate: Gate
    run: LoadedRun | None = None
    """None where the configuration is not valid."""
    key: str = ""
    """Of its run with the first seed."""
    costs: Costs | None = None
    status: Status = "open"
    reason: str = ""
    losses: tuple[float | None, ...] = ()
    """Final validation losses, by seed."""
    rungs: dict[int, float | None] = field(default_factory=dict)
    """Mean losses at the rungs that it was judged at, by step."""
    micro_batch_size: int | None = None
    """What it was trained with where memory ran out with the file's own."""

    @property
    def name(self) -> str:
        """Of its arm in the plans."""
        return f"trial-{self.number:03d}"

    @property
    def loss(self) -> float | None:
        """The mean over the seeds; None where one of them has none."""
        known = [loss for loss in self.losses if loss is not None]
        if not known or len(known) < len(self.losses):
            return None
        return math.fsum(known) / len(known)

    def end(self, status: Status, reason: str = "") -> None:
        self.status, self.reason = status, reason

    def take(self, other: Trial) -> None:
        """What became of an earlier trial of the same configuration is what becomes of this one."""
        self.status, self.reason, self.losses = other.status, other.reason, other.losses
        self.rungs, self.micro_batch_size = dict(other.rungs), other.micro_batch_size

    def values(self, objectives: Sequence[str]) -> tuple[float, ...] | None:
        """Of each objective; None without a loss."""
        if self.loss is None or self.costs is None or self.status != "complete":
            return None
        known = {
            "loss": self.loss,
            "flops": self.costs.flops,
            "params": float(self.costs.params),
            "memory": float(self.costs.memory_bytes),
        }
        return tuple(known[name] for name in objectives)

    def told(self, objectives: Sequence[str]) -> Told:
        """What a sampler hears of it."""
        reports = {step: loss for step, loss in self.rungs.items() if loss is not None}
        reports = reports if len(objectives) == 1 else {}
        if (values := self.values(objectives)) is not None:
            return Told(params=self.params, state="complete", values=values, reports=reports)
        state: Any = "pruned" if self.status == "pruned" else "failed"
        return Told(params=self.params, state=state, reports=reports)

    def to_dict(self) -> dict[str, Any]:
        costs = self.costs
        return {
            "number": self.number,
            "params": dict(self.params),
            "status": self.status,
            "reason": self.reason,
            "same_as": self.gate.same_as,
            "loss": self.loss,
            "losses": list(self.losses),
            "rungs": {str(step): loss for step, loss in self.rungs.items()},
            "model_params": costs and costs.params,
            "flops": costs and costs.flops,
            "predicted_memory_bytes": costs and costs.memory_bytes,
            "micro_batch_size": self.micro_batch_size,
            "key": self.key or None,
        }


class Book:
    """What a search asked and decided, on the disk: one file, replaced whole for each batch.

    A search that is started again reads it and asks the same, whatever the versions installed now
    would ask.
    """

    def __init__(self, path: Path | None) -> None:
        """None: nothing is kept."""
        self._path = path
        self.facts: dict[str, Any] = {}
        """What was measured once: the limit of memory, the speed of the file's own run."""
        self.batches: list[list[tuple[Params, Gate]]] = []
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            tree = json.loads(path.read_bytes())
            if tree["format"] != FORMAT:
                raise StudyError(f"{path}: of format {tree['format']}; this version reads {FORMAT}")
            self.facts = dict(tree["facts"])
            self.batches = [
                [(_as_params(row["params"]), Gate(**row["gate"])) for row in batch]
                for batch in tree["batches"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path}: is damaged ({error}); delete it to ask anew") from error
        except OSError as error:
            raise StudyError(f"{path}: cannot be read: {error.strerror}") from error

    def keep(self, batch: Sequence[tuple[Params, Gate]]) -> None:
        """Adds a batch."""
        self.batches.append(list(batch))
        self.write()

    def keep_nothing(self) -> None:
        """From now on nothing is written."""
        self._path = None

    def write(self) -> None:
        if self._path is None:
            return
        tree = {
            "format": FORMAT,
            "facts": self.facts,
            "batches": [
                [{"params": dict(params), "gate": vars(gate)} for params, gate in batch]
                for batch in self.batches
            ],
        }
        try:
            write_atomic(self._path, strict_json(tree, indent=1) + "\n")
        except OSError as error:
            raise StudyError(f"{self._path}: cannot write: {error.strerror}") from error


def _as_params(tree: Mapping[str, Any]) -> Params:
    return {path: _with_tuples(value) for path, value in tree.items()}


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_with_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return value
