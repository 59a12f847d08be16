"""A study before it runs: its arms, its runs, what they will take. Plain, frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from windtunnel.errors import StudyError
from windtunnel.study.budget import Match
from windtunnel.study.starts import START_SECONDS

Metric = Literal["loss", "bits_per_byte"]
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One architecture with its recipe, as it will run."""

    name: str
    source: str
    """The file it came from."""
    config: Mapping[str, Any]
    """The run config as a plain tree, after matching; its seed is that of the first run."""
    arch_digest: str
    params: int
    steps: int
    tokens: int
    """Trained on, in one run."""
    flops_per_token: float
    """Of training: forward and backward."""
    memory_bytes: int
    """Predicted peak of a run's process."""
    steps_per_second: float | None
    """Measured here before the study; None where it was not."""
    diff: tuple[tuple[str, Any, Any], ...]
    """(dotted path, the first arm's value, this one's)."""
    changes: tuple[str, ...]
    """What matching changed in the file's config, in words."""
    first_step: int = 0
    """Where its runs begin: above 0 where they go on from a checkpoint of another run."""
    start_seconds: float = START_SECONDS
    """What a worker takes before its first step, as measured beside the speed."""

    @property
    def processes(self) -> int:
        """That train one run together."""
        return int(self.config["train"].get("processes", 1))

    @property
    def flops(self) -> float:
        """Of one run's training."""
        return self.flops_per_token * self.tokens

    @property
    def seconds(self) -> float | None:
        """Predicted for one run's steps; None where the speed was not measured."""
        left = self.steps - self.first_step
        return left / self.steps_per_second if self.steps_per_second else None

    @property
    def run_seconds(self) -> float | None:
        """Predicted for a whole run: steps, evaluations (a third of a step's work for each token;
        not counted where they cover a whole split) and the start of its worker."""
        if self.seconds is None:
            return None
        train = self.config["train"]
        left = self.steps - self.first_step
        evaluations = left // train["eval_every"] + 2
        evaluated: int = evaluations * (train["eval_tokens"] or 0)
        trained = self.tokens * left / self.steps
        return self.seconds * (1 + evaluated / 3 / trained) + self.start_seconds


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of an arm. Arms that are equal but for their names share runs: the keys are equal."""

    arm: str
    seed: int
    key: str
    config: Mapping[str, Any]
    until: int | None = None
    """The step at which it pauses; None: it is trained to its end."""
    limit_bytes: int | None = None
    """What its process may take at most; None: as much as there is."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a study will do; nothing in it depends on what happens while it runs."""

    kind: str
    question: str
    digest: str
    """Of what was asked, on which code and data: the same question has the same digest."""
    arms: tuple[Arm, ...]
    runs: tuple[PlannedRun, ...]
    seeds: tuple[int, ...]
    match: Match | Literal["none"]
    """What all arms have the same of; none: each is trained as it is written."""
    budget: float
    metric: Metric
    """What the verdict is about: nats per token, or bits per byte where tokenizers differ."""
    notes: tuple[str, ...]
    """What the reader must know: shared runs, recipes that differ, what matching changed."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Every run once, in order of seed and then of arm, so that a stopped study is balanced."""
        order = {seed: place for place, seed in enumerate(self.seeds)}
        runs = sorted(self.runs, key=lambda run: order[run.seed])
        return tuple(dict.fromkeys(run.key for run in runs))

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def run(self, key: str) -> PlannedRun:
        """The first run of that key."""
        return next(run for run in self.runs if run.key == key)

    def keys_of(self, arm: str) -> tuple[str, ...]:
        """The arm's runs, in the order of the seeds; where seeds were added until a verdict, an arm
        may have fewer than the first."""
        return tuple(self.runs_of(arm).values())

    def runs_of(self, arm: str) -> dict[int, str]:
        """The keys of the arm's runs by seed, in the order of the seeds."""
        by_seed = {run.seed: run.key for run in self.runs if run.arm == arm}
        return {seed: by_seed[seed] for seed in self.seeds if seed in by_seed}

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def merged(plans: Sequence[Plan]) -> Plan:
    """The runs of several plans of the same arms as one plan; later ones may have fewer arms."""
    runs = {(run.arm, run.seed): run for plan in plans for run in plan.runs}
    return replace(
        plans[0],
        runs=tuple(runs.values()),
        seeds=tuple(dict.fromkeys(seed for plan in plans for seed in plan.seeds)),
        notes=tuple(dict.fromkeys(note for plan in plans for note in plan.notes)),
    )


def read_plan(tree: Mapping[str, Any]) -> Plan:
    """The plan in a plain tree, as ``Plan.to_dict`` and JSON give it.

    Raises:
        StudyError: it is not such a tree.
    """
    try:
        if tree["format"] != FORMAT:
            raise StudyError(f"a plan of format {tree['format']}; this version reads {FORMAT}")
        values = {field.name: tree[field.name] for field in fields(Plan)}
        values["arms"] = tuple(_read_arm(arm) for arm in tree["arms"])
        values["runs"] = tuple(PlannedRun(**run) for run in tree["runs"])
        values["seeds"], values["notes"] = tuple(tree["seeds"]), tuple(tree["notes"])
        return Plan(**values)
    except (KeyError, TypeError) as error:
        raise StudyError(f"the plan is damaged: {error}") from error


def _read_arm(tree: Mapping[str, Any]) -> Arm:
    rows = tuple((path, first, second) for path, first, second in tree["diff"])
    return Arm(**{**tree, "diff": rows, "changes": tuple(tree["changes"])})


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left to do, as told before it starts."""

    runs: int
    """Runs of the study, shared ones once."""
    reused: int
    """Of those, already finished."""
    workers: int
    """Processes side by side."""
    threads: int
    """Of one process."""
    seconds: float | None
    """Until the end, by measured speeds; None where an arm was not measured."""
    memory_bytes: int
    """Predicted peak of the largest run."""
