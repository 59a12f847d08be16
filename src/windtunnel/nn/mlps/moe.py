"""Mixture of experts: each token is read by a few feed-forwards of many."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.config import Choice
from windtunnel.nn.auxiliary import auxiliary_losses, counted, may_tally
from windtunnel.nn.component import (
    MLP,
    ComponentConfig,
    Scope,
    build_component,
    register,
)
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.fold import Folded, fold_part, under
from windtunnel.nn.initialize import Init, fan_in_std, normal
from windtunnel.nn.memory_slots import store_of
from windtunnel.nn.mlps.none import NoMLPConfig
from windtunnel.nn.ops.wide import wide_linear
from windtunnel.nn.ops.widest import widest

_RATES = {"loss": 1e-2, "loss_free": 1e-3}


class MoEConfig(ComponentConfig):
    """``scale · Σ gate_i · expert_i(x)`` over the top_k experts of a router, plus shared ones.

    No expert has a capacity, so no token is dropped. With one expert it is that expert.
    """

    type: Literal["moe"] = "moe"
    num_experts: int = Field(8, ge=1)
    """Experts to choose from."""
    top_k: int = Field(2, ge=1)
    """Experts that read each token."""
    expert: Annotated[ComponentConfig, Choice("mlp", "glu")] = Field(
        default_factory=lambda: Choice("mlp").validate("glu")
    )
    """What each expert is."""
    shared_experts: int = Field(0, ge=0)
    """Further experts that read every token (DeepSeekMoE, arXiv 2401.06066, eq. 9)."""
    dense: Annotated[ComponentConfig, Choice("mlp")] = NoMLPConfig()
    """A feed-forward of its own kind beside the experts, whose output is added."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    """What makes gates of the router's logits: softmax over all experts, or a sigmoid each."""
    normalize: bool | None = None
    """Whether the chosen gates are divided by their sum; where top_k > 1 when left out."""
    scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Factor of what the chosen experts give."""
    noise: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Standard deviation of the noise on the router's logits, in training."""
    balance: Literal["none", "loss", "loss_free"] = "none"
    """What keeps all experts in use: nothing; an auxiliary loss e·Σ f_i·P_i, with f_i the part of
    all choices that fell on expert i and P_i its mean gate (Switch, arXiv 2101.03961, eq. 4); or a
    bias of the choice alone, moved after each update (arXiv 2408.15664, algorithm 1)."""
    balance_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    """The coefficient of that loss, 0.01 when left out; or the step of that bias, 0.001."""

    @model_validator(mode="after")
    def _what_has_an_effect(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is more than num_experts {self.num_experts}")
        if self.normalize and self.top_k == 1 < self.num_experts:
            raise ValueError("normalize makes the one gate 1: the router would learn nothing")
        if self.balance == "none" and self.balance_rate is not None:
            raise ValueError("balance_rate has no effect without balance")
        if self.num_experts == 1 and (self.noise or self.balance != "none"):
            raise ValueError("one expert has no router: noise and balance have no effect")
        if self.expert.type in ("none", "moe"):
            raise ValueError(f"an expert cannot be {self.expert.type!r}; choose dense or glu")
        if store_of(self.expert) is not None or store_of(self.dense) is not None:
            raise ValueError("a store is read by a layer's own mixer or mlp, not by an expert")
        return self

    def resolve(self, scope: Scope) -> Self:
        rate = self.balance_rate
        return self.replace(
            expert=self.expert.resolve(scope),
            dense=self.dense.resolve(scope),
            normalize=self.top_k > 1 if self.normalize is None else self.normalize,
            balance_rate=_RATES.get(self.balance) if rate is None else rate,
        )

    def cost(self, scope: Scope, t: Num) -> Cost:
        """All parameters, and the FLOPs of the experts that are active."""
        d, e, k = scope.d_model, self.num_experts, self.top_k
        expert = self.expert.cost(scope, t)
        active = Cost(
            forward_flops=expert.forward_flops * k,
            decode_flops=expert.decode_flops * k,
            # An expert's own input is a row of the sorted tokens.
            activation_values=expert.activation_values * k,
            wide_values=expert.wide_values * k,
            working_values=expert.working_values * k,
            shared_values=expert.shared_values * e,
        )
        routed = e > 1
        router = Cost(
            params=d * e * routed,
            forward_flops=2 * d * e * routed,
            decode_flops=2 * d * e * routed,
            activation_values=d + self._kept(d, e, k) * routed,
            # The router reads in float32, and numbers of tokens are int64.
            wide_values=(d + self._kept(d, e, k) + k - k * d) * routed,
        )
        # The experts beside the router read the input that it keeps.
        beside = expert * self.shared_experts + self.dense.cost(scope, t)
        others = self.shared_experts + (self.dense.type != "none")
        return (
            router
            + active
            + Cost(params=expert.params * e)
            + beside
            + Cost(activation_values=-d * others - d * (1 - routed))
        )

    def _kept(self, d: Num, e: Num, k: Num) -> Num:
        """The scores (σ keeps two), the choice, the order and its inverse (int64: two each), the
        experts' outputs in the tokens' order, and the gates."""
        return e * (1 + (self.score == "sigmoid")) + 6 * k + k * d + k


@register("mlp")
class MoE(MLP[MoEConfig]):
    """y = scale · Σ_{i in top_k} gate_i · expert_i(x) + Σ shared_j(x) + dense(x).

    gate = softmax(router · x) or σ(router · x), in float32; ``router`` (e, d). Shazeer et al. 2017
    (arXiv 1701.06538, eq. 1), with the softmax over all experts before the choice, as GShard and
    Switch have it; normalised it is that over the chosen, as in Mixtral (arXiv 2401.04088). The
    noise has one fixed deviation where Shazeer learns it. Tokens are sorted by expert, so each
    expert reads its own in one piece.
    """

    Config = MoEConfig
    tallies = ("load",)
    router: nn.Parameter | None
    load: Tensor

    def __init__(self, config: MoEConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.counts_whole_batches = config.balance == "loss"
        d, e = scope.d_model, config.num_experts
        self.register_parameter("router", nn.Parameter(torch.empty(e, d)) if e > 1 else None)
        self.experts = nn.ModuleList(_expert(config, scope) for _ in range(e))
        self.shared = nn.ModuleList(_expert(config, scope) for _ in range(config.shared_experts))
        self.dense: MLP[Any] | None = None
        if config.dense.type != "none":
            self.dense = build_component("mlp", config.dense, scope)
        if config.balance == "loss_free":
            self.register_buffer("balance_bias", torch.zeros(e))
            self.register_buffer("load", torch.zeros(e, dtype=torch.long), persistent=False)

    def initializers(self) -> dict[str, Init]:
        if self.router is None:
            return {}
        return {"router": normal(fan_in_std(self.router.shape[1]))}

    def buffer_values(self, seed: int, name: str) -> dict[str, Tensor]:
        """Before the first step no expert is favoured."""
        return {key: torch.zeros(len(self.experts)) for key, _ in self.named_buffers(recurse=False)}

    def forward(self, x: Tensor) -> Tensor:
        if self.router is None:
            y: Tensor = self.experts[0](x)
        else:
            gates, chosen = self._route(x.flatten(0, -2), self.router)
            y = self._mixed(x.flatten(0, -2), gates.to(x.dtype), chosen).view_as(x)
        if self.config.scale != 1.0:
            y = y * self.config.scale
        for expert in self.shared:
            y = y + expert(x)
        return y if self.dense is None else y + self.dense(x)

    def _route(self, x: Tensor, router: Tensor) -> tuple[Tensor, Tensor]:
        """n d -> the gates and the experts of each token, n k each."""
        config = self.config
        logits = wide_linear(x, router)
        if config.noise and self.training:
            logits = logits + config.noise * torch.randn_like(logits)
        # In logarithms, so that normalised gates are finite and sum to 1 however small they are.
        score = F.logsigmoid(logits) if config.score == "sigmoid" else logits.log_softmax(-1)
        favoured = score.detach()
        if config.balance == "loss_free":
            favoured = favoured.exp() + self.get_buffer("balance_bias")
        chosen = favoured.topk(config.top_k, dim=-1).indices
        if self.training:
            self._weigh(score, chosen)
        gates = score.gather(1, chosen)
        return gates.softmax(-1) if config.normalize else gates.exp(), chosen

    def _weigh(self, score: Tensor, chosen: Tensor) -> None:
        """Takes note of how evenly the experts are used."""
        config, collector = self.config, auxiliary_losses(self)
        score, chosen = counted(score), counted(chosen)
        e = config.num_experts
        if config.balance == "loss_free":
            if may_tally(self):
                self.load += chosen.flatten().bincount(minlength=e)
        elif config.balance == "loss" and collector is not None:
            assert config.balance_rate is not None, "an unresolved config was built"
            chosen_by = collector.whole(chosen.flatten().bincount(minlength=e))
            tokens = (chosen_by.sum() / config.top_k).clamp(min=1)
            used = chosen_by / (tokens * config.top_k)
            mean = score.softmax(-1).sum(0) / tokens
            collector.add(config.balance_rate * e * (used * mean).sum(), part=True)

    def _mixed(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Each token through its experts: n d, n k, n k -> n d."""
        (n, d), k = x.shape, self.config.top_k
        expert_of = chosen.flatten()
        order = expert_of.argsort(stable=True)  # n·k rows, those of the first expert first
        sizes = expert_of.bincount(minlength=len(self.experts)).tolist()
        rows = torch.split(x[order // k], sizes)
        # An expert without tokens runs too, on no rows: its gradient is then 0 and not missing.
        read = torch.cat([expert(own) for expert, own in zip(self.experts, rows, strict=True)])
        # Back in the tokens' order by a permutation: adding up where they fall would be random.
        back = read.index_select(0, order.argsort()).view(n, k, d)
        return (back * gates[..., None]).sum(1)

    @torch.no_grad()
    def after_update(self, seed: int, step: int) -> None:
        """Moves the bias of each expert against its load since the last update."""
        if self.config.balance != "loss_free":
            return
        assert self.config.balance_rate is not None, "an unresolved config was built"
        load = widest(self.load)
        bias = self.get_buffer("balance_bias")
        bias.add_(self.config.balance_rate * (load.mean() - load).sign().to(bias.dtype))
        self.load.zero_()

    def folded(self) -> Folded:
        """The same mixture of folded experts."""
        names = {name for name, _ in self.named_parameters(recurse=False)} | {"balance_bias"}
        weights = {key: value for key, value in self.state_dict().items() if key in names}
        expert: Any = self.config.expert
        for group in ("experts", "shared"):
            for index, module in enumerate(self.get_submodule(group).children()):
                plain = fold_part(module)
                expert = plain.config
                weights |= under(f"{group}.{index}", plain.weights)
        dense = self.config.dense
        if self.dense is not None:
            plain = fold_part(self.dense)
            dense = plain.config
            weights |= under("dense", plain.weights)
        return Folded(self.config.replace(expert=expert, dense=dense), weights)


def _expert(config: MoEConfig, scope: Scope) -> nn.Module:
    module: nn.Module = build_component("mlp", config.expert, scope)
    return module
