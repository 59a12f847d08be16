"""An optimizer's state by the names of parameters: what is saved, and how another goes on from it.

How the parameters are grouped does not matter: each one's values and settings go with its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from windtunnel.train.optimizers.together import kind_of, parts_of, use_average

RATES = frozenset({"lr", "initial_lr", "max_lr", "min_lr"})
"""Settings of a group that follow from the learning rate."""
_OF_THE_MACHINE = frozenset({"params", "fused", "foreach", "capturable"})
_SHOWN = 3


@contextmanager
def result_weights(optimizer: Optimizer | None) -> Iterator[None]:
    """Inside, the parameters are what the optimizer means as its result: for a schedule-free one
    their average. Afterwards those that are trained are back, to the bit."""
    if optimizer is None:
        yield
        return
    try:
        use_average(optimizer, on=True)
        yield
    finally:
        use_average(optimizer, on=False)


def optimizer_state(
    model: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors by ``value/parameter``, and the plain rest: what it is, which of its
    parts moves what, the parameters and settings of its groups."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    state = optimizer.state
    for name, parameter in model.named_parameters():
        for key, value in state.get(parameter, {}).items():
            (tensors if isinstance(value, Tensor) else plain)[f"{key}/{name}"] = value
    names = _names(model)
    moves: dict[str, list[str]] = {}
    for part in parts_of(optimizer):
        moved = [names[id(p)] for group in part.param_groups for p in group["params"]]
        moves.setdefault(kind_of(part), []).extend(moved)
    return tensors, {
        "type": [type(part).__name__ for part in parts_of(optimizer)],
        "moves": moves,
        "groups": [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups],
        "settings": [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ],
        "plain": plain,
    }


@dataclass(frozen=True)
class Wishes:
    """What a caller asks of an optimizer that goes on from a saved one."""

    changed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that were given, and are not what was saved."""
    known: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that were saved."""

    @classmethod
    def of(cls, given: Mapping[str, Any], saved: Mapping[str, Any]) -> Wishes:
        """Of all that was given, and all that was saved."""
        changed = {k: v for k, v in given.items() if k not in saved or not _same(v, saved[k])}
        return cls(changed, dict(saved))

    def notes(self) -> list[str]:
        """What is other than it was saved."""
        both = {k: v for k, v in self.changed.items() if k in self.known}
        return [f"{k} is {v!r} as given; {self.known[k]!r} was saved" for k, v in both.items()]

    def rule(self, key: str) -> bool:
        """Whether what was given decides a setting of a group; else what was saved does."""
        if key in RATES:
            return "lr" in self.changed
        if "optimizer" in self.changed or "secondary_optimizer" in self.changed:
            return True
        return key in self.changed

    def told(self, key: str) -> bool:
        """Whether :meth:`notes` speaks of what decides a setting."""
        return self.rule(key) and bool(self.changed.keys() & self.known.keys())


def restore_optimizer(
    model: nn.Module,
    optimizer: Optimizer,
    saved: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    wishes: Wishes,
    *,
    scheduled: bool = False,
) -> tuple[bool, list[str]]:
    """Puts a saved state into a new optimizer, by the names of parameters.

    Args:
        saved: what :func:`optimizer_state` gave, with its tensors under ``tensors``.
        shapes: of the saved parameters; the state of one of another shape is left.
        wishes: what is not to be as it was saved.
        scheduled: whether a schedule sets the rates, which are then as it has left them.

    Returns:
        Whether anything goes on, and what a person should know. What is moved by another kind of
        optimizer than before starts clean.
    """
    names, known = _names(model), _Known.of(saved, shapes)
    differences, notes, moved, going = dict[str, str](), list[str](), set[str](), False
    for part in parts_of(optimizer):
        clean: dict[str, list[str]] = {}
        for group in part.param_groups:
            members = {names[id(parameter)]: parameter for parameter in group["params"]}
            same = _take_over(part, group, members, known, clean)
            _set(group, [known.settings[name] for name in same], wishes, scheduled, differences)
            moved |= members.keys()
            going = going or bool(same)
        notes += _clean_notes(part, clean)
    left = [name for name in known.moved_by if name in names.values() and name not in moved]
    if left:
        notes.append(f"what was saved of the optimizer is left out for {_shown(left)}: not moved")
    use_average(optimizer, on=False)
    return going, [*differences.values(), *notes]


def _clean_notes(part: Optimizer, clean: Mapping[str, Sequence[str]]) -> list[str]:
    total = sum(len(group["params"]) for group in part.param_groups)
    return [
        f"the optimizer {kind_of(part)} starts clean for {len(names)} of {total} parameters "
        f"({_shown(names)}): {why}"
        for why, names in clean.items()
    ]


def restore_schedule(
    scheduler: Any, optimizer: Optimizer, saved: Mapping[str, Any] | None
) -> str | None:
    """Lets a schedule go on as it was saved, with the rates of the optimizer's groups; what a
    person should know, if it cannot."""
    if scheduler is None:
        return None if saved is None else "the schedule that was saved is left out: there is none"
    if saved is None:
        return "the schedule begins anew: none was saved with this optimizer"
    here = scheduler.state_dict()
    if here.keys() != saved.keys():
        return "the schedule is another one than was saved: it begins anew"
    # JSON has no numbers as keys.
    counters = {
        key: Counter({int(k): v for k, v in saved[key].items()})
        for key, value in here.items()
        if isinstance(value, Counter)
    }
    scheduler.load_state_dict({**saved, **counters})
    groups = optimizer.param_groups
    if "base_lrs" in here and all("initial_lr" in group for group in groups):
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        scheduler._last_lr = [group["lr"] for group in groups]
    return None


def _set(
    group: dict[str, Any],
    before: Sequence[Mapping[str, Any]],
    wishes: Wishes,
    scheduled: bool,
    differences: dict[str, str],
) -> None:
    """Sets a new group as its parameters' groups ``before`` were, but for what is wished."""
    made = dict(group)
    for key in made.keys() - _OF_THE_MACHINE:
        held = [settings[key] for settings in before if key in settings]
        if not held:
            continue
        ruled, alike = wishes.rule(key), all(value == held[0] for value in held)
        if not ruled and alike:
            group[key] = tuple(held[0]) if isinstance(held[0], list) else held[0]
        expected = scheduled and key in RATES
        if not (alike and _same(made[key], held[0])) and not expected and not wishes.told(key):
            differences.setdefault(key, _difference(key, made[key], held[0], ruled, alike))
    initial = [settings.get("initial_lr") for settings in before]
    if scheduled and wishes.rule("lr") and initial and initial[0] and "initial_lr" in made:
        group["lr"] = before[0]["lr"] * made["initial_lr"] / initial[0]


def _difference(key: str, made: Any, saved: Any, ruled: bool, alike: bool) -> str:
    if ruled:
        return f"{key} is {made!r} as given; {saved!r} was saved"
    if alike:
        return f"{key} is {saved!r} as saved; the optimizer was made with {made!r}"
    return f"{key} is {made!r} as the optimizer was made; the saved groups had several"


@dataclass(frozen=True)
class _Known:
    """What was saved, by the names of parameters."""

    moved_by: Mapping[str, str]
    """The kind of optimizer."""
    values: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Mapping[str, Any]]
    """Those of its group."""
    shapes: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, saved: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> _Known:
        moves: Mapping[str, Collection[str]] = saved.get("moves", {})
        if not moves and len(saved["type"]) == 1:  # older checkpoints
            moves = {saved["type"][0]: [name for order in saved["groups"] for name in order]}
        values: dict[str, dict[str, Any]] = {}
        for place, value in {**saved["plain"], **saved["tensors"]}.items():
            key, _, name = place.partition("/")
            values.setdefault(name, {})[key] = value
        groups = list(zip(saved["groups"], saved["settings"], strict=True))
        settings = {name: settings for order, settings in groups for name in order}
        moved_by = {name: kind for kind, names in moves.items() for name in names}
        return cls(moved_by, values, settings, shapes)

    def why_clean(self, name: str, parameter: Tensor, kind: str) -> str | None:
        """Why nothing of it can be taken over by an optimizer of a kind; None where it can."""
        before, here = self.moved_by.get(name), tuple(parameter.shape)
        if before is None:
            return "nothing was saved of them"
        if before != kind:
            return f"{before} moved them before"
        return None if tuple(self.shapes.get(name, here)) == here else "they had another shape"


def _take_over(
    part: Optimizer,
    group: Mapping[str, Any],
    members: Mapping[str, nn.Parameter],
    known: _Known,
    clean: dict[str, list[str]],
) -> list[str]:
    """Gives an optimizer what was known of a group's parameters; the names of those it fits. The
    others are put into ``clean``, by the reason."""
    same = []
    for name, parameter in members.items():
        why = known.why_clean(name, parameter, kind_of(part))
        if why is not None:
            clean.setdefault(why, []).append(name)
            continue
        same.append(name)
        for key, value in known.values.get(name, {}).items():
            if isinstance(value, Tensor):
                # A step that is counted: fused kernels read it where the parameter is.
                there = value.ndim or group.get("fused") or group.get("capturable")
                value = value.to(parameter.device if there else "cpu").clone()
            part.state[parameter][key] = value
    return same


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same once they were written as JSON."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return bool(torch.as_tensor(one == other).all())
    return bool(one == other)
