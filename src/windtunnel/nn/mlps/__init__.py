"""Feed-forwards: mix along width, each token by itself."""

from windtunnel.nn.mlps.dense import DenseMLP
from windtunnel.nn.mlps.glu import GatedMLP
from windtunnel.nn.mlps.none import NoMLP

__all__ = ["DenseMLP", "GatedMLP", "NoMLP"]
