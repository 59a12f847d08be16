"""What a part costs, as closed forms: one formula counts one architecture or three million."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

Num: TypeAlias = Any
"""A number, or a NumPy array of them: formulas use arithmetic alone, so both work."""


@dataclass(frozen=True)
class Cost:
    """The cost of a part at a stated sequence length.

    FLOPs are those of matrix products, 2·m·n·k each, as ``torch.utils.flop_counter`` counts them.
    A backward costs twice the forward, so training costs three times ``forward_flops``.

    >>> Cost(params=3) + Cost(params=4, forward_flops=2)
    Cost(params=7, forward_flops=2, decode_flops=0, state_values=0, state_values_per_token=0, \
activation_values=0)
    """

    params: Num = 0
    """Numbers that are learned."""
    forward_flops: Num = 0
    """Per token, in a forward over the whole sequence."""
    decode_flops: Num = 0
    """One further token, with the whole sequence before it."""
    state_values: Num = 0
    """Numbers held for one sequence while decoding, whatever its length."""
    state_values_per_token: Num = 0
    """Numbers held for each token seen."""
    activation_values: Num = 0
    """Numbers that the part's operations keep for the backward, per token, its input among them.

    Tables that all sequences share (masks, rotations) and the weights are not counted."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    def __mul__(self, times: Num) -> Cost:
        return Cost(*(getattr(self, f.name) * times for f in fields(Cost)))


def linear_cost(d_in: Num, d_out: Num, *, bias: bool) -> Cost:
    """A matrix product with weight ``d_out × d_in``, without the input that it keeps."""
    flops = 2 * d_in * d_out
    return Cost(
        params=d_in * d_out + d_out * bias,
        forward_flops=flops,
        decode_flops=flops,
    )


def smaller(a: Num, b: Num) -> Num:
    """The smaller of two numbers, or of each pair of two arrays."""
    return np.minimum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else min(a, b)


def larger(a: Num, b: Num) -> Num:
    """The larger of two numbers, or of each pair of two arrays."""
    return np.maximum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else max(a, b)
