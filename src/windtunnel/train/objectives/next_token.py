"""The next token of a text: language modelling."""

from __future__ import annotations

from windtunnel.train.objectives.config import NextTokenConfig
from windtunnel.train.objectives.objective import Objective


class NextToken(Objective[NextTokenConfig]):
    """−Σ ln p(token | those before it): each row's targets are its tokens, one to the left."""
