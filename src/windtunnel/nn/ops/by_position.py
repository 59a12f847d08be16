"""Tokens of ragged rows laid out by their positions, for what depends on a token's place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.component import Span


def by_position(past: Tensor, x: Tensor, span: Span) -> Tensor:
    """``past`` (b, s, d), laid out so before, and x (b, t, d) with each token in the column of its
    position: (b, s', d), zeros where a row has no token."""
    if span.offset is not None:
        assert past.shape[1] == span.offset, "the state has not seen what the span says"
        return x if span.offset == 0 else torch.cat((past, x), dim=1)
    b, s, d = past.shape
    t = x.shape[1]
    columns = s + t
    if span.positions.device.type != "meta":
        columns = max(s, int(span.positions.max()) + 1)
    if columns == 0:
        return torch.cat((past, x[:, :0]), dim=1)  # pads alone: their gradient is 0, not missing
    room = past.new_zeros(b, columns - s, d)
    real = span.real.expand(b, t)[..., None]
    index = span.positions.expand(b, t).clamp(min=0)[..., None].expand(b, t, d)
    # Added, not written: a pad adds zero to a column that may be taken.
    return torch.cat((past, room), dim=1).scatter_add(1, index, x.masked_fill(~real, 0.0))


def of_span(y: Tensor, span: Span) -> Tensor:
    """The columns of a span's tokens: (b, s, d) -> (b, t, d); at pads those of some token."""
    if span.offset is not None:
        return y[:, span.offset :]
    if y.shape[1] == 0:
        return F.pad(y, (0, 0, 0, span.positions.shape[1]))  # pads alone
    b, _, d = y.shape
    index = span.positions.expand(b, -1).clamp(min=0)
    return y.gather(1, index[..., None].expand(-1, -1, d))
