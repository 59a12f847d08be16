"""One component in one place, and what the contracts need to drive it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.nn.component import (
    ComponentConfig,
    EmbeddingPosition,
    Mixer,
    Position,
    Residual,
    Scope,
    Span,
    State,
    Workspace,
    build_component,
)
from windtunnel.nn.initialize import initialize, keyed_generator
from windtunnel.nn.streams import StreamsResidual, streams_of

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Case:
    """One component in one place."""

    kind: str
    config: ComponentConfig
    scope: Scope

    @property
    def resolved(self) -> ComponentConfig:
        """The config with all that can be derived filled in."""
        return self.config.resolve(self.scope)

    def __str__(self) -> str:
        default = type(self.config)(type=self.config.type).model_dump(mode="json")
        told = self.config.model_dump(mode="json")
        knobs = [f"{k}={v}" for k, v in told.items() if k not in default or v != default[k]]
        where = "" if self.scope.causal else " bidirectional"
        return f"{self.kind} {self.config.type}({', '.join(knobs)}){where}"


def place(kind: str) -> Scope:
    """A small place in which the contracts of a kind are checked."""
    if kind == "position":
        return Scope(d_model=8, max_seq_len=256, num_layers=2, num_heads=3)
    return Scope(d_model=16, max_seq_len=256, num_layers=2)


def build(case: Case, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """The case's module in evaluation mode, its weights moved a little off their init.

    Moved, because an init of zeros or ones would hide what they do.
    """
    module = build_component(case.kind, case.resolved, case.scope)
    initialize(module, seed)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=keyed_generator(seed, "moved", name))
            parameter.add_(0.1 * noise.to(dtype))
    return module


def make_input(
    case: Case, batch: int = 2, t: int = 11, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Gaussian input: b t d, for positions b t h k, for a residual of several streams b t n d."""
    streams = streams_of(case.config)
    inside = () if streams is None else (streams,)
    if case.kind == "position":
        inside = (case.scope.num_heads,)
    shape = (batch, t, *inside, case.scope.d_model)
    return torch.randn(shape, generator=keyed_generator(seed, "input"), dtype=torch.float64).to(
        dtype
    )


def run(module: nn.Module, x: Tensor, span: Span) -> Tensor:
    """The module's output for ``x``, whatever its kind; a residual's branch turns what it reads."""
    if isinstance(module, StreamsResidual):
        links = module.links(x)
        return tensor(module(x, module.read(x, links).flip(-1), links))
    if isinstance(module, Residual):
        return tensor(module(x, x.flip(-1)))
    if isinstance(module, Position):
        y = module.rotate(x, span)
        real = span.real[:, None, None].to(y.dtype)
        for part in (module.bias, module.factor):
            square = part(span.positions, span.positions)
            if square is not None:
                mean = (square.to(y.dtype) * real).sum(-1) / real.sum(-1).clamp(min=1)
                y = y + mean.transpose(1, 2)[..., None]
        return y
    if isinstance(module, Mixer | EmbeddingPosition):
        return tensor(module(x, span))
    return tensor(module(x))


def tensor(value: object) -> Tensor:
    """``value``, which must be a tensor."""
    assert isinstance(value, Tensor), f"expected a tensor, not {type(value).__name__}"
    return value


def tensors(state: State) -> list[Tensor]:
    """All tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    if state is None or isinstance(state, Workspace):
        return []
    return [item for part in state for item in tensors(part)]


def require(condition: bool, case: Case, message: str) -> None:
    """AssertionError that names the case, unless ``condition``."""
    if not condition:
        raise AssertionError(f"{case}: {message}")


def close(found: Tensor, expected: Tensor, case: Case, what: str) -> None:
    """AssertionError unless both are the same within float64 rounding."""
    found, expected = found.detach(), expected.detach()
    error = float((found - expected).abs().max()) if found.numel() else 0.0
    limit = _TOLERANCE * max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
    require(error <= limit, case, f"{what}: off by {error:.1e}")
