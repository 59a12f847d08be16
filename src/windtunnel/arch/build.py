"""From an architecture to a model with its initial weights."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from windtunnel.arch.cost import cost
from windtunnel.arch.encoder_decoder import EncoderDecoder
from windtunnel.arch.model import Model
from windtunnel.arch.spec import Architecture
from windtunnel.errors import UsageError, WindtunnelError
from windtunnel.nn.component import Registry
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
        UsageError: no memory can hold the model, or that of the device does not; or a component of
            the user's own fails while it is built or initialized.
    """
    params = cost(architecture).total.params
    if params >= _MOST_PARAMS:
        raise UsageError(f"{architecture.name} has {params:.3g} parameters: no memory holds them")
    with _told_as_its_own():
        kind = Model if architecture.encoder is None else EncoderDecoder
        with torch.device("meta"):
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
    with _told_as_its_own():
        initialize(model, seed, parameters=initialized)
    if model.sphere is not None and initialized:
        model.sphere.normalize()
    return model


@contextmanager
def _told_as_its_own() -> Iterator[None]:
    """A failure inside a component that is not the package's becomes a UsageError with its place;
    one of the package's own stays what it is."""
    try:
        yield
    except WindtunnelError:
        raise
    except Exception as error:
        place = None
        for frame, _ in traceback.walk_tb(error.__traceback__):  # the innermost is the culprit
            place = _place(frame) or place
        if place is None:
            raise
        raise UsageError(f"{place}: {type(error).__name__}: {error}") from error


def _place(frame: FrameType) -> str | None:
    """Which foreign component a frame builds or initializes."""
    values = frame.f_locals
    if frame.f_code is Registry.build.__code__:
        registry, name, scope = values["self"], values["config"].type, values["scope"]
        known = (cls for cls in registry if cls.Config.model_fields["type"].default == name)
        if any(_is_foreign(cls) for cls in known):
            inside = registry.kind in ("mixer", "mlp", "residual")
            where = f"layers[{scope.layer}]: " if inside else ""
            return f"{where}{registry.kind} {name} cannot be built"
    if frame.f_code is initialize.__code__ and "module" in values:
        foreign = _is_foreign(type(values["module"]))
        return f"{values['prefix']} cannot be initialized" if foreign else None
    return None


def _is_foreign(cls: type) -> bool:
    return cls.__module__.partition(".")[0] != "windtunnel"


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
