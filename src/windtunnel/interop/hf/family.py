"""The contract of a family of Hugging Face models, and how its configs become architectures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from windtunnel.arch import Architecture, ArchSpec, diff, resolve
from windtunnel.config import format_path, parse_path
from windtunnel.errors import ConfigError, UsageError
from windtunnel.interop.hf.mapping import TensorMap

ACTIVATIONS = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
}
"""Their names of activations, and ours."""

_WITHOUT_EFFECT = frozenset(
    {"architectures", "dtype", "torch_dtype", "model_type", "transformers_version", "_name_or_path"}
    | {"output_hidden_states", "output_attentions", "return_dict", "use_cache"}
    | {"id2label", "label2id", "problem_type", "classifier_dropout", "initializer_range"}
    | {"pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id"}
    | {"decoder_start_token_id", "chunk_size_feed_forward"}
)
"""Keys that change no logit."""
_TRAINING_ONLY = ("dropout", "noise", "balance", "balance_rate")
_START_ONLY = ("init_std", "name")


class NotExpressible(UsageError):
    """A feature of one side that the other side does not have; each line names one."""


@dataclass
class Keys:
    """A Hugging Face config of which every key must be looked at.

    A key that nobody has read is refused in :meth:`finish`: nothing is dropped in silence.
    """

    model_type: str
    values: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _read: set[str] = field(default_factory=set)

    def __call__(self, key: str, default: Any = None) -> Any:
        """The value of a key."""
        self._read.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def refuse(self, key: str, why: str) -> None:
        """Takes note that a key cannot be expressed."""
        self.problems.append(f"{key}: {why}")

    def must(self, key: str, *allowed: Any) -> None:
        """The key has one of these values, or is refused."""
        value = self(key)
        if value is not None and value not in allowed:
            wanted = " or ".join(str(choice) for choice in allowed)
            self.refuse(key, f"{value} cannot be expressed, only {wanted}")

    def idle(self, *keys: str) -> None:
        """Keys that change no logit in this family."""
        self._read.update(keys)

    def training_only(self, key: str, neutral: Any) -> None:
        """A key that acts in training alone: told where it is not neutral."""
        if self(key, neutral) != neutral:
            self.notes.append(f"{key} = {self.values[key]} acts in training alone and is left out")

    def activation(self, key: str) -> str:
        """Our name of their activation."""
        name = self(key)
        if name not in ACTIVATIONS:
            self.refuse(key, f"{name!r} is not among our activations ({', '.join(ACTIVATIONS)})")
        return ACTIVATIONS.get(name, "gelu")

    def finish(self) -> None:
        """Raises NotExpressible with every key that cannot be expressed, unread ones included."""
        for key in sorted(self.values.keys() - self._read - _WITHOUT_EFFECT):
            if key == "is_encoder_decoder" and not self.values[key]:
                continue
            self.refuse(key, f"{self.values[key]!r} is not known for {self.model_type}")
        if self.problems:
            raise NotExpressible(
                "\n".join(f"{self.model_type} config: {text}" for text in self.problems)
            )


def their_activation(ours: str, among: Iterable[str] = ()) -> str:
    """Their name of one of our activations, of several the one in ``among``."""
    names = [name for name, own in ACTIVATIONS.items() if own == ours]
    preferred = [name for name in names if name in tuple(among)]
    return (preferred or names)[0]


@dataclass(frozen=True)
class Family:
    """One ``model_type`` of transformers.

    ``read`` makes a spec of a config whose keys it has all looked at; ``write`` makes the config
    that comes closest to an architecture, and need not check it: an export reads that config again
    and refuses what comes out otherwise. ``tensors`` maps each tensor of our model (``names``) to
    theirs, under the names in their files.
    """

    model_type: str
    causal_class: str
    """The class in transformers whose logits are those of our model."""
    read: Callable[[Keys], ArchSpec]
    write: Callable[[Architecture], dict[str, Any]]
    tensors: Callable[[Architecture, Collection[str]], list[TensorMap]]
    prefix: str = "model."
    """What stands before the names of a base model, which has no head of its own."""
    tied: tuple[str, str] | None = None
    """(copy, original) of a tied head in their files, where a file may hold it twice."""
    stored_tie: bool = False
    """Whether the files, and not the config, say if the head is tied."""
    copies: tuple[tuple[str, str], ...] = ()
    """(copy, original) of other weights that a file may hold twice."""
    beside: tuple[str, ...] = ()
    """Patterns of names of weights that no logit depends on, as those of another head."""
    renamed: tuple[tuple[str, str], ...] = ()
    """(pattern, its replacement) in names of older files."""
    same: Callable[[Architecture], Architecture] = lambda architecture: architecture
    """The architecture of the same function that the family has, where ``tensors`` can change the
    weights accordingly."""
    endless: bool = False
    """Whether nothing limits the length of a sequence; the config then says no ``max_seq_len``."""
    buffers: tuple[str, ...] = (r".*\.rotary_emb\.inv_freq",)
    """Patterns of names of constants in older files, which are no weights."""

    def to_spec(self, values: Mapping[str, Any], notes: list[str] | None = None) -> ArchSpec:
        """The architecture of a config (``config.to_dict()``).

        ``notes`` is told what acts in training alone and is left out.

        Raises:
            NotExpressible: names every key that our architectures cannot express.
        """
        keys = Keys(self.model_type, values)
        try:
            spec = self.read(keys)
        except ConfigError:
            raise
        except ValueError as error:
            if not keys.problems:
                raise NotExpressible(f"{self.model_type} config: {_short(error)}") from error
            spec = None
        keys.finish()
        assert spec is not None
        if notes is not None:
            notes += keys.notes
        return spec

    def to_config(
        self, architecture: Architecture, notes: list[str] | None = None
    ) -> dict[str, Any]:
        """The values of the config that gives this architecture again.

        ``notes`` is told what acts in training alone and is left out.

        Raises:
            NotExpressible: names every part that has no counterpart in this family.
        """
        written, architecture = architecture, self.same(architecture)
        folded = list(diff(written, architecture))
        if folded and notes is not None:
            first, more = folded[0], f", and {len(folded) - 1} more" if folded[1:] else ""
            notes.append(
                f"{first.path} = {first.first} is {first.second} in {self.model_type}, and the "
                f"weights make up for it{more}"
            )
        values = {**self.write(architecture), "model_type": self.model_type}
        try:
            again = resolve(self.to_spec(values))
        except ConfigError as error:  # sizes that go together in ours alone
            raise NotExpressible(f"{self.model_type} has no such sizes: {error}") from error
        if self.endless:
            again = again.replace(max_seq_len=architecture.max_seq_len)
        lost: list[str] = []
        _compare(architecture, again, self.model_type, lost, notes if notes is not None else [])
        if lost:
            raise NotExpressible("\n".join(lost))
        return values


def no_counterpart(path: str, what: Any, model_type: str) -> NotExpressible:
    """The refusal of a part of an architecture."""
    return NotExpressible(f"{path}: {what} has no counterpart in {model_type}")


def _compare(
    wanted: Architecture, got: Architecture, model_type: str, lost: list[str], notes: list[str]
) -> None:
    """What the architecture that comes back lacks."""
    differences = [(parse_path(found.path), found) for found in diff(wanted, got)]
    other_kind = {path[:-1] for path, _ in differences if path[-1] == "type" and path[:-1]}
    for path, found in differences:
        leaf, above = path[-1], path[:-1]
        if leaf == "type" and above:
            lost.append(str(no_counterpart(format_path(above), found.first, model_type)))
        elif leaf in _START_ONLY or any(path[:n] in other_kind for n in range(1, len(path))):
            continue
        elif leaf in _TRAINING_ONLY and "loss_free" not in (found.first, found.second):
            notes.append(f"{found.path} = {found.first} acts in training alone and is left out")
        else:
            there = "" if found.second is None else f" (it has {found.second})"
            text = no_counterpart(found.path, found.first, model_type)
            lost.append(f"{text}{there}")


def _short(error: ValueError) -> str:
    """The first line that says something."""
    errors = getattr(error, "errors", None)
    if errors is not None:
        return "; ".join(
            f"{format_path(item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in errors()
        )
    return str(error)
