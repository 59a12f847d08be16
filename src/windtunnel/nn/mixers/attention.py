"""Softmax attention: multi-head, grouped, multi-query, windowed, soft-capped."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self, TypedDict

import torch
from pydantic import Field
from torch import Tensor

from windtunnel.config import Choice
from windtunnel.errors import UsageError
from windtunnel.nn.component import (
    ComponentConfig,
    Mixer,
    Norm,
    Position,
    PositionConfig,
    Scope,
    Span,
    build_component,
    filled,
    register,
)
from windtunnel.nn.cost import Cost, Num, linear_cost, smaller
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.norms.none import NoNormConfig
from windtunnel.nn.ops.attention import (
    attend,
    attend_in_band,
    band_positions,
    band_shape,
    executed_keys,
    visible,
)
from windtunnel.nn.positions.rope import RoPEConfig

_USUAL_HEAD_DIM = 64


class _Options(TypedDict):
    scale: float
    softcap: float | None
    dropout: float


class AttentionConfig(ComponentConfig):
    """``out(softmax(scale · q kᵀ) v)``, h heads of queries reading g heads of keys and values."""

    type: Literal["attention"] = "attention"
    num_heads: int | None = Field(None, ge=1)
    """Heads of queries; d_model / head_dim when left out (with heads of 64)."""
    num_kv_heads: int | None = Field(None, ge=1)
    """Heads of keys and values, a divisor of num_heads; as many as those when left out."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head; d_model / num_heads when left out."""
    position: Annotated[PositionConfig, Choice("position")] = RoPEConfig()
    """How attention is told where its keys stand."""
    window: int | None = Field(None, ge=1)
    """How many tokens a query sees, its own included; all when left out."""
    qk_norm: Annotated[ComponentConfig, Choice("norm")] = NoNormConfig()
    """Norm of each head's queries and keys, before the positions."""
    softcap: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Soft limit c of the logits, c·tanh(z/c); none when left out."""
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Factor of the logits; 1/√head_dim when left out."""
    bias: bool = False
    """Whether queries, keys and values have a bias."""
    out_bias: bool | None = None
    """Whether the output has a bias; as `bias` when left out."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the attention weights, in training."""

    def resolve(self, scope: Scope) -> Self:
        heads, head_dim = self._heads(scope.d_model)
        kv_heads = self.num_kv_heads or heads
        if heads % kv_heads:
            raise ValueError(f"num_kv_heads {kv_heads} does not divide num_heads {heads}")
        inside = scope.inside(heads, head_dim)
        return self.replace(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            position=self.position.resolve(inside),
            qk_norm=self.qk_norm.resolve(inside),
            scale=self.scale or head_dim**-0.5,
            out_bias=self.bias if self.out_bias is None else self.out_bias,
        )

    def _heads(self, d: int) -> tuple[int, int]:
        if self.num_heads is None:
            head_dim = self.head_dim or min(_USUAL_HEAD_DIM, d)
            if d % head_dim:
                raise ValueError(f"heads of {head_dim} do not divide d_model {d}; give num_heads")
            return d // head_dim, head_dim
        if self.head_dim is None and d % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide d_model {d}; "
                f"choose a divisor, or give head_dim"
            )
        return self.num_heads, self.head_dim or d // self.num_heads

    def cost(self, scope: Scope, t: Num) -> Cost:
        h, g, k = filled(self.num_heads), filled(self.num_kv_heads), filled(self.head_dim)
        keys = executed_keys(t, self.window) if scope.causal else t
        inside = scope.inside(h, k)
        norm = self.qk_norm.cost(inside, t)
        return (
            linear_cost(scope.d_model, h * k, bias=self.bias)
            + linear_cost(scope.d_model, g * k, bias=self.bias) * 2
            + linear_cost(h * k, scope.d_model, bias=bool(self.out_bias))
            + self.position.cost(inside, t)
            + Cost(params=2 * norm.params, activation_values=(h + g) * norm.activation_values)
            + Cost(
                forward_flops=4 * h * k * keys,
                decode_flops=4 * h * k * self._seen(t + 1, 0),
                state_values=0 if self.window is None else self._seen(t, 1) * (2 * g * k + 1),
                state_values_per_token=(2 * g * k + 1) * (self.window is None),
                activation_values=self._kept(scope, t, keys),
            )
        )

    def _seen(self, tokens: Num, less: int) -> Num:
        return tokens if self.window is None else smaller(tokens, self.window - less)

    def _kept(self, scope: Scope, t: Num, keys: Num) -> Num:
        """The input, q, k, v, what is read, and the softmax: its sums, or where dropout or the
        soft-cap need them, its values. In a band, keys and values are kept once for each block."""
        h, g, k = filled(self.num_heads), filled(self.num_kv_heads), filled(self.head_dim)
        explicit = (self.dropout > 0) | (self.softcap is not None)
        square = 1 + (self.softcap is not None) + 2 * (self.dropout > 0)
        softmax = h * (explicit * square * keys + (1 - explicit))
        banded = keys < t
        copies = 1
        if self.window is not None:
            blocks, _, block_keys = band_shape(t, self.window)
            copies = 1 + banded * (blocks * block_keys / t - 1)
            softmax = softmax + h * keys * banded * self.position.biased * (1 - explicit)
        return scope.d_model + (2 + banded) * h * k + 2 * g * k * copies + softmax


class KVState(NamedTuple):
    """The keys and values seen so far; with a window, those that the next token can see."""

    k: Tensor
    """b g s k"""
    v: Tensor
    """b g s k"""
    positions: Tensor
    """(b, s) int64, −1 at pads"""


@register("mixer")
class Attention(Mixer[AttentionConfig]):
    """q = W_q x, k = W_k x, v = W_v x, y = W_o softmax(cap(scale · q kᵀ) + bias) v.

    Normed, then turned, queries and keys (norm and position as configured); the soft-cap acts
    before a position's bias. Without ``Scope.causal`` every token sees all others, and only whole
    sequences can be read.
    """

    Config = AttentionConfig

    def __init__(self, config: AttentionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h = scope.d_model, filled(config.num_heads)
        g, k = filled(config.num_kv_heads), filled(config.head_dim)
        inside = scope.inside(h, k)
        self.causal = scope.causal
        self.q = Linear(d, h * k, bias=config.bias)
        self.k = Linear(d, g * k, bias=config.bias)
        self.v = Linear(d, g * k, bias=config.bias)
        self.out = Linear(
            h * k, d, bias=bool(config.out_bias), gain=residual_gain(scope.num_layers)
        )
        self.q_norm: Norm[Any] = build_component("norm", config.qk_norm, inside)
        self.k_norm: Norm[Any] = build_component("norm", config.qk_norm, inside)
        self.position: Position[Any] = build_component("position", config.position, inside)

    def initial_state(self, batch: int) -> KVState:
        weight, config = self.k.weight, self.config
        empty = weight.new_empty(batch, filled(config.num_kv_heads), 0, filled(config.head_dim))
        return KVState(empty, empty, weight.new_empty(batch, 0, dtype=torch.long))

    def forward(self, x: Tensor, span: Span) -> Tensor:
        return self._join(self._read(*self._project(x, span), span))

    def extend(self, x: Tensor, state: KVState, span: Span) -> tuple[Tensor, KVState]:
        """Raises UsageError when a bidirectional attention is asked to continue."""
        q, k, v = self._project(x, span)
        b, t, _ = x.shape
        positions = span.positions.expand(b, t)
        if state.positions.shape[1] == 0:
            y = self._read(q, k, v, span)
        else:
            if not self.causal:
                raise UsageError("bidirectional attention reads whole sequences, not chunks")
            k, v = torch.cat((state.k, k), dim=2), torch.cat((state.v, v), dim=2)
            positions = torch.cat((state.positions, positions), dim=1)
            y = self._read_on(q, k, v, span, positions)
        return self._join(y), self._remembered(KVState(k, v, positions), span)

    def _project(self, x: Tensor, span: Span) -> tuple[Tensor, Tensor, Tensor]:
        """b t d -> b h t k, b g t k, b g t k"""
        b, t, _ = x.shape
        shape = (b, t, -1, filled(self.config.head_dim))
        q = self.position.rotate(self.q_norm(self.q(x).view(shape)), span)
        k = self.position.rotate(self.k_norm(self.k(x).view(shape)), span)
        return q.transpose(1, 2), k.transpose(1, 2), self.v(x).view(shape).transpose(1, 2)

    def _join(self, y: Tensor) -> Tensor:
        """b h t k -> b t d"""
        joined: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return joined

    def _read(self, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        """Attention of the span's tokens to each other."""
        t, window = q.shape[2], self.config.window
        if self.causal and not span.padded and executed_keys(t, window) < t:
            assert window is not None
            mask = self._shared_mask(span, "band", q.dtype)
            return attend_in_band(q, k, v, window=window, mask=mask, **self._options())
        within = window is None or window >= t
        if within and not span.padded and not self.config.position.biased:
            return attend(q, k, v, causal=self.causal, **self._options())
        return attend(q, k, v, mask=self._shared_mask(span, "square", q.dtype), **self._options())

    def _read_on(self, q: Tensor, k: Tensor, v: Tensor, span: Span, positions: Tensor) -> Tensor:
        """Attention of the span's tokens to each other and to those before; ``positions`` (b, s)
        are those of all keys."""
        mask = None
        if span.offset is None:
            mask = self._mask(span.positions, positions, q.dtype)
        elif q.shape[2] > 1 or self.config.position.biased:
            mask = self._mask(span.positions, positions[:1], q.dtype)
        return attend(q, k, v, mask=mask, **self._options())

    def _options(self) -> _Options:
        config = self.config
        assert config.scale is not None, "an unresolved config was built"
        dropout = config.dropout if self.training else 0.0
        return {"scale": config.scale, "softcap": config.softcap, "dropout": dropout}

    def _mask(self, q_positions: Tensor, k_positions: Tensor, dtype: torch.dtype) -> Tensor:
        seen = visible(q_positions, k_positions, causal=self.causal, window=self.config.window)
        bias = self.position.bias(q_positions, k_positions)
        return seen if bias is None else bias.to(dtype).masked_fill(~seen, float("-inf"))

    def _shared_mask(
        self, span: Span, form: Literal["band", "square"], dtype: torch.dtype
    ) -> Tensor:
        """The mask of a span's tokens among themselves, made once for all layers alike."""
        config = self.config
        key = (form, self.causal, config.window, config.position, config.num_heads, dtype)
        if key not in span.memo:
            q = k = span.positions
            if form == "band":
                q, k = band_positions(q.shape[1], filled(config.window), q.device)
            span.memo[key] = (self._mask(q, k, dtype),)
        return span.memo[key][0]

    def _remembered(self, state: KVState, span: Span) -> KVState:
        """What the next token can see: with a window, the last window − 1 real tokens of a row."""
        if self.config.window is None:
            return state
        s, keep = state.positions.shape[1], self.config.window - 1
        if s <= keep:
            return state
        if span.offset is not None:
            return KVState(
                state.k[:, :, s - keep :], state.v[:, :, s - keep :], state.positions[:, s - keep :]
            )
        # Pads first, the rest in order: pads must not push out what can still be seen.
        order = (state.positions >= 0).to(torch.int8).argsort(dim=1, stable=True)[:, s - keep :]
        index = order[:, None, :, None].expand(-1, state.k.shape[1], -1, state.k.shape[3])
        return KVState(
            state.k.gather(2, index), state.v.gather(2, index), state.positions.gather(1, order)
        )
