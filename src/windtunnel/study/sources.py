"""The files that decide what a run comes to, watched while a study runs: a worker that starts later
reads them anew, and would train something else than was planned."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.arch.plugins import DIGEST
from windtunnel.errors import UsageError
from windtunnel.runs.provenance import DECIDING_LAYERS
from windtunnel.study.plan import Plan

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass
class _Known:
    """A file as it was."""

    digest: str
    looked: tuple[int, int] | None
    """Its time and size when that was last seen to be so; files that kept both are not read."""


class Sources:
    """This package's files and the plugins of a study's plans, as they were when it began."""

    def __init__(self) -> None:
        self._package = PACKAGE
        self._known = {file: _look(file) for file in _files(PACKAGE)}

    def watch(self, plan: Plan) -> None:
        """The plan's plugins too, as this process has loaded them."""
        for name in {name for run in plan.runs for name in run.config.get("plugins") or ()}:
            file = Path(name)
            if file not in self._known:
                known = _look(file)
                loaded = _loaded(file)
                self._known[file] = (
                    known if loaded in (None, known.digest) else _Known(loaded, None)
                )

    def check(self) -> None:
        """Raises UsageError where a file is no longer what it was."""
        gone = [file for file, known in self._known.items() if _differs(file, known)]
        found = (file for file in _files(self._package) if file not in self._known)
        new = [file for file in found if file.is_file()]  # an editor's lock is a link to nowhere
        if not gone and not new:
            return
        file = (gone or new)[0]
        whose = " (windtunnel's own code)" if self._package in file.parents else ""
        more = len(gone) + len(new) - 1
        others = f" and {more} more file{'s' if more > 1 else ''}" if more else ""
        raise UsageError(
            f"{file}{whose}{others}: changed since the study began, so the runs that are left "
            "would not be those that were planned; nothing more is started. Put it back and repeat "
            "the command to go on from here, or start another study (another --out) with what it "
            "is now"
        )


def _files(package: Path) -> Iterator[Path]:
    for layer in DECIDING_LAYERS:
        yield from sorted((package / layer).rglob("*.py"))


def _loaded(file: Path) -> Any:
    """The digest of a plugin as this process runs it; None where it does not."""
    modules = [module for module in sys.modules.values() if hasattr(module, DIGEST)]
    return next((getattr(m, DIGEST) for m in modules if m.__file__ == str(file)), None)


def _look(file: Path) -> _Known:
    seen = _stat(file)
    try:
        return _Known(hashlib.sha256(file.read_bytes()).hexdigest(), seen)
    except OSError:
        return _Known("", None)


def _stat(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _differs(file: Path, known: _Known) -> bool:
    if known.looked is not None and _stat(file) == known.looked:
        return False
    now = _look(file)
    if now.digest == known.digest:  # saved without a change, or put back
        known.looked = now.looked
    return now.digest != known.digest
