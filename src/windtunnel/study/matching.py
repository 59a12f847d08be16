"""Giving every arm the same of one budget: other steps, or another width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from windtunnel.arch import Architecture, ArchSpec, cost, diff, resolve, try_resolve
from windtunnel.errors import StudyError, UsageError
from windtunnel.nn.memory_slots import SlotsConfig
from windtunnel.study.budget import Match, WidthMatch, solve_width, steps_for, steps_within
from windtunnel.train.objectives.row_cost import StepSize, row_cost
from windtunnel.train.run_config import RunConfig

Speeds = Callable[[Sequence[RunConfig]], Sequence[float]]
"""Steps a second of each run, measured."""
_HIDDEN_ROOM = 0.25
"""How far matching may change a feed-forward's hidden width where no d_model fits."""


@dataclass(frozen=True)
class Candidate:
    """A config on its way into a plan, and what matching has changed in it so far."""

    config: RunConfig
    vocab_size: int
    changes: tuple[str, ...] = ()
    step: StepSize | None = None
    """What a step on samples comes to; None: full rows of a text."""

    @property
    def name(self) -> str:
        return self.config.arch.name

    @property
    def architecture(self) -> Architecture:
        return resolve(self.config.arch, self.vocab_size)

    @property
    def tokens_per_step(self) -> float:
        """Of a text all tokens of its rows; of samples the targets, on average."""
        train = self.config.train
        if self.step is not None:
            rows = train.tokens / train.seq_len / train.steps if train.stages else train.batch_size
            return self.step.targets * rows / train.batch_size
        return train.tokens / train.steps if train.stages else train.batch_size * train.seq_len

    @property
    def params(self) -> int:
        return int(cost(self.architecture, self.config.train.seq_len).total.params)

    @property
    def flops_per_token(self) -> float:
        """Of training: three forwards, of rows as the objective cuts them; of samples, for each
        target."""
        if self.step is not None:
            return self.step.train_flops(self.architecture) / self.step.targets
        train = self.config.train
        return row_cost(train.objective, self.architecture, train.seq_len).train_flops_per_token

    def changed(self, config: RunConfig, *changes: str) -> Candidate:
        return replace(self, config=config, changes=(*self.changes, *changes))


def own_amount(first: Candidate, match: Match, speed: float | None) -> float:
    """What an arm's own config comes to: the budget of a study that names none."""
    steps = first.config.train.steps
    if match == "params":
        return float(first.params)
    if match == "seconds":
        return steps / _known(speed)
    tokens = float(steps * first.tokens_per_step)
    return tokens * first.flops_per_token if match == "flops" else tokens


def match_arm(arm: Candidate, match: Match, amount: float, speed: float | None) -> Candidate:
    """The arm with ``amount`` of the matched budget.

    Args:
        speed: steps a second, measured; needed for ``seconds`` alone.

    Raises:
        StudyError: no width has the parameters within 1%, or the speed is unknown.
        UsageError: the recipe does not allow so few steps.
    """
    if match == "params":
        return _with_params(arm, amount)
    if match == "tokens":
        return _with_steps(arm, steps_for(amount, arm.tokens_per_step))
    if match == "flops":
        return _with_steps(arm, steps_for(amount, arm.flops_per_token * arm.tokens_per_step))
    return _with_steps(arm, steps_within(amount, _known(speed)))


def _known(speed: float | None) -> float:
    if speed is None:
        raise StudyError("--match seconds needs measured speeds, and none were measured")
    return speed


def _with_steps(arm: Candidate, steps: int) -> Candidate:
    before = arm.config.train.steps
    if steps == before:
        return arm
    if arm.config.train.stages:
        raise UsageError(
            f"{arm.name}: the budget gives {steps:,} steps, but its stages have {before:,}, and a "
            "plan is not stretched; change train.stages, or the budget, so that they agree"
        )
    try:
        train = arm.config.train.replace(steps=steps)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        text = f"{arm.name}: the budget gives {steps:,} steps, but train.{reason}"
        raise UsageError(text) from error
    return arm.changed(arm.config.replace(train=train), f"train.steps: {before} → {steps}")


def _with_params(arm: Candidate, target: float) -> Candidate:
    """The arm at the d_model whose parameters come closest; where heads make d_model too coarse,
    the feed-forwards' hidden widths make up the rest."""
    spec = arm.config.arch
    if arm.params == target:
        return arm
    width = solve_width(lambda d: _params(spec.replace(d_model=d), arm), target, start=spec.d_model)
    if width.fits:
        return _resized(arm, spec.replace(d_model=width.width))
    hidden = _hidden_match(arm, spec.replace(d_model=width.width), target)
    if hidden is not None and hidden[1].fits:
        return _resized(arm, hidden[0])
    headed = any(getattr(layer.mixer, "num_heads", None) for layer in spec.layers)
    fewer = ", or fewer heads: d_model must be divisible by them" if headed else ""
    raise StudyError(
        f"{arm.name}: no width has {target:,.0f} parameters within 1%; the nearest is "
        f"d_model {width.width} with {width.params:,} ({width.error:+.1%}); choose "
        f"--budget {width.params}{fewer}"
    )


def _params(spec: ArchSpec, arm: Candidate) -> int | None:
    architecture, _ = try_resolve(spec, arm.vocab_size)
    if architecture is None:
        return None
    return int(cost(architecture, arm.config.train.seq_len).total.params)


def _resized(arm: Candidate, spec: ArchSpec) -> Candidate:
    changes = [f"arch.{change}" for change in diff(arm.config.arch, spec)]
    return arm.changed(arm.config.replace(arch=spec), *changes)


def _hidden_match(
    arm: Candidate, spec: ArchSpec, target: float
) -> tuple[ArchSpec, WidthMatch] | None:
    """All hidden widths by one factor; None where no feed-forward has one."""
    widths = _hidden_widths(spec, arm.vocab_size)
    largest = max(widths)
    if not largest:
        return None

    def at(width: int) -> ArchSpec:
        scaled = [max(1, round(own * width / largest)) if own else 0 for own in widths]
        layers = [
            layer.replace(mlp=_with_hidden(layer.mlp, hidden)) if hidden else layer
            for layer, hidden in zip(spec.layers, scaled, strict=True)
        ]
        return spec.replace(layers=tuple(layers))

    room = int(largest * _HIDDEN_ROOM)
    low, high = max(1, largest - room), largest + room
    match = solve_width(
        lambda width: _params(at(width), arm), target, start=largest, low=low, high=high
    )
    return at(match.width), match


def _with_hidden(mlp: Any, width: int) -> Any:
    if isinstance(mlp, SlotsConfig):
        return mlp.replace(num_slots=max(2, width))
    return mlp.replace(d_ff=width, ratio=None, multiple_of=None)


def _hidden_widths(spec: ArchSpec, vocab_size: int) -> list[int]:
    """The hidden width of each group of layers, as resolved; a memory's is its number of slots, 0
    where there is neither."""
    layers = resolve(spec, vocab_size).layers
    widths, first = [], 0
    for group in spec.layers:
        mlp = layers[first].mlp
        slots = mlp.num_slots if isinstance(mlp, SlotsConfig) else None
        widths.append(slots or getattr(mlp, "d_ff", None) or 0)
        first += group.repeat
    return widths
