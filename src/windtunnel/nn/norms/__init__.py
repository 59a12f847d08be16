"""Norms: rescale the last dimension."""

from windtunnel.nn.norms.cosine import CosineNorm
from windtunnel.nn.norms.layernorm import LayerNorm
from windtunnel.nn.norms.none import NoNorm
from windtunnel.nn.norms.rmsnorm import RMSNorm
from windtunnel.nn.norms.scalenorm import ScaleNorm

__all__ = ["CosineNorm", "LayerNorm", "NoNorm", "RMSNorm", "ScaleNorm"]
