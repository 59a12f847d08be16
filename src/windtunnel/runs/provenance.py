"""Where a run came from: the machine, the code, the state of the working tree. No torch."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from windtunnel import __version__

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers")
GIT_SECONDS = 10.0


def environment(threads: int | None = None) -> dict[str, Any]:
    """The machine and versions that a run was made with; ``threads``: what it computes with."""
    return {
        "windtunnel": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "threads": threads,
    }


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit, whether tracked files differ from it, the digest of that patch, untracked files.

    Args:
        folder: where to look; the current directory by default.

    Returns:
        None outside a git repository, or where git is not installed.
    """
    where = folder or Path.cwd()
    if _git(where, "rev-parse", "--is-inside-work-tree") is None:
        return None
    head = _git(where, "rev-parse", "--verify", "--quiet", "HEAD")
    patch = _git(where, "diff", "--binary", "HEAD") if head else None
    untracked = _git(where, "ls-files", "--others", "--exclude-standard", "-z")
    return {
        "commit": head.decode().strip() if head else None,
        "dirty": bool(patch) or head is None,
        "patch_digest": hashlib.sha256(patch).hexdigest() if patch else None,
        "untracked_files": None if untracked is None else untracked.count(b"\0"),
    }


DECIDING_LAYERS = ("config", "nn", "arch", "data", "train")


def code_digest(plugins: Sequence[Path] = (), *, layers: Sequence[str] = DECIDING_LAYERS) -> str:
    """SHA-256 over the Python files that can change a run's result, and the plugin files.

    Names count. What only plans, shows or lists runs is left out, so a new report or verb does not
    make finished runs strangers. ``layers``: of the package, for results that hang on more of it.
    """
    package = Path(__file__).resolve().parent.parent
    files = [
        (path.relative_to(package).as_posix(), path)
        for layer in layers
        for path in (package / layer).rglob("*.py")
    ]
    files += [(f"plugin {number}", path) for number, path in enumerate(plugins)]
    total = hashlib.sha256()
    for name, path in sorted(files):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may lend fewer than there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _git(folder: Path, *arguments: str) -> bytes | None:
    """The output of a git command; None where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
