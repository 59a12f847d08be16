"""Vectors for token ids where a model has no vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from windtunnel.nn.initialize import keyed_generator


def token_codes(tokens: Tensor, d_model: int) -> Tensor:
    """A fixed vector of N(0, 1) for each id, a function of the id alone: b t -> b t d.

    Nearly orthogonal for large d, so that ids can be told apart; nothing of it is learned.

    >>> one, other = token_codes(torch.tensor([[3, 5]]), 4), token_codes(torch.tensor([[5]]), 4)
    >>> torch.equal(one[0, 1], other[0, 0])
    True
    """
    ids, places = torch.unique(tokens, return_inverse=True)
    rows = [torch.randn(d_model, generator=keyed_generator(0, "token", i)) for i in ids.tolist()]
    return torch.stack(rows).to(tokens.device)[places]
