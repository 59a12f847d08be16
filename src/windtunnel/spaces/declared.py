"""A space in a YAML file: axes by dotted path over any run file, preset or family, with conditions.

name: shallow-llamas
preset: llama
axes:
  arch.d_model: [64, 128, 256]
  heads: {path: 'arch.layers[*].mixer.num_heads', values: [2, 4, 6]}
  arch.layers[0].repeat: {from: 2, to: 8, step: 2}
where: d_model % heads == 0 and params < 10M
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, ClassVar

from pydantic import Field

from windtunnel.config import (
    Config,
    Document,
    Path,
    decode,
    format_path,
    load_document,
    parse_path,
    suggestion,
)
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.spaces.axis import Axis
from windtunnel.spaces.block import Block, Naming
from windtunnel.spaces.coupling import coupled_digits
from windtunnel.spaces.expression import Expression
from windtunnel.spaces.families import Family, family_of
from windtunnel.spaces.grids import GRIDS, MAX_SEQ_LEN, VOCAB_SIZE, full, reasonable
from windtunnel.spaces.space import Space, union

_SECTIONS = ("arch", "data", "train")
_FREE = ("dropout", "init_std", "name")
"""Last steps of paths whose values change no tensor's shape and nothing that is computed in use."""
_MOST_VALUES = 100_000
_DEEPEST = 5


class PartConfig(Config):
    """One part of a space: what its members begin with, and the axes over which they differ.

    Members begin with a ``preset``, a run file (``base``), a ``family``, or all members of another
    ``space``; one of the four is given.
    """

    name: str | None = Field(None, min_length=1, max_length=60)
    """How names of its members begin; that of what they begin with when left out."""
    preset: str | None = None
    """An architecture to begin with."""
    base: str | None = None
    """A run file to begin with, relative to this file."""
    family: str | None = None
    """A registered family; `axes` give values to each of its own axes."""
    space: str | None = None
    """`reasonable`, `full`, or another file of this kind, relative to this one."""
    axes: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted path (`arch.d_model: [64, 128]`), or by a name of your own
    (`{path: arch.d_model, values: [64, 128]}`; `paths:` sets several). Values are a list, or
    `{from: 2, to: 8, step: 2}`."""
    where: str | tuple[str, ...] = ()
    """Conditions that every member fulfils."""


class SpaceConfig(PartConfig):
    """A whole file."""

    vocab_size: int = Field(VOCAB_SIZE, ge=1)
    """The vocabulary of families and of the two grids."""
    max_seq_len: int = Field(MAX_SEQ_LEN, ge=1)
    """The longest sequence of families and of the two grids, in tokens."""
    union: tuple[PartConfig, ...] = ()
    """Several parts, one after another, in place of a single one."""
    plugins: tuple[str, ...] = ()
    """Python files with families or components of your own, relative to this file."""


class Declared(Family):
    """Members of a run file: every difference is an edit of some path."""

    closed = False
    axes = ()
    parts: ClassVar[Mapping[str, str]] = {}
    free = frozenset()

    def __init__(self, name: str, base: Document, folder: FilePath) -> None:
        self.name = name  # type: ignore[misc]
        self.folder = folder
        self._base = base

    def document(self, values: Mapping[str, Any]) -> Document:
        return self._base

    def params(self, values: Mapping[str, Any]) -> Any:
        raise NotImplementedError("counted from the architecture")

    def arch(self, values: Mapping[str, Any]) -> dict[str, Any]:
        arch: dict[str, Any] = self._base.tree["arch"]
        return arch

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {}


def load_space(
    source: str | FilePath,
    *,
    vocab_size: int | None = None,
    max_seq_len: int | None = None,
) -> Space:
    """The space of a name (`reasonable`, `full`) or a file. Members are not looked at but for the
    first of each part, so that a wrong path is told at once.

    Raises:
        UsageError: there is no such space, or a file that is wrong (ConfigError, with every place).
    """
    return _loaded(source, FilePath(), vocab_size, max_seq_len, depth=0)


def _loaded(
    source: str | FilePath, base: FilePath, vocab: int | None, longest: int | None, depth: int
) -> Space:
    if str(source) in GRIDS:
        grid = reasonable if str(source) == "reasonable" else full
        return grid(vocab or VOCAB_SIZE, longest or MAX_SEQ_LEN)
    file = base / source
    if file.suffix not in (".yaml", ".yml") and not file.exists():
        hint = suggestion(str(source), GRIDS)
        raise UsageError(f"unknown space {str(source)!r}{hint}; a file ends in .yaml")
    if depth > _DEEPEST:
        raise UsageError(f"{file}: spaces of spaces, more than {_DEEPEST} deep")
    document = load_document(file)
    for section in _SECTIONS:
        if section in document.tree:
            text = "is a run file's; a space names one as `base: run.yaml`, and has `axes`"
            raise ConfigError([Problem(section, text, document.place((section,), key=True))])
    config = decode(document, SpaceConfig)
    if vocab is not None:
        config = config.replace(vocab_size=vocab)
    if longest is not None:
        config = config.replace(max_seq_len=longest)
    if config.plugins:
        from windtunnel.arch.plugins import load_plugins

        load_plugins(config.plugins, file.parent)
    return _Reader(config, document, file, depth).whole()


@dataclass(frozen=True)
class _Reader:
    config: SpaceConfig
    document: Document
    file: FilePath
    depth: int

    def whole(self) -> Space:
        config = self.config
        own = config.name or self.file.stem
        if not config.union:
            return self._part(config, (), own)
        given = [key for key in ("preset", "base", "family", "space") if getattr(config, key)]
        if given or config.axes:
            raise self._wrong((given or ["axes"])[0], "stands beside `union`: put it into a part")
        parts = [
            self._part(part, ("union", number), part.name or _begins(part) or f"part{number}")
            for number, part in enumerate(config.union)
        ]
        return self._held(union(own, *parts), config.where, ())

    def _wrong(self, key: str | Path, message: str) -> ConfigError:
        path = (key,) if isinstance(key, str) else key
        place = self.document.place(path, key=True)
        return ConfigError([Problem(format_path(path), message, place)])

    def _part(self, part: PartConfig, path: Path, name: str) -> Space:
        given = [k for k in ("preset", "base", "family", "space") if getattr(part, k) is not None]
        if len(given) != 1:
            text = (
                f"needs one of preset, base, family or space, not {' and '.join(given) or 'none'}"
            )
            raise self._wrong((*path, given[1]) if given else path, text)
        axes = [
            self._axis((*path, "axes", key), key, value, own=self._own_axes(part))
            for key, value in part.axes.items()
        ]
        axes = _named_apart(axes)
        places = [self.document.place((*path, "axes", key)) for key in part.axes]
        origins = {p: at for axis, at in zip(axes, places, strict=True) for p in axis.paths}
        if part.space is not None:
            config = self.config
            whole = _loaded(part.space, self.file.parent, config.vocab_size, config.max_seq_len,
                            self.depth + 1)  # fmt: skip
            held = whole.times(*axes) if axes else whole
            return self._held(held, part.where, path)
        return self._product(part, path, name, axes, origins)

    def _own_axes(self, part: PartConfig) -> frozenset[str]:
        return frozenset(family_of(part.family).axes if part.family is not None else ())

    def _product(
        self, part: PartConfig, path: Path, name: str, axes: list[Axis], origins: dict[Path, str]
    ) -> Space:
        family = self._family(part, path, name)
        order = {axis: place for place, axis in enumerate(family.axes)}
        axes.sort(key=lambda axis: order.get(axis.name, len(order)))
        axes = [Axis(a.name, a.values, a.paths, a.structural and a.name not in family.free)
                for a in axes]  # fmt: skip
        known = {axis.name for axis in axes}
        rules, rest = self._conditions(part.where, path, known)
        digits = coupled_digits(axes, rules, family if family.coupled else None)
        block = Block(
            family, tuple(axes), Naming(name), self.config.vocab_size, self.config.max_seq_len,
            digits, origins,
        )  # fmt: skip
        space = Space(name, [block])
        if block.size and not block.closed:
            block.architecture(block.values(0), name)  # tells a wrong path at once
        for text in rest:
            space = self._held(space, text, path)
        return space

    def _family(self, part: PartConfig, path: Path, name: str) -> Family:
        if part.family is not None:
            return family_of(part.family)
        from windtunnel.arch import expand_preset, preset_names

        if part.base is not None:
            file = self.file.parent / part.base
            return Declared(name, expand_preset(load_document(file)), file.parent)
        if part.preset not in preset_names():
            text = f"unknown preset {part.preset!r}{suggestion(part.preset, preset_names())}"
            raise self._wrong((*path, "preset"), text)
        base = expand_preset(Document({"arch": {"preset": part.preset}}))
        return Declared(name, base, FilePath())

    def _conditions(
        self, where: str | tuple[str, ...], path: Path, known: set[str]
    ) -> tuple[list[Expression], list[str]]:
        """Conditions on axes alone, which shape the product, and those on what members are."""
        rules, rest = [], []
        for text in (where,) if isinstance(where, str) else where:
            try:
                expression = Expression(text)
            except UsageError as error:
                raise self._wrong((*path, "where"), str(error)) from None
            others = {n for n in expression.root.names() if n not in known}
            of_members = others & {"params", "family", "vocab_size", "max_seq_len", "d_ff",
                                   "head_dim"}  # fmt: skip
            if of_members:
                rest.append(text)
            else:
                rules.append(expression)
        return rules, rest

    def _held(self, space: Space, where: str | tuple[str, ...], path: Path) -> Space:
        for text in (where,) if isinstance(where, str) else where:
            try:
                space = space.where(text)
            except ConfigError:
                raise
            except UsageError as error:
                raise self._wrong((*path, "where"), str(error)) from None
        return space

    def _axis(self, path: Path, key: str, value: Any, *, own: frozenset[str]) -> Axis:
        if key in own:
            return Axis(key, self._values(path, value))
        if isinstance(value, Mapping) and ("path" in value or "paths" in value):
            unknown = [k for k in value if k not in ("path", "paths", "values")]
            if unknown or ("path" in value) == ("paths" in value) or "values" not in value:
                raise self._wrong(path, "takes path (or paths) and values")
            texts = value["paths"] if "paths" in value else (value["path"],)
            if not isinstance(texts, tuple | list) or not texts:
                raise self._wrong((*path, "paths"), "takes a list of paths")
            return self._edit(path, key, [str(text) for text in texts], value["values"])
        if key.split(".")[0].split("[")[0] not in _SECTIONS:
            hint = f"; the family's are {', '.join(sorted(own))}" if own else ""
            raise self._wrong(path, f"is no path such as arch.{key}{hint}")
        return self._edit(path, "", [key], value)

    def _edit(self, path: Path, name: str, texts: Sequence[str], values: Any) -> Axis:
        paths = tuple(parse_path(text) for text in texts)
        for one in paths:
            if one[0] not in _SECTIONS or len(one) < 2:
                raise self._wrong(path, f"{format_path(one)} is no path below arch, data or train")
        structural = any(_structural(one) for one in paths)
        return Axis(name, self._values(path, values), paths, structural)

    def _values(self, path: Path, value: Any) -> tuple[Any, ...]:
        if isinstance(value, Mapping) and set(value) <= {"from", "to", "step"} and "from" in value:
            return self._range(path, value)
        if not isinstance(value, tuple | list):
            raise self._wrong(path, "takes a list of values, or {from: 2, to: 8, step: 2}")
        try:
            return Axis(format_path(path), tuple(value)).values
        except UsageError as error:
            raise self._wrong(path, str(error).partition(": ")[2] or str(error)) from None

    def _range(self, path: Path, value: Mapping[str, Any]) -> tuple[int, ...]:
        first, last, step = value["from"], value.get("to", "none"), value.get("step", 1)
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in (first, last, step))
        if not whole or step < 1 or last < first:
            raise self._wrong(path, "a range takes whole numbers: from ≤ to, and step ≥ 1")
        if (last - first) // step >= _MOST_VALUES:
            raise self._wrong(path, f"has more than {_MOST_VALUES:,} values")
        return tuple(range(first, last + 1, step))


def _structural(path: Path) -> bool:
    """Whether a value at that place can decide what a model computes in use."""
    return path[-1] not in _FREE and (path[0] == "arch" or path[:2] == ("data", "tokenizer"))


def _begins(part: PartConfig) -> str | None:
    """What members begin with, as a name."""
    base = FilePath(part.base).stem if part.base is not None else None
    return part.preset or part.family or base


def _named_apart(axes: Sequence[Axis]) -> list[Axis]:
    """Axes without a name get the shortest end of their path that no other has."""
    named = []
    for place, axis in enumerate(axes):
        if axis.name:
            named.append(axis)
            continue
        others = [p for i, a in enumerate(axes) if i != place for p in a.paths]
        end = _shortest_end(axis.paths[0], others, {a.name for a in axes})
        named.append(Axis(format_path(end), axis.values, axis.paths, axis.structural))
    return named


def _shortest_end(path: Path, others: Sequence[Path], taken: Collection[str]) -> Path:
    for start in range(len(path) - 1, -1, -1):
        end = path[start:]
        begins_well = isinstance(end[0], str) and end[0] != "*"
        alone = all(other[-len(end) :] != end for other in others)
        if begins_well and alone and format_path(end) not in taken:
            return end
    return path
