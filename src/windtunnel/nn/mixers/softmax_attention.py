"""What softmax attentions share: heads, masks, positions, and the cache of keys and values."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, TypedDict, TypeVar

import torch
from pydantic import Field, model_validator
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
)
from windtunnel.nn.cost import Cost, Num, larger, linear_cost, smaller
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.norms.cosine import stretch
from windtunnel.nn.norms.none import NoNormConfig
from windtunnel.nn.ops.attention import (
    FUSED_FROM,
    attend,
    attend_in_band,
    band_positions,
    band_shape,
    executed_keys,
    visible,
)
from windtunnel.nn.ops.kv_cache import KVState, keep_ends
from windtunnel.nn.ops.room import appended
from windtunnel.nn.positions.rope import RoPEConfig

_USUAL_HEAD_DIM = 64


class _Options(TypedDict):
    scale: float
    softcap: float | None
    dropout: float


class _Pattern(TypedDict):
    window: int | None
    dilation: int
    stride: int | None
    global_tokens: int


class SoftmaxConfig(ComponentConfig):
    """h heads of queries reading g heads of keys and values through a mask."""

    maps: ClassVar[int] = 1
    """Softmaxes in a head; its values are as many times as wide as its keys."""

    num_heads: int | None = Field(None, ge=1)
    """Heads of queries; d_model / head_dim when left out (with heads of 64)."""
    num_kv_heads: int | None = Field(None, ge=1)
    """Heads of keys and values, a divisor of num_heads; as many as those when left out."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head; d_model / num_heads when left out."""
    position: Annotated[PositionConfig, Choice("position", "rope")] = RoPEConfig()
    """How attention is told where its keys stand."""
    window: int | None = Field(None, ge=1)
    """How many tokens a query sees, its own included; all when left out. Without causality window −
    1 on each side."""
    dilation: int = Field(1, ge=1)
    """The distance between the tokens of a window: 2 sees every other one."""
    stride: int | None = Field(None, ge=2)
    """Besides its window, a query sees all tokens at a multiple of this distance. The state then
    keeps all tokens."""
    global_tokens: int = Field(0, ge=0)
    """Besides its window, a query sees so many tokens at the start, and those see all (before
    them, where causal)."""
    qk_norm: Annotated[ComponentConfig, Choice("norm")] = NoNormConfig()
    """Norm of each head's queries and keys, before the positions."""
    softcap: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Soft limit c of the logits, c·tanh(z/c); none when left out."""
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Factor of the logits; 1/√head_dim when left out, √head_dim beside `qk_norm: cosine`."""
    bias: bool = False
    """Whether queries, keys and values have a bias."""
    out_bias: bool | None = None
    """Whether the output has a bias; as `bias` when left out."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the attention weights, in training."""

    @model_validator(mode="after")
    def _shapes_of_a_window(self) -> Self:
        usual = {"dilation": 1, "stride": None, "global_tokens": 0}
        names = ", ".join(name for name, value in usual.items() if getattr(self, name) != value)
        if self.window is None and names:
            raise ValueError(f"{names}: without a window every token is seen; give window")
        if self.window == 1 and self.dilation > 1:
            raise ValueError("dilation has no effect on a window of 1; widen it, or use stride")
        return self

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
            scale=self.scale or self._usual_scale(heads, kv_heads, head_dim),
            out_bias=self.bias if self.out_bias is None else self.out_bias,
        )

    def _usual_scale(self, h: int, g: int, k: int) -> float:
        """1/√k; of queries and keys of a fixed length L, √k/L²: as far apart as without a norm."""
        return float(k**-0.5 * stretch(self.qk_norm, k) ** 2)

    def _heads(self, d: int) -> tuple[int, int]:
        width = self.maps
        times = "" if width == 1 else f" {width} times"
        if self.num_heads is None:
            head_dim = self.head_dim or min(_USUAL_HEAD_DIM, max(1, d // width))
            if d % (width * head_dim):
                text = f"heads of{times} {head_dim} do not divide d_model {d}; give num_heads"
                raise ValueError(text)
            return d // (width * head_dim), head_dim
        if self.head_dim is None and d % (width * self.num_heads):
            text = f"num_heads {self.num_heads} does not divide d_model {d}{times}; "
            raise ValueError(text + "choose a divisor, or give head_dim")
        return self.num_heads, self.head_dim or d // (width * self.num_heads)

    @property
    def pattern(self) -> _Pattern:
        """What is seen, as :func:`~windtunnel.nn.ops.attention.visible` takes it."""
        return {
            "window": self.window,
            "dilation": self.dilation,
            "stride": self.stride,
            "global_tokens": self.global_tokens,
        }

    @property
    def reach(self) -> Num:
        """How far back a window goes, its own token included."""
        return (filled(self.window) - 1) * self.dilation + 1

    def sees_all(self, t: int) -> bool:
        """Whether a window hides nothing of t tokens."""
        return self.window is None or (self.window >= t and self.dilation == 1)

    def remembers_all(self) -> bool:
        """Whether any token may be seen again."""
        return self.window is None or self.stride is not None

    def executed_keys(self, t: Num) -> Num:
        """Keys that each of t causal queries is multiplied with."""
        if self.remembers_all():
            return t
        return t + (self.global_tokens == 0) * (executed_keys(t, self.reach) - t)

    def cost(self, scope: Scope, t: Num) -> Cost:
        """The square is executed whole, or for a causal window its band; a global token, a stride
        and pads need the square. The fused kernels widen keys to the values' width. One step of
        decoding reads all that is remembered."""
        h, g = self.maps * filled(self.num_heads), self.maps * filled(self.num_kv_heads)
        k = filled(self.head_dim)
        keys = self.executed_keys(t) if scope.causal else t
        inside = scope.inside(filled(self.num_heads), k)
        norm = self.qk_norm.cost(inside, t)
        past, held = self._past(t), 2 * g * k + 1
        explicit = (self.softcap is not None) | (self.position.kept_squares() > 0)
        per_key = 2 * h * k * (1 + self.maps)
        widened = (1 - explicit) * (t > 1) * 2 * h * k * (self.maps - 1)
        return (
            linear_cost(scope.d_model, h * k, bias=self.bias)
            + linear_cost(scope.d_model, g * k, bias=self.bias) * 2
            + linear_cost(h * k, scope.d_model, bias=bool(self.out_bias))
            + self.position.cost(inside, t)
            + Cost(
                params=2 * norm.params,
                activation_values=(h + g) * norm.activation_values,
                wide_values=(h + g) * norm.wide_values,
                working_values=(h + g) * norm.working_values,
            )
            + Cost(
                forward_flops=keys * (per_key + widened),
                decode_flops=per_key * (past + 1),
                state_values=0 if self.remembers_all() else past * held,
                state_values_per_token=held * self.remembers_all(),
                activation_values=self._kept(scope, t, keys),
                wide_values=self._wide(keys),
                working_values=2 * h * keys * self._explicit(),
                shared_values=self.position.learned * t * t * (2 + filled(self.num_heads)),
            )
        )

    def _past(self, t: Num) -> Num:
        """How many of t tokens are remembered."""
        return t if self.remembers_all() else smaller(t, self.reach - 1 + self.global_tokens)

    def _explicit(self) -> Num:
        """Whether the softmax's values are made in any precision."""
        return (self.softcap is not None) | self.position.learned | (self.dropout > 0)

    def _wide(self, keys: Num) -> Num:
        """The softmax's sums; or for short rows in bfloat16 its values, which are made there, and
        queries and keys as wide as they are."""
        h, g = self.maps * filled(self.num_heads), self.maps * filled(self.num_kv_heads)
        widened = (h + g) * (self.maps - 1) * filled(self.head_dim)
        short = (keys > 1) * (keys < FUSED_FROM)
        return (1 - self._explicit()) * (h + short * (h * (keys - 2) - widened))

    def _kept(self, scope: Scope, t: Num, keys: Num) -> Num:
        """The input, q, k, v, what is read, and the softmax: its sums, or where dropout, the
        soft-cap or a gradient need them, its values. In a band, keys and values are kept once for
        each block."""
        h, g = self.maps * filled(self.num_heads), self.maps * filled(self.num_kv_heads)
        k, v = filled(self.head_dim), self.maps * filled(self.head_dim)
        explicit = self._explicit()
        factor = self.position.kept_squares()
        square = 1 + (self.softcap is not None) + 2 * (self.dropout > 0) + factor
        softmax = h * (explicit * square * keys + (1 - explicit))
        banded, copies = keys < t, 1
        if not self.remembers_all():
            blocks, _, block_keys = band_shape(t, self.reach)
            copies = 1 + banded * (blocks * block_keys / t - 1)
            masks = self.position.biased * (1 - explicit) + factor
            softmax = softmax + h * keys * banded * masks
        wide = explicit * k + (1 - explicit) * larger(k, v)
        return scope.d_model + (1 + banded) * h * wide + h * v + g * (wide + v) * copies + softmax


S = TypeVar("S", bound=SoftmaxConfig)


class SoftmaxAttention(Mixer[S]):
    """Parameters ``q``, ``k``, ``v`` and ``out``, and those of ``q_norm``, ``k_norm`` and
    ``position``. Normed, then turned, queries and keys; the soft-cap acts before a position's
    factor, and that before its bias.

    Without ``Scope.causal`` every token sees all others, and only whole sequences can be read.

    The hooks of subclasses, which stay as they are: :meth:`queries`, :meth:`keys`, :meth:`values`,
    :meth:`scores`, :meth:`read`, :meth:`output`. A whole forward and decoding call them alike.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        config, above = (getattr(c, "Config", SoftmaxConfig) for c in (cls, super(cls, cls)))
        if "__init__" in vars(cls) and config.cost is above.cost:
            told = f"{cls.__name__} has an __init__ of its own and {config.__name__} no cost"
            raise TypeError(f"{told}: add what is added there to super().cost(scope, t)")

    def __init__(self, config: S, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h = scope.d_model, config.maps * filled(config.num_heads)
        g, k = config.maps * filled(config.num_kv_heads), filled(config.head_dim)
        inside = scope.inside(filled(config.num_heads), k)
        self.causal = scope.causal
        self._own_scores = type(self).scores is not SoftmaxAttention.scores
        self.q = Linear(d, h * k, bias=config.bias)
        self.k = Linear(d, g * k, bias=config.bias)
        self.v = Linear(d, g * k, bias=config.bias)
        self.out = Linear(h * k, d, bias=bool(config.out_bias), gain=residual_gain(scope))
        self.q_norm: Norm[Any] = build_component("norm", config.qk_norm.resolve(inside), inside)
        self.k_norm: Norm[Any] = build_component("norm", config.qk_norm.resolve(inside), inside)
        self.position: Position[Any] = build_component("position", config.position, inside)

    def initial_state(self, batch: int) -> KVState:
        weight, config = self.k.weight, self.config
        g, k = filled(config.num_kv_heads), filled(config.head_dim)
        return KVState(
            weight.new_empty(batch, config.maps * g, 0, k),
            weight.new_empty(batch, g, 0, config.maps * k),
            weight.new_empty(batch, 0, dtype=torch.long),
        )

    def forward(self, x: Tensor, span: Span) -> Tensor:
        return self.output(x, self._read(*self._project(x, span), span), span)

    def extend(self, x: Tensor, state: KVState, span: Span) -> tuple[Tensor, KVState]:
        """Raises UsageError when a bidirectional attention is asked to continue."""
        q, k, v = self._project(x, span)
        positions, room = span.positions.expand(x.shape[:2]), None
        if state.positions.shape[1] == 0:
            y = self._read(q, k, v, span)
        else:
            if not self.causal:
                raise UsageError("bidirectional attention reads whole sequences, not chunks")
            old, new = (state.k, state.v, state.positions), (k, v, positions)
            (k, v, positions), room = appended(old, new, (2, 2, 1), state.room)
            y = self._read_on(q, k, v, span, positions)
        return self.output(x, y, span), self._remembered(KVState(k, v, positions, room), span)

    def _project(self, x: Tensor, span: Span) -> tuple[Tensor, Tensor, Tensor]:
        """b t d -> b h t k, b g t k, b g t v"""
        parts = self.queries(x, span), self.keys(x, span), self.values(x, span)
        q, k, v = (part.transpose(1, 2) for part in parts)
        return q, k, v

    def queries(self, x: Tensor, span: Span) -> Tensor:
        """b t d -> b t h k, normed and turned"""
        q = self.q(x).unflatten(2, (-1, filled(self.config.head_dim)))
        return self.position.rotate(self._normed(self.q_norm, q), span)

    def keys(self, x: Tensor, span: Span) -> Tensor:
        """b t d -> b t g k, normed and turned, as they are remembered"""
        k = self.k(x).unflatten(2, (-1, filled(self.config.head_dim)))
        return self.position.rotate(self._normed(self.k_norm, k), span)

    def _normed(self, norm: Norm[Any], x: Tensor) -> Tensor:
        """Queries or keys, b t h k, normed."""
        normed: Tensor = norm(x)
        return normed

    def values(self, x: Tensor, span: Span) -> Tensor:
        """b t d -> b t g v, as they are remembered"""
        v: Tensor = self.v(x).unflatten(2, (filled(self.config.num_kv_heads), -1))
        return v

    def read(self, x: Tensor, y: Tensor, span: Span) -> Tensor:
        """What the heads have read for the tokens x, b t d and b h t v -> b h t v"""
        return y

    def output(self, x: Tensor, y: Tensor, span: Span) -> Tensor:
        """The tokens x and what the heads have read for them, b t d and b h t v -> b t d"""
        return self._join(self.read(x, y, span))

    def _join(self, y: Tensor) -> Tensor:
        """b h t v -> b t d"""
        joined: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return joined

    def _read(self, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        """Attention of the span's tokens to each other."""
        t, config, options = q.shape[2], self.config, self._options()
        v = self._of_each_map(v)
        if self.causal and not span.padded and config.executed_keys(t) < t:
            mask, factor = self._shared_mask(span, "band", q.dtype)
            return attend_in_band(q, k, v, window=config.reach, mask=mask, factor=factor, **options)
        if config.sees_all(t) and not (span.padded or config.position.biased or self._own_scores):
            return attend(q, k, v, causal=self.causal, **options)
        mask, factor = self._shared_mask(span, "square", q.dtype)
        return attend(q, k, v, mask=mask, factor=factor, **options)

    def _read_on(self, q: Tensor, k: Tensor, v: Tensor, span: Span, positions: Tensor) -> Tensor:
        """Attention of the span's tokens to each other and to those before; ``positions`` (b, s)
        are those of all keys."""
        config = self.config
        v = self._of_each_map(v)
        patterned = config.dilation > 1 or config.stride is not None
        if span.offset is not None:
            if q.shape[2] == 1 and not (config.position.biased or self._own_scores or patterned):
                return attend(q, k, v, **self._options())  # all that is remembered is seen
            positions = positions[:1]
        seen = visible(span.positions, positions, causal=self.causal, **config.pattern)
        mask, factor = self.scores(seen, span.positions, positions, q.dtype)
        return attend(q, k, v, mask=mask, factor=factor, **self._options())

    def _options(self) -> _Options:
        config = self.config
        assert config.scale is not None, "an unresolved config was built"
        dropout = config.dropout if self.training else 0.0
        return {"scale": config.scale, "softcap": config.softcap, "dropout": dropout}

    def _of_each_map(self, x: Tensor) -> Tensor:
        """What all maps of a head share, once for each: b h … -> b maps·h …"""
        maps = self.config.maps
        return x if maps == 1 else x.repeat(1, maps, 1, 1)

    def scores(
        self, seen: Tensor, q_positions: Tensor, k_positions: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """What is added to scale · q kᵀ, or where bool what of it is seen; and a factor before it.

        ``seen`` (1 or b, 1, t, s) is the pattern's; positions (1 or b, t), (1 or b, s) are −1 at
        pads. A position gives its bias and factor; an override is asked anew by each layer.
        """
        bias = self.position.bias(q_positions, k_positions)
        factor = self.position.factor(q_positions, k_positions)
        if bias is not None:
            seen = self._of_each_map(bias.to(dtype).masked_fill(~seen, float("-inf")))
        return seen, None if factor is None else self._of_each_map(factor.to(dtype))

    def _shared_mask(
        self, span: Span, form: Literal["band", "square"], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """The mask of a span's tokens among themselves, made once for all layers alike; of a
        learned position or scores of one's own, what is seen alone."""
        config = self.config
        alone = config.position.learned or self._own_scores
        key: tuple[Any, ...] = (form, self.causal, *config.pattern.values())
        if not alone:
            key += (config.position, config.num_heads, config.maps, dtype)
        q = k = span.positions
        if form == "band" and (alone or key not in span.memo):
            q, k = band_positions(q.shape[1], config.reach, q.device)
        if key not in span.memo:
            seen = visible(q, k, causal=self.causal, **config.pattern)
            made = (seen, None) if alone else self.scores(seen, q, k, dtype)
            span.memo[key] = tuple(part for part in made if part is not None)
        mask, *rest = span.memo[key]
        if alone:
            return self.scores(mask, q, k, dtype)
        return mask, rest[0] if rest else None

    def _remembered(self, state: KVState, span: Span) -> KVState:
        """What the next token can see: with a window, a row's last tokens and its global ones."""
        config = self.config
        if config.remembers_all():
            return state
        uniform = span.offset is not None
        return keep_ends(state, first=config.global_tokens, last=config.reach - 1, uniform=uniform)
