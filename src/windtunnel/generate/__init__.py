"""Generation: sampling and streaming through the state protocol."""

from windtunnel.generate.generate import generate, stream
from windtunnel.generate.sampling import SamplingConfig, choose

__all__ = ["SamplingConfig", "choose", "generate", "stream"]
