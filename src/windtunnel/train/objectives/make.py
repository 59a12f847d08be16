"""From what is written to an objective."""

from __future__ import annotations

from typing import Any

from torch import nn

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.errors import UsageError
from windtunnel.train.objectives.config import (
    MaskedTokenConfig,
    NextTokenConfig,
    ObjectiveConfig,
    Seq2SeqConfig,
    chosen,
)
from windtunnel.train.objectives.masked_token import MaskedToken
from windtunnel.train.objectives.next_token import NextToken
from windtunnel.train.objectives.objective import Objective
from windtunnel.train.objectives.seq2seq import Seq2Seq


def objective_of(written: ObjectiveConfig, model: nn.Module) -> Objective[Any]:
    """The objective that rows of a text are trained on, for a model.

    A module that does not say what architecture it has is taken for a decoder.

    Raises:
        UsageError: the objective and the architecture do not fit.
    """
    architecture: Architecture | None = getattr(model, "architecture", None)
    if architecture is None:
        config, vocab_size = chosen(written, "decoder"), 0
    else:
        config, vocab_size = chosen(written, architecture.type), architecture.vocab_size
        reason = misfit(config, architecture)
        if reason is not None:
            raise UsageError(f"train.objective: {reason}")
    if isinstance(config, MaskedTokenConfig):
        return MaskedToken(config, vocab_size=vocab_size)
    if isinstance(config, Seq2SeqConfig):
        return Seq2Seq(config, vocab_size=vocab_size)
    if isinstance(config, NextTokenConfig):
        return NextToken(config, vocab_size=vocab_size)
    raise UsageError(f"train.objective: {config.type} is not trained on rows of a text")


def misfit(config: ObjectiveConfig, arch: ArchSpec | Architecture) -> str | None:
    """Why rows of a text cannot train that architecture so, or None where they can."""
    if not config.from_text:
        return f"{config.type} needs more than rows of a text; it has no data source yet"
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
