"""Which parameters move together: by which optimizer, how fast, with which decay; or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.config import nearest
from windtunnel.errors import UsageError
from windtunnel.train.config import TrainConfig
from windtunnel.train.group_config import GroupConfig
from windtunnel.train.optimizers.config import MuonConfig, OptimizerConfig, Shape, is_matrix

Tagged = frozenset[str]


@dataclass(frozen=True)
class Treatment:
    """How a parameter is moved; those with equal ones are one group."""

    optimizer: OptimizerConfig
    lr: float
    """A factor of the learning rate."""
    weight_decay: float
    frozen: bool


@dataclass(frozen=True)
class WidthScale:
    """How the rates of a model's parameters depend on its width (muP)."""

    growing: Mapping[str, float]
    """How many times as many numbers a map reads as at the base width, by name."""
    factors: Mapping[str, float]
    """Other factors of the rate, by name."""


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike."""

    treatment: Treatment
    names: tuple[str, ...]


def parameter_groups(
    config: TrainConfig,
    shapes: Mapping[str, Shape],
    tagged: Iterable[str] = (),
    scale: WidthScale | None = None,
) -> list[Group]:
    """Every parameter in exactly one group; those that decay first, as they stand in the model.

    Args:
        config: the recipe.
        shapes: of each parameter, by name; a tied one stands once.
        tagged: those whose module asks for the secondary optimizer (``secondary_optimizer = True``
            on the parameter); without ``train.secondary_optimizer`` they are as any other.
        scale: what ``train.mup`` makes of the rates.

    Raises:
        UsageError: a rule matches nothing, asks for a secondary optimizer that is not there, or
            all parameters are frozen.
    """
    problems = rule_problems(config, shapes)
    if problems:
        raise UsageError("; ".join(f"train.{path}: {text}" for path, text in problems))
    wanted = frozenset(tagged)
    treated = {name: _treatment(config, name, shapes[name], name in wanted) for name in shapes}
    if scale is not None:
        treated = {name: _scaled(treatment, name, scale) for name, treatment in treated.items()}
    order = [n for n in shapes if is_matrix(n, shapes[n])]
    order += [n for n in shapes if not is_matrix(n, shapes[n])]
    members: list[tuple[Treatment, list[str]]] = []
    for name in order:
        for treatment, names in members:
            if treatment == treated[name]:
                names.append(name)
                break
        else:
            members.append((treated[name], [name]))
    groups = [Group(treatment, tuple(names)) for treatment, names in members]
    listed = sorted(name for group in groups for name in group.names)
    assert listed == sorted(shapes), "a parameter is in no group, or in two"
    return groups


def rule_problems(config: TrainConfig, names: Iterable[str]) -> list[tuple[str, str]]:
    """Rules that cannot be followed for a model of those parameters: (path, why)."""
    known, found = list(names), []
    for index, rule in enumerate(config.groups):
        path = f"groups[{index}]"
        if not any(rule.matches(name) for name in known):
            found.append((f"{path}.match", _unmatched(rule, known)))
        if rule.optimizer == "secondary" and config.secondary_optimizer is None:
            text = "secondary, but there is no train.secondary_optimizer"
            found.append((f"{path}.optimizer", text))
    if known and all(_frozen(config, name) for name in known):
        found.append(("groups", "every parameter is frozen; nothing is left to train"))
    if config.mup is not None:
        used = [one for one in _optimizers(config) if one.width_factor(1.0) is None]
        found += [("mup", f"there is no rule for {one.type}; adamw has one") for one in used]
    return found


def _frozen(config: TrainConfig, name: str) -> bool:
    """What the last rule says that speaks of it."""
    said = [r.freeze for r in config.groups if r.freeze is not None and r.matches(name)]
    return bool(said and said[-1])


def _optimizers(config: TrainConfig) -> list[OptimizerConfig]:
    """All that a recipe names."""
    named = [config.optimizer, config.secondary_optimizer, *(r.optimizer for r in config.groups)]
    used = [one for one in named if isinstance(one, OptimizerConfig)]
    return used + [one.rest for one in used if isinstance(one, MuonConfig)]


def _unmatched(rule: GroupConfig, names: list[str]) -> str:
    bare = (rule.expression or rule.match).replace("\\", "").strip("*.^$")
    near = nearest(bare, names)
    if near is None:
        stems = {".".join(n.split(".")[:depth]) for n in names for depth in (1, 2, 3, 4)}
        near = nearest(bare, sorted(stems - {""}))
    shown = ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")
    hint = f"; the nearest is {near!r}" if near else ""
    return f"no parameter matches {rule.match!r}{hint} (there are {shown})"


def _treatment(config: TrainConfig, name: str, shape: Shape, tagged: bool) -> Treatment:
    values: dict[str, Any] = {}
    for rule in config.groups:
        if rule.matches(name):
            keys = ("lr", "weight_decay", "freeze", "optimizer")
            values |= {key: getattr(rule, key) for key in keys if getattr(rule, key) is not None}
    secondary = config.secondary_optimizer
    optimizer = values.get("optimizer") or (secondary if tagged else None) or config.optimizer
    if optimizer == "secondary":
        optimizer = secondary
    while not optimizer.takes(name, shape):
        optimizer = optimizer.remainder()
    decay = values.get("weight_decay")
    if decay is None:
        decay = optimizer.base_decay(config.weight_decay) if is_matrix(name, shape) else 0.0
    frozen = bool(values.get("freeze"))
    if frozen:
        return Treatment(config.optimizer, 0.0, 0.0, frozen=True)
    return Treatment(optimizer, values.get("lr", 1.0), decay, frozen=False)


def optimizer_values(groups: Iterable[Group], shapes: Mapping[str, Shape]) -> int:
    """Numbers that the optimizers of all groups keep."""
    return sum(
        group.treatment.optimizer.state_values(shapes[name])
        for group in groups
        if not group.treatment.frozen
        for name in group.names
    )


def update_values(
    groups: Iterable[Group], shapes: Mapping[str, Shape], below: int | None = None
) -> int:
    """Numbers that an update works with besides, in blocks of fewer than ``below``; the optimizers
    take their steps one by one, each over all that it moves."""
    moved: list[tuple[OptimizerConfig, list[Shape]]] = []
    for group in groups:
        if group.treatment.frozen:
            continue
        own = [shapes[name] for name in group.names]
        moved.append((group.treatment.optimizer, own))
    return max((optimizer.update_values(own, below) for optimizer, own in moved), default=0)


def _scaled(treatment: Treatment, name: str, scale: WidthScale) -> Treatment:
    """The rate that muP asks for; the decay of a step stays as it was."""
    factor = scale.factors.get(name, 1.0)
    optimizer, decay = treatment.optimizer, treatment.weight_decay
    if name in scale.growing:
        growing = optimizer.width_factor(scale.growing[name])
        assert growing is not None, "an optimizer that muP has no rule for"
        factor *= growing
    decay = decay if optimizer.type == "adam" else decay / factor  # its l2 is in the gradient
    return replace(treatment, lr=treatment.lr * factor, weight_decay=decay)


def without_effect(config: TrainConfig) -> list[tuple[str, str]]:
    """Settings of the optimizer that change nothing: (path, why)."""
    fields, found = type(config).model_fields, []
    takers = [one for one in _optimizers(config) if one.type in ("adam", "adamw")]
    for name in ("betas", "eps"):
        changed = getattr(config, name) != fields[name].default
        if changed and not any(getattr(one, name) is None for one in takers):
            found.append((name, f"is not read by {config.optimizer.type}; see train.optimizer"))
    if config.optimizer.type == "adam" and config.weight_decay != fields["weight_decay"].default:
        found.append(("weight_decay", "adam has no decoupled decay; adamw has, and optimizer.l2"))
    if config.optimizer.type == "schedule_free_adamw" and config.schedule.type != "flat":
        found.append(("schedule", "schedule_free_adamw is meant for a flat one"))
    if config.secondary_optimizer is not None and config.optimizer == config.secondary_optimizer:
        found.append(("secondary_optimizer", "is the same as train.optimizer"))
    return found
