"""Replacing a folder: a crash leaves the one before or the new one, whole.

The new one is filled beside the old, and both change names in one step where the system can do that
(Linux). Elsewhere there is a moment in which the old one has a hidden name only; :func:`standing`
finds it there.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from windtunnel.runs import sync_folder

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""What a system or file system says that cannot exchange two names."""


@contextmanager
def replaced(place: Path) -> Iterator[Path]:
    """Gives an empty folder that has the name ``place`` once the block has ended well; after an
    error it is gone, and ``place`` is as it was. What the block writes it must flush itself.

    What a killed process left of earlier ones is removed where nobody else is writing beside it.

    Raises:
        OSError: the disk is full, say.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _clear(place, handle)
        _flock(handle, fcntl.LOCK_SH)
        try:
            draft.mkdir()
            yield draft
            _put(draft, place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # by now the old one, if all went well
        _clear(place, handle)
    finally:
        os.close(handle)


def standing(place: Path) -> Path:
    """The folder ``place``; where a process was killed while it replaced it, what stood there."""
    if place.exists():
        return place
    aside = _left(place, "old")
    return max(aside, key=lambda path: path.stat().st_mtime_ns, default=place)


def _put(draft: Path, place: Path) -> None:
    """Gives ``draft`` the name ``place``, and what stood there the name of the draft."""
    there = place.exists()
    if there:
        _swap(draft, place)
    else:
        draft.rename(place)
    try:
        sync_folder(place.parent)
    except BaseException:
        if there:
            _swap(draft, place)
        else:
            place.rename(draft)
        raise


def _swap(draft: Path, place: Path) -> None:
    if exchange(draft, place):
        return
    aside = place.with_name(f".{place.name}.{secrets.token_hex(8)}.old")
    place.rename(aside)
    try:
        draft.rename(place)
        aside.rename(draft)
    except BaseException:
        if aside.exists():
            if place.exists():
                place.rename(draft)
            aside.rename(place)
        raise


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; False, and nothing done, where the system cannot.

    Raises:
        OSError: it can, but not these.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if call(*names, ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_HERE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _clear(place: Path, handle: int) -> None:
    """Removes what killed processes left, unless another one may be at work in the folder."""
    if not _flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
        return
    left = _left(place, "tmp") + (_left(place, "old") if place.exists() else [])
    for path in left:
        shutil.rmtree(path, ignore_errors=True)


def _left(place: Path, ending: str) -> list[Path]:
    # Numbers of processes are what an earlier version wrote.
    name = re.compile(rf"\.{re.escape(place.name)}\.([0-9a-f]{{16}}|\d{{1,7}})\.{ending}")
    try:
        return [p for p in place.parent.iterdir() if name.fullmatch(p.name) and p.is_dir()]
    except OSError:
        return []


def _flock(handle: int, kind: int) -> bool:
    """Whether the lock was got; some file systems have none."""
    try:
        fcntl.flock(handle, kind)
    except OSError:
        return False
    return True
