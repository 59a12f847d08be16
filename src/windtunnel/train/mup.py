"""muP: initial weights and learning rates with which the best rate is the same at every width.

The maximal update parametrization for Adam-like optimizers (Yang et al. 2022, arXiv 2203.03466,
tables 3 and 8). With d the width, d₀ ``base_width`` and m = d/d₀:

| parameters | learning rate | at the start |
|---|---|---|
| matrices inside the stack that read d or more numbers | 1/m | variance 1/fan_in, as always |
| an untied head | 1/m | deviation 1/m of that at d₀ |
| embeddings, absolute positions | 1 (1/√m where they are multiplied by √d) | as at d₀ |
| the last norm, before a tied head | 1/m | 1/m (1/√m, √d times): the factor of the logits |
| queries, where heads are wider than ``base_head_dim`` | √(k₀/k)/m | √(k₀/k): logits as 1/k |
| the vectors of differential attention's λ, where heads are wider | k₀/k | as always |
| routers, and maps to the factors of a residual | 1/m | deviation 1/m of that at d₀ |
| a memory's keys of d or more numbers, without ``base_head_dim`` | 1/√m | as always |
| diagonal blocks and default ranks of n numbers, n₀ at d₀ | n₀/n | variance 1/n, as always |
| other vectors, and matrices that read fewer numbers (states, positions) | 1 | as always |

All factors are in the initial values and the rates, none in the forward: so whatever reads a
checkpoint computes the right thing. (For Adam a factor of the output is one of the init and the
rate: the same paper, lemma J.1.) The decay of what moves slower grows as much, so that a step's
decay is the same. At the base width nothing changes, to the bit.

A router maps a growing number to a fixed one: its weights are output weights (table 8). So are
those that predict a residual's factors, one of each for all channels.

Deviations: which inputs grow with the width is told by their size, since one architecture does not
say how it would be widened; ``train.groups`` can say otherwise. Blocks are taken to be as many at
the base as where nothing is written. So are ranks to be as large, where they are the default's; a
rank of another size is taken to be fixed. A memory's keys are multiplied by 1/√k, so half of 1/m is
in the forward already. Other maps to a fixed number (a state's, low ranks) start as all matrices
do. Depth is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from windtunnel.arch import Architecture
from windtunnel.errors import UsageError
from windtunnel.nn.component import Scope, filled
from windtunnel.nn.cross_attention import CrossAttention, CrossAttentionConfig
from windtunnel.nn.depth import DepthRouter
from windtunnel.nn.embedding import TIED_GAIN
from windtunnel.nn.memory_slots import SlotReader, Slots, SlotsConfig
from windtunnel.nn.mixers.differential_attention import DifferentialAttention
from windtunnel.nn.mixers.favor import Favor, FavorConfig
from windtunnel.nn.mixers.latent_attention import LatentAttention, LatentAttentionConfig
from windtunnel.nn.mixers.mamba import Mamba, MambaConfig
from windtunnel.nn.mixers.rg_lru import BlockLinear, RGLRUConfig
from windtunnel.nn.mixers.softmax_attention import SoftmaxAttention, SoftmaxConfig
from windtunnel.nn.mixers.token_mlp import TokenMLP
from windtunnel.nn.mlps.moe import MoE
from windtunnel.nn.residuals.mixed import MixedConfig, MixedResidual
from windtunnel.train.group_config import MupConfig
from windtunnel.train.groups import WidthScale
from windtunnel.train.optimizers.config import is_matrix

LAST_NORM = "head.norm."
WITHOUT_LOGITS = frozenset(
    {"delta_net", "gated_delta_net", "gla", "linear_attention", "mamba2", "retnet", "rwkv"}
)
"""Mixers whose heads may be of any width: what they read is normed, or a mean whose weights do not
grow with it."""


def mup_misfit(architecture: Architecture, mup: MupConfig) -> str | None:
    """Why muP does not know what to do with an architecture, or None where it does."""
    embedding, head = architecture.embedding, architecture.head
    known = {
        "an encoder_decoder": architecture.type == "encoder_decoder",
        "input that comes as vectors": architecture.input != "tokens",
        "a unified embedding": embedding.unified is not None,
        "unit weights": architecture.unit_weights,
        "a scale or a transform in the head": head.scale is not None or head.transform is not None,
        f"a head of type {head.type}": head.type != "vocabulary",
        "unified weights of kind expanded": any(
            layer.linear is not None and layer.linear.kind == "expanded"
            for layer in architecture.layers
        ),
        "the number of blocks that an rg_lru has, since it does not tell how wide they are at the "
        "base width; leave num_heads out, or write 1": _odd_blocks(architecture, mup),
    }
    for what, there in known.items():
        if there:
            return f"muP is not worked out for {what}"
    heads = _odd_heads(architecture, mup)
    if heads is not None:
        return f"base_head_dim: muP is not worked out for wider heads of {heads}"
    affine = getattr(head.norm, "affine", False)
    if embedding.tie and architecture.d_model != mup.base_width and not affine:
        return "with a tied head the last norm must have a weight, which holds the logits' factor"
    return None


def mup_architecture(architecture: Architecture, mup: MupConfig) -> Architecture:
    """The architecture whose initial deviations are those that muP asks for; all else is equal.

    Raises:
        UsageError: muP is not worked out for it.
    """
    reason = mup_misfit(architecture, mup)
    if reason is not None:
        raise UsageError(f"train.mup: {reason}")
    d, base = architecture.d_model, mup.base_width
    if d == base:
        return architecture
    embedding, head, m = architecture.embedding, architecture.head, d / base
    assert embedding.init_std is not None, "an unresolved architecture was given"
    std = embedding.init_std
    rms = std * d**0.5 if embedding.scale else std
    if embedding.tie and std == TIED_GAIN * d**-0.5:
        std = TIED_GAIN * base**-0.5
    if embedding.scale:
        std /= m**0.5
    position = embedding.position
    if getattr(position, "init_std", None) == rms:
        position = position.replace(init_std=std * d**0.5 if embedding.scale else std)
    if head.init_std is not None:
        natural = head.init_std == TIED_GAIN * d**-0.5
        head = head.replace(init_std=head.init_std / (m**0.5 if natural else m))
    embedding = embedding.replace(init_std=std, position=position)
    return architecture.replace(embedding=embedding, head=head)


@torch.no_grad()
def rescale(model: nn.Module, mup: MupConfig) -> None:
    """Multiply the initial weights whose start is not that of every matrix, in place."""
    factors = dict(_logit_factors(model, mup)) | dict(_output_starts(model, mup))
    for name, factor in factors.items():
        if factor == 1:
            continue
        owner, _, own = name.rpartition(".")
        offset = getattr(model.get_submodule(owner), "offset", 0.0) if own == "weight" else 0.0
        model.get_parameter(name).add_(offset).mul_(factor).sub_(offset)


def width_scale(model: nn.Module, mup: MupConfig) -> WidthScale:
    """How the rates of a model's parameters depend on its width.

    Raises:
        UsageError: the model has no architecture, or muP is not worked out for its own.
    """
    architecture = _architecture(model)
    reason = mup_misfit(architecture, mup)
    if reason is not None:
        raise UsageError(f"train.mup: {reason}")
    growing = dict(_by_size(model, mup)) | dict(_blocks(model, mup)) | dict(_ranks(model, mup))
    factors = dict(_logit_factors(model, mup)) | dict(_partial_rates(model, mup))
    if architecture.embedding.scale:
        factors["embedding.weight"] = (architecture.d_model / mup.base_width) ** -0.5
    return WidthScale(growing, factors)


def _by_size(model: nn.Module, mup: MupConfig) -> Iterator[tuple[str, float]]:
    """The maps that read a whole token or more, and how much more than at the base width."""
    d = _architecture(model).d_model
    for prefix, module in model.named_modules():
        if isinstance(module, DepthRouter):  # its one row is kept as a vector
            yield f"{prefix}.weight", d / mup.base_width
        elif not isinstance(module, TokenMLP):  # it reads positions
            for name, parameter in module.named_parameters(prefix, recurse=False):
                whole = parameter.ndim == 2 and parameter.shape[1] >= d
                if whole and is_matrix(name, parameter.shape):
                    yield name, d / mup.base_width


def _blocks(model: nn.Module, mup: MupConfig) -> Iterator[tuple[str, float]]:
    """The maps in diagonal blocks, and how much more a block reads than at the base width."""
    d = _architecture(model).d_model
    for prefix, module in model.named_modules() if d != mup.base_width else ():
        if isinstance(module, BlockLinear):
            blocks, width, _ = module.weight.shape
            base = max(1, round(blocks * width * mup.base_width / d))
            if blocks * width >= d:
                one = d / mup.base_width
                growth = one if blocks == 1 else width / (base / _usual_blocks(base))
                yield f"{prefix}.weight", growth


def _ranks(model: nn.Module, mup: MupConfig) -> Iterator[tuple[str, float]]:
    """The maps that read a rank which is as where none is written, and how much that has grown."""
    d, base = _architecture(model).d_model, mup.base_width
    for prefix, module in model.named_modules():
        names: tuple[str, ...] = ("k", "v")
        if isinstance(module, LatentAttention):
            h, k = filled(module.config.num_heads), filled(module.config.head_dim)
            inner = max(1, round(h * k * base / d))
            base_k = min(mup.base_head_dim or k, inner)
            rank, usual = filled(module.config.kv_rank), _usual_latent(h, k)
            then = _usual_latent(inner // base_k, base_k)
        elif isinstance(module, Mamba):
            names, rank = ("dt_proj",), filled(module.config.dt_rank)
            usual, then = (
                filled(MambaConfig().resolve(Scope(d_model=n)).dt_rank) for n in (d, base)
            )
        elif isinstance(module, MixedResidual) and module.config.kind == "mlp":
            names, rank = ("out",), filled(module.config.d_hidden)
            mixed = MixedConfig(kind="mlp")
            usual, then = (filled(mixed.resolve(Scope(d_model=n)).d_hidden) for n in (d, base))
        else:
            continue
        if rank == usual:
            yield from ((f"{prefix}.{name}.weight", rank / then) for name in names)


def _usual_latent(heads: int, width: int) -> int:
    """The rank of the latent of keys and values where none is written."""
    config = LatentAttentionConfig(num_heads=heads, head_dim=width)
    return filled(config.resolve(Scope(d_model=heads * width)).kv_rank)


def _partial_rates(model: nn.Module, mup: MupConfig) -> Iterator[tuple[str, float]]:
    """The factors of the rates of a memory's keys, and of the vectors of λ, by name."""
    d, base_k = _architecture(model).d_model, mup.base_head_dim
    for prefix, module in model.named_modules():
        if isinstance(module, (Slots, SlotReader)) and base_k is None:
            keys = getattr(module, "keys", None)
            if keys is not None and keys.shape[2] >= d:
                yield f"{prefix}.keys", (mup.base_width / d) ** 0.5
        elif isinstance(module, DifferentialAttention) and base_k is not None:
            for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
                yield f"{prefix}.{name}", base_k / filled(module.config.head_dim)


def _odd_blocks(architecture: Architecture, mup: MupConfig) -> bool:
    """Whether a map has so many blocks that nobody knows their width at the base width."""
    d = architecture.d_model
    return d != mup.base_width and any(
        isinstance(mixer, RGLRUConfig)
        and filled(mixer.d_inner) >= d
        and mixer.num_heads not in (1, _usual_blocks(filled(mixer.d_inner)))
        for mixer in (layer.mixer for layer in architecture.layers)
    )


def _usual_blocks(width: int) -> int:
    """How many blocks an rg_lru of that width within has where none are written."""
    return filled(RGLRUConfig(d_inner=width).resolve(Scope(d_model=width)).num_heads)


def _odd_heads(architecture: Architecture, mup: MupConfig) -> str | None:
    """What has heads of another width than at the base, whose logits nobody knows to scale."""
    for layer in architecture.layers:
        for part in (layer.mixer, layer.mlp, layer.cross):
            width = getattr(part, "head_dim", None)
            if mup.base_head_dim is None or width in (None, mup.base_head_dim):
                continue
            text = _odd_queries(part)
            if text is None and layer.linear is not None and layer.linear.type == "unified":
                text = "maps with unified vectors"
            if text is not None:
                return text
    return None


def _odd_queries(part: Any) -> str | None:
    """Why a part has no queries that stand for a factor of its logits; None where it has, or needs
    none."""
    known = (SoftmaxConfig, SlotsConfig, CrossAttentionConfig, LatentAttentionConfig)
    if isinstance(part, SoftmaxConfig):
        norm = part.qk_norm
        normed = norm.type != "none" and not getattr(norm, "affine", False)
        return f"{part.type} with a qk_norm that has no weight" if normed else None
    if isinstance(part, FavorConfig):
        return None if part.kernel == "softmax" else f"{part.type} with kernel {part.kernel}"
    return None if isinstance(part, known) or part.type in WITHOUT_LOGITS else str(part.type)


def _logit_factors(model: nn.Module, mup: MupConfig) -> Iterator[tuple[str, float]]:
    """The factor of the parameters that stand for one of the logits: of their start and rate."""
    architecture = _architecture(model)
    if architecture.embedding.tie:
        ratio = architecture.d_model / mup.base_width
        scaled = architecture.embedding.scale  # then the table itself holds half of the factor
        for name, _ in model.named_parameters():
            if name.startswith(LAST_NORM):
                yield name, ratio**-0.5 if scaled else 1 / ratio
    if mup.base_head_dim is None:
        return
    for prefix, module in model.named_modules():
        factor = _query_factor(module, mup.base_head_dim)
        if factor is not None:
            has_norm = isinstance(module, SoftmaxAttention) and list(module.q_norm.parameters())
            normed = "q_norm" if has_norm else "q"
            for name, _ in getattr(module, normed).named_parameters():
                yield f"{prefix}.{normed}.{name}", factor


def _query_factor(module: nn.Module, base: int) -> float | None:
    """√(k₀/k) for what has queries of k numbers, k₀ where a head is ``base`` wide, else None."""
    if isinstance(module, LatentAttention):
        k, turned = filled(module.config.head_dim), filled(module.config.rope_dim)
        base_turned = _usual_turned(base) if turned == _usual_turned(k) else turned
        return float(((base + base_turned) / (k + turned)) ** 0.5)
    if isinstance(module, (SoftmaxAttention, SlotReader, CrossAttention, Favor)):
        return float((base / filled(module.config.head_dim)) ** 0.5)
    return None


def _usual_turned(width: int) -> int:
    """How much of a latent attention's heads of that width is turned where nothing is written."""
    config = LatentAttentionConfig(num_heads=1, head_dim=width).resolve(Scope(d_model=width))
    return filled(config.rope_dim)


def _output_starts(model: nn.Module, mup: MupConfig) -> Iterator[tuple[str, float]]:
    """The factor of the start of maps to a fixed number, by name: with 1/√fan_in it makes theirs
    1/m."""
    factor = (mup.base_width / _architecture(model).d_model) ** 0.5
    ranks = dict(_ranks(model, mup))
    for prefix, module in model.named_modules():
        if isinstance(module, DepthRouter):
            yield f"{prefix}.weight", factor
        elif isinstance(module, MoE) and module.router is not None:
            yield f"{prefix}.router", factor
        elif isinstance(module, MixedResidual) and module.config.per == "scalar":
            if module.config.kind == "linear":
                yield from ((f"{prefix}.{name}.weight", factor) for name in ("stream", "branch"))
            elif module.config.kind == "mlp":
                yield f"{prefix}.out.weight", ranks.get(f"{prefix}.out.weight", 1.0) ** -0.5


def _architecture(model: nn.Module) -> Architecture:
    architecture = getattr(model, "architecture", None)
    if not isinstance(architecture, Architecture):
        raise UsageError("train.mup: the model does not say what architecture it has")
    return architecture
