"""The short form of a layer: ``norm > attention(num_heads=4) > + > norm > mlp > +``.

::

    block    = step { (">" | "|") step }
    step     = "+" | name [ "(" [ key "=" value { "," key "=" value } ] ")" ]
    value    = a YAML scalar such as 4, 8/3, true, silu | name "(" … ")"

A name is a norm, a mixer, a feed-forward or a residual of the registries, ``norm`` and ``mlp`` for
a layer's default ones, or ``cross`` for cross-attention. ``+`` is the residual ``add``. The steps
say where the norms stand, and ``|`` sets the feed-forward beside the mixer. It is another way of
writing the same mapping, nothing more: whatever has no place in the grammar stands beside
``block:``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from windtunnel.config import Choice, Path, parse_value, suggestion
from windtunnel.errors import ConfigError

KEYS = frozenset(
    {"norm", "placement", "mixer", "cross", "mlp", "residual", "parallel", "shared_norm"}
)
"""The keys of a layer that a block decides."""
_ALIASES = {"norm": "norm", "mlp": "mlp", "cross": "cross", "+": "residual"}
_KINDS = ("mixer", "mlp", "norm", "residual")
_NAME = re.compile(r"\+|[A-Za-z_][\w-]*")
_KEY = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*")
_WORDS = {"mixer": "mixer", "cross": "cross-attention", "mlp": "feed-forward"}
_ORDER = ("mixer", "cross", "mlp")


class BlockError(ValueError):
    """What is wrong in a block, and at which character of it."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True)
class Block:
    """The keys of the layer that a text means, and the character at which each was written."""

    layer: dict[str, Any]
    offsets: dict[Path, int]


@dataclass(frozen=True)
class _Step:
    kind: str
    name: str
    value: Any
    """What is written for the part in the mapping form; None where it is the default."""
    offset: int
    beside: bool
    """Whether a bar stands before it."""
    offsets: dict[Path, int] = field(default_factory=dict)


@dataclass
class _Branch:
    before: _Step | None = None
    part: _Step | None = None
    inner: _Step | None = None
    residual: _Step | None = None
    after: _Step | None = None

    @property
    def placement(self) -> str:
        if self.after is not None:
            return "post"
        if self.inner is not None:
            return "out" if self.before is None else "sandwich"
        return "none" if self.before is None else "pre"

    @property
    def norms(self) -> list[_Step]:
        return [step for step in (self.before, self.inner, self.after) if step is not None]


def parse_block(text: str) -> Block:
    """The layer that a block means, as the mapping form would write it.

    >>> parse_block("norm > attention > +").layer
    {'placement': 'pre', 'mixer': 'attention', 'mlp': 'none'}

    Raises:
        BlockError: at the word that is wrong.
    """
    branches = _branches(list(_steps(text)), len(text))
    first = branches[0]
    parallel = len(branches) > 1 and _is_beside(branches[1])
    shared = parallel and first.before is not None and branches[1].before is None
    if shared:
        branches[1].before = first.before
    layer: dict[str, Any] = {"placement": first.placement, "mlp": "none"}
    if not first.norms:
        layer["norm"] = "none"
    layer |= {"parallel": True} if parallel else {}
    layer |= {"shared_norm": True} if shared else {}
    offsets: dict[Path, int] = {}
    for key, step in _parts(branches):
        offsets |= {(key,): step.offset} | {(key, *p): at for p, at in step.offsets.items()}
        layer.pop(key, None)
        if step.value is not None:
            layer[key] = step.value
    if all(branch.residual is None for branch in branches):
        layer["residual"] = "none"
    order = ("norm", "placement", "mixer", "cross", "mlp", "residual", "parallel", "shared_norm")
    return Block({key: layer[key] for key in order if key in layer}, offsets)


def _parts(branches: list[_Branch]) -> Iterator[tuple[str, _Step]]:
    """The parts of the layer; raises where branches differ in what a layer has but once."""
    for branch in branches:
        assert branch.part is not None, "a branch without a part was made"
        yield branch.part.kind, branch.part
        if branch.placement != branches[0].placement:
            raise BlockError(
                f"{branch.part.name!r}: its norms stand as in placement {branch.placement}, those "
                f"of {branches[0].part.name!r} as in {branches[0].placement}; "  # type: ignore[union-attr]
                "a layer has one placement",
                branch.part.offset,
            )
    for key, steps in (
        ("norm", [step for branch in branches for step in branch.norms]),
        ("residual", [b.residual for b in branches if b.residual is not None]),
    ):
        for step in steps:
            if step.value != steps[0].value:
                raise BlockError(f"{step.name!r}: a layer has one {key}, and this is not as the "
                                 "one before", step.offset)  # fmt: skip
        if steps:
            yield key, steps[0]


def _branches(steps: list[_Step], end: int) -> list[_Branch]:
    branches = [_Branch()]
    for step in steps:
        now = branches[-1]
        closed = now.residual is not None
        if step.beside:
            _check_bar(now, step)
        if step.kind == "residual":
            if now.part is None or closed:
                raise BlockError(f"{step.name!r}: nothing before it to add", step.offset)
            now.residual = step
        elif step.kind == "norm":
            if step.beside or (closed and now.norms):
                branches.append(_Branch(before=step))
            elif closed:
                now.after = step
            elif now.part is None and now.before is None:
                now.before = step
            elif now.part is not None and now.inner is None:
                now.inner = step
            else:
                raise BlockError(f"{step.name!r}: a norm after a norm", step.offset)
        elif now.part is None:
            now.part = step
        elif closed or step.beside:
            branches.append(_Branch(part=step))
        else:
            raise BlockError(f"{step.name!r}: write + before it, or | to set it beside "
                             f"{now.part.name!r}", step.offset)  # fmt: skip
    _check(branches, end)
    return branches


def _check_bar(now: _Branch, step: _Step) -> None:
    if now.part is None or now.part.kind != "mixer" or now.residual is not None:
        raise BlockError(f"{step.name!r}: | stands after the mixer's branch, which has no + of its "
                         "own", step.offset)  # fmt: skip


def _check(branches: list[_Branch], end: int) -> None:
    """Each branch has a part, in the order of a layer, and a residual unless there is but one."""
    kinds: list[str] = []
    beside = False
    for index, branch in enumerate(branches):
        part = branch.part
        if part is None:
            at = branch.before.offset if branch.before is not None else end
            raise BlockError("a norm with nothing after it" if branch.before else "empty", at)
        if (not kinds and part.kind != "mixer") or part.kind in kinds:
            raise BlockError(f"{part.name!r}: a layer is a mixer, then cross-attention or none, "
                             "then a feed-forward or none", part.offset)  # fmt: skip
        if kinds and _ORDER.index(part.kind) < _ORDER.index(kinds[-1]):
            raise BlockError(f"{part.name!r}: the {_WORDS[part.kind]} comes before the "
                             f"{_WORDS[kinds[-1]]}", part.offset)  # fmt: skip
        kinds.append(part.kind)
        following = branches[index + 1] if index + 1 < len(branches) else None
        joined = following is not None and _is_beside(following)
        beside = beside or joined
        if beside and len(branches) != 2:
            raise BlockError(f"{part.name!r}: | joins a mixer and a feed-forward alone",
                             part.offset)  # fmt: skip
        if branch.residual is None and not joined and len(branches) > 1:
            raise BlockError(f"{part.name!r}: + is missing after it", end)


def _is_beside(branch: _Branch) -> bool:
    first = branch.before or branch.part
    return first is not None and first.beside


def _steps(text: str) -> Iterator[_Step]:
    mixed = False
    for raw, offset, beside in _split(text):
        word = raw.strip()
        offset += len(raw) - len(raw.lstrip())
        match = _NAME.match(word)
        if match is None:
            raise BlockError(f"{word!r}: expected + or the name of a part" if word
                             else "a name or + is missing", offset)  # fmt: skip
        name = match[0]
        kind = _kind(name, offset, mixed)
        mixed = mixed or kind == "mixer"
        offsets: dict[Path, int] = {}
        values = _arguments(word, match.end(), offset, (), offsets)
        default = name in _ALIASES
        if name == "+" and values is not None:
            raise BlockError("'+': it has no keys; name another residual to give it some", offset)
        value: Any = None if default else name
        if values:
            value = values if default else {"type": name, **values}
        elif name == "cross":
            value = {}
        yield _Step(kind, name, value, offset, beside, offsets)


def _kind(name: str, offset: int, mixed: bool) -> str:
    """What a name is; of both a mixer and a feed-forward, the mixer where none stands before."""
    if name in _ALIASES:
        return _ALIASES[name]
    kinds = [kind for kind in _KINDS if name != "none" and name in Choice(kind).names()]
    if kinds:
        return kinds[1] if mixed and kinds[:2] == ["mixer", "mlp"] else kinds[0]
    allowed = [n for kind in _KINDS for n in Choice(kind).names() if n != "none"]
    known = [*_ALIASES, *allowed]
    raise BlockError(f"unknown part {name!r}{suggestion(name, known)}", offset)


def _split(text: str) -> Iterator[tuple[str, int, bool]]:
    """The steps with their offsets, and whether a bar stands before them."""
    start, beside = 0, False
    for at, sign in _outside(text, ">|"):
        yield text[start:at], start, beside
        start, beside = at + 1, sign == "|"
    yield text[start:], start, beside


def _outside(text: str, signs: str) -> Iterator[tuple[int, str]]:
    """Where ``signs`` stand outside of all parentheses, brackets and quotes."""
    depth, quote, opened = 0, "", 0
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth, opened = depth + 1, at
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                raise BlockError(f"{character!r} without its opening one", at)
        elif depth == 0 and character in signs:
            yield at, character
    if depth:
        raise BlockError(f"{text[opened]!r} is never closed", opened)


def _arguments(
    word: str, start: int, offset: int, path: Path, offsets: dict[Path, int]
) -> dict[str, Any] | None:
    """The keys in the parentheses of ``word`` from ``start`` on; None where there are none."""
    rest = word[start:]
    if not rest.strip():
        return None
    head = rest.lstrip()
    at = offset + start + len(rest) - len(head)
    if not head.startswith("(") or not head.endswith(")") or not _is_one_group(head):
        raise BlockError(f"{head!r}: expected (key=value, …) or >", at)
    values: dict[str, Any] = {}
    inside = head[1:-1]
    commas = [at for at, _ in _outside(inside, ",")]
    begins = [0, *(c + 1 for c in commas)]
    for begin, stop in zip(begins, [*commas, len(inside)], strict=True):
        item = inside[begin:stop]
        here = at + 1 + begin + len(item) - len(item.lstrip())
        match = _KEY.match(item)
        if match is None:
            if not inside.strip():
                return values
            raise BlockError(f"{item.strip()!r}: expected key=value", here)
        key = match[1]
        if key in values:
            raise BlockError(f"{key!r} is written twice", here)
        below = (*path, key)
        offsets[below] = here
        value_at = at + 1 + begin + match.end()
        values[key] = _value(item[match.end() :].rstrip(), value_at, below, offsets)
    return values


def _is_one_group(text: str) -> bool:
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return at == len(text) - 1
    return False


def _value(text: str, offset: int, path: Path, offsets: dict[Path, int]) -> Any:
    match = re.match(r"[A-Za-z_][\w-]*(?=\s*\()", text)
    if match is not None:
        values = _arguments(text, match.end(), offset, path, offsets)
        return {"type": match[0], **(values or {})}
    if not text:
        raise BlockError(f"{path[-1]!r}: a value is missing", offset)
    try:
        return parse_value(text)
    except ConfigError as error:
        raise BlockError(f"{text!r}: {error.problems[0].message}", offset) from None


def written_out(value: Any) -> Any:
    """A layer's text, or mapping with ``block``, as a plain mapping; anything else as it is.

    Raises:
        ValueError: the block is wrong, or a key beside it says what it has said.
    """
    if isinstance(value, str):
        return parse_block(value).layer
    if not isinstance(value, dict) or "block" not in value:
        return value
    if not isinstance(value["block"], str):
        raise ValueError("block: expected text such as 'norm > attention > + > norm > mlp > +'")
    rest = {key: item for key, item in value.items() if key != "block"}
    if twice := sorted(KEYS & rest.keys()):
        raise ValueError(f"{twice[0]}: is decided by `block` already; write it there")
    return {**rest, **parse_block(value["block"]).layer}
