"""A YAML file as a plain tree, with the place from which each of its values came."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

import yaml

from windtunnel.config.nearest import hint_beside
from windtunnel.config.path import ALL, Path, Step, format_path, parse_path
from windtunnel.errors import ConfigError, Problem, UsageError

_MAX_NODES = 100_000  # a config has hundreds; more is an alias bomb or the wrong file
_MAX_BYTES = 4_000_000
_MOST_DIGITS = 100
_NOTHING = object()
EDIT = "--set"
"""Where the user's own edits come from."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: ``3e-4`` is a number, ``on`` and ``no`` are words."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
              r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
):  # fmt: skip
    _first_characters = [""] if _first == "\0" else [c if c != "\0" else "" for c in _first]
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first_characters
    )


@dataclass(frozen=True)
class Document:
    """A config before it is typed: a tree, and where each part of it was written.

    ``origins`` maps a path to ``file:line:column``, ``--set`` or a preset's name. Edits give a new
    document; the tree is not to be changed in place.
    """

    tree: dict[str, Any]
    origins: Mapping[Path, str] = field(default_factory=dict)
    key_places: Mapping[Path, str] = field(default_factory=dict)
    source: str = ""
    quoted: frozenset[Path] = frozenset()
    """The texts that stand in quotes: their first character is one column further on."""

    def place(self, path: Path, *, key: bool = False) -> str:
        """Where the value (or key) at ``path`` was written: its own place, or its parent's."""
        if key and path in self.key_places:
            return self.key_places[path]
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.source

    def get(self, path: Path, default: Any = None) -> Any:
        """The value at a path, or ``default``."""
        node: Any = self.tree
        for step in path:
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                return default
        return node

    def edit(self, text: str, origin: str = EDIT) -> Document:
        """``a.b[*].c=value``: the document with that value set, wherever the path leads."""
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError([Problem(text, "is not an edit such as train.lr=3e-4", origin)])
        path = parse_path(name.strip(), origin)
        return self.with_value(path, parse_value(value, origin), origin)

    def with_value(self, path: Path, value: Any, origin: str) -> Document:
        """The document with ``value`` at every place that ``path`` matches."""
        tree = copy.deepcopy(self.tree)
        origins = dict(self.origins)
        for concrete in _matches(tree, path, origin):
            if concrete:
                _assign(tree, concrete, copy.deepcopy(value))
            else:
                tree = copy.deepcopy(value)
            for known in [p for p in origins if p[: len(concrete)] == concrete]:
                del origins[known]
            made = [concrete[:size] for size in range(1, len(concrete))]  # mappings on the way
            origins |= {p: origin for p in made if self.get(p, _NOTHING) is _NOTHING}
            origins[concrete] = origin
        keys = {p: place for p, place in self.key_places.items() if p in origins}
        return Document(tree, origins, keys, self.source, self.quoted)

    def moved(self, other: Document, targets: Sequence[tuple[Path, Path]]) -> Document:
        """The document where each second path has the places that ``other`` knows at the first."""
        origins, key_places = dict(self.origins), dict(self.key_places)
        for source, target in targets:
            size = len(source)
            for known, kept in ((other.origins, origins), (other.key_places, key_places)):
                below = {p: o for p, o in known.items() if p[:size] == source}
                kept.update({(*target, *p[size:]): o for p, o in below.items()})
        return replace(self, origins=origins, key_places=key_places)

    def without(self, paths: set[Path]) -> Document:
        """The document with the values at these paths left out."""
        tree = copy.deepcopy(self.tree)
        for path in sorted(paths, key=lambda p: [str(s).zfill(6) for s in p], reverse=True):
            parent = Document(tree).get(path[:-1]) if path else None
            if isinstance(parent, dict) and path[-1] in parent:
                del parent[path[-1]]
        return replace(self, tree=tree)


def _matches(tree: dict[str, Any], path: Path, origin: str) -> list[Path]:
    """The concrete paths of a path with ``*`` and negative indices."""
    found: list[Path] = [()]
    for step in path:
        following: list[Path] = []
        for prefix in found:
            node = Document(tree).get(prefix)
            following += [(*prefix, s) for s in _steps(node, step, prefix, origin)]
        found = following
    return found


def _steps(node: Any, step: Step, prefix: Path, origin: str) -> list[Step]:
    where = format_path(prefix) or "the config"
    if step == ALL or isinstance(step, int):
        if not isinstance(node, list | tuple):
            problem = Problem(where, f"is not a list, so [{step}] fits nothing", origin)
            raise ConfigError([problem])
        if step == ALL:
            return list(range(len(node)))
        assert isinstance(step, int)
        if not -len(node) <= step < len(node):
            raise ConfigError([Problem(where, f"has {len(node)} entries, none at {step}", origin)])
        return [step % len(node)]
    if isinstance(node, list | tuple):
        hint = f"{where} is a list: write [0], [1], … or [*] before .{step}"
        raise ConfigError([Problem(where, hint, origin)])
    return [step]


def _assign(tree: Any, path: Path, value: Any) -> None:
    """Sets a value in a mutable tree. A bare component name on the way becomes ``{type: name}``."""
    for step in path[:-1]:
        child = tree[step] if isinstance(step, int) else tree.get(step)
        if isinstance(child, tuple):
            child = list(child)
        elif isinstance(child, str):
            child = {"type": child}
        elif not isinstance(child, dict | list):
            child = {}
        tree[step] = child
        tree = child
    tree[path[-1]] = value


def parse_value(text: str, origin: str = EDIT) -> Any:
    """A value in YAML's flow form: ``3e-4``, ``[1, 2]``, ``{type: glu}``."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(
            [Problem("", f"{text!r} is not YAML: {_reason(error)}", origin)]
        ) from None
    if node is None:
        return None
    builder = _Builder(origin, places=False)
    value = builder.build(node, ())
    if builder.problems:
        raise ConfigError(builder.problems)
    return value


def _reason(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


class _Builder:
    """Plain values from YAML nodes; collects places, and every problem of form."""

    def __init__(self, source: str, *, places: bool = True) -> None:
        self.source = source
        self.origins: dict[Path, str] = {}
        self.key_places: dict[Path, str] = {}
        self.problems: list[Problem] = []
        self.quoted: set[Path] = set()
        self._nodes = 0
        self._open: set[int] = set()
        self._places = places

    def _place(self, node: yaml.Node) -> str:
        mark = node.start_mark
        return f"{self.source}:{mark.line + 1}:{mark.column + 1}" if self._places else self.source

    def build(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        self.origins[path] = self._place(node)
        if self._nodes > _MAX_NODES or id(node) in self._open:
            reason = "refers to itself" if id(node) in self._open else "has too many values"
            raise ConfigError([Problem(format_path(path), reason, self._place(node))])
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return tuple(self.build(n, (*path, i)) for i, n in enumerate(node.value))
            if getattr(node, "style", None) in ("'", '"'):
                self.quoted.add(path)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        kind = node.tag.rpartition(":")[2]
        text = str(node.value)
        if kind == "bool":
            return text.lower() == "true"
        if kind == "null":
            return None
        if kind == "int" and len(text) > _MOST_DIGITS:
            message = f"a number of {len(text):,} digits"
            self.problems.append(Problem(format_path(path), message, self._place(node)))
            return 0
        if kind == "int":
            return int(text.replace("_", ""))
        if kind == "float":
            text = text.replace("_", "").lower()
            special = text.replace(".inf", "inf").replace(".nan", "nan")
            return float(special)
        if kind != "str":
            message = f"the tag {node.tag!r} has no meaning here"
            self.problems.append(Problem(format_path(path), message, self._place(node)))
        return text

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        merges: list[tuple[yaml.Node, yaml.Node]] = []
        written: list[tuple[yaml.Node, yaml.Node]] = []
        for key_node, value_node in node.value:
            merged = key_node.tag == "tag:yaml.org,2002:str" and key_node.value == "<<"
            (merges if merged else written).append((key_node, value_node))
        result: dict[str, Any] = {}
        for _, value_node in merges:
            result = self._merged(value_node, path) | result
        seen: dict[str, str] = {}
        for key_node, value_node in written:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                message = "a key must be a name"
                self.problems.append(Problem(format_path(path), message, self._place(key_node)))
                continue
            here = (*path, key)
            if key in seen:
                message = f"written twice (first at {seen[key]})"
                self.problems.append(Problem(format_path(here), message, self._place(key_node)))
                continue
            self._forget(here)
            seen[key] = self.key_places[here] = self._place(key_node)
            result[key] = self.build(value_node, here)
        return result

    def _merged(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        """What ``<<: *name`` or ``<<: [*one, *two]`` brings in; the first one wins."""
        found: dict[str, Any] = {}
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for one in reversed(nodes):
            value = self.build(one, path) if isinstance(one, yaml.MappingNode) else None
            if value is None:
                message = "<< takes a mapping, or a list of mappings"
                self.problems.append(Problem(format_path(path), message, self._place(one)))
            else:
                found |= value
        return found

    def _forget(self, path: Path) -> None:
        """Leaves out the places of a merged value that is written anew."""
        if path in self.origins:
            for places in (self.origins, self.key_places):
                for below in [p for p in places if p[: len(path)] == path]:
                    del places[below]


def parse_document(text: str, source: str = "config") -> Document:
    """A document from YAML text; ConfigError where the text is not one mapping."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError([Problem("", "nested too deeply", source)]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError([Problem("", f"not YAML: {_reason(error)}", place)]) from None
    if node is None:
        raise ConfigError([Problem("", "the file is empty", source)])
    builder = _Builder(source)
    try:
        tree = builder.build(node, ())
    except RecursionError:
        raise ConfigError([Problem("", "nested too deeply", source)]) from None
    if not isinstance(tree, dict):
        what = "a list" if isinstance(tree, tuple) else repr(tree)
        wanted = "expected a mapping (a run file has `arch: …`, a search `space: …`), not"
        raise ConfigError([Problem("", f"{wanted} {what[:40]}", source)])
    if builder.problems:
        raise ConfigError(builder.problems)
    quoted = frozenset(builder.quoted)
    return Document(tree, builder.origins, builder.key_places, source, quoted)


def load_document(path: FilePath | str) -> Document:
    """A document from a YAML file; UsageError where it cannot be read."""
    file = FilePath(path)
    try:
        if file.is_dir():
            raise UsageError(f"{path}: is a folder; a YAML file is expected")
        if file.exists() and not file.is_file():
            raise UsageError(f"{path}: is not a regular file")
        if file.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path}: larger than {_MAX_BYTES:,} bytes, so not a config")
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        hint = hint_beside(file, suffixes=(".yaml", ".yml")) if is_missing else ""
        raise UsageError(f"{path}: {error.strerror or error}{hint}") from None
    return parse_document(text, str(path))
