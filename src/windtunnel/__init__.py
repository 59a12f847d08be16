"""Windtunnel: try language-model architectures at small scale, with instruments."""

__version__ = "0.1.0"
