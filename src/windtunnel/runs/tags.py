"""Names that people give to runs: ``RUN/tags.json``, beside the record, which stays as it is."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from windtunnel.errors import RunError, UsageError
from windtunnel.runs.durable import strict_json, write_atomic

TAGS = "tags.json"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}")


def read_tags(run: Path) -> tuple[str, ...]:
    """The tags of the run in this folder, sorted.

    Raises:
        RunError: they cannot be read.
    """
    path = run / TAGS
    try:
        tags = json.loads(path.read_bytes())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RunError(f"{path}: cannot read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path}: is damaged") from error
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise RunError(f"{path}: is damaged")
    return tuple(sorted(tags))


def change_tags(
    run: Path, *, add: Collection[str] = (), remove: Collection[str] = ()
) -> tuple[str, ...]:
    """Adds and removes tags; those that there are then.

    Raises:
        UsageError: a name is no tag, or the run has no such tag.
        RunError: they cannot be read or written.
    """
    for tag in add:
        if not _TAG.fullmatch(tag):
            raise UsageError(
                f"{tag!r} is no tag: letters, digits and . _ : / + - (64 at most), beginning with "
                "a letter or a digit"
            )
    with _alone(run):
        return _changed(run, add, remove)


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Other processes that change the tags of the run wait meanwhile: what they added stays."""
    try:
        handle = os.open(run, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{run}: cannot read: {error.strerror}") from error
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _changed(run: Path, add: Collection[str], remove: Collection[str]) -> tuple[str, ...]:
    """The tags after a change."""
    before = read_tags(run)
    for tag in remove:
        if tag not in before:
            there = ", ".join(before) or "none"
            raise UsageError(f"{run}: has no tag {tag!r} (there are: {there})")
    after = tuple(sorted({*before, *add} - {*remove}))
    if after != before:
        try:
            write_atomic(run / TAGS, strict_json(list(after)) + "\n")
        except OSError as error:
            raise RunError(f"{run / TAGS}: cannot write: {error.strerror}") from error
    return after
