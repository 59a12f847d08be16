"""What an architecture costs, without allocating it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

from windtunnel.arch.model import scope_of
from windtunnel.arch.spec import Architecture, LayerConfig
from windtunnel.nn.component import Scope
from windtunnel.nn.cost import Cost, Num

_ADAM_VALUES = 2  # first and second moment


@dataclass(frozen=True)
class PartCost:
    """The cost of one part; a run of equal layers is one part, named after the first."""

    name: str
    cost: Cost
    times: int = 1


@dataclass(frozen=True)
class ArchCost:
    """The cost of an architecture at one sequence length."""

    parts: tuple[PartCost, ...]
    seq_len: int

    @property
    def total(self) -> Cost:
        """All parts together; what is shared is counted once."""
        return reduce(lambda a, b: a + b, (p.cost * p.times for p in self.parts))

    @property
    def train_flops_per_token(self) -> Num:
        """Forward and backward: three forwards."""
        return 3 * self.total.forward_flops


@dataclass(frozen=True)
class TrainMemory:
    """Predicted peak bytes of training, term by term."""

    weights: Num
    gradients: Num
    optimizer: Num
    activations: Num
    logits: Num

    def terms(self) -> dict[str, int]:
        """The terms that make up the peak, in bytes, by name; their sum is :attr:`total`."""
        held = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        terms = held | {"activations": self.total - sum(held.values())}
        return {name: int(value) for name, value in terms.items()}

    @property
    def total(self) -> Num:
        """The peak: at the start of the backward everything is alive but the gradients; at its end
        the gradients are and the activations are not. The larger of the two moments counts."""
        held = self.weights + self.optimizer
        return held + max(self.activations + self.logits, self.gradients) + min(
            self.gradients, self.activations
        ) // 2  # fmt: skip


def layer_cost(layer: LayerConfig, scope: Scope, t: Num) -> Cost:
    """The cost of one layer: mixer, feed-forward, norms, residuals and dropout."""
    branches = [layer.mixer] + ([layer.mlp] if layer.mlp.type != "none" else [])
    total = Cost()
    norms = {"pre": 1, "post": 1, "sandwich": 2, "none": 0}[layer.placement]
    for body in branches:
        total += body.cost(scope, t) + layer.residual.cost(scope, t)
        if layer.norm.type != "none":
            total += layer.norm.cost(scope, t) * norms
        if layer.dropout:
            total += Cost(activation_values=scope.d_model)
    return total


def cost(architecture: Architecture, seq_len: int | None = None) -> ArchCost:
    """The cost by part at ``seq_len`` tokens (the architecture's ``max_seq_len`` unless told).

    >>> from windtunnel.arch import ArchSpec, resolve
    >>> spec = ArchSpec(d_model=64, vocab_size=100, layers=({"mixer": "lstm"},))
    >>> cost(resolve(spec)).total.params
    88832
    """
    t = seq_len or architecture.max_seq_len
    scope = scope_of(architecture)
    parts = [PartCost("embedding", architecture.embedding.cost(scope, t))]
    for first, last, layer in _groups(architecture):
        parts.append(
            PartCost(
                f"layers.{first}", layer_cost(layer, scope.at(first), t), times=last - first + 1
            )
        )
    parts.append(PartCost("head", architecture.head.cost(scope, t)))
    return ArchCost(tuple(parts), t)


def _groups(architecture: Architecture) -> Iterator[tuple[int, int, LayerConfig]]:
    """Runs of equal layers: (first, last, layer)."""
    start = 0
    layers = architecture.layers
    for index in range(1, len(layers) + 1):
        if index == len(layers) or (
            layers[index] is not layers[start] and layers[index] != layers[start]
        ):
            yield start, index - 1, layers[start]
            start = index


def train_memory(
    architecture: Architecture, *, seq_len: int, batch_size: int, precision: str = "float32"
) -> TrainMemory:
    """Predicted peak bytes of training with AdamW, ``batch_size`` sequences at a time.

    In bfloat16 the weights, gradients and activations take 2 bytes, and float32 master weights join
    the optimizer's moments. Logits are kept once in the compute precision and once in float32, with
    their gradient.
    """
    total = cost(architecture, seq_len).total
    width = 2 if precision == "bfloat16" else 4
    tokens = seq_len * batch_size
    master = 1 if precision == "bfloat16" else 0
    return TrainMemory(
        weights=total.params * width,
        gradients=total.params * 4,
        optimizer=total.params * 4 * (_ADAM_VALUES + master),
        activations=total.activation_values * tokens * width,
        logits=architecture.vocab_size * tokens * (width + 2 * 4),
    )
