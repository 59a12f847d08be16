"""Typed YAML: strict decoding with places, edits by dotted path, digests. No torch here."""

from windtunnel.config.annotate import annotated_yaml
from windtunnel.config.base import Config, Ratio
from windtunnel.config.choice import Choice, offer
from windtunnel.config.decode import decode
from windtunnel.config.digest import canonical_json, digest
from windtunnel.config.document import Document, load_document, parse_document, parse_value
from windtunnel.config.nearest import nearest, suggestion
from windtunnel.config.path import Path, format_path, parse_path

__all__ = [
    "Choice",
    "Config",
    "Document",
    "Path",
    "Ratio",
    "annotated_yaml",
    "canonical_json",
    "decode",
    "digest",
    "format_path",
    "load_document",
    "nearest",
    "offer",
    "parse_document",
    "parse_path",
    "parse_value",
    "suggestion",
]
