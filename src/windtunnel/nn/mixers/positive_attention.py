"""Linear attention with positive features: what ``favor`` and ``linear_attention`` share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from windtunnel.errors import UsageError
from windtunnel.nn.component import Mixer, Position, Scope, Span, State, build_component, filled
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mixers.linear_heads import (
    TurnedHeadsConfig,
    heads_first,
    heads_joined,
    real_tokens,
)
from windtunnel.nn.ops.chunks import even_chunks
from windtunnel.nn.ops.positive import CHUNK, Sums, attend_positively, no_sums


class PositiveConfig(TurnedHeadsConfig):
    """h heads whose keys and queries are replaced by m positive features each."""

    def features(self) -> Num:
        """m"""
        raise NotImplementedError

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, h, k, m = scope.d_model, filled(self.num_heads), filled(self.head_dim), self.features()
        inside = scope.inside(h, k)
        chunks, tokens = even_chunks(t, CHUNK) if scope.causal else (1, t)
        executed = chunks * tokens / t
        square = tokens * scope.causal
        through_state = 4 * m * (k + 1)
        # Features of query and key, [v, 1], what is read and the square; the entering states.
        kept = executed * (2 * m + 2 * (k + 1) + square) + m * (k + 1) * chunks / t
        kept += self._kept_by_features() + 1.25
        return (
            linear_cost(d, h * k, bias=self.bias) * 3
            + linear_cost(h * k, d, bias=bool(self.out_bias))
            + self.position.cost(inside, t)
            + Cost(
                forward_flops=h * executed * (2 * square * (m + k + 1) + through_state),
                decode_flops=h * (2 * (m + k + 1) + through_state),
                state_values=h * m * (k + 2),
                activation_values=d + h * (kept + k),
                wide_values=h * kept,
                working_values=4 * h * m,
            )
        )

    def _kept_by_features(self) -> Num:
        """Numbers that the features of a token's query and key keep."""
        raise NotImplementedError


class PositiveAttention(Mixer[Any]):
    """q, k, v = W_q x, W_k x, W_v x; y = W_o of Σ_j (φ(q_i)·φ(k_j)) v_j / Σ_j φ(q_i)·φ(k_j).

    Parameters: ``q``, ``k``, ``v`` (h·k, d) and ``out`` (d, h·k), with biases as configured.
    Without ``Scope.causal`` every token sees all others, and only whole sequences can be read.
    """

    def __init__(self, config: PositiveConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h, k = scope.d_model, filled(config.num_heads), filled(config.head_dim)
        self.causal, self.num_heads, self.head_dim = scope.causal, h, k
        self.q = Linear(d, h * k, bias=config.bias)
        self.k = Linear(d, h * k, bias=config.bias)
        self.v = Linear(d, h * k, bias=config.bias)
        self.out = Linear(h * k, d, bias=bool(config.out_bias), gain=residual_gain(scope))
        self.position: Position[Any] = build_component(
            "position", config.position, scope.inside(h, k)
        )

    @abstractmethod
    def log_features(self, x: Tensor, *, of_keys: bool) -> Tensor:
        """log φ of queries or keys: b h t k -> b h t m, in at least float32.

        A constant may be missing, for queries one of each row: it cancels.
        """

    def empty(self, batch: int) -> Sums:
        """What has been read before the first token."""
        m = self.config.features()
        return no_sums(batch, self.num_heads, m, self.head_dim, self.k.weight)

    def read(self, x: Tensor, before: Sums, span: Span) -> tuple[Tensor, Sums]:
        """b t d -> b t d, and all that has been read after it."""
        if not (self.causal or bool((before.sums == 0).all())):
            raise UsageError(f"bidirectional {self.config.type} reads whole sequences, not chunks")
        q, k = (self.position.rotate(part(x).unflatten(-1, (self.num_heads, -1)), span)
                for part in (self.q, self.k))  # fmt: skip
        y, after = attend_positively(
            self.log_features(q.transpose(1, 2), of_keys=False),
            self.log_features(k.transpose(1, 2), of_keys=True),
            heads_first(self.v(x), self.num_heads),
            before,
            causal=self.causal,
            real=real_tokens(span),
        )
        joined: Tensor = self.out(heads_joined(y).to(x.dtype))
        return joined, after

    def initial_state(self, batch: int) -> State:
        return self.empty(batch)

    def extend(self, x: Tensor, state: State, span: Span) -> tuple[Tensor, State]:
        """Raises UsageError when a bidirectional mixer is asked to continue."""
        return self.read(x, state, span)
