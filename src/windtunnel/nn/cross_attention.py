"""Cross-attention: what a decoder reads of an encoder (Vaswani et al. 2017, arXiv 1706.03762)."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field
from torch import Tensor

from windtunnel.nn.component import Component, ComponentConfig, Scope, filled
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.ops.attention import FUSED_FROM, attend


class CrossAttentionConfig(ComponentConfig):
    """``out(softmax(scale · q kᵀ) v)`` with queries of the stream, keys and values of a memory."""

    type: Literal["attention"] = "attention"
    num_heads: int | None = Field(None, ge=1)
    """Heads of queries; when left out those of the layer's mixer, or heads of 64."""
    num_kv_heads: int | None = Field(None, ge=1)
    """Heads of keys and values, a divisor of num_heads; as many as those when left out."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head; d_model / num_heads when left out."""
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
        return self.replace(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            scale=self.scale or head_dim**-0.5,
            out_bias=self.bias if self.out_bias is None else self.out_bias,
        )

    def _heads(self, d: int) -> tuple[int, int]:
        if self.num_heads is None:
            head_dim = self.head_dim or min(64, d)
            if d % head_dim:
                raise ValueError(f"heads of {head_dim} do not divide d_model {d}; give num_heads")
            return d // head_dim, head_dim
        if self.head_dim is None and d % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide d_model {d}; "
                f"choose a divisor, or give head_dim"
            )
        return self.num_heads, self.head_dim or d // self.num_heads

    def cost(self, scope: Scope, t: Num, s: Num | None = None) -> Cost:
        """Per token of ``t`` that read a memory of ``s`` (as many unless told), whose projection
        is shared out among them. While decoding the memory has been projected before."""
        s = t if s is None else s
        h, g, k = filled(self.num_heads), filled(self.num_kv_heads), filled(self.head_dim)
        memory = linear_cost(scope.d_model, g * k, bias=self.bias) * 2
        read = 4 * h * k * s
        softmax = h * (1 + (self.dropout > 0) * (3 * s - 1))
        return (
            linear_cost(scope.d_model, h * k, bias=self.bias)
            + linear_cost(h * k, scope.d_model, bias=bool(self.out_bias))
            + Cost(
                params=memory.params,
                forward_flops=memory.forward_flops * s / t + read,
                decode_flops=read,
                state_values=s * 2 * g * k,
                activation_values=scope.d_model + 2 * h * k + softmax + 2 * g * k * s / t,
                wide_values=(self.dropout == 0) * h * (1 + (t <= s) * (s < FUSED_FROM) * (s - 2)),
            )
        )


class MemoryKV(NamedTuple):
    """The keys and values of a memory, projected once; batch first."""

    k: Tensor
    """b g s k"""
    v: Tensor
    """b g s k"""
    real: Tensor | None
    """(b, s) bool, False at pads; None where nothing is a pad"""


class CrossAttention(Component[CrossAttentionConfig]):
    """q = W_q x, k = W_k m, v = W_v m, y = W_o softmax(scale · q kᵀ) v, for a memory m: b s d.

    Every token reads the whole memory but its pads; a row whose memory is all pads reads zeros.
    """

    Config = CrossAttentionConfig

    def __init__(self, config: CrossAttentionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h = scope.d_model, filled(config.num_heads)
        g, k = filled(config.num_kv_heads), filled(config.head_dim)
        self.q = Linear(d, h * k, bias=config.bias)
        self.k = Linear(d, g * k, bias=config.bias)
        self.v = Linear(d, g * k, bias=config.bias)
        self.out = Linear(h * k, d, bias=bool(config.out_bias), gain=residual_gain(scope))

    def project(self, memory: Tensor, real: Tensor | None = None) -> MemoryKV:
        """Keys and values of a memory b s d; ``real`` (b, s) is False at its pads."""
        b, s, _ = memory.shape
        shape = (b, s, -1, filled(self.config.head_dim))
        k, v = self.k(memory).view(shape), self.v(memory).view(shape)
        if real is not None and bool(real.all()):
            real = None
        return MemoryKV(k.transpose(1, 2), v.transpose(1, 2), real)

    def forward(self, x: Tensor, kv: MemoryKV) -> Tensor:
        """What each token of x (b t d) reads of the memory: b t d."""
        b, t, _ = x.shape
        config = self.config
        assert config.scale is not None, "an unresolved config was built"
        q = self.q(x).view(b, t, -1, filled(config.head_dim)).transpose(1, 2)
        mask = None
        if kv.real is not None:
            # A softmax over nothing would be NaN: such a row sees all, and its reading is dropped.
            empty = ~kv.real.any(1, keepdim=True)
            mask = (kv.real | empty)[:, None, None]
        dropout = config.dropout if self.training else 0.0
        y = attend(q, kv.k, kv.v, scale=config.scale, mask=mask, dropout=dropout)
        if kv.real is not None:
            y = y * kv.real.any(1)[:, None, None, None]
        joined: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return joined
