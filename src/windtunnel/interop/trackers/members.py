"""The runs of a study as its trackers see them: which there are by now, where they lie, what each
is called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.config import digest
from windtunnel.errors import StudyError, UsageError
from windtunnel.interop.trackers.tracker import Label
from windtunnel.runs import RunFolder, RunStore
from windtunnel.runs.folder import IDENTITY
from windtunnel.runs.lock import is_locked
from windtunnel.study.folder import LOCK, ROUNDS, StudyFolder
from windtunnel.study.plan import Arm, Plan, PlannedRun, read_plan

APART = ("tune", "confirm")
"""Kinds of rounds whose runs are no part of what the study compares: a group of their own."""
_NAME = 60


@dataclass(frozen=True)
class Member:
    """A run of a study. One that two arms share is a member for each."""

    key: str
    label: Label
    place: Path
    """Below the folder of a tracker that writes files: ``compare/llama/seed-0``."""


class Members:
    """What belongs to a study, whose rounds come one after the other.

    Raises:
        UsageError: the folder holds no study.
    """

    def __init__(self, path: Path, store: RunStore) -> None:
        self._folder, self._store = StudyFolder(path), store
        self._rounds: dict[str, list[Member]] = {}
        self._paths: dict[str, Path] = {}
        question = self._folder.read_question()
        plan = None if question else self._folder.read_plan()
        if plan is None and not question:
            raise UsageError(f"{path}: is no study's folder")
        self._kind = str(question["kind"] if plan is None else plan.kind)
        self._digest = str(question["digest"] if plan is None else plan.digest)
        self.group = f"{path.resolve().name}-{self._digest[:6]}"
        """Another one for another question, though its folder has the same name."""
        if plan is not None:
            self._rounds[""] = list(self._of(plan))

    @property
    def is_running(self) -> bool:
        """Whether a process conducts the study now."""
        return is_locked(self._folder.path / LOCK)

    def now(self) -> list[Member]:
        """Those that are planned by now, each once.

        Raises:
            StudyError: a round's plan is damaged.
        """
        if "" not in self._rounds:
            for file in sorted((self._folder.path / ROUNDS).glob("*.json")):
                tree = _read(file)
                if (of := f"{file.name} {tree.get('digest')}") not in self._rounds:
                    self._rounds[of] = list(self._of(read_plan(tree)))
        found = {one.label.id: one for members in self._rounds.values() for one in members}
        return list(found.values())

    def find(self, members: list[Member]) -> dict[str, RunFolder]:
        """The folders of those that are there, by key."""
        missing = {one.key for one in members} - self._paths.keys()
        if missing:
            results = self._folder.read_results() or {}
            self._paths |= {
                key: Path(path) for key, path in results.get("runs", {}).items()
                if key in missing and Path(path).is_dir()
            }  # fmt: skip
            for key in {run.key for run in self._store.list()} & missing - self._paths.keys():
                if (run := self._store.find(key)) is not None:
                    self._paths[key] = run.path
        paths = {one.key: self._paths[one.key] for one in members if one.key in self._paths}
        return {
            key: RunFolder.open(path) for key, path in paths.items() if (path / IDENTITY).is_file()
        }

    def lost(self, members: list[Member], found: Mapping[str, RunFolder]) -> list[str]:
        """Names of those that the study has ended with and that are not among the found."""
        ended = (self._folder.read_results() or {}).get("runs", {})
        return [one.label.name for one in members if one.key in ended and one.key not in found]

    def _of(self, plan: Plan) -> Iterator[Member]:
        apart = plan.kind if plan.kind in APART else ""
        group = f"{self.group}-{apart}" if apart else self.group
        for run in plan.runs:
            arm = plan.arm(run.arm)
            label = Label(
                name=f"{arm.name}/seed-{run.seed}",
                id=digest([self._digest, apart, arm.name, run.seed, run.key])[:16],
                group=group,
                main=main_values(arm, run),
                config=run.config,
            )
            place = Path(apart or self._kind, _as_folder(arm.name), f"seed-{run.seed}")
            yield Member(run.key, label, place)


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise StudyError(f"{file}: cannot be read: {error}") from error
    return tree if isinstance(tree, dict) else {}


def main_values(arm: Arm, run: PlannedRun) -> dict[str, str | int | float]:
    """By what one run of a study is told from another: its arm and seed, and the few numbers of
    its resolved config that are asked for first."""
    arch, train = run.config["arch"], run.config["train"]
    layers = list(_layers(arch))
    found: dict[str, Any] = {
        "arm": arm.name,
        "seed": run.seed,
        "params": arm.params,
        "steps": arm.steps,
        "tokens": arm.tokens,
        "train_flops_per_token": arm.flops_per_token,
        "d_model": arch.get("d_model"),
        "layers": sum(int(layer.get("repeat") or 1) for layer in layers),
        "mixers": _kinds(layers, "mixer"),
        "mlps": _kinds(layers, "mlp"),
        **{name: train.get(name) for name in ("lr", "weight_decay", "batch_size", "seq_len")},
    }
    return {k: v for k, v in found.items() if isinstance(v, str | int | float) and v != ""}


def _layers(arch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """As they are written, of every stack."""
    for name in ("encoder", "decoder"):
        if isinstance(arch.get(name), Mapping):
            yield from _layers(arch[name])
    yield from (one for one in arch.get("layers") or () if isinstance(one, Mapping))


def _kinds(layers: list[Mapping[str, Any]], part: str) -> str:
    parts = [layer.get(part) for layer in layers]
    return "+".join(dict.fromkeys(str(p.get("type")) for p in parts if isinstance(p, Mapping)))


def _as_folder(name: str) -> str:
    """The name as that of a folder; two names stay two."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:_NAME]
    return plain if plain == name else f"{plain}-{digest(name)[:6]}".lstrip("-")
