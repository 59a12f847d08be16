"""Positions of attention: how queries and keys learn where they stand."""

from windtunnel.nn.positions.alibi import ALiBi
from windtunnel.nn.positions.none import NoPosition
from windtunnel.nn.positions.rope import RoPE

__all__ = ["ALiBi", "NoPosition", "RoPE"]
