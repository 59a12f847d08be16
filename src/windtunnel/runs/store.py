"""A folder of runs: make, find and list them."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from windtunnel.errors import RunError, UsageError
from windtunnel.runs.events import Event
from windtunnel.runs.folder import IDENTITY, RECORD, RunFolder, RunSummary
from windtunnel.runs.index import RunIndex
from windtunnel.runs.references import refer
from windtunnel.runs.tags import TAGS

log = logging.getLogger(__name__)

INDEX = "index.sqlite"
WORTH = ("finished", "diverged", "imported", "running", "interrupted", "failed")


def run_key(parts: Mapping[str, Any]) -> str:
    """The digest of all that can change a run's result.

    The order of keys does not matter; a part that is not plain JSON raises TypeError or ValueError.

    >>> run_key({"seed": 1, "steps": 2}) == run_key({"steps": 2, "seed": 1})
    True
    """
    from windtunnel.config import digest  # brings pydantic: listings do without

    return digest(dict(parts))


class RunStore:
    """The runs under one folder; they are its direct children."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._index = RunIndex(self.root / INDEX)

    def create(self, key: str, name: str, config: Mapping[str, Any] | str) -> RunFolder:
        """A new run, in a folder named after the run and the first digits of its key.

        Raises:
            UsageError: that run exists already, or the store cannot be written.
        """
        return RunFolder.create(self.path_for(key, name), key=key, name=name, config=config)

    def ensure_writable(self) -> None:
        """Makes the store's folder; to be asked before anything else is written.

        Raises:
            UsageError: it cannot be made, or nothing can be made in it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryDirectory(prefix=".probe.", dir=self.root).cleanup()
        except OSError as error:
            raise UsageError(f"{self.root}: cannot be written: {error.strerror}") from error

    def path_for(self, key: str, name: str) -> Path:
        """Where a new run of that name and key stands."""
        return self.root / f"{_folder_name(name)}-{key[:10]}"

    def list(self) -> list[RunSummary]:
        """Every run, oldest first; one that cannot be read is left out with a logged warning."""
        cached = self._index.load()
        summaries, changed = [], {}
        folders = _run_folders(self.root)
        for path in folders:
            stamp = _stamp(path)
            row = cached.get(path.name)
            if row is not None and row[0] == stamp:
                summaries.append(row[1])
                continue
            try:
                summary = RunFolder.open(path).summary()
            except RunError as error:
                log.warning("%s", error)
                continue
            summaries.append(summary)
            if stamp is not None:
                changed[path.name] = (stamp, summary)
        gone = cached.keys() - {path.name for path in folders}
        if changed or gone:
            self._index.update(changed, gone)
        return sorted(summaries, key=lambda run: (run.created, run.path))

    def find(self, key: str) -> RunFolder | None:
        """The run of this key; of several, the one that got furthest: an ended one first."""
        runs = [run for run in self.list() if run.key == key]
        if not runs:
            return None
        best = min(runs, key=lambda run: (WORTH.index(run.status), -run.step, -run.created))
        return RunFolder.open(best.path)

    def select(self, reference: str) -> RunFolder:
        """The run that a user means: a run's folder, wherever it is; in this store a folder's name,
        a run's name, a key or its start.

        A folder comes before a run of the store that has its name; that is logged.

        Raises:
            UsageError: none or several runs match; the message names them.
        """
        if _is_run(Path(reference)):
            folder = RunFolder.open(Path(reference))
            if "/" not in reference:
                self._tell_of_namesakes(folder, reference)
            return folder
        runs = self.list()
        starts = [run for run in runs if len(reference) >= 4 and run.key.startswith(reference)]
        for what, matches in (
            ("name", [run for run in runs if run.path.name == reference]),
            ("name", [run for run in runs if run.name == reference]),
            ("key", [run for run in runs if run.key == reference]),
            ("start of the key", starts),
        ):
            if len(matches) == 1:
                return RunFolder.open(matches[0].path)
            if matches:
                names = ", ".join(run.path.name for run in matches)
                raise UsageError(f"{reference!r} is the {what} of several runs: {names}")
        _refuse_other_places(reference)
        raise UsageError(f"no run {reference!r} in {self.root}{_counted(reference, runs)}")

    def _tell_of_namesakes(self, taken: RunFolder, reference: str) -> None:
        """Says which run was taken where a run of the store has the folder's name."""
        here = taken.path.resolve()
        for run in self.list():
            if reference in (run.path.name, run.name) and run.path.resolve() != here:
                log.warning("%s: the folder %s is taken, not the run %s", reference, here, run.path)

    def show(self, reference: str) -> dict[str, Any]:
        """All that is known of one run: summary, config text, record and evaluations.

        Events that cannot be read do not hide a record: ``damage`` says what is wrong with them,
        and there are no evaluations. A config that cannot be read is None, and ``damage`` says so.

        Raises:
            RunError: the run has no record, and its events are damaged.
        """
        folder = self.select(reference)
        record, events, damage = folder.read_record(), list[Event](), list[str]()
        try:
            events = folder.read_events()
        except RunError as error:
            if record is None:
                raise
            damage.append(f"no evaluations: {error}")
        try:
            config = folder.config_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            config, why = None, error.strerror if isinstance(error, OSError) else "not UTF-8"
            damage.append(f"no config: {folder.config_path}: cannot be read: {why}")
        origins = [e.values["origin"] for e in events if e.kind == "start" and "origin" in e.values]
        return {
            "summary": folder.summary().to_dict(),
            "config": config,
            "record": record,
            "evaluations": [dict(e.values) for e in events if e.kind == "eval"],
            "damage": "; ".join(damage) or None,
            "origin": origins[0] if origins else None,
        }

    def refer(self, study: Path, keys: Collection[str], *, ended: bool = False) -> None:
        """Notes which runs a study needs, so that they are not pruned; see ``references``. A store
        that cannot be written cannot be pruned either; that is logged."""
        try:
            refer(self.root, study, keys, ended=ended)
        except RunError as error:
            log.warning("%s", error)

    def rebuild_index(self) -> None:
        """Throw the index away and make it anew from the folders.

        Raises:
            RunError: it cannot be deleted; the folders are whole.
        """
        try:
            self._index.remove()
        except OSError as error:
            raise RunError(f"{self._index.path}: cannot be made anew: {error.strerror}") from error
        self.list()


def _run_folders(root: Path) -> list[Path]:
    try:
        children = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{root}: cannot be listed: {error.strerror}") from error
    return [path for path in children if path.name[0] != "." and (path / IDENTITY).is_file()]


def _stamp(run: Path) -> str | None:
    """What tells a run's record and tags from others; None where there is no record."""
    record, tags = _file_stamp(run / RECORD), _file_stamp(run / TAGS)
    return None if record is None else f"{record} {tags}"


def _file_stamp(path: Path) -> str | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _folder_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "run"


def _counted(reference: str, runs: Collection[RunSummary]) -> str:
    """The nearest name of a run, or of a run's folder that lies beside what was named, and how many
    runs there are, for the end of a message."""
    from windtunnel.config.nearest import nearest  # brings pydantic: listings do without

    known = {name for run in runs for name in (run.path.name, run.name)}
    near = nearest(reference, sorted({*known, *_run_folders_beside(Path(reference))}))
    hint = f"; did you mean {near!r}?" if near else ";"
    return f"{hint} there {'is 1 run' if len(runs) == 1 else f'are {len(runs)} runs'}"


def _is_run(path: Path) -> bool:
    try:
        return (path / IDENTITY).is_file()
    except OSError:  # too long for a path
        return False


def _refuse_other_places(reference: str) -> None:
    """Raises UsageError where a reference is the path of something that is no run."""
    try:
        is_folder, is_file = Path(reference).is_dir(), Path(reference).is_file()
    except OSError:  # too long for a path
        return
    if is_folder:
        raise UsageError(f"{reference}: is a folder, but not a run's: it has no {IDENTITY}")
    if is_file and Path(reference).suffix in (".yaml", ".yml"):
        raise UsageError(
            f"{reference}: is a run file, not a run: windtunnel train {reference} makes a run of it"
        )
    if is_file:
        raise UsageError(f"{reference}: is a file, not a run; a run is a folder")


def _run_folders_beside(path: Path) -> list[str]:
    """The runs' folders in the folder where ``path`` would lie, written as it is."""
    try:
        return [str(path.parent / found.name) for found in _run_folders(path.parent)]
    except (OSError, UsageError):
        return []
