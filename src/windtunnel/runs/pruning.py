"""What a store could do without: found first, shown, and deleted only when that is asked for.

Nothing is taken from a run that is being written, that has a tag, or (but for checkpoints in the
middle of a finished run) that a study needs; nor what a run that has not ended begins with.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from windtunnel.errors import RunError, UsageError
from windtunnel.runs.folder import FINAL, RunFolder, RunSummary
from windtunnel.runs.references import Reference, references
from windtunnel.runs.store import RunStore
from windtunnel.runs.tags import read_tags

What = Literal["failed", "interrupted", "unused", "checkpoints", "orphans"]
USUAL: tuple[What, ...] = ("failed", "interrupted", "checkpoints", "orphans")
"""Without ``unused``: a finished run is a result, whether a study asked for it or not."""
MIN_AGE_SECONDS = 3600.0
INITS = "inits"
"""Where a store keeps predicted weights that runs begin with, each file named by its content."""
_GONE = ".gone"


@dataclass(frozen=True)
class Removal:
    """Something that could go."""

    path: Path
    what: What
    why: str
    size_bytes: int
    run: Path | None
    """The folder of the run that it is, or is a part of; None for what belongs to none."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path), "what": self.what, "why": self.why,
            "bytes": self.size_bytes, "run": None if self.run is None else self.run.name,
        }  # fmt: skip


@dataclass(frozen=True)
class Pruning:
    """What could go, and what stays although it was asked for."""

    removals: tuple[Removal, ...]
    kept: tuple[tuple[Path, str], ...]
    """A run's folder, and why it stays."""

    @property
    def size_bytes(self) -> int:
        return sum(removal.size_bytes for removal in self.removals)

    def to_dict(self, *, deleted: bool, refused: Mapping[Path, str]) -> dict[str, Any]:
        """Plain JSON values.

        Args:
            deleted: whether ``prune`` was asked for.
            refused: what it gave.
        """
        return {
            "deleted": deleted,
            "bytes": self.size_bytes,
            "removals": [removal.to_dict() for removal in self.removals],
            "kept": {str(path): why for path, why in self.kept},
            "refused": {str(path): why for path, why in refused.items()},
        }


def find_prunable(
    store: RunStore, what: Collection[str] = USUAL, *, min_age_seconds: float = MIN_AGE_SECONDS
) -> Pruning:
    """What could go; nothing is changed.

    Args:
        what: kinds of things, see ``What``.
        min_age_seconds: since something was last written; what is younger stays.

    Raises:
        UsageError: there is no such kind.
        RunError: a study's note in the store is damaged: then nobody knows what it needs.
    """
    for kind in what:
        if kind not in get_args(What):
            raise UsageError(f"--what: {kind!r} (allowed: {', '.join(get_args(What))})")
    search = _Search(store, frozenset(what), time.time() - min_age_seconds)
    removals = tuple(search.removals())
    return Pruning(removals, tuple(search.kept))


def prune(store: RunStore, pruning: Pruning) -> dict[Path, str]:
    """Deletes what was found; what could not be deleted, and why."""
    refused: dict[Path, str] = {}
    for removal in pruning.removals:
        try:
            _remove(store, removal)
        except (RunError, OSError) as error:
            refused[removal.path] = str(error)
    return refused


def _remove(store: RunStore, removal: Removal) -> None:
    """Renames it first: a death while files are deleted must not leave half a run."""
    if removal.run is None:
        _delete(removal.path)
        return
    folder = RunFolder.open(removal.run)
    with folder.lock() as lock:
        _refuse_changed(store, folder, removal)
        gone = removal.path.parent / f".tmp-{removal.path.name}-{uuid.uuid4().hex[:8]}{_GONE}"
        lock.check()
        removal.path.rename(gone)
    _delete(gone)


def _refuse_changed(store: RunStore, folder: RunFolder, removal: Removal) -> None:
    """Raises RunError where the run is not any more what it was when it was looked at."""
    if (folder.read_record() is None) == (removal.what in ("unused", "checkpoints")):
        raise RunError("has been trained meanwhile")
    needed = any(folder.key in r.keys for r in references(store.root) if r.stands)
    if read_tags(folder.path) or (needed and removal.what not in ("checkpoints", "orphans")):
        raise RunError("has been given a tag, or is needed by a study, meanwhile")


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Search:
    def __init__(self, store: RunStore, what: frozenset[str], before: float) -> None:
        self.kept: list[tuple[Path, str]] = []
        self._root, self._what, self._before = store.root, what, before
        self._runs = store.list()
        self._notes = references(store.root)
        self._origins = _origins(self._runs)

    def removals(self) -> Iterator[Removal]:
        for run in self._runs:
            yield from self._of_run(run)
        if "orphans" in self._what:
            yield from self._orphans()

    def _of_run(self, run: RunSummary) -> Iterator[Removal]:
        kind: What = "unused" if run.status in FINAL else "failed"
        kind = "interrupted" if run.status == "interrupted" else kind
        reason = self._reason_to_keep(run)
        if reason is None and kind in self._what and run.status != "running":
            if self._is_old(run.path):
                why = f"{run.status} at step {run.step:,}" if kind != "unused" else "of no study"
                yield Removal(run.path, kind, why, size_of(run.path), run.path)
                return
            reason = "was written just now"
        if reason is not None and kind in self._what:
            self.kept.append((run.path, reason))
        if run.tags or run.status == "running":
            return
        if run.status in FINAL and "checkpoints" in self._what:
            yield from self._checkpoints(run)
        if "orphans" in self._what:
            yield from self._leftovers(run)

    def _reason_to_keep(self, run: RunSummary) -> str | None:
        if run.status == "running":
            return "is being written"
        if run.tags:
            return f"has the tag {', '.join(run.tags)}"
        note = self._needed_by(run.key)
        if note is not None:
            return f"belongs to the study {note.study}"
        if run.path.resolve() in self._origins:
            return "is what another run begins with"
        return None

    def _needed_by(self, key: str) -> Reference | None:
        """A study that needs the run; one that has not ended before others."""
        notes = [note for note in self._notes if note.stands and key in note.keys]
        return min(notes, key=lambda note: note.ended, default=None)

    def _checkpoints(self, run: RunSummary) -> Iterator[Removal]:
        note = self._needed_by(run.key)
        if run.path.resolve() in self._origins or (note is not None and not note.ended):
            return
        found = sorted(_manifests(run.path / "checkpoints"), key=lambda c: c[1])
        losses = [(loss, step, path) for path, step, loss in found if loss is not None]
        stay = {path for path, _, _ in found[-1:]} | {min(losses)[2] for _ in losses[:1]}
        for path, step, _ in found:
            if path not in stay and self._is_old(path):
                why = f"step {step:,}: neither the last nor the best"
                yield Removal(path, "checkpoints", why, size_of(path), run.path)

    def _leftovers(self, run: RunSummary) -> Iterator[Removal]:
        """Of processes that died while they wrote or deleted a checkpoint; damaged ones."""
        folder = run.path / "checkpoints"
        for path in [*folder.glob(".tmp-*"), *folder.glob("damaged-*")]:
            if self._is_old(path):
                why = "damaged" if path.name[0] == "d" else "left by a process that died"
                yield Removal(path, "orphans", why, size_of(path), None)

    def _orphans(self) -> Iterator[Removal]:
        drafts = [*self._root.glob(".*.tmp"), *self._root.glob(f".tmp-*{_GONE}")]
        for path in drafts:
            if self._is_old(path):
                yield Removal(path, "orphans", "left by a process that died", size_of(path), None)
        yield from self._inits()
        for note in self._notes:
            if not note.stands:
                why = f"the study {note.study} is not there any more"
                yield Removal(note.path, "orphans", why, size_of(note.path), None)

    def _inits(self) -> Iterator[Removal]:
        """Predicted weights that no run begins with; a study that goes on may still want them."""
        folder = self._root / INITS
        for path in sorted(folder.glob(".init.*.tmp")):
            if self._is_old(path):
                yield Removal(path, "orphans", "left by a process that died", size_of(path), None)
        if any(note.stands and not note.ended for note in self._notes):
            return
        used = _weights(self._root) if folder.is_dir() else set()
        if used is None:
            self.kept.append((folder, "a run's config cannot be read: it may begin with these"))
            return
        for path in sorted(folder.glob("*.safetensors")):
            if path.resolve() not in used and self._is_old(path):
                yield Removal(path, "orphans", "no run begins with it", size_of(path), None)

    def _is_old(self, path: Path) -> bool:
        """Whether nothing in it was written lately."""
        return max((p.lstat().st_mtime for p in _below(path)), default=0.0) <= self._before


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.lstat().st_size for p in _below(path) if not p.is_dir())


def _below(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        yield from path.rglob("*")


def _manifests(folder: Path) -> Iterator[tuple[Path, int, float | None]]:
    """Path, step and validation loss of each checkpoint whose manifest can be read."""
    for path in folder.glob("step-*"):
        try:
            values = json.loads((path / "manifest.json").read_bytes())
            yield path, int(values["step"]), values["validation_loss"]
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _origins(runs: list[RunSummary]) -> set[Path]:
    """The folders of the runs that runs which have not ended begin with."""
    return _begun_with([run.path for run in runs if run.status not in FINAL], "run")


def _weights(root: Path) -> set[Path] | None:
    """The files of weights that runs begin with; of those that have ended too, whose config is to
    give the same run again. None where a config cannot be read, a damaged run's included."""
    from windtunnel.errors import ConfigError

    folders = [path.parent for path in root.glob("*/config.yaml")]
    try:
        return _begun_with(folders, "weights")
    except (ConfigError, OSError):
        return None


def _begun_with(folders: list[Path], key: str) -> set[Path]:
    from windtunnel.config import load_document  # brings pydantic

    found = set()
    for folder in folders:
        origin = load_document(folder / "config.yaml").tree.get("origin")
        if isinstance(origin, dict) and isinstance(origin.get(key), str):
            found.add((folder / origin[key]).resolve())
    return found
