"""The model of an architecture: embedding, layers, head; forward and extend are one function."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from windtunnel.arch.spec import Architecture, LayerConfig
from windtunnel.nn.component import (
    MLP,
    Mixer,
    Norm,
    Residual,
    Scope,
    Span,
    State,
    build_component,
)
from windtunnel.nn.embedding import Embedding
from windtunnel.nn.head import Head
from windtunnel.nn.initialize import initialize


class ModelState(NamedTuple):
    """What a model remembers of the tokens it has seen; every tensor has the batch first."""

    seen: Tensor
    """(b,) int64: real tokens of each row so far."""
    layers: tuple[State, ...]
    offset: int | None = 0
    """The number of tokens seen where it is the same for all rows and none was a pad."""


class Join(nn.Module):
    """How a mixer or a feed-forward reads the stream and joins it: norms, dropout, residual."""

    def __init__(self, layer: LayerConfig, scope: Scope) -> None:
        super().__init__()
        before = layer.placement in ("pre", "sandwich")
        self.norm = _norm(layer, scope) if before else None
        self.out_norm = _norm(layer, scope) if layer.placement == "sandwich" else None
        self.post_norm = _norm(layer, scope) if layer.placement == "post" else None
        self.residual: Residual[Any] = build_component("residual", layer.residual, scope)
        self.dropout = nn.Dropout(layer.dropout) if layer.dropout else None

    def enter(self, x: Tensor) -> Tensor:
        """What the body reads."""
        return x if self.norm is None else self.norm(x)

    def leave(self, x: Tensor, y: Tensor) -> Tensor:
        """The stream after the body's output ``y`` joined it."""
        if self.out_norm is not None:
            y = self.out_norm(y)
        if self.dropout is not None:
            y = self.dropout(y)
        joined: Tensor = self.residual(x, y)
        return joined if self.post_norm is None else self.post_norm(joined)


def _norm(layer: LayerConfig, scope: Scope) -> Norm[Any] | None:
    if layer.norm.type == "none":
        return None
    norm: Norm[Any] = build_component("norm", layer.norm, scope)
    return norm


class Layer(nn.Module):
    """One layer: a mixer, then a feed-forward where there is one, each joined to the stream."""

    def __init__(self, layer: LayerConfig, scope: Scope) -> None:
        super().__init__()
        self.mixer: Mixer[Any] = build_component("mixer", layer.mixer, scope)
        self.mixer_join = Join(layer, scope)
        self.mlp: MLP[Any] | None = None
        if layer.mlp.type != "none":
            self.mlp = build_component("mlp", layer.mlp, scope)
            self.mlp_join = Join(layer, scope)

    def initial_state(self, batch: int) -> State:
        return self.mixer.initial_state(batch)

    def forward(self, x: Tensor, span: Span) -> Tensor:
        x = self.mixer_join.leave(x, self.mixer(self.mixer_join.enter(x), span))
        return self._mix_width(x)

    def extend(self, x: Tensor, state: State, span: Span) -> tuple[Tensor, State]:
        y, state = self.mixer.extend(self.mixer_join.enter(x), state, span)
        return self._mix_width(self.mixer_join.leave(x, y)), state

    def _mix_width(self, x: Tensor) -> Tensor:
        if self.mlp is None:
            return x
        return self.mlp_join.leave(x, self.mlp(self.mlp_join.enter(x)))


class Model(nn.Module):
    """Tokens to logits: b t -> b t V."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        scope = scope_of(architecture)
        self.embedding = Embedding(architecture.embedding, scope)
        self.layers = nn.ModuleList(
            Layer(layer, scope.at(index)) for index, layer in enumerate(architecture.layers)
        )
        self.head = Head(architecture.head, scope)
        if architecture.embedding.tie:
            self.head.weight = self.embedding.weight

    @property
    def max_positions(self) -> int | None:
        """How long a sequence may be, or None where nothing limits it."""
        learned = self.architecture.embedding.position.type == "learned"
        return self.architecture.max_seq_len if learned else None

    def forward(self, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        """Logits (b, t, V) of the token after each; ``real`` (b, t) is False at pads."""
        return self.logits(self.hidden(tokens, real))

    def hidden(self, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        """What the head reads, after its norm: b t -> b t d."""
        span = self._span(tokens, real)
        x = self.embedding(tokens, span)
        for layer in self.layers:
            x = layer(x, span)
        normed: Tensor = self.head.normed(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """b t d -> b t V."""
        logits: Tensor = self.head(hidden)
        return logits

    def initial_state(self, batch: int) -> ModelState:
        """The state before the first token."""
        seen = torch.zeros(batch, dtype=torch.long, device=self.embedding.weight.device)
        return ModelState(seen, tuple(_layer(m).initial_state(batch) for m in self.layers))

    def extend(
        self, tokens: Tensor, state: ModelState, real: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Logits of the next tokens (b, t) and the state after; ``state`` is left as it was."""
        hidden, state = self.extend_hidden(tokens, state, real)
        return self.logits(hidden), state

    def extend_hidden(
        self, tokens: Tensor, state: ModelState, real: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """As :meth:`extend`, but what the head reads."""
        span, seen, offset = self._next_span(tokens, state, real)
        x = self.embedding(tokens, span)
        states: list[State] = []
        for module, before in zip(self.layers, state.layers, strict=True):
            x, after = _layer(module).extend(x, before, span)
            states.append(after)
        return self.head.normed(x), ModelState(seen, tuple(states), offset)

    def _next_span(
        self, tokens: Tensor, state: ModelState, real: Tensor | None
    ) -> tuple[Span, Tensor, int | None]:
        """The span of the next tokens, and how many have been seen after them."""
        t = tokens.shape[1]
        if real is not None and bool(real.all()):
            real = None
        if real is not None:
            return Span.of_real(real, state.seen), state.seen + real.sum(1), None
        if state.offset is not None:
            span = Span.of(t, device=tokens.device, start=state.offset)
            return span, state.seen + t, state.offset + t
        positions = state.seen[:, None] + torch.arange(t, device=tokens.device)
        return Span(positions, offset=None), state.seen + t, None

    def _span(self, tokens: Tensor, real: Tensor | None) -> Span:
        if real is None:
            return Span.of(tokens.shape[1], device=tokens.device)
        return Span.of_real(real)


def _layer(module: nn.Module) -> Layer:
    assert isinstance(module, Layer)
    return module


def scope_of(architecture: Architecture) -> Scope:
    """The scope in which the parts of an architecture stand."""
    return Scope(
        d_model=architecture.d_model,
        max_seq_len=architecture.max_seq_len,
        vocab_size=architecture.vocab_size,
        num_layers=len(architecture.layers),
        tie=architecture.embedding.tie,
    )


def build(
    architecture: Architecture,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Model:
    """The model with its initial weights, a pure function of (architecture, seed).

    Raises MemoryError-like errors of torch where the machine has too little memory; the ``meta``
    device gives shapes without any.
    """
    with torch.device("meta"):
        model = Model(architecture)
    if torch.device(device).type == "meta":
        return model.to(dtype)
    model = model.to(dtype).to_empty(device=device)
    if architecture.embedding.tie:
        model.head.weight = model.embedding.weight
    initialize(model, seed)
    return model
