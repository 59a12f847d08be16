from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.order import KeyedPermutation, keyed_number


@settings(max_examples=80, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_it_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    out = KeyedPermutation(size, seed, epoch)(np.arange(size))
    assert np.array_equal(np.sort(out), np.arange(size))


def test_it_is_a_bijection_for_every_small_size() -> None:
    for size in range(1, 130):
        out = KeyedPermutation(size, 7)(np.arange(size))
        assert np.array_equal(np.sort(out), np.arange(size)), size


def test_it_is_a_bijection_for_a_large_size() -> None:
    size = 1_500_001
    out = KeyedPermutation(size, 3, 1)(np.arange(size))
    assert np.array_equal(np.bincount(out, minlength=size), np.ones(size))


def test_tens_of_millions_cost_nothing_to_set_up() -> None:
    size = 2**45 + 3
    out = KeyedPermutation(size, 0)(np.arange(size - 1000, size))
    assert ((out >= 0) & (out < size)).all()
    assert len(set(out.tolist())) == 1000


@given(size=st.integers(1, 10_000), data=st.data())
@settings(max_examples=40, deadline=None)
def test_access_is_random(size: int, data: st.DataObject) -> None:
    permutation = KeyedPermutation(size, "key")
    index = data.draw(st.integers(0, size - 1))
    assert permutation(np.array([index]))[0] == permutation(np.arange(size))[index]


def test_its_input_is_not_changed() -> None:
    index = np.arange(100)
    KeyedPermutation(100, 1)(index)
    assert np.array_equal(index, np.arange(100))


def test_keys_give_different_orders() -> None:
    orders = {tuple(KeyedPermutation(50, *key)(np.arange(50))) for key in [(0, 0), (0, 1), (1, 0)]}
    assert len(orders) == 3


def test_small_permutations_are_about_equally_likely() -> None:
    counts = Counter(tuple(KeyedPermutation(3, key)(np.arange(3)).tolist()) for key in range(3000))
    assert len(counts) == 6
    # A fair choice has a standard deviation of 20 around 500.
    assert all(abs(count - 500) < 100 for count in counts.values())


def test_neighbours_are_torn_apart() -> None:
    size = 10_000
    out = KeyedPermutation(size, 5)(np.arange(size))
    correlation = np.corrcoef(out[:-1], out[1:])[0, 1]
    assert abs(correlation) < 0.05  # five standard deviations of independent values
    assert np.mean(np.abs(np.diff(out)) == 1) < 0.01


def test_the_order_is_the_same_on_every_machine() -> None:
    """Golden: a change here changes every run ever made."""
    assert KeyedPermutation(10, 0, 0)(np.arange(10)).tolist() == GOLDEN
    assert keyed_number("offset", 0, 0) % 1000 == GOLDEN_OFFSET


GOLDEN = [0, 3, 7, 6, 1, 9, 8, 4, 5, 2]
GOLDEN_OFFSET = 178


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_permutation_is_our_own_mistake(size: int) -> None:
    with pytest.raises(AssertionError):
        KeyedPermutation(size, 0)
