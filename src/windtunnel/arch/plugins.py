"""A user's own components: a Python file named in the config, or an installed entry point."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
import types
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

from windtunnel.errors import UsageError

ENTRY_POINTS = "windtunnel.components"
DIGEST = "windtunnel_digest"


def load_plugins(paths: Iterable[str], base: Path) -> dict[str, str]:
    """Runs each file once in this process, so that its ``@register`` lines take effect.

    Paths are relative to ``base``, the config's folder. Returns the SHA-256 of each file by its
    path, which becomes part of a run's key.

    Raises:
        UsageError: a file that is missing, or that fails when it is run (with its own message).
    """
    digests: dict[str, str] = {}
    for path in paths:
        file = (base / path).resolve()
        if not file.is_file():
            raise UsageError(f"plugin {path}: no such file (looked for {file})")
        content = file.read_bytes()
        digests[path] = hashlib.sha256(content).hexdigest()
        name = f"windtunnel_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
        if name not in sys.modules:
            _run(file, content, name, digests[path])
        elif getattr(sys.modules[name], DIGEST, None) != digests[path]:
            raise UsageError(f"plugin {file}: has changed since this process loaded it; start anew")
    return digests


def _run(file: Path, content: bytes, name: str, digest: str) -> None:
    """Runs what was read and digested, never an older compiled copy of it."""
    module = types.ModuleType(name)
    module.__file__ = str(file)
    setattr(module, DIGEST, digest)
    sys.modules[name] = module
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no part of a verb's answer
            exec(compile(content, str(file), "exec"), module.__dict__)
    # A plugin is foreign code: whatever it raises, be it exit(), is told as its fault.
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"plugin {file}: {type(error).__name__}: {error}") from error


def load_entry_points() -> None:
    """Imports every installed package that offers components (group ``windtunnel.components``)."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        with redirect_stdout(sys.stderr):
            point.load()
