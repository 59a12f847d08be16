"""A study's folder: its plan, its results, what its workers printed, and one process at a time.

plan.json     written before the first run; what the folder is about
question.json in place of it where a study has several rounds
rounds/       the plan of each round
study.json    the verdicts, once there are any
tasks.json    what its runs answered to tasks, where they were asked
log/          what workers printed, by run and attempt
runs/         the runs, unless they lie in a store of the user's; those trained to a rung again
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
from windtunnel.study.plan import Plan, merged, read_plan

PLAN = "plan.json"
QUESTION = "question.json"
ROUNDS = "rounds"
RESULTS = "study.json"
TASKS = "tasks.json"
VERDICT_ROUNDS = "verdict_rounds"
"""In the results of several rounds: the numbers of those whose plans the verdicts are about."""
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
        """The plan that the verdicts are about; None where there is none (yet).

        Raises:
            StudyError: it is damaged.
        """
        tree = self._read(PLAN)
        if tree is not None:
            return read_plan(tree)
        numbers = (self.read_results() or {}).get(VERDICT_ROUNDS) or ()
        found = [self._read(_round_name(number)) for number in numbers]
        plans = [read_plan(tree) for tree in found if tree is not None]
        return merged(plans) if plans else None

    def read_results(self) -> dict[str, Any] | None:
        """The verdicts in the folder; None where the study has not ended."""
        return self._read(RESULTS)

    def holds(self, digest: str) -> bool:
        """Whether the folder answers the question of this digest; False where it is free.

        Raises:
            UsageError: the folder is in use for something else; it is left as it is.
        """
        try:
            occupied = self.path.exists() and (
                not self.path.is_dir() or not all(map(_is_of_claiming, self.path.iterdir()))
            )
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror}") from error
        if not occupied:
            return False
        asked = self._asked() if self.path.is_dir() else None
        if asked is None:
            raise UsageError(
                f"{self.path}: exists and is not a study; choose another folder (nothing was "
                "changed)"
            )
        if asked[0] != digest:
            raise UsageError(
                f"{self.path}: holds another study ({asked[1]}), or this one with other "
                "settings, data or code; choose another folder (nothing was changed)"
            )
        return True

    def read_question(self) -> dict[str, Any]:
        """What a study of several rounds asks: kind, question, digest; empty for others."""
        return self._read(QUESTION) or {}

    def _asked(self) -> tuple[str, str] | None:
        """The digest and the words of the folder's question."""
        found = self._read(QUESTION)
        if found is None:
            plan = self.read_plan()
            return None if plan is None else (plan.digest, plan.question)
        return str(found.get("digest")), str(found.get("question"))

    def recall(self, digest: str) -> Plan | None:
        """The folder's plan where it answers the question of this digest.

        Raises:
            UsageError: the folder is in use for something else; it is left as it is.
        """
        return self.read_plan() if self.holds(digest) else None

    def recall_round(self, digest: str) -> Plan | None:
        """The round's plan of this digest, from an earlier attempt at the same question."""
        folder = self.path / ROUNDS
        names = sorted(folder.glob("*.json")) if folder.is_dir() else []
        for name in names:
            tree = self._read(f"{ROUNDS}/{name.name}")
            if tree is not None and tree.get("digest") == digest:
                return read_plan(tree)
        return None

    def write_round(self, number: int, plan: Plan) -> None:
        """Writes a round's plan, in place of another one of that number. Where that one asked for
        something else (a run that had failed has now ended), the results are no longer those of the
        rounds, and are taken away until there are new ones."""
        (self.path / ROUNDS).mkdir(exist_ok=True)
        before = self._read(_round_name(number))
        if before is not None and before.get("digest") != plan.digest:
            try:
                (self.path / RESULTS).unlink(missing_ok=True)
            except OSError as error:
                raise StudyError(
                    f"{self.path / RESULTS}: cannot be replaced: {error.strerror}"
                ) from error
        self._write(_round_name(number), plan.to_dict())

    @contextmanager
    def claim(self, plan: Plan) -> Iterator[None]:
        """Makes the folder the plan's, for as long as the block lasts.

        Raises:
            UsageError: the folder is in use for something else, or cannot be written.
            StudyError: another process is running this study.
        """
        with self._claimed(plan.digest, PLAN, plan.to_dict()):
            yield

    @contextmanager
    def claim_question(self, kind: str, question: str, digest: str) -> Iterator[None]:
        """As ``claim``, for a study of several rounds."""
        asked = {"kind": kind, "question": question, "digest": digest}
        with self._claimed(digest, QUESTION, asked):
            yield

    @contextmanager
    def _claimed(self, digest: str, name: str, tree: Mapping[str, Any]) -> Iterator[None]:
        self.holds(digest)
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
            if not self.holds(digest):  # looked at again: the lock was waited for
                self._write(name, tree)
            self.log.mkdir(exist_ok=True)
            yield
        finally:
            lock.release()

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes the verdicts, in place of earlier ones."""
        self._write(RESULTS, results)

    def write_tasks(self, answers: Mapping[str, Any]) -> None:
        """Writes what the study's runs answered to tasks, in place of earlier answers."""
        self._write(TASKS, answers)

    def read_tasks(self) -> dict[str, Any] | None:
        """The answers to tasks; None where none were asked.

        Raises:
            StudyError: they are damaged.
        """
        return self._read(TASKS)

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


def _round_name(number: int) -> str:
    return f"{ROUNDS}/{number:03d}.json"


def _is_of_claiming(path: Path) -> bool:
    """Whether a process that was killed while it claimed the folder may have left the file."""
    return path.name == LOCK or (
        path.suffix == ".tmp" and path.name.startswith((f".{PLAN}.", f".{QUESTION}."))
    )
