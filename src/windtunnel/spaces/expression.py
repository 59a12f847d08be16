"""Conditions over columns: ``params < 30M and family in [lstm, gru]``, parsed here, never executed
as Python.

    or      = and ("or" and)*                    sum     = term (("+" | "-") term)*
    and     = not ("and" not)*                   term    = factor (("*" | "/" | "//" | "%") factor)*
    not     = "not" not | compare                factor  = "-" factor | atom
    compare = sum (("<" | "<=" | ">" | ">=" | "==" | "!=") sum)* | sum ["not"] "in" "[" list "]"
    atom    = number | word | name | 'text' | true | false | "(" or ")"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.config import suggestion
from windtunnel.errors import UsageError

Column = NDArray[Any]
Lookup = Callable[[str], Column | None]
"""The column of a name; None where this family lacks it."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?P<unit>[kKMGBT](?!\w))?"
    r"|(?P<word>(?:and|or|not|in|true|false|True|False)\b)"
    r"|(?P<name>[A-Za-z_]\w*(?:\[(?:\d+|\*)\]|\.[A-Za-z_]\w*)*)"
    r"|(?P<text>'[^']*'|\"[^\"]*\")|(?P<sign><=|>=|==|!=|//|[-+*/%<>()\[\],]))"
)
_UNITS = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_COMPARE: dict[str, Callable[[Column, Column], Column]] = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    "==": np.equal, "!=": np.not_equal,
}  # fmt: skip
_EXACT = 2**62
"""What whole numbers of 64 bits stay below; others are those of Python."""
_WHOLE_FRACTIONS = 2**53
"""Whole numbers up to this are fractions of 64 bits too."""
_MOST_EXACT = 4_000_000
"""Whole numbers of Python that one operation makes at most."""
_ARITHMETIC: dict[str, Callable[[Column, Column], Column]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "//": np.floor_divide,
    "%": np.remainder,
}  # fmt: skip
_MOST_TOKENS = 400
_DEEPEST = 50
_LONGEST_NUMBER = 300


@dataclass(frozen=True)
class Node:
    """One operation: ``kind`` with its parts, or a ``name`` or ``value`` of its own."""

    kind: str
    parts: tuple[Node, ...] = ()
    value: Any = None

    def names(self) -> Iterator[str]:
        """Every name below, words among them."""
        if self.kind == "name":
            yield self.value
        for part in self.parts:
            yield from part.names()

    def texts(self) -> Iterator[str]:
        """Every text in quotes below."""
        if self.kind == "value" and isinstance(self.value, str):
            yield self.value
        for part in self.parts:
            yield from part.texts()


class Expression:
    """A parsed condition.

    A bare word that is no name is a text: ``family == lstm``. Where a family lacks a name, every
    comparison with it is false (and so ``not`` of it true). Numbers may end in k, M, B or T.

    >>> import numpy as np
    >>> small = Expression("n < 2k and not n % 3 == 0")
    >>> small({"n": np.array([3, 1000, 3000])}.get).tolist()
    [False, True, False]
    """

    def __init__(self, text: str, root: Node | None = None) -> None:
        self.text = text
        self.root = _Parser(text).whole() if root is None else root

    def parts(self) -> tuple[Expression, ...]:
        """The conditions that must all hold, each as one of its own."""
        return tuple(Expression(self.text, node) for node in self.conjuncts())

    def conjuncts(self) -> tuple[Node, ...]:
        """The conditions that must all hold."""
        found: list[Node] = []
        todo = [self.root]
        while todo:
            node = todo.pop()
            if node.kind == "and":
                todo += reversed(node.parts)
            else:
                found.append(node)
        return tuple(found)

    def check(self, names: Mapping[str, Any] | set[str], words: set[str]) -> None:
        """Raises UsageError for a name that is neither a column nor a value."""
        for name in self.root.names():
            if name not in names and name not in words:
                allowed = [*names, *sorted(words)]
                raise _mistake(self.text, f"unknown name {name!r}{suggestion(name, allowed)}")
        for word in self.root.texts():
            if word not in words:
                hint = suggestion(word, sorted(words))
                raise _mistake(self.text, f"no value is the text {word!r}{hint}")

    def __call__(self, lookup: Lookup, names: set[str] | None = None) -> Column:
        """Which rows hold; ``names`` are those of some family, all others are words."""
        return condition(self.root, lookup, names, self.text)


def condition(node: Node, lookup: Lookup, names: set[str] | None, text: str) -> Column:
    """The truths of one condition."""
    with np.errstate(all="ignore"):
        return _truth(node, _Evaluation(lookup, names, text))


@dataclass(frozen=True)
class _Evaluation:
    lookup: Lookup
    names: set[str] | None
    text: str


def _truth(node: Node, at: _Evaluation) -> Column:
    found = _value(node, at)
    if found.dtype == bool:
        return found
    if node.kind == "name" and found.dtype.kind == "f" and np.isnan(found).all():
        return np.zeros_like(found, dtype=bool)
    raise _mistake(at.text, f"{_shown(node)} is no condition: compare it with something")


def _value(node: Node, at: _Evaluation) -> Column:
    if node.kind == "value":
        return _constant(node.value)
    if node.kind == "name":
        found = at.lookup(node.value)
        if found is not None:
            return found
        known = at.names is not None and node.value in at.names
        return np.asarray(np.nan) if known else np.asarray(node.value)
    if node.kind in ("and", "or"):
        sides = [_truth(part, at) for part in node.parts]
        return (np.logical_and if node.kind == "and" else np.logical_or)(*sides)
    if node.kind == "not":
        return np.logical_not(_truth(node.parts[0], at))
    if node.kind in ("in", "not in"):
        return _member(node, at)
    if node.kind in _COMPARE:
        return _compared(node, at)
    sides = [_value(part, at) for part in node.parts]
    for part, side in zip(node.parts, sides, strict=True):
        if side.dtype.kind not in "iufO":
            raise _mistake(at.text, f"{_shown(part)} is no number")
    if node.kind == "negative":
        (side,) = sides
        return np.asarray(np.negative(side), dtype=object if side.dtype == object else None)
    zero = sides[1] == 0
    if node.kind not in ("/", "//", "%") or not zero.any():
        return _reckoned(node.kind, sides[0], sides[1], at)
    # By zero nothing comes out, and whole numbers have no sign for that.
    found = _reckoned(node.kind, sides[0], np.where(zero, 1, sides[1]), at)
    if found.dtype.kind in "iu" and _bound(found) > _WHOLE_FRACTIONS:
        found = found.astype(object)
    return np.where(zero, np.nan, found)


def _constant(value: Any) -> Column:
    large = type(value) is int and abs(value) >= _EXACT
    return np.asarray(value, dtype=object if large else None)


def _reckoned(sign: str, left: Column, right: Column, at: _Evaluation) -> Column:
    """Arithmetic; whole numbers that 64 bits cannot hold are worked out as Python does."""
    if all(side.dtype.kind in "iu" for side in (left, right)) and sign in ("+", "-", "*"):
        bounds = _bound(left), _bound(right)
        if (bounds[0] * bounds[1] if sign == "*" else sum(bounds)) >= _EXACT:
            left, right = left.astype(object), right.astype(object)
    exact = left.dtype == object or right.dtype == object
    if exact and (size := np.broadcast(left, right).size) > _MOST_EXACT:
        raise _mistake(at.text, f"the result of {sign!r} can be 2^62 or more for {size:,} members; "
                       f"that is worked out for at most {_MOST_EXACT:,}")  # fmt: skip
    try:
        return np.asarray(_ARITHMETIC[sign](left, right), dtype=object if exact else None)
    except OverflowError:
        raise _mistake(at.text, f"the result of {sign!r} is too large for a fraction") from None


def _bound(side: Column) -> int:
    return max(abs(int(side.min())), abs(int(side.max()))) if side.size else 0


def _member(node: Node, at: _Evaluation) -> Column:
    """Equal to one of the choices; or, of ``not in``, other than each."""
    subject, *choices = node.parts
    outside = node.kind == "not in"
    out = np.full((), outside)
    for choice in choices:
        each = _compared(Node("!=" if outside else "==", (subject, choice)), at)
        out = np.logical_and(out, each) if outside else np.logical_or(out, each)
    return out


def _compared(node: Node, at: _Evaluation) -> Column:
    left, right = (_value(part, at) for part in node.parts)
    texts = left.dtype.kind == "U", right.dtype.kind == "U"
    if texts[0] != texts[1]:
        other = right if texts[0] else left
        if other.dtype.kind == "f" and np.isnan(other).all():
            return np.zeros(np.broadcast_shapes(left.shape, right.shape), dtype=bool)
        word, number = node.parts if texts[0] else node.parts[::-1]
        raise _mistake(at.text, f"{_shown(word)} is a word and {_shown(number)} is none")
    if all(texts) and node.kind not in ("==", "!="):
        raise _mistake(at.text, f"words have no order: {node.kind}")
    found = _COMPARE[node.kind](left, right)
    if node.kind == "!=":
        for side in (left, right):
            if side.dtype.kind in "fO":  # what is no number differs from itself
                found = found & (side == side)
    return np.asarray(found, dtype=bool)


def _shown(node: Node) -> str:
    return str(node.value) if node.kind in ("name", "value") else f"the result of {node.kind!r}"


def _mistake(text: str, message: str) -> UsageError:
    return UsageError(f"condition {text!r}: {message}")


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._scan())
        if len(self.tokens) > _MOST_TOKENS:
            raise UsageError(f"a condition of {len(self.tokens):,} words: at most {_MOST_TOKENS}")
        self.at = 0
        self.depth = 0

    def _scan(self) -> Iterator[tuple[str, Any]]:
        place = 0
        end = len(self.text.rstrip())
        while place < end:
            match = _TOKEN.match(self.text, place)
            if match is None:
                raise _mistake(self.text, f"cannot read {self.text[place:].strip()[:20]!r}")
            place = match.end()
            if match["number"]:
                if len(match["number"]) > _LONGEST_NUMBER:
                    raise _mistake(self.text, f"a number of more than {_LONGEST_NUMBER} digits")
                yield "value", _number(match["number"], match["unit"])
            elif match["text"]:
                yield "value", match["text"][1:-1]
            elif match["name"]:
                yield "name", match["name"]
            elif match["word"]:
                word = match["word"]
                truth = word.lower() in ("true", "false")
                yield ("value", word.lower() == "true") if truth else ("sign", word)
            else:
                yield "sign", match["sign"]

    def _next(self, *signs: str) -> str | None:
        if self.at < len(self.tokens):
            kind, value = self.tokens[self.at]
            if kind == "sign" and value in signs:
                self.at += 1
                return str(value)
        return None

    def _need(self, sign: str) -> None:
        if self._next(sign) is None:
            raise _mistake(self.text, f"expected {sign!r} {self._where()}")

    def _where(self) -> str:
        if self.at >= len(self.tokens):
            return "at the end"
        return f"at {str(self.tokens[self.at][1])!r}"

    def whole(self) -> Node:
        node = self._or()
        if self.at < len(self.tokens):
            raise _mistake(self.text, f"nothing was expected {self._where()}")
        return node

    def _or(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _mistake(self.text, f"nested deeper than {_DEEPEST}")
        node = self._and()
        while self._next("or"):
            node = Node("or", (node, self._and()))
        self.depth -= 1
        return node

    def _and(self) -> Node:
        node = self._not()
        while self._next("and"):
            node = Node("and", (node, self._not()))
        return node

    def _not(self) -> Node:
        turns = 0
        while self._next("not"):
            turns += 1
        node = self._compare()
        return Node("not", (node,)) if turns % 2 else node

    def _compare(self) -> Node:
        left = self._sum()
        if self._next("in"):
            return self._choices(left)
        if self._next("not"):
            self._need("in")
            return Node("not in", self._choices(left).parts)
        found: Node | None = None
        while (sign := self._next(*_COMPARE)) is not None:
            right = self._sum()
            this = Node(sign, (left, right))
            found = this if found is None else Node("and", (found, this))
            left = right
        return left if found is None else found

    def _choices(self, left: Node) -> Node:
        self._need("[")
        choices = [self._sum()]
        while self._next(","):
            choices.append(self._sum())
        self._need("]")
        return Node("in", (left, *choices))

    def _sum(self) -> Node:
        node = self._term()
        while (sign := self._next("+", "-")) is not None:
            node = Node(sign, (node, self._term()))
        return node

    def _term(self) -> Node:
        node = self._factor()
        while (sign := self._next("*", "/", "//", "%")) is not None:
            node = Node(sign, (node, self._factor()))
        return node

    def _factor(self) -> Node:
        turns = 0
        while self._next("-"):
            turns += 1
        node = self._atom()
        return Node("negative", (node,)) if turns % 2 else node

    def _atom(self) -> Node:
        if self._next("("):
            node = self._or()
            self._need(")")
            return node
        if self.at < len(self.tokens) and self.tokens[self.at][0] != "sign":
            kind, value = self.tokens[self.at]
            self.at += 1
            return Node(kind, value=value)
        raise _mistake(self.text, f"expected a name or a number {self._where()}")


def _number(text: str, unit: str | None) -> int | float:
    text = text.replace("_", "")
    factor = _UNITS[unit] if unit else 1
    if text.isdigit():
        return int(text) * factor
    return float(text) * factor
