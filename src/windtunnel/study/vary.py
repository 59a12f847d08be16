"""What an ablation varies: factors with their levels, from ``PATH=[values]``.

arch.layers[*].mlp.activation=[relu, gelu, silu]      one path, its values
arch.embedding.dropout, arch.layers[*].dropout=[0, .1]  several paths, set to the same value
train.lr=3e-4                                         one changed value
gated: {'arch.layers[*].mlp': glu, train.lr: 1e-3}    several edits together, under a name
size: [{arch.d_model: 64}, {arch.d_model: 128}]       several such levels
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.config import Path, format_path, parse_path, parse_value
from windtunnel.errors import ConfigError, Problem

OWN = "own"
"""The label of the file's value where it has no shorter one."""
MOST_LABEL = 40
_BUNDLE = re.compile(r"\s*(?P<name>[A-Za-z_][\w-]*)\s*:(?P<levels>.*)", re.DOTALL)
_SEED: Path = ("train", "seed")
_OF_THE_STUDY: Mapping[Path, str] = {
    _SEED: "seeds are the study's: use --seeds",
    ("arch", "name"): "names the run and changes nothing",
}


@dataclass(frozen=True)
class Level:
    """One setting of a factor."""

    label: str
    """As short as can be told apart."""
    value: Any
    """What is set, as plain JSON; of several edits together their mapping."""
    edits: tuple[tuple[Path, Any], ...]
    """Each path with its value; none: as the file has it."""
    refused: str = ""
    """Why no run can have it; empty where one can."""


@dataclass(frozen=True)
class Factor:
    """What is varied, and how."""

    name: str
    paths: tuple[Path, ...]
    levels: tuple[Level, ...]
    text: str = ""
    """As the user wrote it."""


def parse_factors(texts: Sequence[str], origin: str = "--vary") -> tuple[Factor, ...]:
    """The factors, their names as short as can be told apart.

    Raises:
        ConfigError: every mistake of all of them.

    >>> [(f.name, [l.label for l in f.levels]) for f in parse_factors(["a.b=[1, x]", "a.c=2"])]
    [('b', ['1', 'x']), ('c', ['2'])]
    """
    factors: list[Factor] = []
    problems: list[Problem] = []
    for text in texts:
        try:
            factors.append(_parse(text, origin))
        except ConfigError as error:
            problems += [replace(p, place=f"{origin} {text}") for p in error.problems]
    problems += _repeated(factors, origin)
    if problems:
        raise ConfigError(problems)
    names = _short_names(factors)
    return tuple(replace(f, name=name) for f, name in zip(factors, names, strict=True))


def _parse(text: str, origin: str) -> Factor:
    bundle = _BUNDLE.fullmatch(text)
    if bundle is not None:
        levels = _bundles(bundle["name"], parse_value(bundle["levels"], origin))
        paths = tuple(dict.fromkeys(path for level in levels for path, _ in level.edits))
        return _checked(Factor(bundle["name"], paths, levels, text))
    left, equals, right = text.partition("=")
    if not equals:
        raise _mistake("is not PATH=[value, …] or NAME: {PATH: value, …}")
    paths = tuple(parse_path(part.strip()) for part in left.split(","))
    values = parse_value(right, origin)
    values = list(values) if isinstance(values, tuple) else [values]
    if not values:
        raise _mistake("has no values")
    labels = _labels([_label(value) for value in values])
    levels = tuple(
        Level(label, plain(value), tuple((path, value) for path in paths))
        for label, value in zip(labels, values, strict=True)
    )
    return _checked(Factor("", paths, levels, text))


def _bundles(name: str, written: Any) -> tuple[Level, ...]:
    """Levels of several edits together."""
    mappings = list(written) if isinstance(written, tuple) else [written]
    if not mappings or not all(isinstance(m, dict) and m for m in mappings):
        raise _mistake(f"{name}: needs {{PATH: value, …}}, or a list of such mappings")
    single = len(mappings) == 1
    labels = ["on"] if single else _labels([_edits_label(mapping) for mapping in mappings])
    return tuple(
        Level(label, plain(mapping), tuple((parse_path(p), v) for p, v in mapping.items()))
        for label, mapping in zip(labels, mappings, strict=True)
    )


def _checked(factor: Factor) -> Factor:
    for path in factor.paths:
        if (why := _OF_THE_STUDY.get(path)) is not None:
            raise _mistake(f"{format_path(path)}: {why}")
    for path, value in (edit for level in factor.levels for edit in level.edits):
        if path == _SEED[:1] and isinstance(value, Mapping) and _SEED[1] in value:
            raise _mistake(f"{format_path(_SEED)}: {_OF_THE_STUDY[_SEED]}")
    if len(set(factor.paths)) < len(factor.paths):
        raise _mistake("names a path twice")
    seen: list[Any] = []
    for level in factor.levels:
        edits = [(path, _typed(plain(value))) for path, value in level.edits]
        if edits in seen:
            raise _mistake(f"has the value {level.label.split(' #')[0]} twice")
        seen.append(edits)
    return factor


def _mistake(message: str) -> ConfigError:
    return ConfigError([Problem("", message)])


def _repeated(factors: Sequence[Factor], origin: str) -> list[Problem]:
    """Paths that two factors set, and names that two have."""
    owners: dict[str, str] = {}
    found = []
    for factor in factors:
        keys = [format_path(path) for path in factor.paths]
        for key in [*keys, *([f"the name {factor.name}"] if factor.name else [])]:
            if key in owners:
                message = f"is varied twice (also by {owners[key]})"
                found.append(Problem(key, message, f"{origin} {factor.text}"))
            owners.setdefault(key, factor.text)
    return found


def plain(value: Any) -> Any:
    """The value as JSON has it: lists for tuples, words for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f".{value}".replace(".-", "-.")
    return value


def _typed(value: Any) -> Any:
    """So that 1 and true differ, and 1 and 1.0 do not."""
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return (isinstance(value, bool), value)


def edit_text(path: Path, value: Any) -> str:
    """The edit as text, as ``--set`` takes it.

    >>> edit_text(("train", "lr"), 0.001)
    'train.lr=0.001'
    """
    return f"{format_path(path)}={_flow(value)}"


def _flow(value: Any) -> str:
    """A value in YAML's flow form: JSON, but for what JSON has no word for."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_flow(k)}: {_flow(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(plain(value))
    # YAML escapes what is not ASCII by its whole number, and lets fewer characters stand than JSON.
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", text)


def _label(value: Any) -> str:
    """A value in a few characters.

    >>> _label({"type": "gru"}), _label({"type": "glu", "ratio": 2}), _label((0.9, None))
    ('gru', 'glu(ratio=2)', '[0.9, null]')
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}={_label(item)}" for key, item in value.items() if key != "type")
        kind = str(value["type"]) if "type" in value else ""
        return f"{kind}({inner})" if inner or not kind else kind
    if isinstance(value, list | tuple):
        return f"[{', '.join(_label(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _edits_label(edits: Mapping[str, Any]) -> str:
    names = _shortest([parse_path(path) for path in edits])
    return ", ".join(f"{n}={_label(v)}" for n, v in zip(names, edits.values(), strict=True))


def _labels(wanted: Sequence[str]) -> list[str]:
    """Short labels that differ."""
    labels: list[str] = []
    for text in wanted:
        short = text if len(text) <= MOST_LABEL else text[: MOST_LABEL - 1] + "…"
        number, label = 1, short
        while label in labels:
            number += 1
            label = f"{short} #{number}"
        labels.append(label)
    return labels


def own_label(values: Iterable[Any], taken: Iterable[str]) -> str:
    """A label for the file's value, of the values at all of a factor's paths."""
    labels = list(dict.fromkeys(_short(value) for value in values))
    label = labels[0] if len(labels) == 1 else OWN
    return OWN if label in taken or len(label) > MOST_LABEL else label


def _short(value: Any) -> str:
    """A component's type alone: with every number filled in it is long."""
    return str(value["type"]) if isinstance(value, Mapping) and "type" in value else _label(value)


def _short_names(factors: Sequence[Factor]) -> list[str]:
    given = [factor.name for factor in factors]
    names = _shortest([f.paths[0] for f in factors if not f.name], taken=[n for n in given if n])
    rest = iter(names)
    return [name or next(rest) for name in given]


def _shortest(paths: Sequence[Path], taken: Sequence[str] = ()) -> list[str]:
    """For each path the shortest end that no other one has.

    >>> _shortest([("arch", "layers", "*", "mixer"), ("arch", "layers", 0, "mlp", "mixer")])
    ['layers[*].mixer', 'mlp.mixer']
    """
    names = []
    for index, path in enumerate(paths):
        others = [other for place, other in enumerate(paths) if place != index]
        names.append(_end(path, others, taken))
    return names


def _end(path: Path, others: Sequence[Path], taken: Sequence[str]) -> str:
    for start in range(len(path) - 1, -1, -1):
        end = path[start:]
        begins_well = isinstance(end[0], str) and end[0] != "*"
        alone = all(other[-len(end) :] != end for other in others)
        if begins_well and alone and format_path(end) not in taken:
            return format_path(end)
    return format_path(path)
