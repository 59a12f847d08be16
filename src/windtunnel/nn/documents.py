"""Several documents in one row, none of which sees another.

Everything but mixing along time looks at one token at a time, so only mixers must know: for them
the documents are taken apart, one a row with pads at its end, and put together again. So it is
right for every mixer that is right with pads, which all are held to: attention reads within a
document, and a recurrence begins each from its initial state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from windtunnel.nn.component import Mixer, Span


@dataclass(frozen=True)
class Documents:
    """Where n documents, of at most l tokens, stand in rows (b, t)."""

    index: Tensor
    """(n, l) int64: the place of each document's tokens in the rows, end to end; 0 at pads."""
    place: Tensor
    """(b, t) int64: the place of each row's tokens in the documents, end to end; 0 at pads."""
    span: Span
    """Of the documents apart."""

    @classmethod
    def of(cls, ids: Tensor, real: Tensor) -> tuple[Documents, Tensor]:
        """From which document of its row each token belongs to (b, t), rising along the row;
        ``real`` is False at pads. Besides, each token's position in its document: −1 at pads.
        """
        from windtunnel.nn.component import Span

        b, t = ids.shape
        flat = torch.arange(b * t, device=ids.device)[real.flatten()]
        row = flat // t
        own = ids.flatten()[flat]
        new = torch.ones_like(flat, dtype=torch.bool)
        new[1:] = (row[1:] != row[:-1]) | (own[1:] != own[:-1])
        number = new.cumsum(0) - 1  # of the document, over all rows
        starts = torch.nonzero(new).flatten()
        offset = torch.arange(len(flat), device=ids.device) - starts[number]
        n, l = len(starts), int(offset.max()) + 1
        index = torch.zeros(n, l, dtype=torch.long, device=ids.device)
        apart = torch.zeros(n, l, dtype=torch.bool, device=ids.device)
        index[number, offset], apart[number, offset] = flat, True
        place = torch.zeros(b * t, dtype=torch.long, device=ids.device)
        positions = torch.full((b * t,), -1, dtype=torch.long, device=ids.device)
        place[flat], positions[flat] = number * l + offset, offset
        found = cls(index, place.view(b, t), Span.of_real(apart))
        return found, positions.view(b, t)

    def mixed(self, mixer: Mixer[Any], x: Tensor) -> Tensor:
        """The mixer over each document by itself: b t d -> b t d."""
        y = mixer(x.flatten(0, 1)[self.index], self.span)
        joined: Tensor = y.flatten(0, 1)[self.place]
        return joined
