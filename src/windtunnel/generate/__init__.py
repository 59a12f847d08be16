"""Generation: sampling and streaming through the state protocol."""

from windtunnel.generate.generate import can_continue, generate, stream
from windtunnel.generate.sampling import SamplingConfig, choose

__all__ = ["SamplingConfig", "can_continue", "choose", "generate", "stream"]
