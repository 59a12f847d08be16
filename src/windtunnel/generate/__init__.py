"""Generation: sampling, beams, stop strings and streaming through the state protocol."""

from windtunnel.generate.beam import BeamConfig, Continued, beam_search
from windtunnel.generate.generate import can_continue, generate, search, stream
from windtunnel.generate.int8 import as_decoded, quantized
from windtunnel.generate.sampling import SamplingConfig, choose
from windtunnel.generate.stop import StopStrings, TextStream

__all__ = [
    "BeamConfig",
    "Continued",
    "SamplingConfig",
    "StopStrings",
    "TextStream",
    "as_decoded",
    "beam_search",
    "can_continue",
    "choose",
    "generate",
    "quantized",
    "search",
    "stream",
]
