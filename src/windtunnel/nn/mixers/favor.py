"""FAVOR+: softmax attention by random features (Choromanski et al. 2021, arXiv 2009.14794)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from windtunnel.errors import UsageError
from windtunnel.nn.activations import relu2
from windtunnel.nn.component import Scope, Span, filled, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import keyed_generator
from windtunnel.nn.mixers.linear_heads import at_least_float32
from windtunnel.nn.mixers.positive_attention import PositiveAttention, PositiveConfig
from windtunnel.nn.ops.positive import Sums
from windtunnel.nn.ops.wide import without_autocast

_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu2": relu2,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
}


class FavorConfig(PositiveConfig):
    """Attention with the kernel exp(q·k/√k), estimated by m random features, or a generalized one.

    In time and memory linear in the length. Under `position: rope` x is turned before φ: what the
    softmax kernel estimates depends on the distance alone, but generalized features are no linear
    maps, and their weights depend on the positions themselves (RoFormer, arXiv 2104.09864, eq. 19,
    turns the features instead, in the numerator alone).
    """

    type: Literal["favor"] = "favor"
    nb_features: int | None = Field(None, ge=1)
    """Random features of a head (m); ⌊head_dim · ln head_dim⌋ when left out."""
    kernel: Literal["softmax", "generalized"] = "softmax"
    """softmax: φ(x) = exp(Wx' − |x'|²/2), whose products estimate exp(q·k/√head_dim);
    generalized: φ(x) = kernel_fn(Wx') + epsilon. x' = x·head_dim^(−1/4)."""
    kernel_fn: Literal["relu", "relu2", "softplus", "sigmoid"] | None = None
    """The function of the generalized kernel, never negative; relu when left out."""
    epsilon: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Added to each generalized feature, so that none is 0; 0.001 when left out."""
    feature_redraw_interval: int | None = Field(1000, ge=1)
    """Training steps between two draws of the features; never when null."""
    auto_check_redraw: bool = True
    """Whether training draws new features by itself; otherwise only `redraw()` does."""

    @model_validator(mode="after")
    def _knobs_of_the_kernel(self) -> Self:
        told = [name for name in ("kernel_fn", "epsilon") if getattr(self, name) is not None]
        if self.kernel == "softmax" and told:
            raise ValueError(f"{' and '.join(told)} has no effect on kernel softmax")
        return self

    def resolve(self, scope: Scope) -> Self:
        resolved = super().resolve(scope)
        k = filled(resolved.head_dim)
        features = self.nb_features or max(1, int(k * math.log(k)))
        if self.kernel == "softmax":
            return resolved.replace(nb_features=features)
        return resolved.replace(
            nb_features=features,
            kernel_fn=self.kernel_fn or "relu",
            epsilon=1e-3 if self.epsilon is None else self.epsilon,
        )

    def features(self) -> Num:
        return filled(self.nb_features)

    def cost(self, scope: Scope, t: Num) -> Cost:
        projected = 4 * filled(self.num_heads) * filled(self.head_dim) * self.features()
        return super().cost(scope, t) + Cost(
            forward_flops=projected, decode_flops=projected, state_values=1
        )

    def _kept_by_features(self) -> Num:
        if self.kernel == "softmax":
            return filled(self.head_dim)
        return 4 * self.features()


class FavorState(NamedTuple):
    """The sums over the keys so far, and under which features they were made."""

    peak: Tensor
    """b h m"""
    sums: Tensor
    """b h m v+1"""
    draw: Tensor
    """(b,) int64"""


@register("mixer")
class Favor(PositiveAttention):
    """φ(x) = exp(Wx' − |x'|²/2), x' = x·k^(−1/4): E_W φ(q)·φ(k) = m·exp(q·k/√k) (lemma 1).

    ``projection`` W (m, k), shared by the heads of a layer: stacked k × k orthogonal blocks whose
    rows have the norms of Gaussian rows (section 2.4). It is a buffer, as are ``draws`` (how often
    it was drawn anew), ``updates`` (steps since) and ``frozen``; checkpoints have all four. With
    ``kernel: generalized`` φ(x) = f(Wx') + epsilon, with f and epsilon as the paper's
    implementations have them.

    Deviations: m^(−1/2) and a query's |x'|²/2 are left out, as both cancel; nothing is added to the
    features of the softmax kernel, nor to denominators (the sums are relative to running maxima);
    new features are drawn between training steps and never in a forward.
    """

    Config = FavorConfig
    config: FavorConfig

    def __init__(self, config: FavorConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        # An encoder's layer and a decoder's of the same number draw other features.
        self.place = (scope.layer,) if scope.causal else ("both ways", scope.layer)
        self.register_buffer("projection", torch.empty(config.features(), self.head_dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))

    projection: Tensor
    updates: Tensor
    draws: Tensor
    frozen: Tensor

    def buffer_values(self, seed: int, name: str) -> dict[str, Tensor]:
        """The first features, keyed by (seed, the buffer's full name), and counters at 0."""
        full_name = f"{name}.projection" if name else "projection"
        values = {"projection": self._drawn(keyed_generator(seed, full_name))}
        return values | {key: torch.tensor(0) for key in ("updates", "draws", "frozen")}

    def _drawn(self, generator: torch.Generator) -> Tensor:
        return orthogonal_features(self.config.features(), self.head_dim, generator)

    def after_update(self, seed: int, step: int) -> None:
        """Counts a training step; new features after every ``feature_redraw_interval`` of them."""
        interval = self.config.feature_redraw_interval
        automatic = self.config.auto_check_redraw and interval is not None
        if not (automatic and self.training) or bool(self.frozen):
            return
        self.updates += 1
        if int(self.updates) >= filled(interval):
            self.redraw(seed, step)

    @torch.no_grad()
    def redraw(self, seed: int, step: int) -> None:
        """New features, a function of (seed, step) and the layer alone; older states are void.

        Raises UsageError where the features are frozen.
        """
        if bool(self.frozen):
            raise UsageError("favor: the features are frozen; unfreeze() them before a redraw")
        generator = keyed_generator(seed, "favor", *self.place, step)
        self.projection.copy_(self._drawn(generator))
        self.draws += 1
        self.updates.zero_()

    def freeze(self) -> None:
        """Keeps the features as they are, for good: no redraw until :meth:`unfreeze`."""
        self.frozen.fill_(True)

    def unfreeze(self) -> None:
        """Lets features be drawn again."""
        self.frozen.fill_(False)

    def log_features(self, x: Tensor, *, of_keys: bool) -> Tensor:
        with without_autocast(x.device):
            x = x.to(at_least_float32(x.dtype)) * float(self.head_dim) ** -0.25
            features = x @ self.projection.to(x.dtype).T
            if self.config.kernel == "generalized":
                assert self.config.kernel_fn is not None
                assert self.config.epsilon is not None
                return torch.log(_KERNELS[self.config.kernel_fn](features) + self.config.epsilon)
            if of_keys:
                features = features - x.square().sum(-1, keepdim=True) / 2
            return features

    def initial_state(self, batch: int) -> FavorState:
        return FavorState(*self.empty(batch), self.draws.expand(batch).clone())

    def forward(self, x: Tensor, span: Span) -> Tensor:
        return self.read(x, self.empty(x.shape[0]), span)[0]

    def extend(self, x: Tensor, state: FavorState, span: Span) -> tuple[Tensor, FavorState]:
        """Raises UsageError where the state was made under other features, or when a bidirectional
        mixer is asked to continue."""
        if bool((state.draw != self.draws).any()):
            raise UsageError(
                "favor: the state was made before the features were drawn anew, so it cannot be "
                "continued; start from initial_state()"
            )
        y, after = self.read(x, Sums(state.peak, state.sums), span)
        return y, FavorState(*after, state.draw)


def orthogonal_features(m: int, k: int, generator: torch.Generator) -> Tensor:
    """(m, k) float32: rows orthogonal within each block of k, with the norms of Gaussian rows."""
    blocks = -(-m // k)
    gaussian = torch.randn(blocks, k, k, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    # The signs of r's diagonal make q uniform over all rotations.
    rows = (q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]).mT.reshape(-1, k)[:m]
    norms = torch.randn(m, k, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
    features: Tensor = (rows * norms).float()
    return features
