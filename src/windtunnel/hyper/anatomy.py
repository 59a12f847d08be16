"""What an architecture is made of, read from its specification: operations and parameters.

Nothing is built or traced: an operation is a row of numbers, a parameter a name, a role and a
shape. Equal structures share one anatomy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

from windtunnel.arch import Architecture
from windtunnel.arch.spec import LayerConfig

Axis: TypeAlias = Literal["vocab", "position", "model", "ff", "heads", "gates"]
"""What a dimension of a parameter counts. ``heads``: head by head, its channels within. ``gates``:
gate by gate, its hidden units within."""

KINDS = (
    "other", "embedding", "position", "norm", "q", "k", "v", "attend", "out", "up", "gate",
    "activation", "down", "rnn", "lstm", "gru", "add", "head",
)  # fmt: skip
"""What an operation can be; all that is not in the list is ``other``."""

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class Op(NamedTuple):
    """One operation, a node of the graph."""

    kind: str
    layer: int | None
    """None: before or after the stack."""
    segment: int
    """Which part of the chain it is in: the embedding, the branches in their order, the head."""
    place: int
    """Steps from the segment's input, from 1; operations side by side have the same."""
    sizes: tuple[int, int] = (0, 0)
    """Channels in and out, where it is a map."""


class Slot(NamedTuple):
    """One parameter."""

    name: str
    """As in ``model.named_parameters()``."""
    role: str
    """What it is, the same in every layer and size."""
    axes: tuple[Axis, ...]
    shape: tuple[int, ...]
    op: int
    """The number of its operation."""
    heads: int = 1
    """Of an axis ``heads``."""


@dataclass(frozen=True)
class Segment:
    """A part of the chain that a residual may skip."""

    length: int
    """Steps from its input to its output."""
    skipped: bool
    """Whether a residual leads past it, so that crossing it takes one step."""


@dataclass(frozen=True)
class Anatomy:
    """Operations, segments and parameters of one structure."""

    ops: tuple[Op, ...]
    segments: tuple[Segment, ...]
    slots: tuple[Slot, ...]
    unknown: tuple[str, ...]
    """Parts that are not told in full, by what they are: a parameter without a slot keeps its
    initial weights, and a connection beside the chain is not in the graph. Where it is empty, the
    slots are all parameters."""
    d_model: int
    n_layer: int
    tied: bool
    vocab_size: int
    max_seq_len: int
    n_head: int
    """Heads of queries; the most of any layer."""
    d_ff: int
    """Hidden width of the feed-forward; the widest of any layer."""
    causal: bool = True
    traits: tuple[str, ...] = ()
    """How it computes with its parameters, sorted: kinds of norms, of activations, of positions."""


def anatomy_of(architecture: Architecture) -> Anatomy:
    """The anatomy of an architecture; dropout and names make no difference.

    >>> from windtunnel.arch import ArchSpec, resolve
    >>> spec = ArchSpec(d_model=8, vocab_size=5, layers=({"mixer": "lstm", "mlp": "none"},))
    >>> [slot.role for slot in anatomy_of(resolve(spec)).slots][:3]
    ['embedding', 'norm_weight', 'lstm_weight_ih']
    """
    return _anatomy(architecture.replace(name="-"))


@lru_cache(maxsize=4096)
def _anatomy(architecture: Architecture) -> Anatomy:
    return _Reading(architecture).read()


@dataclass
class _Reading:
    arch: Architecture
    ops: list[Op] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    unknown: dict[str, None] = field(default_factory=dict)
    layer: int | None = None
    place: int = 0
    silent: bool = False
    """Whether parameters are left untold: what they mean is not known."""

    def read(self) -> Anatomy:
        arch = self.arch
        if arch.encoder is not None:
            self.unknown["encoder"] = None
        if arch.unit_weights:
            self.unknown["unit_weights"] = None
            self.silent = True
        self._embedding()
        for index, layer in enumerate(arch.layers):
            self.layer = index
            self._layer(layer)
        self.layer = None
        self._head()
        heads = [getattr(layer.mixer, "num_heads", None) or 1 for layer in arch.layers]
        widths = [getattr(layer.mlp, "d_ff", None) or 0 for layer in arch.layers]
        return Anatomy(
            tuple(self.ops), tuple(self.segments), tuple(self.slots), tuple(self.unknown),
            d_model=arch.d_model, n_layer=len(arch.layers), tied=arch.embedding.tie,
            vocab_size=arch.vocab_size, max_seq_len=arch.max_seq_len,
            n_head=max(heads), d_ff=max(widths), causal=arch.type != "encoder",
            traits=_traits(arch),
        )  # fmt: skip

    # Words of the walk

    def _op(self, kind: str, *, beside: bool = False, sizes: tuple[int, int] = (0, 0)) -> int:
        """The next operation of the segment, or one beside the last."""
        self.place += not beside
        known = kind if kind in KINDS else "other"
        self.ops.append(Op(known, self.layer, len(self.segments), self.place, sizes))
        return len(self.ops) - 1

    def _slot(
        self, name: str, role: str, axes: tuple[Axis, ...], shape: tuple[int, ...], heads: int = 1
    ) -> None:
        if not self.silent:
            self.slots.append(Slot(name, role, axes, shape, len(self.ops) - 1, heads))

    def _close(self, *, skipped: bool = False) -> None:
        self.segments.append(Segment(self.place, skipped))
        self.place = 0

    # Parts

    def _embedding(self) -> None:
        arch, config = self.arch, self.arch.embedding
        self._op("embedding", sizes=(arch.vocab_size, arch.d_model))
        if config.token_types is not None or config.unified is not None:
            self.unknown["embedding"] = None
        if arch.input == "tokens" and config.unified is None:
            shape = (arch.vocab_size, arch.d_model)
            self._slot("embedding.weight", "embedding", ("vocab", "model"), shape)
        if config.position.type == "learned":
            self._op("position", sizes=(arch.max_seq_len, arch.d_model))
            shape = (arch.max_seq_len, arch.d_model)
            self._slot("embedding.position.weight", "position", ("position", "model"), shape)
            self._op("add")
        self._norm("embedding.norm", config.norm, "embedding_norm")
        self._close()

    def _norm(self, name: str, config: Any, role: str) -> None:
        if config.type == "none":
            return
        d = self.arch.d_model
        self._op("norm", sizes=(d, d))
        if config.type not in ("layernorm", "rmsnorm") or getattr(config, "unit_offset", False):
            self.unknown[config.type] = None
            return
        if config.affine:
            self._slot(f"{name}.weight", f"{role}_weight", ("model",), (d,))
        if config.bias:
            self._slot(f"{name}.bias", f"{role}_bias", ("model",), (d,))

    def _layer(self, layer: LayerConfig) -> None:
        """Its branches one after another; those side by side too, as if they were."""
        beside = ("cross", "depth", "linear", "share_with")
        untold = [name for name in beside if getattr(layer, name) is not None]
        self.unknown |= dict.fromkeys(untold + ["parallel"] * layer.parallel)
        silent, self.silent = self.silent, self.silent or bool({"linear", "share_with"} & {*untold})
        self._branch("mixer", layer.mixer, layer)
        if layer.mlp.type != "none":
            self._branch("mlp", layer.mlp, layer)
        self.silent = silent

    def _branch(self, part: str, config: Any, layer: LayerConfig) -> None:
        name = f"layers.{self.layer}.{part}"
        reads = part == "mixer" or not layer.shared_norm
        if reads and layer.placement in ("pre", "sandwich"):
            self._norm(f"{name}_join.norm", layer.norm, "norm")
        self._body(name, config)
        if layer.placement in ("sandwich", "out"):
            self._norm(f"{name}_join.out_norm", layer.norm, "out_norm")
        skipped = layer.residual.type != "none"
        if skipped:
            self._op("add")
            if layer.residual.type != "add":
                self.unknown[layer.residual.type] = None
        self._close(skipped=skipped)
        if layer.placement == "post" and layer.norm.type != "none":
            self._norm(f"{name}_join.post_norm", layer.norm, "post_norm")
            self._close()

    def _body(self, name: str, config: Any) -> None:
        """What a branch computes between its norms."""
        if config.type == "attention":
            self._attention(name, config)
        elif config.type in ("dense", "glu"):
            self._feed_forward(name, config)
        elif config.type in GATES:
            self._recurrent(name, config)
        else:
            self.unknown[config.type] = None
            self._op("other")

    def _linear(
        self, name: str, kind: str, axes: tuple[Axis, Axis], shape: tuple[int, int], *,
        bias: bool, heads: int = 1, beside: bool = False, role: str | None = None,
    ) -> None:  # fmt: skip
        self._op(kind, beside=beside, sizes=(shape[1], shape[0]))
        role = role or kind
        self._slot(f"{name}.weight", f"{role}_weight", axes, shape, heads)
        if bias:
            self._slot(f"{name}.bias", f"{role}_bias", axes[:1], shape[:1], heads)

    def _attention(self, name: str, config: Any) -> None:
        """Where all heads together are not as wide as the stream, their weights are untold."""
        d, h, g = self.arch.d_model, config.num_heads, config.num_kv_heads
        k, bias = config.head_dim, config.bias
        norms = (config.qk_norm, config.k_norm, config.v_norm)
        learned = config.learned_scale != "none" or config.value_residual == "learned"
        learned = learned or config.position.learned
        if learned or any(norm.type != "none" for norm in norms):
            self.unknown["attention"] = None
        silent = self.silent
        if h * k != d:
            self.unknown["head_dim"] = None
            self.silent = True
        rows: tuple[Axis, Axis] = ("heads", "model")
        self._linear(f"{name}.q", "q", rows, (h * k, d), bias=bias, heads=h)
        for part in ("k", "v"):
            self._linear(f"{name}.{part}", part, rows, (g * k, d), bias=bias, heads=g, beside=True)
        self._op("attend")
        columns: tuple[Axis, Axis] = ("model", "heads")
        self._linear(f"{name}.out", "out", columns, (d, h * k), bias=config.out_bias, heads=h)
        self.silent = silent

    def _feed_forward(self, name: str, config: Any) -> None:
        """Gated ones have roles of their own: their hidden values mean something else."""
        d, f, bias = self.arch.d_model, config.d_ff, config.bias
        gated = config.type == "glu"
        prefix, silent = "glu_" if gated else "", self.silent
        if gated and config.fused:
            self.unknown["fused"] = None
            self.silent = True
        rows: tuple[Axis, Axis] = ("ff", "model")
        if gated:
            self._linear(f"{name}.gate", "gate", rows, (f, d), bias=bias, role="glu_gate")
        self._linear(f"{name}.up", "up", rows, (f, d), bias=bias, beside=gated, role=f"{prefix}up")
        self._op("activation")
        columns: tuple[Axis, Axis] = ("model", "ff")
        self._linear(f"{name}.down", "down", columns, (d, f), bias=bias, role=f"{prefix}down")
        self.silent = silent

    def _recurrent(self, name: str, config: Any) -> None:
        d, n, kind = self.arch.d_model, config.d_hidden, config.type
        gates = GATES[kind]
        self._op(kind, sizes=(d, n))
        if n != d:
            self.unknown["d_hidden"] = None
            return
        for part in ("ih", "hh"):
            shape = (gates * n, d)
            role = f"{kind}_weight_{part}"
            self._slot(f"{name}.weight_{part}", role, ("gates", "model"), shape)
        if config.bias:
            for part in ("ih", "hh"):
                role = f"{kind}_bias_{part}"
                self._slot(f"{name}.bias_{part}", role, ("gates",), (gates * n,))

    def _head(self) -> None:
        arch, config = self.arch, self.arch.head
        self._norm("head.norm", config.norm, "head_norm")
        if config.type != "none":
            self._op("head", sizes=(arch.d_model, arch.vocab_size))
        if config.type == "classification" or config.bias or config.transform is not None:
            self.unknown["head"] = None
        elif config.type == "vocabulary" and not arch.embedding.tie:
            shape = (arch.vocab_size, arch.d_model)
            self._slot("head.weight", "head", ("vocab", "model"), shape)
        self._close()


def _traits(arch: Architecture) -> tuple[str, ...]:
    """What makes tensors of equal roles mean something else, and is no size."""
    head, embedding = arch.head, arch.embedding
    found = {f"{head.norm.type} before the head", f"{embedding.position.type} positions"}
    told = {
        "scaled embeddings": embedding.scale, "scaled logits": head.scale is not None,
        "capped logits": head.softcap is not None, "vectors as input": arch.input != "tokens",
        "both directions": arch.type == "encoder",
    }  # fmt: skip
    for layer in {id(layer): layer for layer in arch.layers}.values():
        mixer, mlp = layer.mixer, layer.mlp
        placed = "no norms" if layer.norm.type == "none" else f"{layer.norm.type} {layer.placement}"
        found |= {placed, f"residual {layer.residual.type}"}
        if hasattr(mixer, "position"):
            found.add(f"attention with position {mixer.position.type}")
        if hasattr(mlp, "activation"):
            found.add(f"{mlp.activation} in {mlp.type}")
        for name in ("window", "softcap"):
            told[f"{name} of attention"] = getattr(mixer, name, None) is not None
        told["parallel branches"] = layer.parallel
        found |= {name for name, true in told.items() if true}
    return tuple(sorted(found))


def slots_by_role(anatomy: Anatomy) -> Iterator[tuple[str, list[Slot]]]:
    """The slots of each role together, in order."""
    found: dict[str, list[Slot]] = {}
    for slot in anatomy.slots:
        found.setdefault(slot.role, []).append(slot)
    yield from found.items()
