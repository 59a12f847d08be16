"""Whether the costs that a component's author wrote are those of what is built, before any arm is
trained: budgets, widths and memory all rest on them.

Parameters are counted for every architecture, on the meta device. FLOPs are counted for components
that are not the package's own, in the place where they stand and as the contracts count them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from windtunnel.arch import Architecture, build, cost
from windtunnel.arch.model import encoder_scope, scope_of
from windtunnel.arch.spec import LayerConfig
from windtunnel.errors import UsageError
from windtunnel.nn.component import (
    REGISTRIES,
    Component,
    ComponentConfig,
    PositionConfig,
    Scope,
    Span,
    build_component,
    filled,
)
from windtunnel.nn.contracts.case import Case, make_input, run
from windtunnel.nn.contracts.cost import products_visible
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import initialize
from windtunnel.study.matching import Candidate

_OWN = "windtunnel."
_LONGEST = 240
"""As in the contracts: a recurrence that loops over time is counted in a moment."""
_MOST_PARAMS = 2**24
"""Of a component that is counted with real numbers."""
_TOLERANCE = 1e-9
"""Relative, as in the contracts: counts are exact."""

_seen: dict[tuple[Any, ...], tuple[str, ...]] = {}
"""What there is to tell of architectures that were found to be as counted."""


def check_costs(arms: Sequence[Candidate]) -> None:
    """Builds every arm on the meta device, and counts the FLOPs of components of the user's own.

    Raises:
        UsageError: parameters are not as counted, or a component of the user's own takes more FLOPs
            than its ``cost`` says.
    """
    for arm in arms:
        _told(arm)


def cost_notes(arms: Sequence[Candidate]) -> list[str]:
    """What the reader must know of costs that hold (see :func:`check_costs`)."""
    return [f"{arm.name}: {text}" for arm in arms for text in _told(arm)]


def _told(arm: Candidate) -> tuple[str, ...]:
    architecture, t = arm.architecture, min(_LONGEST, arm.config.train.seq_len)
    places = [place for place in _places(architecture) if place.is_foreign]
    key = (architecture.digest(), t, *(place.component for place in places))
    if key not in _seen:
        _check_params(arm.name, architecture)
        _seen[key] = tuple(filter(None, (_check_flops(arm.name, place, t) for place in places)))
    return _seen[key]


def _check_params(name: str, architecture: Architecture) -> None:
    predicted = int(cost(architecture).total.params)
    found = _count(build(architecture, device="meta"))
    if predicted == found:
        return
    wrong = next((p for p in _places(architecture) if p.params != p.predicted_params), None)
    where = f"{name}: it would be counted with {predicted:,} parameters, but has {found:,}"
    if wrong is None:
        raise UsageError(f"{where}: the cost of one of its parts is wrong")
    raise UsageError(
        f"{where}: the cost of {wrong} says {wrong.predicted_params:,}, and it has "
        f"{wrong.params:,}. {_remedy(wrong)}"
    )


def _check_flops(name: str, place: _Place, t: int) -> str:
    """What must be told of a component's FLOPs; empty where they are as its cost says."""
    found, predicted = place.flops(t), float(place.cost_at(t).forward_flops) * t
    if found is None:
        return f"the FLOPs of {place} could not be counted: they are those that its author says."
    if abs(predicted - found) <= _TOLERANCE * max(found, 1.0):
        return ""
    if found > predicted:
        raise UsageError(
            f"{name}: a forward of {t} tokens through {place} takes {found:,} FLOPs, but its cost "
            f"says {predicted:,.0f}. {_remedy(place)}"
        )
    return (
        f"of {place} only {found:,} of the {predicted:,.0f} FLOPs that its cost says for {t} "
        "tokens were seen: the others are counted as its author says."
    )


def _remedy(place: _Place) -> str:
    file = place.source or "FILE"
    return (
        f"Mend cost() in {file}: windtunnel check --contracts {file} shows what is wrong "
        "(docs/add-a-component.md)"
    )


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class _Place:
    """A component where it stands in an architecture."""

    kind: str
    config: ComponentConfig
    scope: Scope

    def __str__(self) -> str:
        return f"{self.kind} {self.config.type}"

    @property
    def component(self) -> type[Component[Any]]:
        """Its class."""
        known = {c.Config.model_fields["type"].default: c for c in REGISTRIES[self.kind]}
        return known[self.config.type]

    @property
    def is_foreign(self) -> bool:
        """Whether its class or its config is not the package's."""
        modules = (self.component.__module__, type(self.config).__module__)
        return not all(module.startswith(_OWN) for module in modules)

    @property
    def source(self) -> str:
        """The file of its class; empty where there is none."""
        try:
            return inspect.getsourcefile(self.component) or ""
        except TypeError:
            return getattr(inspect.getmodule(self.component), "__file__", None) or ""

    @cached_property
    def params(self) -> int:
        with torch.device("meta"):
            return _count(build_component(self.kind, self.config, self.scope))

    @property
    def predicted_params(self) -> int:
        return int(self.cost_at(1).params)

    def cost_at(self, t: Num) -> Cost:
        return self.config.cost(self.scope, t)

    def flops(self, t: int) -> int | None:
        """Of a forward of ``t`` tokens; None where it cannot be run by itself."""
        # The meta device allocates nothing, but takes seconds to start, and not all runs on it.
        devices = ("cpu", "meta") if self.params <= _MOST_PARAMS else ("meta",)
        for device in devices:
            try:
                return self._flops_on(device, t)
            except Exception:  # foreign code: what it cannot do, its run will say
                continue
        return None

    def _flops_on(self, device: str, t: int) -> int:
        x = make_input(Case(self.kind, self.config, self.scope), 1, t, dtype=torch.float32)
        with torch.device(device), torch.random.fork_rng(devices=()):
            module = build_component(self.kind, self.config, self.scope).eval()
        if device == "cpu":
            initialize(module, 0)
        with torch.device(device):
            x, span = x.to(device), Span.of(t, device=torch.device(device))
            with products_visible(), _Counter() as counter:
                run(module, x, span)
        total: int = counter.total
        return total


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """FLOPs by the formulas of ``FlopCounterMode``, which takes seconds to start."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the compiler is slow to import

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=out))
        return out


def _places(architecture: Architecture) -> Iterator[_Place]:
    """Every component that a config names, once for each place that is not like another; what is
    inside a mixer comes before it, so that the innermost fault is found first."""
    found: dict[str, _Place] = {}
    for kind, config, scope in _all_parts(architecture):
        place = _Place(kind, config, scope)
        alike = f"{kind} {config.model_dump_json()} {scope.d_model} {scope.num_heads}"
        found.setdefault(alike, place)
    yield from found.values()


def _all_parts(architecture: Architecture) -> Iterator[tuple[str, ComponentConfig, Scope]]:
    scope = scope_of(architecture)
    yield "embedding_position", architecture.embedding.position, scope
    yield "norm", architecture.head.norm, scope
    stacks = [(architecture.layers, scope)]
    if architecture.encoder is not None:
        stacks.append((architecture.encoder.layers, encoder_scope(architecture)))
    for layers, around in stacks:
        for index, layer in enumerate(layers):
            yield from _parts(layer, around.at(index))


def _parts(layer: LayerConfig, scope: Scope) -> Iterator[tuple[str, ComponentConfig, Scope]]:
    mixer: Any = layer.mixer
    position = getattr(mixer, "position", None)
    if isinstance(position, PositionConfig):
        yield "position", position, scope.inside(filled(mixer.num_heads), filled(mixer.head_dim))
    yield "norm", layer.norm, scope
    yield "residual", layer.residual, next(layer.joins(scope))
    yield "mixer", mixer, scope
    if layer.mlp.type != "none":
        yield "mlp", layer.mlp, scope
