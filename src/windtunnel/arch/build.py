"""From an architecture to a model with its initial weights."""

from __future__ import annotations

from typing import Any

import torch

from windtunnel.arch.cost import cost
from windtunnel.arch.encoder_decoder import EncoderDecoder
from windtunnel.arch.model import Model
from windtunnel.arch.spec import Architecture
from windtunnel.errors import UsageError
from windtunnel.nn.initialize import initialize

_MOST_PARAMS = 2**59
"""Of more torch cannot even tell the size in bytes."""


def build(
    architecture: Architecture,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    initialized: bool = True,
) -> Model:
    """The model with its initial weights, a pure function of (architecture, seed).

    An :class:`EncoderDecoder` for an encoder_decoder, else a :class:`Model`.

    The ``meta`` device gives shapes without any memory. Where not ``initialized``, parameters have
    arbitrary values, and wait for weights from elsewhere.

    Raises:
        UsageError: no memory can hold the model, or that of the device does not.
    """
    params = cost(architecture).total.params
    if params >= _MOST_PARAMS:
        raise UsageError(f"{architecture.name} has {params:.3g} parameters: no memory holds them")
    with torch.device("meta"):
        kind = Model if architecture.encoder is None else EncoderDecoder
        model = kind(architecture)
    if torch.device(device).type == "meta":
        return model.to(dtype)
    tagged = [n for n, p in model.named_parameters() if getattr(p, "secondary_optimizer", False)]
    try:
        model = model.to(dtype).to_empty(device=device)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise UsageError(
            f"{architecture.name} has {params:,} parameters: {device} has no memory for them"
        ) from error
    for name in tagged:  # what a part asks for, which a new tensor does not know
        model.get_parameter(name).secondary_optimizer = True  # type: ignore[attr-defined]
    if architecture.embedding.tie:
        model.head.weight = model.embedding.weight
    initialize(model, seed, parameters=initialized)
    if model.sphere is not None and initialized:
        model.sphere.normalize()
    return model


def example_inputs(architecture: Architecture, batch: int, t: int) -> tuple[Any, ...]:
    """Arguments that a model of that architecture takes: for traces, tables and smoke tests.

    >>> from windtunnel.arch import ArchSpec, resolve
    >>> spec = ArchSpec(d_model=8, vocab_size=5, layers=({"mixer": "lstm"},))
    >>> example_inputs(resolve(spec), 1, 7)[0].tolist()
    [[0, 1, 2, 3, 4, 0, 1]]
    """
    vectors = torch.linspace(-1, 1, batch * t * architecture.d_model)
    vectors = vectors.view(batch, t, architecture.d_model)
    if architecture.input == "embeddings":
        inputs = vectors
    else:
        inputs = torch.arange(batch * t).view(batch, t) % architecture.vocab_size
    if architecture.encoder is not None:
        size = architecture.encoder.vocab_size or architecture.vocab_size
        source = inputs if architecture.input == "embeddings" else inputs % size
        return source, inputs
    return (inputs, None, vectors) if architecture.reads_memory else (inputs,)
