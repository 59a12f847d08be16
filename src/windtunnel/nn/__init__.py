"""The parts of models: mixers, feed-forwards, norms, positions, embeddings, residuals.

Importing this package registers them all.
"""

from windtunnel.nn import (
    embedding_positions,
    mixers,
    mlps,
    norms,
    positions,
    residuals,
)

__all__ = ["embedding_positions", "mixers", "mlps", "norms", "positions", "residuals"]
