"""The loss that an architecture will train to, guessed from what a hypernetwork's encoder sees."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from windtunnel.arch import Architecture, cost
from windtunnel.errors import UsageError
from windtunnel.hyper import regression
from windtunnel.hyper.anatomy import GATES, Anatomy, anatomy_of
from windtunnel.hyper.encoder import GraphEncoder, pooled
from windtunnel.hyper.graph import graph_of
from windtunnel.hyper.network import HyperNetwork
from windtunnel.hyper.regression import Kernel, Regression, Scale
from windtunnel.hyper.stored import Stored
from windtunnel.runs import strict_json, write_atomic
from windtunnel.train.restore import kept_tensors

FORMAT = 1
LEAST = 12
"""Structures that are needed at least."""
_MIXERS = (*GATES, "attend", "gate", "other")
"""Kinds of operations that are counted, each over the number of layers."""
NUMBERS = (
    "log_params", "log_params_of_layers", "log_d_model", "log_layers", "log_heads", "ff_ratio",
    "tied", "causal", "log_vocabulary", "log_positions", *(f"{kind}_a_layer" for kind in _MIXERS),
)  # fmt: skip
"""Numbers of an architecture beside its embedding; logarithms are to the base 2."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """An architecture as the predictor sees it: two that are equal here are one to it."""

    anatomy: Anatomy
    params: int

    @classmethod
    def of(cls, architecture: Architecture) -> Subject:
        return cls(anatomy_of(architecture), int(cost(architecture).total.params))

    @property
    def family(self) -> str:
        """What its layers are made of."""
        found = {op.kind for op in self.anatomy.ops if op.kind in (*GATES, "attend", "other")}
        return "+".join(sorted("attention" if kind == "attend" else kind for kind in found)) or "-"

    def numbers(self) -> list[float]:
        """The values of :data:`NUMBERS`."""
        anatomy, layers = self.anatomy, self.anatomy.n_layer
        inside = sum(
            math.prod(slot.shape)
            for slot in anatomy.slots
            if anatomy.ops[slot.op].layer is not None
        )
        kinds = [op.kind for op in anatomy.ops]
        return [
            math.log2(max(1, self.params)), math.log2(max(1, inside)), math.log2(anatomy.d_model),
            math.log2(layers), math.log2(anatomy.n_head), anatomy.d_ff / anatomy.d_model,
            float(anatomy.tied), float(anatomy.causal), math.log2(max(1, anatomy.vocab_size)),
            math.log2(anatomy.max_seq_len), *(kinds.count(kind) / layers for kind in _MIXERS),
        ]  # fmt: skip


@dataclass(frozen=True)
class Features:
    """Of some architectures: numbers (n, p), pooled embeddings of the encoder (n, w)."""

    numbers: Floats
    embedding: Floats

    def __getitem__(self, rows: Any) -> Features:
        return Features(self.numbers[rows], self.embedding[rows])


def encoder_of(stored: Stored) -> GraphEncoder:
    """The encoder of a hypernetwork.

    Raises:
        UsageError: it is a rival of single models, which reads no architectures.
    """
    if not isinstance(stored.network, HyperNetwork):
        raise UsageError(f"{stored.path}: single models have no encoder; give a hypernetwork")
    return stored.network.encoder


def encoder_digest(encoder: GraphEncoder) -> str:
    """The SHA-256 of an encoder's weights in half precision, so that a run and its release, which
    is rounded so, are the same."""
    total = hashlib.sha256()
    for name, tensor in sorted(kept_tensors(encoder).items()):
        total.update(f"{name} {list(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return total.hexdigest()


@torch.no_grad()
def features_of(encoder: GraphEncoder, subjects: Sequence[Subject]) -> Features:
    """What the regression reads; embeddings have six digits."""
    rows = [pooled(encoder(graph_of(subject.anatomy))).double().numpy() for subject in subjects]
    embedding = np.array([[float(f"{value:.6g}") for value in row] for row in rows])
    numbers = np.array([subject.numbers() for subject in subjects])
    return Features(
        numbers.reshape(len(subjects), -1), embedding.reshape(len(subjects), -1)
    )  # fmt: skip


@dataclass(frozen=True)
class Predictor:
    """A fitted predictor, and all that it was fitted to."""

    name: str
    """Of the hypernetwork."""
    encoder: str
    """The digest of the encoder whose embeddings it reads."""
    features: Features
    losses: Floats
    counts: Floats
    """How many results each loss is the mean of."""
    kernel: Kernel
    noise: float
    variance: float
    quality: Mapping[str, Any] = field(default_factory=dict)
    """What cross-validation said: see :func:`windtunnel.hyper.predictor_fit.quality`."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Where the results are from."""

    @cached_property
    def regression(self) -> Regression:
        scale = Scale.of(self.features.numbers, self.features.embedding)
        points = scale(self.features.numbers, self.features.embedding)
        return regression.solved(
            self.kernel, self.noise, self.variance, scale, points, self.losses, self.counts
        )

    def check(self, encoder: GraphEncoder) -> None:
        """Raises UsageError where the embeddings are not those of this encoder."""
        found = encoder_digest(encoder)
        if found != self.encoder:
            raise UsageError(
                f"the predictor belongs to the encoder {self.encoder[:12]} of {self.name!r}, and "
                f"this hypernetwork's is {found[:12]}; fit it anew with `windtunnel ghn predictor "
                "fit`"
            )

    def predict(self, encoder: GraphEncoder, subjects: Sequence[Subject]) -> tuple[Floats, Floats]:
        """The loss of one training of each and its standard deviation, in nats a token.

        Raises:
            UsageError: the encoder is another one.
        """
        self.check(encoder)
        if not subjects:
            return np.zeros(0), np.zeros(0)
        found = features_of(encoder, subjects)
        return self.regression.predict(found.numbers, found.embedding)

    def beyond(self, subject: Subject) -> list[str]:
        """The numbers of an architecture that lie outside of those that were measured."""
        values = np.array(subject.numbers())
        low, high = self.features.numbers.min(0), self.features.numbers.max(0)
        outside = (values < low - 1e-9) | (values > high + 1e-9)
        return [name for name, out in zip(NUMBERS, outside, strict=True) if out]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "name": self.name, "encoder": self.encoder, "numbers": list(NUMBERS),
            "kernel": self.kernel._asdict(), "noise": self.noise, "variance": self.variance,
            "rows": [
                {"loss": loss, "count": count, "numbers": numbers, "embedding": embedding}
                for loss, count, numbers, embedding in zip(
                    self.losses.tolist(), self.counts.tolist(), self.features.numbers.tolist(),
                    self.features.embedding.tolist(), strict=True,
                )
            ],
            "quality": dict(self.quality), "source": dict(self.source),
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """Writes a new file of plain JSON.

        Raises:
            UsageError: it is there already, or cannot be written.
        """
        if path.exists():
            raise UsageError(f"{path}: exists already; nothing was written")
        rows = self.to_dict()
        lines = ",\n".join(strict_json(row) for row in rows.pop("rows"))
        text = strict_json(rows, indent=1).rstrip()
        assert text.endswith("}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, f'{text[:-1].rstrip()},\n "rows": [\n{lines}\n]}}\n')
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def read_predictor(path: Path) -> Predictor:
    """The predictor of a file.

    Raises:
        UsageError: it is none, is damaged, or is of another format.
    """
    try:
        tree = json.loads(path.read_bytes())
        if tree["format"] != FORMAT:
            raise UsageError(f"{path}: format {tree['format']}, and {FORMAT} is known")
        if tuple(tree["numbers"]) != NUMBERS:
            raise UsageError(f"{path}: reads other numbers of an architecture; fit it anew")
        rows = tree["rows"]
        columns = {key: np.array([row[key] for row in rows], dtype=np.float64)
                   for key in ("loss", "count", "numbers", "embedding")}  # fmt: skip
        if len(rows) < LEAST or not all(np.isfinite(value).all() for value in columns.values()):
            raise ValueError("too few rows, or no numbers")
        if columns["numbers"].shape[1:] != (len(NUMBERS),) or columns["embedding"].ndim != 2:
            raise ValueError("rows of another length")
        return Predictor(
            str(tree["name"]), str(tree["encoder"]),
            Features(columns["numbers"], columns["embedding"]), columns["loss"], columns["count"],
            Kernel(**{key: float(value) for key, value in tree["kernel"].items()}),
            float(tree["noise"]), float(tree["variance"]), tree["quality"], tree["source"],
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise UsageError(f"{path}: is no predictor, or is damaged ({error} is missing)") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: is no predictor, or is damaged ({error})") from error
