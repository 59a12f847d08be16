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
    A backward costs twice the forward, so training costs three times ``forward_flops``. Counted is
    the forward of an evaluation, without dropout and gradients. In training a softmax of which the
    values are needed (dropout on them, the gradient of a learned bias) is made explicitly: it does
    not widen heads whose keys and values differ in width, and executes fewer.

    >>> Cost(params=3) + Cost(params=4, forward_flops=2)
    Cost(params=7, forward_flops=2, decode_flops=0, state_values=0, state_values_per_token=0, \
activation_values=0, wide_values=0, working_values=0, shared_values=0)
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
    wide_values: Num = 0
    """Of those, the ones that are float32 (or as wide) in bfloat16 training too, counted once more,
    so that the bytes kept in bfloat16 are 2·(activation_values + wide_values)."""
    working_values: Num = 0
    """Float32 numbers, per token, that an operation which computes in float32 or recomputes holds
    for a moment besides, forward or backward. Parts work one after the other: the most of any of
    them is that of all together."""
    shared_values: Num = 0
    """Numbers kept for the backward that all sequences of a batch share, whole and not per token:
    masks and factors of positions, the taps of a filter, the matrices of unified maps."""

    def __add__(self, other: Cost) -> Cost:
        summed = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)}
        return Cost(
            **summed | {"working_values": larger(self.working_values, other.working_values)}
        )

    def __mul__(self, times: Num) -> Cost:
        scaled = {f.name: getattr(self, f.name) * times for f in fields(Cost)}
        return Cost(**scaled | {"working_values": self.working_values * (times > 0)})


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
