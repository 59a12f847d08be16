"""How an architecture is scaled to a number of parameters: by a rule that has a name.

| rule | what grows | what stays |
|---|---|---|
| `width` | d_model | layers |
| `depth` | layers | d_model |
| `aspect` | both: d_model over layers stays near what is written | that ratio |

With every rule heads keep their width: their number grows with d_model, rounded (up or down where
the size asks for it), at least one, and that of key-value heads with it as far as it divides them.
Widths that are written as numbers (d_ff, d_hidden, d_inner, ranks of queries and keys) grow with
d_model; those that follow from it do so anyway. States, kernels, slots, experts and low ranks of
gates stay. d_model is a multiple of 8 where one comes within the tolerance, else of 4, 2 or 1.
Layers are added as whole periods of the stack, so that a hybrid keeps its pattern. Where a size is
not met so, the feed-forwards' hidden widths change besides, by at most a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal, TypeAlias, get_args

from windtunnel.arch import Architecture, ArchSpec, cost, diff, resolve, try_resolve
from windtunnel.arch.model import scope_of
from windtunnel.config import Config, suggestion
from windtunnel.errors import StudyError, UsageError
from windtunnel.study.budget import WidthMatch, solve_width

Rule: TypeAlias = Literal["width", "depth", "aspect"]
Count: TypeAlias = Literal["total", "non_embedding"]
RULES: tuple[Rule, ...] = get_args(Rule)
COUNTS: tuple[Count, ...] = get_args(Count)
TOLERANCE = 0.02
"""How far a size's parameters may be from what is asked for."""
_MOST_LAYERS = 512
_MOST_SIZES = 400
_GAP = 16
"""Valid widths lie no further apart than so many times 8."""
_HIDDEN_ROOM = 0.25
_STEPS = (8, 4, 2, 1)
Heads: TypeAlias = list[list[tuple[int, int] | None]]
"""(heads, their width) of each group of layers of each stack; None where there are none."""
Rounding: TypeAlias = Callable[[float], int]
_WITH_WIDTH = frozenset({"d_ff", "d_hidden", "d_inner", "kv_rank", "q_rank"})


def _nearest(value: float) -> int:
    return round(value)


_ROUNDED: tuple[Rounding, ...] = (_nearest, math.floor, math.ceil)


def parse_rule(text: str) -> Rule:
    """The rule of that name; UsageError for another."""
    for rule in RULES:
        if text == rule:
            return rule
    raise UsageError(f"--rule: unknown {text!r}{suggestion(text, RULES)}")


def parse_count(text: str) -> Count:
    """What is counted as a model's size; UsageError for another."""
    for count in COUNTS:
        if text.replace("-", "_") == count:
            return count
    raise UsageError(f"--count: unknown {text!r}{suggestion(text, COUNTS)}")


def counted(architecture: Architecture, count: Count) -> int:
    """Parameters in all, or without the tables of tokens and positions and an untied head's matrix
    (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
    parts = {part.name: part for part in cost(architecture).parts}
    total = sum(int(part.cost.params) * part.times for part in parts.values())
    if count == "total":
        return total
    head = architecture.head
    inside = int(head.norm.cost(scope_of(architecture), architecture.max_seq_len).params)
    tables = [name for name in parts if name.endswith("embedding")]
    tables_params = sum(int(parts[name].cost.params) for name in tables)
    return total - tables_params - (int(parts["head"].cost.params) - inside)


@dataclass(frozen=True)
class Sized:
    """An architecture at one size."""

    target: float
    """What was asked for."""
    spec: ArchSpec
    architecture: Architecture
    params: int
    """As the ladder counts them."""
    changes: tuple[str, ...]
    """What the rule changed in what is written."""

    @property
    def layers(self) -> int:
        return len(self.architecture.layers)


@dataclass(frozen=True)
class Scaler:
    """One architecture and the rule that gives its sizes."""

    spec: ArchSpec
    vocab_size: int
    rule: Rule
    count: Count = "total"

    def sized(self, target: float) -> Sized:
        """The architecture with ``target`` parameters, within 2%.

        Raises:
            UsageError: the rule has no such size (the message tells the nearest), or cannot be
                followed for this stack.
        """
        found = min(self._tried(target), key=lambda spec: self._error(spec, target), default=None)
        if found is None:
            raise UsageError(f"{self.spec.name}: rule {self.rule} gives no valid architecture")
        if self._error(found, target) > TOLERANCE:
            nearest = self._params(found) or 0
            raise UsageError(
                f"{self.spec.name}: rule {self.rule} has no size within 2% of {target:,.0f} "
                f"parameters ({self.count}); the nearest has {nearest:,} "
                f"({nearest / target - 1:+.1%}); choose that size, or another rule"
            )
        changes = tuple(f"arch.{d}" for d in diff(self.spec, found) if d.path != "name")
        return Sized(
            target, found, resolve(found, self.vocab_size), self._params(found) or 0, changes
        )

    def path(self, low: float, high: float, step: float) -> Iterator[Sized]:
        """Sizes along the rule from about ``low`` to about ``high`` parameters, whatever they come
        to: each a ``step`` wider (or deeper) than the one before, as far as whole numbers allow."""
        before = 0
        for spec in self._along(step):
            params = self._params(spec)
            if params is None or params <= before:
                continue
            before = params
            if params >= low:
                yield Sized(params, spec, resolve(spec, self.vocab_size), params, ())
            if params > high:
                return

    def _along(self, step: float) -> Iterator[ArchSpec]:
        """Ever larger architectures of the rule."""
        number, aspect = 1.0, self.spec.d_model / _depth(self.spec)
        for _ in range(_MOST_SIZES):
            whole = round(number)
            number = max(number + 1, number * step)
            if self.rule == "depth":
                yield self._deepened(whole)
                continue
            spec = self.spec if self.rule == "width" else self._deepened(whole)
            near = whole if self.rule == "width" else max(1, round(aspect * _depth(spec) / 8))
            wider = (self._widened(spec, 8 * n) for n in range(near, near + _GAP))
            if (valid := next((w for w in wider if self._params(w)), None)) is not None:
                yield valid

    def _tried(self, target: float) -> Iterator[ArchSpec]:
        """Architectures near the target, the wanted one being the nearest or first within 2%."""
        if self.rule == "width":
            yield from self._first_fit(self._at_width(self.spec, target), target)
        elif self.rule == "depth":
            yield from self._at_depth(target)
        else:
            yield from self._at_aspect(target)

    def _first_fit(self, specs: Iterator[ArchSpec], target: float) -> Iterator[ArchSpec]:
        """Up to the first one within the tolerance, which then is alone."""
        tried = []
        for spec in specs:
            if self._error(spec, target) <= TOLERANCE:
                yield spec
                return
            tried.append(spec)
        yield from tried

    def _at_width(self, spec: ArchSpec, target: float) -> Iterator[ArchSpec]:
        """At the d_model that comes nearest, in coarse steps and then in finer ones, with other
        numbers of heads; then with other hidden widths."""
        tried: list[ArchSpec] = []
        for step, rounded in product(_STEPS, _ROUNDED):

            def at(width: int, rounded: Rounding = rounded) -> ArchSpec:
                return self._widened(spec, width, rounded)

            def params(width: int, step: int = step, at: Any = at) -> int | None:
                return None if width % step else self._params(at(width))

            try:
                found = solve_width(params, target, start=max(step, spec.d_model))
            except StudyError:
                continue
            tried.append(at(found.width))
            yield tried[-1]
        near = min(tried, key=lambda one: self._error(one, target), default=None)
        if near is not None and (other := self._with_hidden(near, target)) is not None:
            yield other

    def _at_depth(self, target: float) -> Iterator[ArchSpec]:
        """At the number of periods that comes nearest; then with other hidden widths."""
        best: ArchSpec | None = None
        for periods in range(1, _MOST_LAYERS + 1):
            spec = self._deepened(periods)
            params = self._params(spec)
            if params is None:
                continue
            if best is None or self._error(spec, target) < self._error(best, target):
                best = spec
            if params > target:
                break
        if best is None:
            return
        yield best
        if self._error(best, target) > TOLERANCE and (other := self._with_hidden(best, target)):
            yield other

    def _at_aspect(self, target: float) -> Iterator[ArchSpec]:
        """Of the depths whose width can be solved, the one nearest to the written aspect."""
        wanted = self.spec.d_model / _depth(self.spec)
        fitting: list[tuple[float, ArchSpec]] = []
        others: list[ArchSpec] = []
        for periods in range(1, _MOST_LAYERS + 1):
            deep = self._deepened(periods)
            found = list(self._first_fit(self._at_width(deep, target), target))
            if not found:
                continue
            near = min(found, key=lambda spec: self._error(spec, target))
            ratio = near.d_model / _depth(near) / wanted
            if self._error(near, target) <= TOLERANCE:
                fitting.append((abs(math.log(ratio)), near))
            else:
                others.append(near)
            if ratio < 0.7:  # deeper ones are narrower still
                break
        if fitting:
            yield min(fitting, key=lambda pair: pair[0])[1]
        else:
            yield from others

    def _params(self, spec: ArchSpec) -> int | None:
        architecture, _ = try_resolve(spec, self.vocab_size)
        return None if architecture is None else counted(architecture, self.count)

    def _error(self, spec: ArchSpec, target: float) -> float:
        params = self._params(spec)
        return math.inf if params is None else abs(params / target - 1)

    def _widened(self, spec: ArchSpec, width: int, rounded: Rounding = _nearest) -> ArchSpec:
        return _widened(spec, self._heads, width, width / self.spec.d_model, rounded)

    @cached_property
    def _heads(self) -> Heads:
        """(heads, their width) of each group of each stack, as resolved; None without heads."""
        architecture = resolve(self.spec, self.vocab_size)
        stacks = [architecture.layers]
        if architecture.encoder is not None:
            stacks.insert(0, architecture.encoder.layers)
        found: Heads = []
        for (_, groups), layers in zip(self.spec.stacks, stacks, strict=True):
            first = 0
            found.append([])
            for group in groups:
                mixer: Any = layers[first].mixer
                number, width = getattr(mixer, "num_heads", None), getattr(mixer, "head_dim", None)
                found[-1].append((number, width) if number and width else None)
                first += group.repeat
        return found

    def _deepened(self, periods: int) -> ArchSpec:
        return _deepened(self.spec, periods)

    def _with_hidden(self, spec: ArchSpec, target: float) -> ArchSpec | None:
        """With all hidden widths of feed-forwards times one factor; None where there are none."""
        widths = [getattr(layer.mlp, "d_ff", None) for layer in self._resolved(spec).layers]
        largest = max((width for width in widths if width), default=0)
        if not largest or spec.encoder is not None:
            return None
        room = int(largest * _HIDDEN_ROOM)

        def at(width: int) -> ArchSpec:
            layers, first = [], 0
            for group in spec.layers:
                own = widths[first]
                first += group.repeat
                if own:
                    hidden = max(1, round(own * width / largest))
                    mlp: Any = group.mlp
                    mlp = mlp.replace(d_ff=hidden, ratio=None, multiple_of=None)
                    group = group.replace(mlp=mlp)
                layers.append(group)
            return spec.replace(layers=tuple(layers))

        found: WidthMatch = solve_width(
            lambda width: self._params(at(width)),
            target,
            start=largest,
            low=max(1, largest - room),
            high=largest + room,
        )
        return at(found.width)

    def _resolved(self, spec: ArchSpec) -> Architecture:
        return resolve(spec, self.vocab_size)


def _depth(spec: ArchSpec) -> int:
    return sum(group.repeat for group in spec.stacks[-1][1])


def _over_stacks(spec: ArchSpec, change: Callable[[int, Any], Any]) -> ArchSpec:
    """The spec with every stack changed; ``change`` gets its number and its groups."""
    if spec.encoder is None or spec.decoder is None:
        return spec.replace(layers=change(0, spec.layers))
    return spec.replace(
        encoder=spec.encoder.replace(layers=change(0, spec.encoder.layers)),
        decoder=spec.decoder.replace(layers=change(1, spec.decoder.layers)),
    )


def _widened(
    spec: ArchSpec, heads: Heads, width: int, factor: float, rounded: Rounding
) -> ArchSpec:
    if width == spec.d_model and factor == 1:
        return spec

    def change(stack: int, groups: Any) -> Any:
        own = heads[stack]
        # A deepened stack repeats the groups of the written one.
        return tuple(
            group.replace(
                mixer=_more_heads(
                    _scaled(group.mixer, factor), own[index % len(own)], factor, rounded
                ),
                mlp=_scaled(group.mlp, factor),
                residual=_scaled(group.residual, factor),
            )
            for index, group in enumerate(groups)
        )

    return _over_stacks(spec.replace(d_model=width), change)


def _scaled(part: Any, factor: float) -> Any:
    """A part with the widths that are written in it times a factor; its own parts too."""
    changes: dict[str, Any] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if name in _WITH_WIDTH and isinstance(value, int):
            changes[name] = max(1, round(value * factor))
        elif isinstance(value, Config):
            inner = _scaled(value, factor)
            if inner is not value:
                changes[name] = inner
    return part.replace(**changes) if changes else part


def _more_heads(mixer: Any, own: tuple[int, int] | None, factor: float, rounded: Rounding) -> Any:
    """As many heads of the same width as suit the factor."""
    if own is None or mixer.num_heads is None:  # their number follows from d_model
        return mixer
    heads = max(1, rounded(own[0] * factor))
    changes: dict[str, Any] = {"num_heads": heads, "head_dim": own[1]}
    groups = getattr(mixer, "num_kv_heads", None)
    if groups:
        wanted = max(1, round(heads * groups / own[0]))
        changes["num_kv_heads"] = max(n for n in range(1, wanted + 1) if heads % n == 0)
    return mixer.replace(**changes)


def _deepened(spec: ArchSpec, periods: int) -> ArchSpec:
    """The spec with so many periods of each of its stacks.

    Raises:
        UsageError: a layer is named by its place in the stack, or nothing is repeated.
    """

    def change(stack: int, groups: Any) -> Any:
        if any(g.share_with is not None or g.position_with is not None for g in groups):
            raise UsageError(
                f"{spec.name}: layers are named by their place (share_with, position_with), so "
                "they cannot be repeated; choose rule width"
            )
        if len(groups) == 1:
            share = groups[0].share
            return (groups[0].replace(repeat=periods * share),)
        period = _period(groups)
        if len(period) < len(groups):
            return period * periods
        repeated = [g for g in groups if g.repeat > g.share]
        if len(repeated) == 1:
            return tuple(
                g.replace(repeat=periods * g.share) if g is repeated[0] else g for g in groups
            )
        return groups * periods

    return _over_stacks(spec, change)


def _period(groups: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shortest run of groups whose repetition is the stack."""
    for length in range(1, len(groups) + 1):
        if len(groups) % length == 0 and groups[:length] * (len(groups) // length) == groups:
            return groups[:length]
    return groups
