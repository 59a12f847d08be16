"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

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
from windtunnel.nn.cost import Cost, Num, larger, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.norms.rmsnorm import RMSNormConfig
from windtunnel.nn.ops.attention import FUSED_FROM, attend, visible
from windtunnel.nn.ops.room import Room, appended
from windtunnel.nn.positions.rope import RoPEConfig


class LatentAttentionConfig(ComponentConfig):
    """Softmax attention whose keys and values are made of one small latent a token, which alone is
    remembered, with one turned key that all heads share.

    The state holds kv_rank + rope_dim numbers a token, whatever the number of heads.
    """

    type: Literal["latent_attention"] = "latent_attention"
    num_heads: int | None = Field(None, ge=1)
    """Heads; d_model / head_dim when left out (with heads of 64)."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head's query and key without position; d_model / num_heads when left out."""
    value_dim: int | None = Field(None, ge=1)
    """Width of a head's value; head_dim when left out."""
    rope_dim: int | None = Field(None, ge=2)
    """Width of the part of queries and of the shared key that is turned; head_dim / 2 when left
    out, made even."""
    kv_rank: int | None = Field(None, ge=1)
    """Width of the latent of keys and values; 4·head_dim when left out, at most half of all heads'
    keys."""
    q_rank: int | None = Field(None, ge=1)
    """Width of a latent of queries; queries are projected at once when left out."""
    norm: Annotated[ComponentConfig, Choice("norm", "rmsnorm")] = RMSNormConfig()
    """Norm of the latents."""
    position: Annotated[PositionConfig, Choice("position", "rope")] = RoPEConfig()
    """How attention is told where its keys stand."""
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Factor of the logits; 1/√(head_dim + rope_dim) when left out."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the attention weights, in training."""

    def resolve(self, scope: Scope) -> Self:
        d = scope.d_model
        k = self.head_dim or (d // self.num_heads if self.num_heads else min(64, d))
        h = self.num_heads or d // max(1, k)
        if h * k != d and None in (self.num_heads, self.head_dim):
            raise ValueError(
                f"{h} heads of {k} do not make d_model {d}; give num_heads and head_dim"
            )
        r = self.rope_dim or max(2, k // 4 * 2)
        c = self.kv_rank or max(1, min(4 * k, h * k // 2))
        return self.replace(
            num_heads=h,
            head_dim=k,
            value_dim=self.value_dim or k,
            rope_dim=r,
            kv_rank=c,
            norm=self._norm(scope, c),
            position=self.position.resolve(scope.inside(h, r)),
            scale=self.scale or (k + r) ** -0.5,
        )

    def _norm(self, scope: Scope, c: int) -> ComponentConfig:
        """Filled in; of two latents, what each would derive from its width stays open."""
        resolved = self.norm.resolve(scope.inside(1, c))
        return resolved if self.q_rank is None else self.norm

    def cost(self, scope: Scope, t: Num) -> Cost:
        """A forward makes each head's keys and values; a step of decoding never does: it reads the
        latents themselves, with queries and readings taken through the up-projections."""
        d, h, k = scope.d_model, filled(self.num_heads), filled(self.head_dim)
        v, r, c = filled(self.value_dim), filled(self.rope_dim), filled(self.kv_rank)
        norm = self.norm.cost(scope.inside(1, c), t)
        up = linear_cost(c, h * k, bias=False) + linear_cost(c, h * v, bias=False)
        wide = larger(k + r, v)
        explicit = self.position.kept_squares() > 0  # without gradients a learned bias is fused
        widened = (1 - explicit) * (t > 1) * (2 * wide - (k + r + v))
        return (
            self._query_cost(scope, t)
            + linear_cost(d, c + r, bias=False)
            + norm
            + up
            + linear_cost(h * v, d, bias=False)
            + self.position.cost(scope.inside(h, r), t)
            + Cost(
                forward_flops=2 * h * t * (k + r + v + widened),
                decode_flops=2 * h * (t + 1) * (c + r + c),
                state_values_per_token=c + r + 1,
                activation_values=d + c + r + self._kept(t),
                wide_values=self._wide(t),
            )
        )

    def _query_cost(self, scope: Scope, t: Num) -> Cost:
        d, rank = scope.d_model, self.q_rank
        width = filled(self.num_heads) * (filled(self.head_dim) + filled(self.rope_dim))
        if rank is None:
            return linear_cost(d, width, bias=False)
        low = linear_cost(d, rank, bias=False) + linear_cost(rank, width, bias=False)
        norm = self.norm.cost(scope.inside(1, rank), t)
        return low + norm + Cost(activation_values=rank)

    def _kept(self, t: Num) -> Num:
        """q, k, v and what is read, as wide as the fused kernels want them, what is read once more
        and the softmax's sums; or with dropout or a learned position all as it is, and the
        softmax's values."""
        h, v = filled(self.num_heads), filled(self.value_dim)
        qk = filled(self.head_dim) + filled(self.rope_dim)
        wide = larger(qk, v)
        square = 1 + 2 * (self.dropout > 0) + self.position.kept_squares()
        explicit = self.position.learned | (self.dropout > 0)
        return h * (
            explicit * (2 * qk + 2 * v + square * t) + (1 - explicit) * (4 * wide + v * (h > 1) + 1)
        )

    def _wide(self, t: Num) -> Num:
        """The softmax's sums, or for short rows in bfloat16 its values."""
        explicit = self.position.learned | (self.dropout > 0)
        h, v = filled(self.num_heads), filled(self.value_dim)
        qk = filled(self.head_dim) + filled(self.rope_dim)
        fused = 4 * larger(qk, v) + v * (h > 1) + 1
        short = (t > 1) * (t < FUSED_FROM)
        return (1 - explicit) * h * (1 + short * (2 * qk + 2 * v + t - fused - 1))


class LatentState(NamedTuple):
    """What is remembered of each token."""

    latent: Tensor
    """(b, s, kv_rank), normed"""
    key: Tensor
    """(b, s, rope_dim): the shared key, turned"""
    positions: Tensor
    """(b, s) int64, −1 at pads"""
    room: Room | None = None
    """Where they lie, with space behind them."""


@register("mixer")
class LatentAttention(Mixer[LatentAttentionConfig]):
    """c = norm(W_c x), (q_i, q′_i) = W_q x, k_i = W_k,i c, v_i = W_v,i c, k′ = W_k′ x (eqs. 9–19);
    head i reads softmax(scale · (q_i k_iᵀ + R q′_i (R k′)ᵀ)) v_i, R the turn by the position.

    ``down`` has the rows of W_c, then those of W_k′; with ``q_rank`` W_q x becomes
    ``q``(norm(``q_down``(x))) (eqs. 12 and 13). While decoding, q_i k_iᵀ = (W_k,iᵀ q_i) cᵀ and
    Σ a v_i = W_v,i Σ a c: no key or value of a head is made again.
    """

    Config = LatentAttentionConfig

    def __init__(self, config: LatentAttentionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h, k = scope.d_model, filled(config.num_heads), filled(config.head_dim)
        v, r, c = filled(config.value_dim), filled(config.rope_dim), filled(config.kv_rank)
        self.causal = scope.causal
        self.q_down: Linear | None = None
        if config.q_rank is not None:
            at = scope.inside(1, config.q_rank)
            self.q_down = Linear(d, config.q_rank, bias=False)
            self.q_norm: Norm[Any] = build_component("norm", config.norm.resolve(at), at)
        read_by_q: Literal["in", "none"] = "none" if config.q_rank else "in"
        self.q = Linear(config.q_rank or d, h * (k + r), bias=False, stream=read_by_q)
        self.down = Linear(d, c + r, bias=False, stream="in")
        at = scope.inside(1, c)
        self.norm: Norm[Any] = build_component("norm", config.norm.resolve(at), at)
        self.k = Linear(c, h * k, bias=False, product_only=True, stream="none")
        self.v = Linear(c, h * v, bias=False, product_only=True, stream="none")
        self.out = Linear(h * v, d, bias=False, gain=residual_gain(scope))
        self.position: Position[Any] = build_component(
            "position", config.position, scope.inside(h, r)
        )

    def initial_state(self, batch: int) -> LatentState:
        weight, config = self.down.weight, self.config
        return LatentState(
            weight.new_empty(batch, 0, filled(config.kv_rank)),
            weight.new_empty(batch, 0, filled(config.rope_dim)),
            weight.new_empty(batch, 0, dtype=torch.long),
        )

    def forward(self, x: Tensor, span: Span) -> Tensor:
        latent, key = self._compress(x, span)
        return self._read(*self._queries(x, span), latent, key, span)

    def extend(self, x: Tensor, state: LatentState, span: Span) -> tuple[Tensor, LatentState]:
        """Raises UsageError when a bidirectional attention is asked to continue."""
        positions = span.positions.expand(x.shape[0], x.shape[1])
        latent, key = self._compress(x, span)
        q, turned = self._queries(x, span)
        if state.positions.shape[1] == 0:
            return self._read(q, turned, latent, key, span), LatentState(latent, key, positions)
        if not self.causal:
            raise UsageError("bidirectional attention reads whole sequences, not chunks")
        old, new = (state.latent, state.key, state.positions), (latent, key, positions)
        (latent, key, positions), room = appended(old, new, (1, 1, 1), state.room)
        state = LatentState(latent, key, positions, room)
        return self._read_on(q, turned, state, span), state

    def _compress(self, x: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        """b t d -> the latent b t c, and the shared key b t r."""
        widths = [filled(self.config.kv_rank), filled(self.config.rope_dim)]
        latent, key = self.down(x).split(widths, dim=-1)
        return self.norm(latent), self.position.rotate(key[:, :, None], span)[:, :, 0]

    def _queries(self, x: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        """b t d -> b h t k and, turned, b h t r."""
        config = self.config
        low = x if self.q_down is None else self.q_norm(self.q_down(x))
        widths = [filled(config.head_dim), filled(config.rope_dim)]
        q, turned = self.q(low).unflatten(2, (filled(config.num_heads), -1)).split(widths, dim=-1)
        return q.transpose(1, 2), self.position.rotate(turned, span).transpose(1, 2)

    def _read(self, q: Tensor, turned: Tensor, latent: Tensor, key: Tensor, span: Span) -> Tensor:
        """Attention of the span's tokens to each other, with each head's keys and values."""
        heads = (filled(self.config.num_heads), -1)
        k = self.k(latent).unflatten(2, heads).transpose(1, 2)
        v = self.v(latent).unflatten(2, heads).transpose(1, 2)
        shared = key[:, None].expand(-1, heads[0], -1, -1)
        q, k = torch.cat((q, turned), dim=-1), torch.cat((k, shared), dim=-1)
        if span.padded or self.config.position.biased:
            mask, factor = self._mask(span, span.positions, q.dtype)
            y = attend(
                q, k, v, mask=mask, factor=factor, scale=self._scale(), dropout=self._dropout()
            )
        else:
            y = attend(q, k, v, causal=self.causal, scale=self._scale(), dropout=self._dropout())
        joined: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return joined

    def _read_on(self, q: Tensor, turned: Tensor, state: LatentState, span: Span) -> Tensor:
        """Attention of the span's tokens to all latents so far."""
        config = self.config
        h, c = filled(config.num_heads), filled(config.kv_rank)
        q = torch.cat((q @ self.k.effective()[0].view(h, -1, c), turned), dim=-1)
        keys = torch.cat((state.latent, state.key), dim=-1)[:, None]
        mask = factor = None
        if span.offset is None or q.shape[2] > 1 or config.position.biased:
            positions = state.positions if span.offset is None else state.positions[:1]
            mask, factor = self._mask(span, positions, q.dtype)
        y = attend(
            q,
            keys,
            state.latent[:, None],
            mask=mask,
            factor=factor,
            scale=self._scale(),
            dropout=self._dropout(),
        )
        read = y @ self.v.effective()[0].view(h, -1, c).transpose(1, 2)
        joined: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return joined

    def _scale(self) -> float:
        assert self.config.scale is not None, "an unresolved config was built"
        return self.config.scale

    def _dropout(self) -> float:
        return self.config.dropout if self.training else 0.0

    def _mask(
        self, span: Span, k_positions: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        seen = visible(span.positions, k_positions, causal=self.causal, window=None)
        bias = self.position.bias(span.positions, k_positions)
        if bias is not None:
            seen = bias.to(dtype).masked_fill(~seen, float("-inf"))
        return seen, self.position.factor(span.positions, k_positions)
