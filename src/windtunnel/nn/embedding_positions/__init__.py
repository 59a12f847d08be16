"""Positions of embeddings: a vector for each position, added to the token's."""

from windtunnel.nn.embedding_positions.learned import LearnedPosition
from windtunnel.nn.embedding_positions.none import NoEmbeddingPosition
from windtunnel.nn.embedding_positions.sinusoidal import SinusoidalPosition

__all__ = ["LearnedPosition", "NoEmbeddingPosition", "SinusoidalPosition"]
