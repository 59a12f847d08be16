"""The peak memory of training an architecture, in closed form: nothing is built.

A step passes through a few moments, and the fullest one is the peak. With W the weights, O what
the optimizer keeps, G gradients, A what autograd keeps for the backward, b·t tokens at once:

    loss        W + O + A + 3 × logits: their logarithms, and two gradients
    backward    W + O + A up to a layer + G of those above it + what it works with
    update      W + O + G + what the optimizer works with
    evaluation  W + O + 2 × logits, and what a layer works with

On a CPU all of these lie in glibc's heap, unless they are 32 MiB or larger. It cannot give every
freed block to the next one (an aligned block needs a hole larger than itself), so the process holds
more than is alive. How much more was measured on 27 random runs that the benchmark does not report
(benchmarks/memory.py with another seed): 0.5 of A, 0.9 of G and 0.7 of what the update works with.
In bfloat16 oneDNN compiles a kernel for each product of another size and keeps the last 1024, some
0.4 MiB each: that counts where experts or routed layers see other numbers of tokens in each step.

Where gradients of several pieces are added up, G is there at every moment but the last. In bfloat16
W is the copies, O holds the float32 masters too, and gradients are of 2 bytes until the end of the
backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

from windtunnel.arch.cost import ArchCost, cost
from windtunnel.arch.model import scope_of
from windtunnel.arch.spec import Architecture, LayerConfig
from windtunnel.nn.component import filled
from windtunnel.nn.cost import Cost, Num, larger

_ADAM_VALUES = 2  # first and second moment
_HELD_BACK = (0.5, 0.9, 0.7)
"""Of A, G and what the update works with, what the heap holds besides."""
_KERNEL, _KERNELS = 4 * 2**20 // 10, 1024
"""Bytes of a compiled product, and how many are kept at most."""
HEAP_BLOCK = 2**25
"""Blocks of so many bytes and more go back to the system at once."""
_IN_FLIGHT = 5
"""Vectors of d_model a token that the gradients of an ordinary layer take, as measured: 4 in
attention and a dense feed-forward, 5 in a gated one."""


@dataclass(frozen=True)
class Moment:
    """What lies in memory at one moment of a step, in bytes."""

    name: str
    weights: Num
    gradients: Num
    optimizer: Num
    activations: Num
    """All the rest: what autograd keeps, logits, and what is being worked with."""

    @property
    def total(self) -> Num:
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class TrainMemory:
    """Predicted bytes of training; see the module for its moments."""

    weights: Num
    gradients: Num
    optimizer: Num
    activations: Num
    """Kept by autograd for the backward, logits left out."""
    moments: tuple[Moment, ...]

    @property
    def peak(self) -> Moment:
        """The fullest moment; of numbers, not of arrays."""
        return max(self.moments, key=lambda moment: float(moment.total))

    def terms(self) -> dict[str, int]:
        """The terms of the fullest moment, in bytes, by name; their sum is :attr:`total`."""
        names = ("weights", "gradients", "optimizer")
        held = {name: int(getattr(self.peak, name)) for name in names}
        return held | {"activations": int(self.total) - sum(held.values())}

    @property
    def total(self) -> Num:
        """The peak."""
        return reduce(larger, (moment.total for moment in self.moments))


@dataclass(frozen=True)
class Step:
    """What of a recipe decides where the peak of a step lies."""

    precision: str = "float32"
    optimizer_values: Num | None = None
    """Numbers that the optimizer keeps, and averages of weights; AdamW's two moments if None."""
    update_values: Num = 0
    """Numbers that an update works with besides."""
    update_in_heap: Num | None = None
    """Those of an update's numbers that come in blocks small enough for the heap; None: all."""
    averaged: bool = False
    """Whether evaluation puts an average in place of the weights, which are kept beside it."""
    loss_rows: Num | None = None
    """The logits of so many tokens exist at once; None: those of all."""
    checkpointing: bool = False
    """Whether layers keep their input alone."""
    in_pieces: bool = False
    """Whether the gradients of several pieces of a batch are added up."""
    updates: int | None = None
    """How many steps there are; None: many."""

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return 2 if self.precision == "bfloat16" else 4


def train_memory(
    architecture: Architecture,
    *,
    seq_len: Num,
    batch_size: Num,
    source_len: Num | None = None,
    step: Step | None = None,
) -> TrainMemory:
    """Predicted bytes of training, ``batch_size`` sequences at a time.

    ``seq_len`` are the target's tokens; an encoder reads ``source_len``, as many unless told.
    """
    step = step or Step()
    counted = cost(architecture, seq_len, source_len=source_len)
    params, tokens = counted.total.params, seq_len * batch_size
    kept = params * _ADAM_VALUES if step.optimizer_values is None else step.optimizer_values
    if step.precision == "bfloat16":
        kept = kept + params
    held = Moment("held", params * step.width, 0, 4 * kept, 0)
    parts = tuple(_backward_parts(architecture, counted, tokens, step))
    besides = _in_heap(architecture, parts, tokens, step) + _kernels(architecture, step)
    held = replace(held, activations=besides)
    moments = [
        *_loss(architecture, held, parts, seq_len, batch_size, params, step),
        *_backward(held, parts, params, step),
        _with(held, "update", 4 * params, 4 * step.update_values),
        _evaluation(architecture, held, parts, seq_len, batch_size, params, step),
    ]
    return TrainMemory(
        weights=held.weights,
        gradients=4 * params,
        optimizer=held.optimizer,
        activations=reduce(add, (part.kept * part.times for part in parts)),
        moments=tuple(moments),
    )


def _with(held: Moment, name: str, gradients: Num, more: Num) -> Moment:
    """A moment at which gradients and ``more`` bytes are there besides what always is."""
    activations = held.activations + more
    return replace(held, name=name, gradients=gradients, activations=activations)


def _in_heap(architecture: Architecture, parts: tuple[_Part, ...], tokens: Num, step: Step) -> Num:
    """Bytes that the heap holds of what a step has freed, where its blocks are small enough."""
    a, g, u = _HELD_BACK
    d = architecture.d_model
    kept = reduce(add, (part.kept * part.times for part in parts))
    gradients = reduce(add, (part.gradients * part.times * part.in_heap for part in parts))
    of_kept = a * kept * (4 * d * tokens * step.width < HEAP_BLOCK)
    update = step.update_values if step.update_in_heap is None else step.update_in_heap
    return of_kept + g * gradients + u * 4 * update


def _kernels(architecture: Architecture, step: Step) -> int:
    """Bytes of the compiled products of sizes that differ from step to step."""
    if step.precision != "bfloat16":
        return 0
    encoder = () if architecture.encoder is None else architecture.encoder.layers
    maps = sum(_varying_maps(layer) for layer in (*architecture.layers, *encoder))
    calls = 3 * maps * (_KERNELS if step.updates is None else step.updates)  # forward, two backward
    return min(calls, _KERNELS) * _KERNEL


def _varying_maps(layer: LayerConfig) -> int:
    """Linear maps that read another number of tokens in each step."""
    maps = {"glu": 3, "dense": 2}
    mlp: Any = layer.mlp
    if mlp.type == "moe" and mlp.top_k < mlp.num_experts:
        return int(mlp.num_experts) * maps.get(mlp.expert.type, 2)
    return (4 + maps.get(mlp.type, 2)) * (layer.depth is not None)


@dataclass(frozen=True)
class _Part:
    """A run of equal parts as the backward meets it, in bytes of one of them."""

    kept: Num
    """Kept for its backward."""
    working: Num
    """Held while its backward runs; with checkpointing what was computed again, too."""
    gradients: Num
    """Of its parameters."""
    times: int = 1
    in_heap: Num = True
    """Whether its gradients are blocks small enough for the heap."""


def _backward_parts(
    architecture: Architecture, counted: ArchCost, tokens: Num, step: Step
) -> Iterator[_Part]:
    """The parts from the bottom up."""
    d, streams = architecture.d_model, architecture.streams or 1
    stream = streams * architecture.d_model * tokens * step.width
    for part in counted.parts:
        kept = kept_bytes(part.cost, tokens, step.width)
        flight = _IN_FLIGHT * architecture.d_model * tokens * step.width
        working = larger(4 * part.cost.working_values * tokens, flight) + 2 * stream
        if step.checkpointing and ".layers." in f".{part.name}":
            working = working + kept
            kept = stream
        gradients = part.cost.params
        if architecture.embedding.tie and architecture.input == "tokens":
            # The tied weight has a gradient of the head's and one of the embedding's, then the sum.
            table = architecture.vocab_size * d
            gradients = gradients + table * (part.name == "head")
            working = working + table * step.width * (part.name == "embedding")
        rows = architecture.vocab_size if part.name.endswith(("embedding", "head")) else 4 * d
        in_heap = rows * d * step.width < HEAP_BLOCK
        yield _Part(kept, working, gradients * step.width, part.times, in_heap)
    for tables in _tables(architecture, counted.seq_len):
        yield _Part(tables * step.width, 0, 0)


def kept_bytes(part: Cost, tokens: Num, width: int) -> Num:
    """What autograd keeps of a part for ``tokens`` tokens, in numbers of ``width`` bytes."""
    values = part.activation_values + (part.wide_values if width == 2 else 0)
    return width * (values * tokens + part.shared_values)


def _tables(architecture: Architecture, t: Num) -> Iterator[Num]:
    """The biases of positions that layers share: made once, whatever the batch."""
    encoder = () if architecture.encoder is None else architecture.encoder.layers
    found: dict[str, Num] = {}
    for layer in (*architecture.layers, *encoder):
        position = getattr(layer.mixer, "position", None)
        if position is not None and position.biased and not position.learned:
            heads = filled(getattr(layer.mixer, "num_heads", 1))
            found[f"{position}{heads}"] = heads * t * t
    yield from found.values()


def _backward(held: Moment, parts: tuple[_Part, ...], params: Num, step: Step) -> Iterator[Moment]:
    """Each run of equal parts at its last and its first: what is kept below, the gradients of all
    above, and what it works with."""
    below = reduce(add, (part.kept * part.times for part in parts))
    gathered = 4 * params if step.in_pieces else 0
    above: Num = 0
    for part in reversed(parts):
        for done in dict.fromkeys((0, part.times - 1)):
            gradients = above + part.gradients * (done + 1)
            kept = below - part.kept * done
            yield _with(held, "backward", gathered + gradients, kept + part.working)
        below = below - part.kept * part.times
        above = above + part.gradients * part.times
    if step.width == 2:
        yield _with(held, "gathering", 4 * params, 0)


def _loss(
    architecture: Architecture,
    held: Moment,
    parts: tuple[_Part, ...],
    seq_len: Num,
    batch_size: Num,
    params: Num,
    step: Step,
) -> Iterator[Moment]:
    gathered = 4 * params if step.in_pieces else 0
    kept = reduce(add, (part.kept * part.times for part in parts))
    rows, outputs = _logits(architecture, seq_len, batch_size)
    if step.loss_rows is None:
        # log p, the gradient of the nats, and that of the logits: float32 in any precision
        yield _with(held, "loss", gathered, kept + 3 * 4 * rows * outputs)
        return
    d = architecture.d_model
    weight, hidden = 4 * d * outputs, step.width * rows * d
    chunk = (4 + 2 * step.width) * step.loss_rows * outputs
    yield _with(held, "loss", gathered, kept + weight + hidden + chunk)
    yield _with(held, "loss", gathered, kept + 2 * (weight + hidden))


def _evaluation(
    architecture: Architecture,
    held: Moment,
    parts: tuple[_Part, ...],
    seq_len: Num,
    batch_size: Num,
    params: Num,
    step: Step,
) -> Moment:
    rows, outputs = _logits(architecture, seq_len, batch_size)
    at_once = rows if step.loss_rows is None else step.loss_rows
    logits = (8 if step.width == 4 else 10) * at_once * outputs
    working = reduce(larger, (part.working for part in parts))
    average = 4 * params * step.averaged
    return _with(held, "evaluation", 0, larger(logits, working) + average)


def _logits(architecture: Architecture, seq_len: Num, batch_size: Num) -> tuple[Num, Num]:
    """How many rows of logits there are, and how wide they are; of classes one a sequence."""
    outputs = architecture.head.outputs(scope_of(architecture))
    once = architecture.head.type == "classification"
    return (batch_size if once else batch_size * seq_len), outputs
