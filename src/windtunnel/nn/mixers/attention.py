"""Softmax attention: multi-head, grouped, multi-query, masked, soft-capped, normed."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from windtunnel.config import Choice
from windtunnel.nn.component import (
    ComponentConfig,
    Norm,
    Scope,
    Span,
    build_component,
    filled,
    register,
)
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant
from windtunnel.nn.mixers.softmax_attention import SoftmaxAttention, SoftmaxConfig
from windtunnel.nn.norms.cosine import stretch
from windtunnel.nn.norms.none import NoNormConfig


class AttentionConfig(SoftmaxConfig):
    """``out(softmax(scale · q kᵀ) v)``, h heads of queries reading g heads of keys and values."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {"dilation", "stride", "global_tokens"}
        | {"k_norm", "v_norm", "learned_scale", "value_residual", "qk_norm_over"}
    )

    type: Literal["attention"] = "attention"
    k_norm: Annotated[ComponentConfig, Choice("norm")] = NoNormConfig()
    """Norm of each head's keys alone, before the positions."""
    qk_norm_over: Literal["head", "all_heads"] = "head"
    """What qk_norm and k_norm norm at once: one head, or all heads side by side (OLMo 2)."""
    v_norm: Annotated[ComponentConfig, Choice("norm")] = NoNormConfig()
    """Norm of each head's values."""
    learned_scale: Literal["none", "layer", "head"] = "none"
    """A learned temperature, a factor of the logits that starts at 1: one, or one a head."""
    value_residual: Literal["none", "fixed", "learned"] = "none"
    """Whether values are a mean with those of the first such layer of equally many and wide heads:
    halves, or two learned weights that start there."""

    @model_validator(mode="after")
    def _one_norm_of_keys(self) -> Self:
        if "none" not in (self.qk_norm.type, self.k_norm.type):
            raise ValueError("qk_norm norms the keys already; give qk_norm or k_norm")
        if self.qk_norm_over != "head" and self.qk_norm.type == self.k_norm.type:
            raise ValueError("qk_norm_over has no effect without a norm of queries or keys")
        return self

    def resolve(self, scope: Scope) -> Self:
        resolved = super().resolve(scope)
        inside = scope.inside(filled(resolved.num_heads), filled(resolved.head_dim))
        resolved = resolved.replace(v_norm=self.v_norm.resolve(inside))
        if self.qk_norm_over == "all_heads":  # of two widths: what each would derive stays open
            return resolved.replace(qk_norm=self.qk_norm)
        return resolved.replace(k_norm=self.k_norm.resolve(inside))

    def _usual_scale(self, h: int, g: int, k: int) -> float:
        wide, narrow = (h * k, g * k) if self.qk_norm_over == "all_heads" else (k, k)
        of_keys = self.qk_norm if self.k_norm.type == "none" else self.k_norm
        return float(k**-0.5 * stretch(self.qk_norm, wide) * stretch(of_keys, narrow))

    def cost(self, scope: Scope, t: Num) -> Cost:
        h, g, k = filled(self.num_heads), filled(self.num_kv_heads), filled(self.head_dim)
        inside = scope.inside(h, k)
        norms = self.k_norm.cost(inside, t) + self.v_norm.cost(inside, t)
        wider = self._wider(scope, inside, t) if self.qk_norm_over == "all_heads" else Cost()
        scaled = self.learned_scale != "none"
        learned = self.value_residual == "learned"
        return (
            super().cost(scope, t)
            + wider
            + Cost(
                params=norms.params
                + scaled * (h if self.learned_scale == "head" else 1)
                + 2 * learned,
                activation_values=g * norms.activation_values + scaled * h * k + learned * g * k,
                wide_values=g * norms.wide_values,
                working_values=g * norms.working_values,
            )
        )

    def _wider(self, scope: Scope, inside: Scope, t: Num) -> Cost:
        """What norms over all heads have beyond those over one."""
        h, g, k = filled(self.num_heads), filled(self.num_kv_heads), filled(self.head_dim)
        total = Cost()
        for norm, heads in ((self.qk_norm, h), (self.qk_norm, g), (self.k_norm, g)):
            one, all_at_once = norm.cost(inside, t), norm.cost(scope.inside(1, heads * k), t)
            total += Cost(
                params=all_at_once.params - one.params,
                activation_values=all_at_once.activation_values - heads * one.activation_values,
                wide_values=all_at_once.wide_values - heads * one.wide_values,
            )
        return total


@register("mixer")
class Attention(SoftmaxAttention[AttentionConfig]):
    """q = W_q x, k = W_k x, v = W_v x, y = W_o softmax(cap(scale · q kᵀ) · factor + bias) v.

    With a learned temperature q is multiplied by exp(``log_scale``), (1,) or (h,), which starts
    at 0. Norms of keys or values alone and the temperature are ideas of LMPlay (jmward01/lmplay).

    With a value residual (Zhou et al. 2024, arXiv 2410.17897, section 3) v becomes
    λ₁ v₁ + λ₂ v: v₁ are the first layer's values of the same tokens, which the same call has made,
    so they need no state. ``value_mix`` is (λ₁, λ₂). For the first layer v₁ = v: a fixed mean
    leaves it as it is, as in the paper.
    """

    Config = AttentionConfig

    def __init__(self, config: AttentionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        inside = scope.inside(filled(config.num_heads), filled(config.head_dim))
        of_keys = config.qk_norm if config.k_norm.type == "none" else config.k_norm
        h, g, k = filled(config.num_heads), filled(config.num_kv_heads), inside.d_model
        if config.qk_norm_over == "all_heads":
            wide, narrow = scope.inside(1, h * k), scope.inside(1, g * k)
            self.q_norm = build_component("norm", config.qk_norm.resolve(wide), wide)
            self.k_norm = build_component("norm", of_keys.resolve(narrow), narrow)
        elif config.k_norm.type != "none":
            self.k_norm = build_component("norm", of_keys, inside)
        self.v_norm: Norm[Any] = build_component("norm", config.v_norm, inside)
        self.layer = scope.layer
        numbers = {"none": 0, "layer": 1, "head": filled(config.num_heads)}[config.learned_scale]
        self.log_scale = nn.Parameter(torch.empty(numbers)) if numbers else None
        mixed = config.value_residual == "learned"
        self.value_mix = nn.Parameter(torch.empty(2)) if mixed else None

    def initializers(self) -> dict[str, Init]:
        return {"log_scale": constant(0.0), "value_mix": constant(0.5)}

    def _normed(self, norm: Norm[Any], x: Tensor) -> Tensor:
        if self.config.qk_norm_over == "head":
            return super()._normed(norm, x)
        normed: Tensor = norm(x.flatten(2))
        return normed.view_as(x)

    def queries(self, x: Tensor, span: Span) -> Tensor:
        q = super().queries(x, span)
        return q if self.log_scale is None else q * self.log_scale.exp()[:, None]

    def values(self, x: Tensor, span: Span) -> Tensor:
        v: Tensor = self.v_norm(super().values(x, span))
        if self.config.value_residual == "none":
            return v
        first = self._first_values(v, span)
        if self.value_mix is None:
            return 0.5 * first + 0.5 * v
        return self.value_mix[0] * first + self.value_mix[1] * v

    def _first_values(self, v: Tensor, span: Span) -> Tensor:
        """Those of the lowest layer that shares values of this shape; ``v`` where it is this one.

        Found by the layer's number, not by who came first: a span that is used again holds what
        an earlier call has left.
        """
        shared = ("first values", tuple(v.shape))
        layers = [key[2] for key in span.memo if isinstance(key, tuple) and key[:2] == shared]
        lowest = min(layers, default=self.layer)
        if lowest >= self.layer:
            span.memo[*shared, self.layer] = (v,)
            return v
        return span.memo[*shared, lowest][0]
