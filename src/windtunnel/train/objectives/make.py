"""From what is written to an objective, and to the model that it trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from windtunnel.arch import Architecture, ArchSpec, build
from windtunnel.data.config import Kind
from windtunnel.errors import UsageError
from windtunnel.train.objectives.classification import Classification
from windtunnel.train.objectives.config import (
    DiffusionConfig,
    NextTokenConfig,
    ObjectiveConfig,
    chosen,
)
from windtunnel.train.objectives.diffusion import Diffusion, DiffusionModel
from windtunnel.train.objectives.masked_token import MaskedToken
from windtunnel.train.objectives.next_token import NextToken
from windtunnel.train.objectives.objective import Objective
from windtunnel.train.objectives.seq2seq import Seq2Seq

_CLASSES: dict[str, type[Objective[Any]]] = {
    "next_token": NextToken,
    "masked_token": MaskedToken,
    "seq2seq": Seq2Seq,
    "classification": Classification,
    "diffusion": Diffusion,
}


def objective_of(written: ObjectiveConfig, model: nn.Module) -> Objective[Any]:
    """The objective that a model is trained on.

    A module that has ``own_objective()`` is trained on what that returns; one that does not say
    what architecture it has is taken for a decoder.

    Raises:
        UsageError: the objective and the model do not fit.
    """
    own = getattr(model, "own_objective", None)
    if own is not None:
        brought: Objective[Any] = own()
        return brought
    architecture: Architecture | None = getattr(model, "architecture", None)
    if architecture is None:
        return NextToken(chosen(written, "decoder"), vocab_size=0)  # type: ignore[arg-type]
    data: Kind = "text"
    if isinstance(model, DiffusionModel):
        data = "pairs"
    elif architecture.head.type == "classification":
        data = "labels"
    config = chosen(written, architecture.type, data)
    reason = misfit(config, architecture)
    if reason is None and isinstance(config, DiffusionConfig) != isinstance(model, DiffusionModel):
        reason = "diffusion trains a DiffusionModel, and nothing else does"
    if reason is not None:
        raise UsageError(f"train.objective: {reason}")
    made = _CLASSES[config.type]
    return made(config, vocab_size=architecture.vocab_size, architecture=architecture)


def build_model(
    config: ObjectiveConfig,
    architecture: Architecture,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
) -> Any:
    """The model that an objective trains, with its initial weights: a pure function of objective,
    architecture and seed. ``config`` is not auto: see ``chosen``."""
    if isinstance(config, DiffusionConfig):
        return DiffusionModel.built(architecture, seed).to(device)
    return build(architecture, seed, device=device)


def data_misfit(config: ObjectiveConfig, data: Kind) -> str | None:
    """Why that kind of data cannot train so, or None where it can."""
    if isinstance(config, NextTokenConfig) and config.source and data != "text":
        return "source cuts rows of a text; pairs have their prompts"
    if data in config.data:
        return None
    types = {"text": "files", "pairs": "pairs or parallel", "labels": "labels"} | {
        "probe": "mqar, …"
    }
    held = "a synthetic task" if data == "probe" else data
    needed = " or ".join(f"{kind} (data.source of type {types[kind]})" for kind in config.data)
    return f"{config.type} needs {needed}, and data.source holds {held}"


def misfit(config: ObjectiveConfig, arch: ArchSpec | Architecture) -> str | None:
    """Why that architecture cannot be trained so, or None where it can."""
    if arch.type not in config.topologies:
        allowed = " or ".join(config.topologies)
        why = "; it would see the token that it is to find" if arch.type == "encoder" else ""
        return f"{config.type} trains the type {allowed}, and arch.type is {arch.type}{why}"
    if arch.head.type != config.head:
        return f"{config.type} reads a {config.head} head, and arch.head.type is {arch.head.type}"
    if arch.input != "tokens":
        return f"{config.type} needs arch.input tokens, not {arch.input}"
    if arch.type == "decoder" and any(layer.cross is not None for layer in arch.layers):
        return f"{config.type} has no memory for the cross-attention of a decoder"
    return None
