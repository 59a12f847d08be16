"""From a document to a typed config, or to every mistake in it at once."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from windtunnel.config.choice import Choice
from windtunnel.config.document import Document
from windtunnel.config.nearest import nearest, suggestion
from windtunnel.config.path import Path, format_path
from windtunnel.errors import ConfigError, Problem

M = TypeVar("M", bound=BaseModel)
Check: typing.TypeAlias = Callable[[M], Sequence[tuple[Path, str]]]
"""What types cannot say: looks at the whole config and names what does not fit together."""

_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_LIMITS = {"greater_than": (">", "gt"), "greater_than_equal": ("≥", "ge"),
           "less_than": ("<", "lt"), "less_than_equal": ("≤", "le")}  # fmt: skip


def decode(document: Document, cls: type[M], check: Check[M] | None = None) -> M:
    """The typed config of a document.

    ``check`` sees the config and returns what does not fit together. Where the types are wrong in
    places, the rest is checked nevertheless, so that one reading shows every mistake.

    Raises:
        ConfigError: with one problem for each mistake, in the order of the file.
    """
    config, problems, bad = _attempt(document, cls)
    if config is None:
        rest = document
        for _ in range(4):  # leaving a value out can reveal another
            rest = rest.without(bad)
            config, _, more = _attempt(rest, cls)
            if config is not None or not more - bad:
                break
            bad |= more
    if config is not None and check is not None:
        for path, message in check(config):
            if not any(path[: len(b)] == b for b in bad):
                problems.append((path, False, message))
    if problems:
        raise ConfigError(_sorted(document, problems))
    assert config is not None
    return config


_Found: typing.TypeAlias = list[tuple[Path, bool, str]]


def _attempt(document: Document, cls: type[M]) -> tuple[M | None, _Found, set[Path]]:
    try:
        return cls.model_validate(_with_tuples(document.tree)), [], set()
    except ValidationError as error:
        found: dict[tuple[Path, bool], list[str]] = {}
        details = error.errors(include_url=False)
        for detail in details:
            if detail["type"] == "too_short" and _fails_below(details, detail["loc"]):
                continue  # pydantic counts only the entries that were right
            if detail["type"] == "missing" and _misses_next(details, detail["loc"]):
                continue  # the last value that a list lacks says how many it needs
            path, at_key = _trim(document, tuple(detail["loc"]), detail["type"])
            message = _message(detail, document, cls, path)
            messages = found.setdefault((path, at_key), [])
            if message not in messages:
                messages.append(message)
        problems = [(path, key, " or ".join(texts)) for (path, key), texts in found.items()]
        return None, problems, {path for path, _ in found}


def _fails_below(details: Sequence[Any], loc: tuple[Any, ...]) -> bool:
    return any(len(d["loc"]) > len(loc) and d["loc"][: len(loc)] == loc for d in details)


def _misses_next(details: Sequence[Any], loc: tuple[Any, ...]) -> bool:
    if not isinstance(loc[-1], int):
        return False
    following = (*loc[:-1], loc[-1] + 1)
    return any(d["type"] == "missing" and d["loc"] == following for d in details)


def _sorted(document: Document, found: _Found) -> list[Problem]:
    problems = [
        Problem(format_path(path), message, document.place(path, key=key))
        for path, key, message in found
    ]

    def order(problem: Problem) -> tuple[str, list[int]]:
        file, *numbers = problem.place.rsplit(":", 2)
        return file, [int(n) for n in numbers if n.isdigit()]

    return sorted(problems, key=order)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_with_tuples(item) for item in value)
    return value


def _trim(document: Document, loc: tuple[Any, ...], kind: str) -> tuple[Path, bool]:
    """The path in the file that an error speaks of; pydantic adds names of union members."""
    path: list[Any] = []
    node: Any = document.tree
    for step, following in zip(loc, (*loc[1:], None), strict=False):
        inside = (isinstance(node, dict) and step in node) or (
            isinstance(node, list | tuple) and isinstance(step, int) and step < len(node)
        )
        if not inside:
            if isinstance(node, dict) and (step == node.get("type") or following in node):
                continue  # the member that the type chose
            if kind == "missing" and isinstance(node, dict) and step == loc[-1]:
                path.append(step)
            break
        path.append(step)
        node = node[step]
    return tuple(path), kind == "extra_forbidden"


def _message(detail: Any, document: Document, cls: type[BaseModel], path: Path) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        owner = config_class_at(cls, document.tree, path[:-1])
        fields = owner.model_fields if owner else {}
        written = document.get(path[:-1])
        assumed = "type" in fields and isinstance(written, dict) and "type" not in written
        told = f" of {fields['type'].default!r}, the type where none is written" if assumed else ""
        return f"unknown key{told}{suggestion(path[-1], fields)}"
    if kind == "too_short":
        return f"needs at least {context['min_length']}, not {context['actual_length']}"
    if kind == "too_long":
        return f"takes at most {context['max_length']}, not {context['actual_length']}"
    if kind == "missing" and isinstance(value, tuple):
        return f"needs {detail['loc'][-1] + 1} values, not {len(value)}"
    if kind == "missing":
        return "is required"
    if kind == "union_tag_not_found":
        return f"{context['discriminator'].strip(chr(39))} is missing"
    if kind in ("literal_error", "union_tag_invalid"):
        value = context.get("tag", value)
        texts = context["expected" if kind == "literal_error" else "expected_tags"]
        expected = [part.strip().strip("'") for part in texts.replace(" or ", ", ").split(",")]
        near = nearest(value, expected)
        hint = f"; did you mean {near!r}?" if near else ""
        return f"{value!r} is not allowed{hint} (allowed: {', '.join(expected)})"
    if kind in _LIMITS:
        sign, name = _LIMITS[kind]
        limit = context[name]
        whole = isinstance(limit, float) and limit.is_integer()
        return f"must be {sign} {int(limit) if whole else limit}, not {value!r}"
    if kind in _KINDS:
        quoted = isinstance(value, str) and kind in ("int_type", "float_type", "bool_type")
        hint = " (without quotes)" if quoted and _is_number(value) else ""
        return f"expected {_KINDS[kind]}, not {_shown(value)}{hint}"
    if kind == "value_error":
        return str(context["error"])
    text = str(detail["msg"])
    return text[0].lower() + text[1:]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(_as_written(value))
    return text if len(text) <= 40 else text[:37] + "…"


def _as_written(value: Any) -> Any:
    """Lists as YAML has them; a document keeps them as tuples."""
    if isinstance(value, Mapping):
        return {key: _as_written(each) for key, each in value.items()}
    return [_as_written(each) for each in value] if isinstance(value, list | tuple) else value


def config_class_at(cls: type[BaseModel], tree: Any, path: Path) -> type[BaseModel] | None:
    """The config class that types the mapping at ``path``, or None where that is open."""
    annotation: Any = cls
    metadata: Sequence[Any] = ()
    default: Any = None
    node = tree
    for step in path:
        owner = _model(annotation, metadata, node, default)
        node = node[step] if _holds(node, step) else None
        if owner is not None:
            field = owner.model_fields.get(str(step))
            if field is None:
                return None
            annotation, metadata, default = field.annotation, field.metadata, field.default
        else:
            arguments = typing.get_args(_unwrapped(annotation)[0])
            if not arguments:
                return None
            named = typing.get_origin(_unwrapped(annotation)[0]) is dict
            annotation, metadata, default = arguments[1 if named else 0], (), None
    return _model(annotation, metadata, node, default)


def _holds(node: Any, step: Any) -> bool:
    if isinstance(node, dict):
        return step in node
    return isinstance(node, list | tuple) and isinstance(step, int) and step < len(node)


def _unwrapped(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        return inner, tuple(metadata)
    return annotation, ()


def _model(
    annotation: Any, metadata: Sequence[Any], node: Any, default: Any
) -> type[BaseModel] | None:
    annotation, more = _unwrapped(annotation)
    for mark in (*metadata, *more):
        if isinstance(mark, Choice):
            return mark.config_class(node)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _member(typing.get_args(annotation), node, default)
    return None


def _member(options: Sequence[Any], node: Any, default: Any) -> type[BaseModel] | None:
    """The member of a union of configs that the written ``type`` picks, or the field's default."""
    written = node.get("type", getattr(default, "type", None)) if isinstance(node, dict) else None
    models = [m for option in options if (m := _model(option, (), node, None)) is not None]
    for model in models:
        field = model.model_fields.get("type")
        if field is not None and written == field.default:
            return model
    return models[0] if len(models) == 1 else None
