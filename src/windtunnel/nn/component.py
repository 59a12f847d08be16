"""The contract of a part of a model, and the registries in which parts are found by name."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from windtunnel.config import Config, offer
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.documents import Documents
from windtunnel.nn.initialize import Init


@dataclass(frozen=True)
class Scope:
    """Where a component stands: all that it may know of the model around it."""

    d_model: int
    """Width of what the part reads; inside a head, the head's."""
    max_seq_len: int = 256
    vocab_size: int = 256
    num_layers: int = 1
    """Depth of the stack, for inits that shrink with it."""
    layer: int = 0
    """Index of this layer, from 0."""
    causal: bool = True
    tie: bool = False
    """Whether the head's weight is the embedding's."""
    stream_std: float = 1.0
    """Standard deviation of the stream where it enters the stack, at the start."""
    num_heads: int = 1
    """For parts inside a mixer: how many heads of width ``d_model`` stand side by side."""
    branch: int = 0
    """For residuals: index in the stack, from 0, of the branch that is joined."""

    def at(self, layer: int) -> Scope:
        """The same place in another layer."""
        return replace(self, layer=layer)

    def inside(self, num_heads: int, head_dim: int) -> Scope:
        """The place inside a mixer whose heads are ``head_dim`` wide."""
        return replace(self, d_model=head_dim, num_heads=num_heads)


class ComponentConfig(Config):
    """What is written in YAML for one part. ``type`` picks the component; the rest is its own.

    ``resolve`` is idempotent, and equal parts resolve to equal configs. Validators see what was
    written, one config at a time; what depends on the place is checked in ``resolve``.
    """

    type: str

    def resolve(self, scope: Scope) -> Self:
        """A copy with all that can be derived filled in; ValueError where that is impossible."""
        return self

    def cost(self, scope: Scope, t: Num) -> Cost:
        """The closed-form cost at sequence length ``t``; fields and ``t`` may be NumPy arrays."""
        raise NotImplementedError(f"{type(self).__qualname__} has no cost")


C = TypeVar("C", bound=ComponentConfig)


class Component(nn.Module, Generic[C]):
    """A module built from a resolved config and its scope."""

    Config: ClassVar[type[ComponentConfig]]
    config: C

    def __init__(self, config: C, scope: Scope) -> None:
        super().__init__()
        self.config = config

    def initializers(self) -> dict[str, Init]:
        """The :class:`~windtunnel.nn.initialize.Init` of each direct parameter, by name."""
        return {}

    @classmethod
    def examples(cls) -> tuple[ComponentConfig, ...]:
        """Configs that show the component's variants: the contracts are checked on each.

        They must suit a width of 16.
        """
        return (cls.Config(),)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Span:
    """Which tokens a call holds: ``positions`` (1 or b, t), −1 at a pad.

    A position counts real tokens of the token's own sequence, so padding moves nothing.
    """

    positions: Tensor
    padded: bool = False
    """Whether some position may be −1: without pads, faster kernels serve."""
    offset: int | None = 0
    """How many tokens each row has seen before this call, where all rows have seen the same number
    and none has ever seen a pad; else None. Known, it saves every mask while decoding."""
    documents: Documents | None = None
    """Where several documents share a row, none seeing another; positions are then theirs."""
    memo: dict[Any, tuple[Tensor, ...]] = field(default_factory=dict, compare=False, repr=False)
    """Tables derived from the positions (rotations, masks), so that all layers share them."""

    @property
    def real(self) -> Tensor:
        """(1 or b, t) bool: False at pads."""
        return self.positions >= 0

    @classmethod
    def of(cls, t: int, *, device: torch.device | None = None, start: int = 0) -> Span:
        """``t`` tokens of every row, from position ``start``, no pads."""
        return cls(torch.arange(start, start + t, device=device)[None], offset=start)

    @classmethod
    def of_real(cls, real: Tensor, seen: Tensor | None = None) -> Span:
        """From a (b, t) mask of real tokens; ``seen`` (b,): how many came before in each row."""
        positions = real.cumsum(1) - 1
        if seen is not None:
            positions = positions + seen[:, None]
        padded = not bool(real.all())  # one look at the values spares every layer the slow path
        return cls(positions.masked_fill(~real, -1), padded=padded, offset=None)

    @classmethod
    def of_documents(cls, ids: Tensor, real: Tensor) -> Span:
        """Of rows that hold several documents: ``ids`` (b, t) says which each token belongs to."""
        documents, positions = Documents.of(ids, real)
        return cls(positions, padded=not bool(real.all()), offset=None, documents=documents)


State = Any
"""What a mixer remembers: a NamedTuple of tensors, each with the batch first."""


class Workspace:
    """Something beside a state's tensors that makes going on faster and holds nothing of its value:
    a state without it is the same state. Picking rows leaves it behind."""


class Mixer(Component[C], ABC):
    """Mixes along time: b t d -> b t d. Its four methods are one function, cut differently.

    ``forward`` equals ``extend`` from the initial state, and any cutting into chunks equals the
    whole. Neither changes its arguments. At pads the output is arbitrary but finite, and pads
    change neither the state nor any other output.
    """

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state before the first token, on the device and in the dtype of the weights."""

    @abstractmethod
    def extend(self, x: Tensor, state: State, span: Span) -> tuple[Tensor, State]:
        """The outputs for the next tokens, and the state after them."""

    def forward(self, x: Tensor, span: Span) -> Tensor:
        """All tokens at once, from the initial state."""
        return self.extend(x, self.initial_state(x.shape[0]), span)[0]


@runtime_checkable
class Updated(Protocol):
    """A module that does something of its own once in every optimizer step."""

    def after_update(self, seed: int, step: int) -> None:
        """Called in training, outside of any forward, after the weights have changed.

        What it does to its buffers is a function of them, of (seed, step) and of its scope alone:
        so a run that resumes, and every process of a distributed one, does the same. ``step``
        counts the steps done, this one included.
        """


def has_updates(model: nn.Module) -> bool:
    """Whether some part of ``model`` does something after each update."""
    return next(_updated(model), None) is not None


def after_update(model: nn.Module, seed: int, step: int) -> None:
    """Calls :meth:`Updated.after_update` of every part of ``model`` that has it."""
    for module in _updated(model):
        module.after_update(seed, step)


def _updated(model: nn.Module) -> Iterator[Updated]:
    # Asked at every step: a look at the class costs a fiftieth of isinstance with a protocol.
    for module in model.modules():
        if hasattr(type(module), "after_update"):
            assert isinstance(module, Updated)
            yield module


class MLP(Component[C], ABC):
    """Mixes along width, each token by itself: b t d -> b t d."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Norm(Component[C], ABC):
    """Rescales the last dimension, of size ``width`` (d_model unless told): … d -> … d."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Residual(Component[C], ABC):
    """Joins a branch's output to its input: (x, y) -> b t d."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor: ...


class PositionConfig(ComponentConfig):
    """What is written for one position."""

    biased: ClassVar[bool] = False
    """Whether the position acts on the logits, by a bias or a factor."""
    learned: ClassVar[bool] = False
    """Whether its bias or factor has parameters: then layers cannot share it."""

    def kept_squares(self) -> int:
        """Squares of t × s numbers a head that a gradient needs, besides the softmax's."""
        return 0


P = TypeVar("P", bound=PositionConfig)


class Position(Component[P]):
    """How attention learns where its keys stand: by turning queries and keys, or by a bias.

    Its scope stands inside a head: ``d_model`` is the head's width, ``num_heads`` that of queries.
    """

    def rotate(self, x: Tensor, span: Span) -> Tensor:
        """Queries or keys (b, t, h, k), turned by their positions."""
        return x

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor | None:
        """(1 or b, t), (1 or b, s) -> (1 or b, h, t, s) float32, added to the logits, or None:
        where the config says ``biased``."""
        return None

    def factor(self, q_positions: Tensor, k_positions: Tensor) -> Tensor | None:
        """As :meth:`bias`, but multiplied with the logits, before any bias."""
        return None


class EmbeddingPosition(Component[C], ABC):
    """A vector for each position, added to the token embeddings."""

    @abstractmethod
    def forward(self, x: Tensor, span: Span) -> Tensor:
        """Token embeddings (b, t, d) -> the same with positions; arbitrary but finite at pads."""


T = TypeVar("T", bound=Component[Any])


class Registry:
    """The components of one kind, by the ``type`` of their config."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[Component[Any]]] = {}
        offer(kind, self)

    def register(self, cls: type[T]) -> type[T]:
        """Adds a component class; a second one of the same name is refused."""
        name = cls.Config.model_fields["type"].default
        if not isinstance(name, str):
            raise TypeError(f"{cls.__qualname__}.Config needs `type: Literal['…'] = '…'`")
        known = self._classes.get(name)
        same = known is not None and (known.__module__, known.__qualname__) == (
            cls.__module__,
            cls.__qualname__,
        )
        if known is not None and not same:
            raise ValueError(
                f"{self.kind} {name!r} is registered twice, by {_made_in(known)} and by "
                f"{_made_in(cls)}; give one another name: the default of `type` in its Config"
            )
        self._classes[name] = cls
        return cls

    def names(self) -> tuple[str, ...]:
        """The names of all components, sorted: the order of imports changes nothing."""
        return tuple(sorted(self._classes))

    def __iter__(self) -> Iterator[type[Component[Any]]]:
        return iter(self._classes.values())

    def config_class(self, name: str) -> type[ComponentConfig] | None:
        """The typed config of the component of that name, or None."""
        cls = self._classes.get(name)
        return cls.Config if cls else None

    def build(self, config: ComponentConfig, scope: Scope) -> Any:
        """The module for a resolved config."""
        return self._classes[config.type](config, scope)


def _made_in(cls: type[Any]) -> str:
    """A class and the file that it was written in, for people."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return f"{cls.__qualname__} of {file or cls.__module__}"


REGISTRIES: dict[str, Registry] = {
    kind: Registry(kind)
    for kind in ("mixer", "mlp", "norm", "position", "embedding_position", "residual")
}


def register(kind: str) -> Callable[[type[T]], type[T]]:
    """``@register("mixer")`` above a component class."""
    return REGISTRIES[kind].register


def build_component(kind: str, config: ComponentConfig, scope: Scope) -> Any:
    """The module of a resolved config of that kind."""
    return REGISTRIES[kind].build(config, scope)


def filled(value: int | None) -> int:
    """A field that ``resolve`` has filled in."""
    assert value is not None, "an unresolved config was built"
    return value


def reorder(state: State, rows: Tensor) -> State:
    """The state of the rows picked by ``rows`` (n,): for beams and finished sequences."""
    if isinstance(state, Tensor):
        return state[rows]
    if state is None or isinstance(state, int):
        return state  # what all rows have in common
    if isinstance(state, Workspace):
        return None
    if not isinstance(state, tuple):
        raise TypeError(f"a state is a tuple of tensors, not {type(state).__name__}")
    parts = [reorder(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
