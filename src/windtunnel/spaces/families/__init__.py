"""Families of architectures: one file a kind, joined by :func:`register`."""

from windtunnel.spaces.families.family import (
    Family,
    family_names,
    family_of,
    number,
    register,
    twins_of,
)
from windtunnel.spaces.families.recurrent import GRU, LSTM, RNN
from windtunnel.spaces.families.transformer import GPTEncoder, MiniGPT

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Family",
    "GPTEncoder",
    "MiniGPT",
    "family_names",
    "family_of",
    "number",
    "register",
    "twins_of",
]
