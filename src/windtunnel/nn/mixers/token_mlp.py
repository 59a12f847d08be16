"""A feed-forward across tokens, gated by a learned matrix of places (gMLP, arXiv 2105.08050)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from windtunnel.config import Choice
from windtunnel.errors import UsageError
from windtunnel.nn.activations import ACTIVATIONS, Activation, kept_values
from windtunnel.nn.component import (
    ComponentConfig,
    Mixer,
    Norm,
    Scope,
    Span,
    build_component,
    filled,
    register,
)
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.initialize import Init, constant, normal
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.norms.rmsnorm import RMSNormConfig
from windtunnel.nn.ops.by_position import by_position


class TokenMLPConfig(ComponentConfig):
    """``out(u · (M z + c))``: u and z of each token, M a learned matrix over the places of tokens.

    A sequence has at most max_seq_len tokens. The state keeps z of all tokens.
    """

    type: Literal["token_mlp"] = "token_mlp"
    d_hidden: int | None = Field(None, ge=1)
    """Width of u and of z; d_model when left out."""
    num_heads: int = Field(1, ge=1)
    """Matrices, each for its share of the channels."""
    activation: Activation = "gelu"
    """The elementwise function of u and z."""
    norm: Annotated[ComponentConfig, Choice("norm", "rmsnorm")] = RMSNormConfig()
    """Norm of z."""
    bias: bool = False
    """Whether the linear maps have a bias."""

    def resolve(self, scope: Scope) -> Self:
        n = self.d_hidden or scope.d_model
        if n % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide d_hidden {n}")
        return self.replace(d_hidden=n, norm=self.norm.resolve(scope.inside(1, n)))

    def cost(self, scope: Scope, t: Num) -> Cost:
        """Of M only what may be used is stored, but the whole square is executed."""
        d, n, places = scope.d_model, filled(self.d_hidden), scope.max_seq_len
        pairs = places * (places + 1) // 2 if scope.causal else places * places
        # the norm's input is kept with u, as one tensor
        hidden = 2 * n * kept_values(self.activation) - n * (self.norm.type != "none")
        return (
            linear_cost(d, 2 * n, bias=self.bias)
            + linear_cost(n, d, bias=self.bias)
            + self.norm.cost(scope.inside(1, n), t)
            + Cost(
                params=self.num_heads * (pairs + places),
                forward_flops=2 * n * t,
                decode_flops=2 * n * (t + 1),
                state_values_per_token=n,
                activation_values=d + hidden + 3 * n,
                wide_values=n * (self.norm.type != "none"),  # there the norm's input is a copy
                shared_values=2 * self.num_heads * t * t,
            )
        )


class TokenMLPState(NamedTuple):
    """What a token MLP remembers."""

    inputs: Tensor
    """(b, s, n): z by position"""


@register("mixer")
class TokenMLP(Mixer[TokenMLPConfig]):
    """(u, z) = φ(W x), y_p = W_o (u_p · (Σ_j M[p, j] norm(z_j) + c_p)) (eqs. 1 to 3).

    ``up`` has the rows of u, then of z. ``weight`` is M, a matrix for each head: causal ones the
    lower triangle row by row (h, L(L + 1)/2), L = max_seq_len, others (h, L, L), from
    N(0, 0.01/L); ``place_bias`` is c (h, L), from 1, so that tokens start nearly alone. A position
    counts real tokens: padding moves nothing.

    Deviations: heads, and any norm in place of a LayerNorm.
    """

    Config = TokenMLPConfig

    def __init__(self, config: TokenMLPConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, n, places = scope.d_model, filled(config.d_hidden), scope.max_seq_len
        heads = config.num_heads
        self.causal, self.places = scope.causal, places
        self.up = Linear(d, 2 * n, bias=config.bias)
        self.norm: Norm[Any] = build_component("norm", config.norm, scope.inside(1, n))
        shape = (heads, places * (places + 1) // 2) if scope.causal else (heads, places, places)
        self.weight = nn.Parameter(torch.empty(shape))
        self.place_bias = nn.Parameter(torch.empty(heads, places))
        self.out = Linear(n, d, bias=config.bias, gain=residual_gain(scope))
        self.activation = ACTIVATIONS[config.activation]

    def initializers(self) -> dict[str, Init]:
        return {"weight": normal(0.1 * self.places**-0.5), "place_bias": constant(1.0)}

    def initial_state(self, batch: int) -> TokenMLPState:
        return TokenMLPState(self.weight.new_empty(batch, 0, filled(self.config.d_hidden)))

    def extend(self, x: Tensor, state: TokenMLPState, span: Span) -> tuple[Tensor, TokenMLPState]:
        """Raises UsageError beyond max_seq_len, and when a bidirectional one is to continue."""
        if not self.causal and state.inputs.shape[1] > 0:
            raise UsageError("a bidirectional token MLP reads whole sequences, not chunks")
        u, z = self.activation(self.up(x)).chunk(2, dim=-1)
        inputs = by_position(state.inputs, self.norm(z), span)
        s = inputs.shape[1]
        if s > self.places and x.device.type != "meta":
            raise UsageError(f"{s} tokens, but a token MLP has max_seq_len = {self.places} places")
        y: Tensor = self.out(u * self._mix(inputs, span.positions))
        return y, TokenMLPState(inputs)

    def _mix(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """All tokens by position (b, s, n), mixed for those at ``positions`` (1 or b, t): b t n."""
        heads, places = self.config.num_heads, positions.clamp(min=0)
        rows = self._rows(places, inputs.shape[1])
        z = inputs.view(*inputs.shape[:2], heads, inputs.shape[2] // heads)
        if len(rows) == 1:
            # Rows of the batch stand side by side, so that M is not copied for each.
            b, s, _, c = z.shape
            beside = z.permute(2, 1, 0, 3).reshape(heads, s, b * c)
            mixed = (rows[0] @ beside).view(heads, -1, b, c).permute(2, 1, 0, 3)
        else:
            mixed = (rows @ z.transpose(1, 2)).transpose(1, 2)
        bias = self.place_bias.t()[places]
        return (mixed + bias[..., None]).flatten(2)

    def _rows(self, places: Tensor, s: int) -> Tensor:
        """Rows of M at ``places`` (1 or b, t), their first s columns: (1 or b, h, t, s)."""
        columns = torch.arange(s, device=places.device)
        if not self.causal:
            return self.weight[:, places, :s].transpose(0, 1)
        above = columns > places[..., None]
        index = (places * (places + 1) // 2)[..., None] + columns
        # index_select: its backward adds up, several times faster than that of indexing
        rows = self.weight.index_select(1, index.masked_fill(above, 0).flatten())
        return (
            rows.view(len(self.weight), *index.shape)
            .transpose(0, 1)
            .masked_fill(above[:, None], 0.0)
        )
