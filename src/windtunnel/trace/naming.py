"""Which letter a dimension carries: guessed from sizes, or known from how a size follows b and t.

A size alone may mislead: with d = 64 and t = 64 nobody can tell which is which. So a forward is
traced at (b, t), (b', t) and (b, t') where its inputs can be made anew: what changes with t is
made of t, what never changes is none of both, whatever the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from windtunnel.errors import UsageError

LARGEST_MULTIPLE = 8

# Products that models really make, so preferred to others of the same size: heads by their
# dimensions, batch folded into another axis, experts by their hidden width.
_USUAL_PRODUCTS = ("hk", "hv", "gk", "gv", "hn", "ef", "dn", "bt", "bh", "bg", "be")

_NUMBERS_OF = "hge"
"""Heads, heads of keys and values, experts: nothing is a multiple of how many there are."""


def fixed_name(size: int, dims: Mapping[str, int]) -> str:
    """The name of a size by the letters' sizes; the number itself where nothing fits.

    In this order: a letter of that size (the first of them); a usual product of two letters; a
    small multiple of one letter that is a width, the smallest multiple first; any product of two
    letters when only one fits. 0 and 1 stay numbers.

    >>> dims = {"d": 64, "h": 4, "k": 24, "V": 300}
    >>> [fixed_name(size, dims) for size in (64, 96, 192, 77, 1)]
    ['d', 'h·k', '3·d', '77', '1']
    """
    if size <= 1:
        return str(size)
    letters = {letter: value for letter, value in dims.items() if value > 1}
    widths = {letter: value for letter, value in letters.items() if letter not in _NUMBERS_OF}
    for letter, value in letters.items():
        if value == size:
            return letter
    products = [
        f"{a}·{b}"
        for a, b in combinations(letters, 2)
        if letters[a] * letters[b] == size and not (a in _NUMBERS_OF and b in _NUMBERS_OF)
    ]
    usual = [name for name in products if _is_usual(name)]
    if len(usual) == 1:
        return usual[0]
    multiples = [
        (size // value, letter)
        for letter, value in widths.items()
        if size % value == 0 and 2 <= size // value <= LARGEST_MULTIPLE
    ]
    if multiples:
        factor, letter = min(multiples, key=lambda found: found[0])
        return f"{factor}·{letter}"
    return products[0] if len(products) == 1 else str(size)


def _is_usual(product: str) -> bool:
    a, _, b = product.partition("·")
    return a + b in _USUAL_PRODUCTS or b + a in _USUAL_PRODUCTS


def followed_name(
    size: int,
    with_other_batch: int,
    with_other_time: int,
    sizes: tuple[int, int],
    others: tuple[int, int],
    dims: Mapping[str, int],
) -> str:
    """The name of a dimension seen at (b, t), at (b', t) and at (b, t').

    `sizes` is (b, t), `others` is (b', t'). A dimension that follows neither is named by the
    other letters alone; one that follows t in no simple way is told as ``t→5``.

    >>> followed_name(64, 64, 128, (4, 64), (5, 128), {"d": 64})
    't'
    >>> followed_name(64, 64, 64, (4, 64), (5, 128), {"d": 64})
    'd'
    >>> followed_name(65, 65, 129, (4, 64), (5, 128), {"d": 64})
    't+1'
    """
    (batch, time), (other_batch, other_time) = sizes, others
    rest = {letter: value for letter, value in dims.items() if letter not in ("b", "t")}
    follows_batch, follows_time = with_other_batch != size, with_other_time != size
    if follows_batch and follows_time:
        factor, remainder = divmod(size, batch * time)
        fits = (with_other_batch, with_other_time) == (
            factor * other_batch * time,
            factor * batch * other_time,
        )
        return _times("b·t", factor, rest) if fits and remainder == 0 else f"b,t→{size}"
    if follows_batch:
        return _linear("b", size, with_other_batch, batch, other_batch, rest)
    if follows_time:
        return _linear("t", size, with_other_time, time, other_time, rest)
    return fixed_name(size, rest)


def _linear(
    letter: str, size: int, other_size: int, value: int, other_value: int, rest: Mapping[str, int]
) -> str:
    """``3·t``, ``t+1``, ``t²``: how a size follows one letter, from two points."""
    slope, remainder = divmod(other_size - size, other_value - value)
    offset = size - slope * value
    if remainder == 0 and offset == 0:
        return _times(letter, slope, rest)
    if size == value**2 and other_size == other_value**2:
        return f"{letter}²"
    if remainder == 0 and slope == 1:
        return f"{letter}{offset:+d}"
    return f"{letter}→{size}"


def _times(name: str, factor: int, rest: Mapping[str, int]) -> str:
    if factor == 1:
        return name
    named = fixed_name(factor, rest)
    return f"{name}·{named}" if named.isalpha() else f"{named}·{name}"


def guessed_axes(shape: tuple[int, ...], dims: Mapping[str, int]) -> tuple[str, ...]:
    """The names of all dimensions of one shape by their sizes alone."""
    return within_shape(shape, tuple(fixed_name(size, dims) for size in shape))


def within_shape(shape: tuple[int, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a shape, but a lone ``g`` only beside a key's or value's width: how many heads
    of keys there are is a small number, which much else has for its size too.

    >>> within_shape((2, 64, 2), ("b", "d", "g")), within_shape((2, 9, 2, 16), ("b", "t", "g", "k"))
    (('b', 'd', '2'), ('b', 't', 'g', 'k'))
    """
    if "k" in names or "v" in names:
        return names
    return tuple(
        str(size) if name == "g" else name for size, name in zip(shape, names, strict=True)
    )


def distinct_sizes(dims: Mapping[str, int], *, at_most: int = 64) -> tuple[int, int]:
    """A batch and a time that divide none of the given sizes and equal none: (b, t).

    Primes, so that no product or small multiple collides either. Raises UsageError when none
    are left below `at_most` (a model's longest sequence).

    >>> distinct_sizes({"d": 64, "h": 4, "k": 16, "V": 300})
    (7, 11)
    """
    primes = [n for n in range(2, at_most + 1) if all(n % p for p in range(2, int(n**0.5) + 1))]
    free = [p for p in primes if all(size % p for size in dims.values())]
    if len(free) < 2:
        raise UsageError(
            f"no two sizes up to {at_most} stand apart from {dict(dims)}; give b and t yourself"
        )
    return free[0], free[1]
