"""A study's folder: its plan, its results, what its workers printed, and one process at a time.

plan.json     written before the first run; what the folder is about
study.json    the verdicts, once there are any
log/          what workers printed, by run and attempt
runs/         the runs, unless they lie in a store of the user's
study.lock    held by the process that runs the study
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windtunnel.errors import RunError, StudyError, UsageError
from windtunnel.runs import RunLock, strict_json, write_atomic
from windtunnel.study.plan import Plan, read_plan

PLAN = "plan.json"
RESULTS = "study.json"
LOCK = "study.lock"


class StudyFolder:
    """Where a study lives. Nothing is written before ``claim``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def read_plan(self) -> Plan | None:
        """The plan in the folder; None where there is none.

        Raises:
            StudyError: it is damaged.
        """
        tree = self._read(PLAN)
        return None if tree is None else read_plan(tree)

    def read_results(self) -> dict[str, Any] | None:
        """The verdicts in the folder; None where the study has not ended."""
        return self._read(RESULTS)

    def recall(self, digest: str) -> Plan | None:
        """The folder's plan where it answers the question of this digest.

        Raises:
            UsageError: the folder is in use for something else; it is left as it is.
        """
        try:
            occupied = self.path.exists() and (
                not self.path.is_dir() or any(e.name != LOCK for e in self.path.iterdir())
            )
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror}") from error
        if not occupied:
            return None
        plan = self.read_plan() if self.path.is_dir() else None
        if plan is None:
            raise UsageError(
                f"{self.path}: exists and is not a study; choose another folder (nothing was "
                "changed)"
            )
        if plan.digest != digest:
            raise UsageError(
                f"{self.path}: holds another study ({plan.question}), or this one with other "
                "settings, data or code; choose another folder (nothing was changed)"
            )
        return plan

    @contextmanager
    def claim(self, plan: Plan) -> Iterator[None]:
        """Makes the folder the plan's, for as long as the block lasts.

        Raises:
            UsageError: the folder is in use for something else, or cannot be written.
            StudyError: another process is running this study.
        """
        self.recall(plan.digest)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be made: {error.strerror}") from error
        lock = RunLock(self.path / LOCK)
        try:
            lock.acquire()
        except RunError as error:
            raise StudyError(
                f"{self.path}: cannot be taken: another process runs this study, "
                f"or it cannot be written ({error})"
            ) from error
        try:
            if self.recall(plan.digest) is None:  # looked at again: the lock was waited for
                self._write(PLAN, plan.to_dict())
            self.log.mkdir(exist_ok=True)
            yield
        finally:
            lock.release()

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes the verdicts, in place of earlier ones."""
        self._write(RESULTS, results)

    def _write(self, name: str, tree: Mapping[str, Any]) -> None:
        path = self.path / name
        try:
            write_atomic(path, strict_json(tree, indent=2) + "\n")
        except OSError as error:
            raise StudyError(f"{path}: cannot write: {error.strerror}") from error

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            tree = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StudyError(f"{path}: cannot read: {error.strerror}") from error
        except ValueError as error:
            raise StudyError(f"{path}: is damaged") from error
        if not isinstance(tree, dict):
            raise StudyError(f"{path}: is damaged")
        return tree
