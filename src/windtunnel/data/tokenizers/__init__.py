"""Tokenizers: text to ids and back, without loss."""

from windtunnel.data.tokenizers.base import Padded, PadSide, Tokenizer
from windtunnel.data.tokenizers.build import build_tokenizer, load_tokenizer

__all__ = ["PadSide", "Padded", "Tokenizer", "build_tokenizer", "load_tokenizer"]
