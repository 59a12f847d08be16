"""The cache: where it lies, one writer at a time, folders that appear whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from windtunnel.errors import DataError


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """``$WINDTUNNEL_CACHE``, else ``$XDG_CACHE_HOME/windtunnel``, else ``~/.cache/windtunnel``.

    >>> str(cache_folder({"WINDTUNNEL_CACHE": "/scratch/cache"}))
    '/scratch/cache'
    """
    variables = os.environ if environ is None else environ
    if own := variables.get("WINDTUNNEL_CACHE"):
        return Path(own).expanduser().absolute()
    base = variables.get("XDG_CACHE_HOME", "")
    # The XDG specification has a relative path ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "windtunnel"


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Tells an operating-system error inside as a `DataError` about the cache."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"cannot use the cache folder {folder}: {reason}; "
            "set WINDTUNNEL_CACHE to a folder that can be written and has room"
        ) from error


@contextmanager
def locked(cache: Path, name: str) -> Iterator[None]:
    """Holds the lock ``name`` of a cache; others wait. A killed holder's lock is free at once."""
    folder = cache / "locks"
    with cache_errors(cache):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f"{name}.lock", "ab")  # noqa: SIM115 - closed below
    with lock:
        with cache_errors(cache):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A fresh folder that becomes ``final`` when the block ends well and vanishes when it does not.

    The caller holds the lock of ``final``, so what an earlier, killed writer left is removed here.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{final.name}."
    for left_over in final.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_over)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
    try:
        yield folder
        _sync_tree(folder)
        if final.exists():
            shutil.rmtree(final)
        os.rename(folder, final)
        _sync(final.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # gone already when it was renamed


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
