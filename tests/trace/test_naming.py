"""Names of dimensions: by size, and by how they follow b and t."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import UsageError
from windtunnel.trace.naming import distinct_sizes, fixed_name, followed_name, guessed_axes

DIMS = {"d": 64, "h": 4, "g": 2, "k": 16, "f": 176, "V": 500}


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (0, "0"),
        (1, "1"),
        (64, "d"),  # h·k as well: a letter comes first
        (32, "g·k"),  # 2·k as well: heads by their dimension are usual
        (192, "3·d"),  # 12·k as well: the smallest multiple
        (352, "2·f"),
        (97, "97"),
    ],
)
def test_fixed_names_by_preference(size: int, name: str) -> None:
    assert fixed_name(size, DIMS) == name


def test_an_ambiguous_product_stays_a_number() -> None:
    dims = {"p": 20, "q": 33, "r": 30, "s": 22}  # p·q = r·s = 660, and 660 = 22·30 = 20·33
    assert fixed_name(660, dims) == "660"
    assert fixed_name(600, dims) == "p·r"


SIZES, OTHERS = (2, 8), (3, 7)


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        ((8, 8, 7), "t"),
        ((2, 3, 2), "b"),
        ((16, 24, 14), "b·t"),
        ((64, 96, 56), "b·t·h"),
        ((24, 24, 21), "3·t"),
        ((8, 12, 8), "b·h"),
        ((6, 9, 6), "3·b"),
        ((64, 64, 49), "t²"),
        ((7, 7, 6), "t-1"),
        ((9, 9, 8), "t+1"),
        ((4, 4, 4), "h"),
        ((4, 4, 3), "t-4"),
        ((12, 12, 5), "t→12"),
        ((12, 11, 13), "b,t→12"),
    ],
)
def test_followed_names(seen: tuple[int, int, int], name: str) -> None:
    assert followed_name(*seen, SIZES, OTHERS, {"h": 4, "d": 2, "b": 2, "t": 8}) == name


sizes = st.integers(2, 40)


@settings(max_examples=100, deadline=None)
@given(b=sizes, t=sizes, d=sizes)
def test_what_never_changes_is_never_named_by_b_or_t(b: int, t: int, d: int) -> None:
    name = followed_name(d, d, d, (b, t), (b + 1, t - 1), {"b": b, "t": t, "d": d})
    assert name == "d"
    assert followed_name(t, t, t - 1, (b, t), (b + 1, t - 1), {"b": b, "t": t, "d": d}) == "t"


@settings(max_examples=100, deadline=None)
@given(dims=st.dictionaries(st.sampled_from("dhgkfV"), st.integers(1, 5000), min_size=1))
def test_distinct_sizes_collide_with_nothing(dims: dict[str, int]) -> None:
    b, t = distinct_sizes(dims, at_most=97)
    assert b != t
    assert all(size % b and size % t for size in dims.values() if size > 0)


def test_distinct_sizes_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="no two sizes up to 5"):
        distinct_sizes({"d": 30}, at_most=5)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 9, 2, 16), ("3", "9", "g", "k")),
        ((3, 64, 2), ("3", "d", "2")),  # a convolution's state, with 2 heads of keys elsewhere
        ((3, 9, 8), ("3", "9", "8")),  # neither 4·g nor 2·h
        ((3, 4, 9, 9), ("3", "h", "9", "9")),
    ],
)
def test_numbers_of_heads_name_heads_alone(shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
    assert guessed_axes(shape, DIMS) == axes
