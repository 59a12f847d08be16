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

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import Field

from windtunnel.config import (
    Config,
    Document,
    Path,
    decode,
    format_path,
    load_document,
    suggestion,
)
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.spaces.axis import Axis
from windtunnel.spaces.block import Block, Naming, derived_names
from windtunnel.spaces.coupling import coupled_digits
from windtunnel.spaces.declared_axes import SECTIONS, Axes, first_document, set_twice, told_at
from windtunnel.spaces.declared_family import Declared
from windtunnel.spaces.declared_members import check_first, check_values
from windtunnel.spaces.expression import Expression
from windtunnel.spaces.families import Family, family_of
from windtunnel.spaces.grids import GRIDS, MAX_SEQ_LEN, VOCAB_SIZE, full, reasonable
from windtunnel.spaces.space import Space, union

_BEGINNINGS = ("preset", "base", "family", "space")
_SIZES = frozenset({"vocab_size", "max_seq_len"})
_DEEPEST = 5
_Condition = tuple[Expression, Path]
"""A condition, and where it is written."""


class PartConfig(Config):
    """One part of a space: what its members begin with, and the axes over which they differ.

    Members begin with a ``preset``, a run file (``base``), a ``family``, or all members of another
    ``space``; one of the four is given.
    """

    name: str | None = Field(None, min_length=1, max_length=60)
    """How names of its members begin; that of what they begin with when left out. Of the members of
    another space it stands before their names."""
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


def load_space(
    source: str | FilePath,
    *,
    vocab_size: int | None = None,
    max_seq_len: int | None = None,
) -> Space:
    """The space of a name (`reasonable`, `full`) or a file. Of its members a few are looked at,
    so that a wrong path or value is told at once: see
    :mod:`windtunnel.spaces.declared_members`.

    Raises:
        UsageError: there is no such space, or a file that is wrong (ConfigError, with every place).
    """
    space = _loaded(source, FilePath(), vocab_size, max_seq_len, ())
    check_values(space)
    return space


def _loaded(
    source: str | FilePath,
    base: FilePath,
    vocab: int | None,
    longest: int | None,
    above: tuple[FilePath, ...],
) -> Space:
    """``above`` are the files that lead to this one."""
    if str(source) in GRIDS:
        grid = reasonable if str(source) == "reasonable" else full
        return grid(vocab or VOCAB_SIZE, longest or MAX_SEQ_LEN)
    file = base / source
    if file.suffix not in (".yaml", ".yml") and not file.exists():
        hint = suggestion(str(source), GRIDS)
        raise UsageError(f"unknown space {str(source)!r}{hint}; a file ends in .yaml")
    if file.resolve() in above:
        raise UsageError(f"{file}: is a space of itself")
    if len(above) > _DEEPEST:
        raise UsageError(f"{file}: spaces of spaces, more than {_DEEPEST} deep")
    document = load_document(file)
    for section in SECTIONS:
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

        for number, plugin in enumerate(config.plugins):
            with told_at(document, ("plugins", number)):
                load_plugins([plugin], file.parent)
    return _Reader(config, document, file, (*above, file.resolve())).whole()


@dataclass(frozen=True)
class _Reader:
    config: SpaceConfig
    document: Document
    file: FilePath
    files: tuple[FilePath, ...]
    """This one, and those that lead to it."""

    def whole(self) -> Space:
        config = self.config
        own = config.name or self.file.stem
        if not config.union:
            return self._part(config, (), own)
        given = [key for key in _BEGINNINGS if getattr(config, key)]
        if given or config.axes:
            raise self._wrong((given or ["axes"])[0], "stands beside `union`: put it into a part")
        parts = [
            self._part(part, ("union", number), part.name or _begins(part) or f"part{number}")
            for number, part in enumerate(config.union)
        ]
        with self._told_at(("union",)):
            together = union(own, *parts)
        return self._held(together, self._conditions(config.where, ()))

    def _told_at(self, path: Path) -> AbstractContextManager[None]:
        return told_at(self.document, path)

    def _wrong(self, key: str | Path, message: str) -> ConfigError:
        path = (key,) if isinstance(key, str) else key
        place = self.document.place(path, key=True)
        return ConfigError([Problem(format_path(path), message, place)])

    def _part(self, part: PartConfig, path: Path, name: str) -> Space:
        given = [k for k in _BEGINNINGS if getattr(part, k) is not None]
        if len(given) != 1:
            text = (
                f"needs one of preset, base, family or space, not {' and '.join(given) or 'none'}"
            )
            raise self._wrong((*path, given[1]) if given else path, text)
        make = self._product if part.space is None else self._of_space
        space = make(part, path, name)
        with self._told_at((*path, "axes")):
            check_first(space)
        return space

    def _of_space(self, part: PartConfig, path: Path, name: str) -> Space:
        """All members of another space, in the product with the part's axes."""
        config = self.config
        with self._told_at((*path, "space")):
            whole = _loaded(str(part.space), self.file.parent, config.vocab_size,
                            config.max_seq_len, self.files)  # fmt: skip
            whole = whole.named(name, prefix=part.name)
        taken = frozenset(name for block in whole.blocks for name in block.names) - _SIZES
        axes, origins = self._axes(part, path, None, taken)
        if axes:
            with self._told_at((*path, "axes")):
                whole = whole.times(*axes, origins=origins)
            for block in whole.blocks:
                self._check_paths(block, path, part, axes)
        return self._held(whole, self._conditions(part.where, path))

    def _axes(
        self, part: PartConfig, path: Path, family: Family | None, taken: frozenset[str]
    ) -> tuple[list[Axis], dict[Path, str]]:
        reader = Axes(self.document, (*path, "axes"), family, taken)
        axes = reader.read(part.axes, of_file=part.family is None and part.space is None)
        return axes, reader.origins(part.axes, axes)

    def _check_paths(
        self, block: Block, path: Path, part: PartConfig, axes: Sequence[Axis]
    ) -> None:
        """Raises ConfigError for a path that two axes set."""
        if not any(axis.paths for axis in block.axes):
            return
        values = {axis.name: axis.values[0] for axis in block.axes}
        with self._told_at(path):
            tree = first_document(block, values).tree
        if (found := set_twice(block, tree)) is not None:
            place, first, later = found
            keys = {axis.name: key for key, axis in zip(part.axes, axes, strict=True)}
            where = (*path, "axes", keys[later]) if later in keys else (*path, "axes")
            raise self._wrong(where, f"{format_path(place)} is a path set by two axes, {first} and "
                              f"{later}")  # fmt: skip

    def _product(self, part: PartConfig, path: Path, name: str) -> Space:
        """A family, a preset or a run file over the part's axes. Conditions on axes alone shape the
        product; all others select of it."""
        family = self._family(part, path, name)
        registered = family if part.family is not None else None
        axes, origins = self._axes(part, path, registered, frozenset(derived_names(family)))
        written = list(axes)
        order = {axis: place for place, axis in enumerate(family.axes)}
        axes.sort(key=lambda axis: order.get(axis.name, len(order)))
        axes = [Axis(a.name, a.values, a.paths, (a.structural or not a.paths)
                     and a.name not in family.free) for a in axes]  # fmt: skip
        rules, rest = self._rules(part, path, axes, family)
        with self._told_at(rules[0][1] if rules else path):
            digits = coupled_digits(
                axes, [rule for rule, _ in rules], family if family.coupled else None
            )
        with self._told_at((*path, "family") if registered else path):
            block = Block(
                family, tuple(axes), Naming(name), self.config.vocab_size, self.config.max_seq_len,
                digits, origins,
            )  # fmt: skip
        self._check_paths(block, path, part, written)
        with self._told_at((*path, "axes")):
            space = Space(name, [block])
        return self._held(space, rest)

    def _rules(
        self, part: PartConfig, path: Path, axes: Sequence[Axis], family: Family
    ) -> tuple[list[_Condition], list[_Condition]]:
        """Conditions on axes alone, and those on what members are."""
        rules: list[_Condition] = []
        rest: list[_Condition] = []
        own = [axis.name for axis in axes]
        others = {"params", "family", *_SIZES, *derived_names(family)} - set(own)
        words = {word for axis in axes for word in axis.words()} | {family.name}
        for expression, at in self._conditions(part.where, path):
            with self._told_at(at):
                expression.check(dict.fromkeys([*own, *sorted(others)]), words)
            names = set(expression.root.names())
            alone = names & set(own) and not names & others
            (rules if alone else rest).append((expression, at))
        return rules, rest

    def _family(self, part: PartConfig, path: Path, name: str) -> Family:
        if part.family is not None:
            with self._told_at((*path, "family")):
                return family_of(part.family)
        from windtunnel.arch import expand_preset, preset_names

        if part.base is not None:
            file = self.file.parent / part.base
            with self._told_at((*path, "base")):
                return Declared(name, expand_preset(load_document(file)), file.parent)
        if part.preset not in preset_names():
            text = f"unknown preset {part.preset!r}{suggestion(part.preset, preset_names())}"
            raise self._wrong((*path, "preset"), text)
        base = expand_preset(Document({"arch": {"preset": part.preset}}))
        return Declared(name, base, FilePath())

    def _conditions(self, where: str | tuple[str, ...], path: Path) -> list[_Condition]:
        """Every condition that must hold, and where it is written."""
        found: list[_Condition] = []
        for number, text in enumerate((where,) if isinstance(where, str) else where):
            at = (*path, "where") if isinstance(where, str) else (*path, "where", number)
            with self._told_at(at):
                found += [(each, at) for each in Expression(text).parts()]
        return found

    def _held(self, space: Space, conditions: Sequence[_Condition]) -> Space:
        for expression, at in conditions:
            with self._told_at(at):
                space = space.where(expression)
        return space


def _begins(part: PartConfig) -> str | None:
    """What members begin with, as a name."""
    base = FilePath(part.base).stem if part.base is not None else None
    return part.preset or part.family or base
