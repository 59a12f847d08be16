"""From the stream to logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.config import Choice, Config
from windtunnel.nn.activations import ACTIVATIONS, Activation, kept_values
from windtunnel.nn.component import ComponentConfig, Norm, Scope, build_component
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.embedding import TIED_GAIN
from windtunnel.nn.initialize import Init, constant, normal
from windtunnel.nn.linear import Linear
from windtunnel.nn.norms.layernorm import LayerNormConfig
from windtunnel.nn.norms.rmsnorm import RMSNormConfig
from windtunnel.nn.ops.chunked_cross_entropy import summed_cross_entropy

Pooling = Literal["mean", "first", "last"]


class HeadTransformConfig(Config):
    """``norm(activation(linear(x)))``, d -> d, as BERT's head does before the tied weight."""

    activation: Activation = "gelu"
    """The elementwise function."""
    norm: Annotated[ComponentConfig, Choice("norm")] = LayerNormConfig()
    """The norm of its output, which the logits are made of."""
    bias: bool = True
    """Whether the linear map adds a bias."""

    def resolve(self, scope: Scope) -> Self:
        return self.replace(norm=self.norm.resolve(scope))

    def cost(self, scope: Scope, t: Num, *, scaled: bool = False) -> Cost:
        """Without what the reader of its output keeps; of ``scaled`` outputs it keeps a copy."""
        kept = scope.d_model * kept_values(self.activation)
        if scaled and self.norm.type == "none":
            kept += scope.d_model * (2 - kept_values(self.activation))
        linear = linear_cost(scope.d_model, scope.d_model, bias=self.bias)
        return linear + self.norm.cost(scope, t) + Cost(activation_values=kept)


class HeadConfig(Config):
    """``cap(scale · weight · norm(x) + bias)``: logits of the vocabulary at every token, of classes
    for the whole sequence, or nothing but the norm."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {"type", "num_classes", "pooling", "scale", "transform"}
    )

    type: Literal["vocabulary", "classification", "none"] = "vocabulary"
    """What the logits are of; none: the model ends with the normed stream."""
    norm: Annotated[ComponentConfig, Choice("norm", "rmsnorm")] = RMSNormConfig()
    """The last norm of the stream."""
    transform: HeadTransformConfig | None = None
    """A layer of its own between the norm (and the pooling) and the weight; none when left out."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["rsqrt"] | None = None
    """Factor of the logits, before the bias; `rsqrt` is 1/√d_model, as T5 has beside its tied
    weight. None when left out."""
    bias: bool = False
    """Whether each logit has a bias."""
    softcap: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Soft limit c of the logits, c·tanh(z/c); none when left out."""
    init_std: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Standard deviation of an untied weight at the start; 0.32/√d_model, over `scale`, when left
    out."""
    num_classes: int | None = Field(None, ge=1)
    """Classification: how many classes."""
    pooling: Pooling | None = None
    """Classification: which real tokens are read: their mean (if not told), the first, the last."""

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        if self.type == "classification" and self.num_classes is None:
            raise ValueError("a classification head needs num_classes")
        classes = ("num_classes", "pooling")
        logits = ("transform", "scale", "bias", "softcap", "init_std")
        idle = {"vocabulary": classes, "classification": (), "none": (*classes, *logits)}
        for name in idle[self.type]:
            if getattr(self, name) not in (None, False):
                raise ValueError(f"{name} has no effect on a head of type {self.type}")
        return self

    def resolve(self, scope: Scope) -> Self:
        if scope.tie and self.init_std is not None:
            raise ValueError("init_std has no effect on a tied head; set embedding.init_std")
        scale = scope.d_model**-0.5 if self.scale == "rsqrt" else self.scale
        std = self.init_std
        if std is None and not scope.tie and self.type != "none":
            std = TIED_GAIN * scope.d_model**-0.5 / (scale or 1.0)
        pooling = self.pooling
        if self.type == "classification":
            pooling = pooling or "mean"
        return self.replace(
            norm=self.norm.resolve(scope),
            transform=self.transform and self.transform.resolve(scope),
            scale=scale,
            init_std=std,
            pooling=pooling,
        )

    def outputs(self, scope: Scope) -> Num:
        """How many logits there are."""
        return scope.vocab_size if self.type == "vocabulary" else self.num_classes or 0

    def cost(self, scope: Scope, t: Num) -> Cost:
        """A tied weight is not counted again, and the loss keeps the logits: not counted here."""
        d, V = scope.d_model, self.outputs(scope)
        norm = self.norm.cost(scope, t)
        if self.type == "none":
            return norm
        logits = linear_cost(d, V, bias=self.bias)
        if self.transform is not None:
            logits += self.transform.cost(scope, t, scaled=self.scale is not None)
        kept = logits.activation_values + d + V * (self.softcap is not None)
        if self.type == "classification":  # once a sequence, and not while decoding
            once = Cost(forward_flops=logits.forward_flops / t, activation_values=kept / t)
            return Cost(params=logits.params) + once + norm
        tied = Cost(params=-d * V) if scope.tie else Cost()
        return replace(logits, activation_values=kept) + tied + norm


class HeadTransform(nn.Module):
    """norm(activation(linear(x))): … d -> … d."""

    def __init__(self, config: HeadTransformConfig, scope: Scope) -> None:
        super().__init__()
        self.linear = Linear(scope.d_model, scope.d_model, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.norm: Norm[Any] = build_component("norm", config.norm, scope)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.activation(self.linear(x)))
        return y


class Head(nn.Module):
    """The last norm and the logits: b t d -> b t V, of classes b d -> b C; ``weight`` (V or C, d).

    With ``scope.tie`` there is no weight until that of the embedding is assigned to ``weight``.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, config: HeadConfig, scope: Scope) -> None:
        super().__init__()
        self.config = config
        d, V = scope.d_model, config.outputs(scope)
        own = not scope.tie and config.type != "none"
        self.norm: Norm[Any] = build_component("norm", config.norm, scope)
        self.transform: HeadTransform | None = None
        if config.transform is not None:
            self.transform = HeadTransform(config.transform, scope)
        self.register_parameter("weight", nn.Parameter(torch.empty(V, d)) if own else None)
        self.register_parameter("bias", nn.Parameter(torch.empty(V)) if config.bias else None)
        self.product: nn.Module | None = None
        """Stands for the product with weight and bias, where another form of them is faster."""

    def initializers(self) -> dict[str, Init]:
        """The inits of ``bias`` and, where it is the head's own, ``weight``."""
        inits = {"bias": constant(0.0)}
        if self.config.init_std is not None:
            inits["weight"] = normal(self.config.init_std)
        return inits

    def normed(self, x: Tensor) -> Tensor:
        """What the logits, or the transform before them, are made of: b t d -> b t d."""
        y: Tensor = self.norm(x)
        return y

    def pooled(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """The vector that stands for the real tokens: b t d -> b d; 0 where all are pads."""
        b, t, _ = hidden.shape
        if real is None:
            real = hidden.new_ones(b, t, dtype=torch.bool)
        if self.config.pooling == "first":
            real = real & (real.cumsum(1) == 1)
        elif self.config.pooling == "last":
            real = real & (real.flip(1).cumsum(1).flip(1) == 1)
        count = real.sum(1, keepdim=True).clamp(min=1)
        return hidden.masked_fill(~real[..., None], 0.0).sum(1) / count.to(hidden.dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of what :meth:`normed` or :meth:`pooled` gave; without a head just that."""
        if self.config.type == "none":
            return hidden
        assert self.weight is not None, "a tied head needs the embedding's weight"
        hidden = self._read(hidden)
        if self.product is None:
            logits = F.linear(hidden, self.weight, self.bias)
        else:
            logits = self.product(hidden)
        cap = self.config.softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _read(self, hidden: Tensor) -> Tensor:
        """What the weight is multiplied with."""
        scale = self.config.scale
        assert scale != "rsqrt", "an unresolved config was built"
        if self.transform is not None:
            hidden = self.transform(hidden)
        return hidden if scale is None else hidden * scale

    def summed_nats(self, hidden: Tensor, targets: Tensor, rows: int) -> Tensor:
        """Σ −ln p(target) over what :meth:`forward` gives, a float32 scalar; the logits of so many
        ``rows`` at once. b t d, b t (−100: counts nothing)."""
        assert self.weight is not None, "a tied head needs the embedding's weight"
        return summed_cross_entropy(
            self._read(hidden).flatten(0, -2),
            self.weight,
            targets.flatten(),
            rows=rows,
            bias=self.bias,
            softcap=self.config.softcap,
        )
