"""The model of an architecture: embedding, layers, head; forward and extend are one function."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from windtunnel.arch.linear_maps import equip
from windtunnel.arch.spec import Architecture, LayerConfig
from windtunnel.errors import UsageError
from windtunnel.nn.auxiliary import counting
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
from windtunnel.nn.cross_attention import CrossAttention, MemoryKV
from windtunnel.nn.depth import DepthRouter, DepthState
from windtunnel.nn.embedding import Embedding, InputPositions
from windtunnel.nn.head import Head
from windtunnel.nn.memory_slots import share_slots
from windtunnel.nn.streams import Links, StreamsResidual, gathered, spread
from windtunnel.nn.unit_weights import UnitSphere

Memory = tuple[MemoryKV | None, ...]
"""What each layer reads of an encoder's output: its keys and values, or None."""


class ModelState(NamedTuple):
    """What a model remembers of the tokens it has seen; every tensor has the batch first."""

    seen: Tensor
    """(b,) int64: real tokens of each row so far."""
    layers: tuple[State, ...]
    offset: int | None = 0
    """The number of tokens seen where it is the same for all rows and none was a pad."""
    memory: Memory | None = None
    """Keys and values of the memory, projected once, where some layer has cross-attention."""


class Join(nn.Module):
    """How a mixer or a feed-forward reads the stream and joins it: norms, dropout, residual."""

    def __init__(self, layer: LayerConfig, scope: Scope, *, reads: bool = True) -> None:
        """Without ``reads`` there is no norm to enter by: another branch's is used."""
        super().__init__()
        before = reads and layer.placement in ("pre", "sandwich")
        self.norm = _norm(layer, scope) if before else None
        self.out_norm = _norm(layer, scope) if layer.placement in ("sandwich", "out") else None
        self.post_norm = _norm(layer, scope) if layer.placement == "post" else None
        self.residual: Residual[Any] = build_component("residual", layer.residual, scope)
        self.dropout = nn.Dropout(layer.dropout) if layer.dropout else None

    def enter(self, x: Tensor) -> tuple[Tensor, Links | None]:
        """What the body reads, and where there are several streams how it is linked to them."""
        links = None
        if isinstance(self.residual, StreamsResidual):
            links = self.residual.links(x)
            x = self.residual.read(x, links)
        return (x if self.norm is None else self.norm(x)), links

    def leave(self, x: Tensor, y: Tensor, links: Links | None) -> Tensor:
        """The stream after the body's output ``y`` joined it."""
        if self.out_norm is not None:
            y = self.out_norm(y)
        if self.dropout is not None:
            y = self.dropout(y)
        joined: Tensor = self.residual(x, y) if links is None else self.residual(x, y, links)
        return joined if self.post_norm is None else self.post_norm(joined)


def _norm(layer: LayerConfig, scope: Scope) -> Norm[Any] | None:
    if layer.norm.type == "none":
        return None
    norm: Norm[Any] = build_component("norm", layer.norm, scope)
    return norm


class Layer(nn.Module):
    """One layer: a mixer, cross-attention and a feed-forward where there are any, each joined to
    the stream."""

    def __init__(self, layer: LayerConfig, scope: Scope) -> None:
        super().__init__()
        joins = layer.joins(scope)
        self.mixer: Mixer[Any] = build_component("mixer", layer.mixer, scope)
        self.mixer_join = Join(layer, next(joins))
        self.cross: CrossAttention | None = None
        if layer.cross is not None:
            self.cross = CrossAttention(layer.cross, scope)
            self.cross_join = Join(layer, next(joins))
        self.mlp: MLP[Any] | None = None
        if layer.mlp.type != "none":
            self.mlp = build_component("mlp", layer.mlp, scope)
            self.mlp_join = Join(layer, next(joins), reads=not layer.shared_norm)
        self.parallel, self.shared_norm = layer.parallel, layer.shared_norm
        self.depth = None if layer.depth is None else DepthRouter(layer.depth, scope)

    def initial_state(self, batch: int) -> State:
        state = self.mixer.initial_state(batch)
        return state if self.depth is None else DepthState(state, self.depth.none_seen(batch))

    def forward(self, x: Tensor, span: Span, memory: MemoryKV | None = None) -> Tensor:
        if self.depth is None:
            return self._whole(x, span, memory)
        if span.documents is not None:
            raise UsageError("a layer with depth cannot keep apart documents that share a row")
        some = self.depth.pick(x, span, self.depth.none_seen(len(x)))
        return some.joined(x, self._whole(some.x, some.span, memory))

    def extend(
        self, x: Tensor, state: State, span: Span, memory: MemoryKV | None = None
    ) -> tuple[Tensor, State]:
        if self.depth is None:
            return self._next(x, state, span, memory)
        some = self.depth.pick(x, span, state.seen)
        y, inner = self._next(some.x, state.inner, some.span, memory)
        return some.joined(x, y), DepthState(inner, some.seen)

    def _whole(self, x: Tensor, span: Span, memory: MemoryKV | None) -> Tensor:
        entered, links = self.mixer_join.enter(x)
        documents = span.documents
        y = self.mixer(entered, span) if documents is None else documents.mixed(self.mixer, entered)
        mixed = self.mixer_join.leave(x, y, links)
        return self._go_on(x, entered, mixed, span, memory)

    def _next(
        self, x: Tensor, state: State, span: Span, memory: MemoryKV | None
    ) -> tuple[Tensor, State]:
        entered, links = self.mixer_join.enter(x)
        y, state = self.mixer.extend(entered, state, span)
        return self._go_on(x, entered, self.mixer_join.leave(x, y, links), span, memory), state

    def _go_on(
        self, x: Tensor, entered: Tensor, mixed: Tensor, span: Span, memory: MemoryKV | None
    ) -> Tensor:
        """What follows the mixer, which read ``entered`` of the stream and left ``mixed``."""
        mixed, links = self._read(mixed, memory), None
        if self.mlp is None:
            return mixed
        if not self.shared_norm:
            entered, links = self.mlp_join.enter(x if self.parallel else mixed)
        if not span.padded:
            return self.mlp_join.leave(mixed, self.mlp(entered), links)
        with counting(span.real):
            return self.mlp_join.leave(mixed, self.mlp(entered), links)

    def _read(self, x: Tensor, memory: MemoryKV | None) -> Tensor:
        if self.cross is None:
            return x
        assert memory is not None, "a layer with cross-attention got no memory"
        entered, links = self.cross_join.enter(x)
        return self.cross_join.leave(x, self.cross(entered, memory), links)


def build_layers(layers: Iterable[LayerConfig], scope: Scope) -> nn.ModuleList:
    """A stack of layers; ``scope`` is that of any of them. Those that share are one module, and
    so are the positions of mixers that share theirs, and the slots of parts that read one store."""
    stack: list[Layer] = []
    for index, layer in enumerate(layers):
        owner = layer.share_with
        stack.append(Layer(layer, scope.at(index)) if owner is None else stack[owner])
        if owner is None and layer.position_with is not None:
            stack[index].mixer.position = stack[layer.position_with].mixer.position
    share_slots(part for layer in stack for part in (layer.mixer, layer.mlp) if part is not None)
    return nn.ModuleList(stack)


class Model(nn.Module):
    """A decoder or an encoder: tokens b t (or vectors b t d) to logits b t V.

    With a classification head the logits are those of whole sequences, b C; without a head the
    normed stream comes out, b t d. A decoder with cross-attention reads a ``memory`` (b s d)
    besides, whose pads are False in ``memory_real`` (b s).
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.streams = architecture.streams
        scope = scope_of(architecture)
        embedding = Embedding if architecture.input == "tokens" else InputPositions
        self.embedding: Any = embedding(architecture.embedding, scope)
        self.layers = build_layers(architecture.layers, scope)
        self.linear_nets = equip(self.layers, architecture.layers)
        self.head = Head(architecture.head, scope)
        if isinstance(self.embedding, Embedding) and architecture.embedding.tie:
            self.head.weight = self.embedding.weight
        self.sphere: UnitSphere | None = None
        if architecture.unit_weights:
            self.sphere = UnitSphere(self, architecture.d_model)

    @property
    def max_positions(self) -> int | None:
        """How long a sequence may be, or None where nothing limits it."""
        learned = self.architecture.embedding.position.type == "learned"
        return self.architecture.max_seq_len if learned else None

    def forward(
        self,
        tokens: Tensor,
        real: Tensor | None = None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
        types: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Logits (b, t, V) of the token after each; ``real`` (b, t) is False at pads, ``types``
        (b, t) the kind of each token where ``embedding.token_types`` is set (0 unless told),
        ``documents`` (b, t) which document of its row it belongs to: none sees another."""
        hidden = self.hidden(tokens, real, memory, memory_real, types, documents)
        return self.logits(hidden, real)

    def hidden(
        self,
        tokens: Tensor,
        real: Tensor | None = None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
        types: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """What the head reads, after its norm: b t -> b t d."""
        kv = self.project(memory, memory_real)
        span = span_of(tokens, real, documents)
        x = spread(self.embedding(tokens, span, types), self.streams)
        for index, layer in enumerate(self.layers):
            x = layer(x, span) if kv is None else layer(x, span, kv[index])
        normed: Tensor = self.head.normed(gathered(x, self.streams))
        return normed

    def logits(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """b t d -> b t V; of classes b d -> b C, where ``real`` says which tokens count."""
        if self.architecture.head.type == "classification":
            hidden = self.head.pooled(hidden, real)
        logits: Tensor = self.head(hidden)
        return logits

    def project(self, memory: Tensor | None, real: Tensor | None = None) -> Memory | None:
        """The keys and values that the layers read of a memory (b s d); None where none reads any.

        Raises:
            UsageError: layers have cross-attention and there is no memory, or the reverse.
        """
        reads = self.architecture.reads_memory
        if reads != (memory is not None):
            raise UsageError(
                "this decoder has cross-attention: give it a memory (b s d)"
                if reads
                else "a memory was given, but no layer has cross-attention"
            )
        if memory is None:
            return None
        crosses = [_layer(module).cross for module in self.layers]
        return tuple(None if cross is None else cross.project(memory, real) for cross in crosses)

    def initial_state(
        self, batch: int, memory: Tensor | None = None, memory_real: Tensor | None = None
    ) -> ModelState:
        """The state before the first token; the memory is projected here, once.

        Raises:
            UsageError: an encoder reads whole sequences; or a memory is missing.
        """
        if self.architecture.type == "encoder":
            raise UsageError("an encoder reads whole sequences: it has no state to go on from")
        device = next(self.parameters()).device
        seen = torch.zeros(batch, dtype=torch.long, device=device)
        states = tuple(_layer(module).initial_state(batch) for module in self.layers)
        return ModelState(seen, states, memory=self.project(memory, memory_real))

    def extend(
        self,
        tokens: Tensor,
        state: ModelState,
        real: Tensor | None = None,
        types: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Logits of the next tokens (b, t) and the state after; ``state`` is left as it was.

        Raises:
            UsageError: the head classifies whole sequences; :meth:`extend_hidden` goes on anyway.
        """
        if self.architecture.head.type == "classification":
            raise UsageError("a classification head reads whole sequences, not chunks")
        hidden, state = self.extend_hidden(tokens, state, real, types)
        return self.logits(hidden), state

    def extend_hidden(
        self,
        tokens: Tensor,
        state: ModelState,
        real: Tensor | None = None,
        types: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """As :meth:`extend`, but what the head reads."""
        span, seen, offset = self._next_span(tokens, state, real)
        x = spread(self.embedding(tokens, span, types), self.streams)
        memory = state.memory or (None,) * len(self.layers)
        states: list[State] = []
        for module, before, kv in zip(self.layers, state.layers, memory, strict=True):
            x, after = _layer(module).extend(x, before, span, kv)
            states.append(after)
        hidden = self.head.normed(gathered(x, self.streams))
        return hidden, ModelState(seen, tuple(states), offset, state.memory)

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


def span_of(tokens: Tensor, real: Tensor | None, documents: Tensor | None = None) -> Span:
    """The span of whole sequences; ``real`` (b, t) is False at pads, ``documents`` (b, t) says
    which of its row's documents a token belongs to."""
    if documents is not None:
        every = torch.ones_like(documents, dtype=torch.bool)
        return Span.of_documents(documents, every if real is None else real)
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
        causal=architecture.type != "encoder",
        tie=architecture.embedding.tie,
        stream_std=architecture.embedding.stream_std(architecture.d_model),
    )


def encoder_scope(architecture: Architecture) -> Scope:
    """The scope in which the encoder of an encoder_decoder stands."""
    encoder = architecture.encoder
    assert encoder is not None, "an architecture without an encoder was asked for its scope"
    return replace(
        scope_of(architecture),
        num_layers=len(encoder.layers),
        causal=encoder.causal,
        tie=False,
        vocab_size=encoder.vocab_size or architecture.vocab_size,
        stream_std=(encoder.embedding or architecture.embedding).stream_std(architecture.d_model),
    )
