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
| a memory's keys of d or more numbers, without ``base_head_dim`` | 1/√m | as always |
| maps in diagonal blocks of n numbers, of n₀ at the base | n₀/n | variance 1/n, as always |
| vectors, and matrices that read fewer numbers (ranks, states, positions) | 1 | as always |

All factors are in the initial values and the rates, none in the forward: so whatever reads a
checkpoint computes the right thing. (For Adam a factor of the output is one of the init and the
rate: the same paper, lemma J.1.) The decay of what moves slower grows as much, so that a step's
decay is the same. At the base width nothing changes, to the bit.

Deviations: which inputs grow with the width is told by their size, since one architecture does not
say how it would be widened; ``train.groups`` can say otherwise. Blocks are taken to be as many as
where nothing is written. A memory's keys are multiplied by 1/√k, so half of 1/m is in the forward
already. Depth is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from windtunnel.arch import Architecture
from windtunnel.errors import UsageError
from windtunnel.nn.component import Scope, filled
from windtunnel.nn.embedding import TIED_GAIN
from windtunnel.nn.memory_slots import SlotReader, Slots
from windtunnel.nn.mixers.rg_lru import BlockLinear, RGLRUConfig
from windtunnel.nn.mixers.softmax_attention import SoftmaxAttention
from windtunnel.nn.mixers.token_mlp import TokenMLP
from windtunnel.train.group_config import MupConfig
from windtunnel.train.groups import WidthScale
from windtunnel.train.optimizers.config import is_matrix

LAST_NORM = "head.norm."


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
        "the number of blocks that an rg_lru has, since it does not tell how wide they are at the "
        "base width; leave num_heads out, or write 1": _odd_blocks(architecture, mup),
    }
    for what, there in known.items():
        if there:
            return f"muP is not worked out for {what}"
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
    """Multiply the initial weights that stand for a factor of logits, in place."""
    for name, factor in _starts(model, mup).items():
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
    d = architecture.d_model
    ratio = d / mup.base_width
    read = dict(_fan_ins(model))
    growing = [
        name
        for name, parameter in model.named_parameters()
        if is_matrix(name, parameter.shape) and read.get(name, 0) >= d
    ]
    factors = _starts(model, mup) | _partial_rates(model, mup)
    if architecture.embedding.scale:
        factors["embedding.weight"] = ratio**-0.5
    return WidthScale(ratio, frozenset(growing), factors)


def _fan_ins(model: nn.Module) -> Iterator[tuple[str, int]]:
    """How many numbers of a token each whole matrix reads, by its name."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if isinstance(module, BlockLinear):
                if parameter.ndim == 3 and len(parameter) == 1:
                    yield name, parameter.shape[1]
            elif parameter.ndim == 2 and not isinstance(module, TokenMLP):  # it reads positions
                yield name, parameter.shape[1]


def _partial_rates(model: nn.Module, mup: MupConfig) -> dict[str, float]:
    """The factors of the rates of maps that read parts: maps in blocks, and a memory's keys."""
    d = _architecture(model).d_model
    rates: dict[str, float] = {}
    for prefix, module in model.named_modules() if d != mup.base_width else ():
        if isinstance(module, BlockLinear):
            blocks, width, _ = module.weight.shape
            if blocks > 1 and blocks * width >= d:
                base = max(1, round(blocks * width * mup.base_width / d))
                rates[f"{prefix}.weight"] = base / _usual_blocks(base) / width
        elif isinstance(module, (Slots, SlotReader)) and mup.base_head_dim is None:
            keys = getattr(module, "keys", None)
            if keys is not None and keys.shape[2] >= d:
                rates[f"{prefix}.keys"] = (mup.base_width / d) ** 0.5
    return rates


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


def _starts(model: nn.Module, mup: MupConfig) -> dict[str, float]:
    """The factor of the parameters that stand for one of the logits: of their start and rate."""
    architecture = _architecture(model)
    factors: dict[str, float] = {}
    if architecture.embedding.tie:
        ratio = architecture.d_model / mup.base_width
        names = [n for n, _ in model.named_parameters() if n.startswith(LAST_NORM)]
        scaled = architecture.embedding.scale  # then the table itself holds half of the factor
        factors |= dict.fromkeys(names, ratio**-0.5 if scaled else 1 / ratio)
    if mup.base_head_dim is None:
        return factors
    for prefix, module in model.named_modules():
        if isinstance(module, (SoftmaxAttention, SlotReader)):
            factor = (mup.base_head_dim / filled(module.config.head_dim)) ** 0.5
            has_norm = isinstance(module, SoftmaxAttention) and list(module.q_norm.parameters())
            normed = "q_norm" if has_norm else "q"
            own = [f"{prefix}.{normed}.{n}" for n, _ in getattr(module, normed).named_parameters()]
            factors |= dict.fromkeys(own, factor)
    return factors


def _architecture(model: nn.Module) -> Architecture:
    architecture = getattr(model, "architecture", None)
    if not isinstance(architecture, Architecture):
        raise UsageError("train.mup: the model does not say what architecture it has")
    return architecture
