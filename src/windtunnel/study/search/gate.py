"""Before a trial is trained: is it a configuration at all, and does it fit into memory?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from windtunnel.errors import ConfigError, DataError, UsageError
from windtunnel.study.arms import Ground, as_arm, predicted_memory, with_known_stages
from windtunnel.study.matching import Candidate
from windtunnel.study.planning import check_same_loss
from windtunnel.study.search.knob import Params
from windtunnel.study.search.space import applied
from windtunnel.study.search.trial import Costs, Gate, Trial
from windtunnel.train.run_config import LoadedRun

MARGIN = 1.05
"""What did not fit is taken to need so much more than there was."""
_UNKNOWN_GROWTH = 1.5
"""Where it is not known how much there was."""


@dataclass
class Room:
    """The memory that a run may take, and how far predictions of it were too low."""

    limit_bytes: int | None
    """None: not known, and nothing is refused."""
    factor: float = 1.0
    """Predictions are multiplied by it."""
    corrections: list[dict[str, Any]] = field(default_factory=list)
    """Each run that was out of memory, and what it made of the factor."""

    def expected(self, predicted: int) -> int:
        return round(predicted * self.factor)

    def fits(self, predicted: int) -> bool:
        return self.limit_bytes is None or self.expected(predicted) <= self.limit_bytes

    def ran_out(self, trial: int, predicted: int, micro_batch_size: int) -> None:
        """Memory ran out where the prediction had said that it would do."""
        if self.limit_bytes is None:
            least = self.factor * _UNKNOWN_GROWTH
        else:
            least = self.limit_bytes / predicted * MARGIN
        self.factor = max(self.factor, least)
        self.corrections.append(
            {"trial": trial, "predicted_bytes": predicted, "micro_batch_size": micro_batch_size,
             "factor": self.factor}
        )  # fmt: skip

    def told(self, predicted: int) -> str:
        """Why something is too large."""
        times = "" if self.factor == 1.0 else f" (predicted {predicted:,}, times {self.factor:.2f})"
        return (
            f"expected to take {self.expected(predicted):,} bytes{times}, and {self.limit_bytes:,} "
            "are there"
        )


def candidate(run: LoadedRun, ground: Ground) -> tuple[Candidate, str]:
    """A run with nothing left open, and its key.

    Raises:
        ConfigError, UsageError, DataError: it cannot be trained.
    """
    facts = ground.settle(run)
    return Candidate(with_known_stages(run.config, facts), facts.vocab_size, step=facts.step), (
        facts.key
    )


def costs_of(made: Candidate) -> Costs:
    train = made.config.train
    return Costs(
        params=made.params,
        flops=made.flops_per_token * round(train.steps * made.tokens_per_step),
        memory_bytes=predicted_memory(made.architecture, train),
    )


def with_seed(run: LoadedRun, seed: int) -> LoadedRun:
    train = run.config.train.replace(seed=seed)
    return replace(run, config=run.config.replace(train=train))


def make_trial(
    number: int, params: Params, base: LoadedRun, *, seed: int, ground: Ground, gate: Gate
) -> Trial:
    """The trial of some parameters, with its costs; invalid where they make no configuration.

    Args:
        seed: of its first run.
        gate: what was decided before, if it was.
    """
    trial = Trial(number, params, gate)
    try:
        run = as_arm(applied(base, params), trial.name)
        check_same_loss([base, run])  # an objective left to the architecture changes with it
        made, trial.key = candidate(with_seed(run, seed), ground)
    except (ConfigError, UsageError, DataError) as error:
        trial.gate = Gate(status="invalid", reason=str(error).splitlines()[0])
        trial.end("invalid", trial.gate.reason)
        return trial
    trial.run, trial.costs = run, costs_of(made)
    trial.end(gate.status, gate.reason)
    return trial


def pass_gate(trial: Trial, earlier: dict[str, int], room: Room) -> None:
    """Decides whether a new trial is trained, and notes that in its gate.

    Args:
        earlier: numbers of trials by their keys.
    """
    if trial.status == "invalid":
        return
    assert trial.costs is not None
    if trial.key in earlier:
        trial.gate = Gate(same_as=earlier[trial.key])
    elif not room.fits(trial.costs.memory_bytes):
        trial.gate = Gate(status="too_large", reason=room.told(trial.costs.memory_bytes))
        trial.end("too_large", trial.gate.reason)


def smaller_micro_batch(trial: Trial, room: Room, ground: Ground) -> int | None:
    """The micro-batch with which a trial that was out of memory is tried next: the largest half,
    quarter, … that is expected to fit, or 1; None where it was 1 already. The gradient stays that
    of the whole batch, so the trial stays the same trial."""
    assert trial.run is not None
    train = trial.run.config.train
    if train.micro_batch_size == "auto":
        return None  # it has tried that by itself
    size = trial.micro_batch_size or train.largest_micro_batch
    while size > 1:
        size = (size + 1) // 2
        smaller = train.replace(micro_batch_size=size)
        run = replace(trial.run, config=trial.run.config.replace(train=smaller))
        made, _ = candidate(run, ground)
        if room.fits(costs_of(made).memory_bytes):
            return size
    return 1 if (trial.micro_batch_size or train.largest_micro_batch) > 1 else None
