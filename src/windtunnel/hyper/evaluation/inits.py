"""Initialisations that a prediction has to beat.

``default``: this project's own. ``gpt2``: N(0, 0.02²), outputs of branches over √(2L), embeddings
as well (Radford et al. 2019). ``gpt2_wide``: the same with embeddings of 0.1, which suits tied
heads. ``torch``: what ``nn.Linear``, ``nn.Embedding`` and ``nn.RNN`` do. ``orthogonal``: orthogonal
maps, forget gates open. ``unigram``: the default, and logits that begin at the tokens' frequencies,
through the last norm's bias. ``mup``: the default's deviations and rates by muP, at their usual
values where ``d_model`` is 64; without a rule of muP (a tied head without a norm), the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windtunnel.arch import Architecture, build
from windtunnel.hyper.anatomy import Anatomy, Slot, anatomy_of
from windtunnel.nn.initialize import keyed_generator
from windtunnel.train.group_config import MupConfig
from windtunnel.train.mup import mup_architecture, mup_misfit, rescale

Weights = dict[str, Tensor]
_GPT2, _WIDE = 0.02, 0.1
_MUP = MupConfig(base_width=64)


def scaling_of(name: str, architecture: Architecture) -> MupConfig | None:
    """How the learning rates go with the width, for the initialisation of that name."""
    fits = name == "mup" and mup_misfit(architecture, _MUP) is None
    return _MUP if fits else None


def initial(name: str, architecture: Architecture, seed: int, counts: NDArray[np.int64]) -> Weights:
    """The weights of an initialisation, by name of the parameter.

    Args:
        counts: (V,), how often each token occurs in the training text.
    """
    scaling = scaling_of(name, architecture)
    model = build(mup_architecture(architecture, scaling) if scaling else architecture, seed)
    if scaling:
        rescale(model, scaling)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    if name in ("default", "mup"):
        return weights
    if name == "unigram":
        return _unigram(weights, architecture, counts)
    rule = {"gpt2": _gpt2, "gpt2_wide": _gpt2_wide, "torch": _torch, "orthogonal": _orthogonal}[
        name
    ]
    anatomy, found = anatomy_of(architecture), dict(weights)
    for slot in anatomy.slots:
        found[slot.name] = rule(slot, anatomy, keyed_generator(seed, name, slot.name))
    return found


Rule = Callable[[Slot, Anatomy, torch.Generator], Tensor]
_ENDS = ("out_weight", "down_weight")
"""How the roles of maps end that write a branch's output, those of gated feed-forwards too."""


def _vectors(slot: Slot) -> Tensor:
    return torch.ones(slot.shape) if slot.role.endswith("norm_weight") else torch.zeros(slot.shape)


def _gpt2(slot: Slot, anatomy: Anatomy, generator: torch.Generator, table: float = _GPT2) -> Tensor:
    if len(slot.shape) < 2:
        return _vectors(slot)
    std = table if slot.role in ("embedding", "head") else _GPT2
    if slot.role.endswith(_ENDS):
        std /= math.sqrt(2 * anatomy.n_layer)
    return torch.randn(slot.shape, generator=generator) * std


def _gpt2_wide(slot: Slot, anatomy: Anatomy, generator: torch.Generator) -> Tensor:
    return _gpt2(slot, anatomy, generator, _WIDE)


def _torch(slot: Slot, anatomy: Anatomy, generator: torch.Generator) -> Tensor:
    """Within 1/√n of 0, of a map's bias too; n are the map's inputs, of a recurrence as many as its
    hidden units."""
    if slot.role.endswith(("norm_weight", "norm_bias")):
        return _vectors(slot)
    if slot.role in ("embedding", "position"):
        return torch.randn(slot.shape, generator=generator)
    inputs, _ = anatomy.ops[slot.op].sizes
    bound = inputs**-0.5
    return torch.empty(slot.shape).uniform_(-bound, bound, generator=generator)


def _orthogonal(slot: Slot, anatomy: Anatomy, generator: torch.Generator) -> Tensor:
    if slot.role in ("embedding", "head", "position"):
        return torch.randn(slot.shape, generator=generator) * _WIDE
    if len(slot.shape) < 2:
        value = _vectors(slot)
        if slot.role == "lstm_bias_ih":
            value[slot.shape[0] // 4 : slot.shape[0] // 2] = 1.0
        return value
    kind = slot.role.split("_")[0]
    blocks = {"lstm": 4, "gru": 3}.get(kind, 1)
    value = torch.empty(slot.shape)
    for block in value.chunk(blocks):
        torch.nn.init.orthogonal_(block, generator=generator)
    return value / math.sqrt(2 * anatomy.n_layer) if slot.role.endswith(_ENDS) else value


def _unigram(weights: Weights, architecture: Architecture, counts: NDArray[np.int64]) -> Weights:
    """The last norm's bias b so that the head's W·b is nearest to the tokens' log frequencies.

    Where there is no such bias (recurrent families) nothing changes.
    """
    found = dict(weights)
    if "head.norm.bias" not in found:
        return found
    head = found.get("head.weight", found["embedding.weight"]).double()
    logs = torch.log(torch.from_numpy(counts + 0.5).double() / counts.sum())
    wanted = (logs - logs.mean())[:, None]
    ridge = 1e-3 * torch.eye(head.shape[1]).double() * head.square().sum() / head.shape[1]
    solved = torch.linalg.solve(head.T @ head + ridge, head.T @ wanted)
    found["head.norm.bias"] = solved.flatten().float()
    return found
