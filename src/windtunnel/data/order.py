"""A keyed pseudo-random permutation with random access: no table, no state."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8


def keyed_number(*parts: int | str) -> int:
    """A 256-bit number that depends on all parts, the same on every machine."""
    text = ":".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


class KeyedPermutation:
    """A permutation of ``0 … size - 1``, chosen by a key.

    A balanced Feistel network permutes the next power of four; what lands outside is sent through
    again until it lands inside ("cycle walking", Black and Rogaway, *Ciphers with Arbitrary Finite
    Domains*, CT-RSA 2002, method 2), which leaves a permutation of the inside. The power is
    less than 4·size (16 for the smallest sizes), so a few passes are enough.

    >>> permutation = KeyedPermutation(5, "key")
    >>> sorted(permutation(np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, *key: int | str) -> None:
        assert 0 < size <= 2**62
        self.size = size
        self._half_bits = max(2, ((size - 1).bit_length() + 1) // 2)
        self._round_keys = [
            np.uint64(keyed_number("permutation", number, *key) & (2**64 - 1))
            for number in range(_ROUNDS)
        ]

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each index goes; every index lies in ``0 … size - 1``."""
        out = self._network(index.astype(np.uint64))
        while (outside := out >= self.size).any():
            out[outside] = self._network(out[outside])
        return out.astype(np.int64)

    def at(self, index: int) -> int:
        """Where one index goes: the same, in whole numbers of Python, which is faster for one."""
        bits, mask = self._half_bits, (1 << self._half_bits) - 1
        while True:
            left, right = index >> bits, index & mask
            for key in self._round_keys:
                left, right = right, left ^ (_mixed(right ^ int(key)) & mask)
            index = (left << bits) | right
            if index < self.size:
                return index

    def _network(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        bits = np.uint64(self._half_bits)
        mask = np.uint64((1 << self._half_bits) - 1)
        left, right = value >> bits, value & mask
        for key in self._round_keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << bits) | right


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): wraps modulo 2^64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _mixed(value: int) -> int:
    """:func:`_mix` of one number."""
    word = 2**64 - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & word
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & word
    return value ^ (value >> 31)
