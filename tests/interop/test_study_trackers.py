"""Trackers of a whole study: one group, every run by arm and seed, nothing twice, and no harm."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Command
from tests.interop.test_trackers import tensorboard_scalars
from tests.study.conftest import load_config, settle_config

from windtunnel.cli import tracking
from windtunnel.errors import RunError, UsageError
from windtunnel.interop.trackers import Label, Members, Tracker, open_tracker, track_study
from windtunnel.interop.trackers.members import main_values
from windtunnel.runs import RunFolder, RunLock, RunStore
from windtunnel.study.arms import Ground
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import Plan
from windtunnel.study.planning import plan_compare


def a_plan(*presets: str, kind: str = "compare", seeds: int = 2) -> Plan:
    runs = [load_config(name) for name in presets or ("gpt2", "lstm")]
    plan = plan_compare(runs, seeds=seeds, budget=2000, ground=Ground(settle_config, None))
    return replace(plan, kind=kind)


def begun(plan: Plan, store: RunStore, index: int, steps: int = 2) -> RunFolder:
    """One of the plan's runs, which has come so far."""
    run = plan.runs[index]
    folder = store.find(run.key) or store.create(run.key, f"{run.arm}-{run.seed}", run.config)
    with folder.open_events() as log:
        log.append("start")
        for step in range(1, steps + 1):
            log.append("step", step=step, loss=4.0 - step, lr=0.1)
    return folder


def ended(run: RunFolder) -> None:
    run.write_record({"key": run.key, "name": run.name, "status": "finished", "final": {}})


class Kept(Tracker):
    def __init__(self, label: Label, folder: Path, step: int) -> None:
        self.label, self.folder, self.step = label, folder, step
        self.steps: list[int] = []
        self.status = ""

    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        assert not self.status, "it was closed"
        self.steps.append(step)

    def close(self, status: str) -> None:
        self.status = status


class Openings:
    """In place of ``open_tracker``: remembers what was opened."""

    def __init__(self, fail: Callable[[str, Kept], bool] = lambda name, one: False) -> None:
        self.all: list[Kept] = []
        self._fail = fail

    def __call__(
        self, name: str, run: RunFolder, *, folder: Path, project: str, step: int, label: Label
    ) -> Tracker:
        one = Kept(label, folder, step)
        if self._fail(name, one):
            raise OSError("no network")
        self.all.append(one)
        return one


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, RunStore]:
    return tmp_path / "study", RunStore(tmp_path / "runs")


def track(
    study: tuple[Path, RunStore], openings: Openings, names: tuple[str, ...] = ("wandb",),
    warn: Callable[[str], None] = pytest.fail, **options: Any,
) -> int:  # fmt: skip
    path, store = study
    return track_study(
        Members(path, store), names, folder=path / "trackers", warn=warn, opener=openings,
        **options,
    )  # fmt: skip


def test_every_run_has_its_arm_and_seed_in_one_group(study: tuple[Path, RunStore]) -> None:
    path, store = study
    plan = a_plan()
    with StudyFolder(path).claim(plan):
        for index in range(len(plan.runs)):
            ended(begun(plan, store, index))
        openings = Openings()
        assert track(study, openings) == 4
    labels = [one.label for one in openings.all]
    assert [label.name for label in labels] == [
        "gpt2/seed-0", "gpt2/seed-1", "lstm/seed-0", "lstm/seed-1",
    ]  # fmt: skip
    assert {label.group for label in labels} == {f"study-{plan.digest[:6]}"}
    assert len({label.id for label in labels}) == 4
    assert all(one.steps == [1, 2] and one.status == "finished" for one in openings.all)
    main = labels[2].main
    assert (main["arm"], main["seed"], main["mixers"]) == ("lstm", 0, "lstm")
    assert main["params"] == plan.arms[1].params
    assert main["lr"] == plan.arms[1].config["train"]["lr"]
    assert labels[2].config == plan.runs[2].config


def test_repeated_layers_count_as_often_as_they_stand_there() -> None:
    plan = a_plan("llama", "gpt2")
    assert main_values(plan.arms[0], plan.runs[0])["layers"] == 4


def test_tuning_and_confirming_stand_apart(study: tuple[Path, RunStore]) -> None:
    """So does what is trained to confirm a search; and a round that comes later is found."""
    path, store = study
    folder = StudyFolder(path)
    rounds = [a_plan(kind="tune"), a_plan("gpt2", "gru", kind="compare", seeds=1)]
    with folder.claim_question("compare", "which", "d" * 64):
        folder.write_round(0, rounds[0])
        begun(rounds[0], store, 0)
        members = Members(path, store)
        assert {one.label.group for one in members.now()} == {"study-dddddd-tune"}
        folder.write_round(1, rounds[1])
    begun(rounds[1], store, 1)
    groups = {(one.label.name, one.label.group, str(one.place)) for one in members.now()}
    assert ("gpt2/seed-0", "study-dddddd-tune", "tune/gpt2/seed-0") in groups
    assert ("gru/seed-0", "study-dddddd", "compare/gru/seed-0") in groups
    assert len(groups) == 4 + 2  # gpt2 with seed 0 is a run of both rounds, and stands in both


def test_following_sees_several_runs_come_and_go(study: tuple[Path, RunStore]) -> None:
    """Two at once, a third afterwards, until the study's process ends."""
    path, store = study
    plan = a_plan()
    openings = Openings()
    with StudyFolder(path).claim(plan):
        pass
    lock = RunLock(path / "study.lock")
    lock.acquire()
    locks = []
    looks = iter(range(9))

    def meanwhile(seconds: float) -> None:
        look = next(looks)
        if look == 0:
            for index in (0, 1):
                run = begun(plan, store, index, 1)
                locks.append(run.lock())
                locks[-1].acquire()
        elif look == 1:
            assert [one.steps for one in openings.all] == [[1], [1]]
            for index in (0, 1):
                with store.find(plan.runs[index].key).open_events() as log:  # type: ignore[union-attr]
                    log.append("step", step=2, loss=1.0)
            ended(store.find(plan.runs[0].key))  # type: ignore[arg-type]
            locks[0].release()
        elif look == 2:
            assert [one.status for one in openings.all] == ["finished", ""]
            locks[1].release()  # stopped by a signal
            begun(plan, store, 2)
        else:
            lock.release()

    track(study, openings, follow=True, sleep=meanwhile)
    assert [one.steps for one in openings.all] == [[1, 2], [1, 2], [1, 2]]
    assert [one.status for one in openings.all] == ["finished", "interrupted", "interrupted"]


def test_nothing_is_handed_on_twice(study: tuple[Path, RunStore]) -> None:
    path, store = study
    plan = a_plan()
    with StudyFolder(path).claim(plan):
        ended(begun(plan, store, 0))
        run = begun(plan, store, 1)
    track(study, Openings())
    again = Openings()
    assert track(study, again) == 0
    assert again.all == []
    with run.open_events() as log:
        log.append("resume", step=2)
        log.append("step", step=3, loss=1.0)
    ended(run)
    assert track(study, again) == 1
    assert [(one.step, one.steps, one.status) for one in again.all] == [(2, [3], "finished")]


def test_the_evaluation_before_the_first_step_is_handed_on_once(
    study: tuple[Path, RunStore],
) -> None:
    path, store = study
    plan, openings = a_plan("gpt2", "lstm", seeds=1), Openings()
    with StudyFolder(path).claim(plan):
        pass
    folder = store.create(plan.runs[0].key, "first", plan.runs[0].config)
    with folder.open_events() as log:
        log.append("start")
        log.append("eval", step=0, loss=7.0)
    assert track(study, openings) == 1
    assert [one.steps for one in openings.all] == [[0]]
    with folder.open_events() as log:
        log.append("step", step=1, loss=6.0, lr=0.1)
    assert track(study, openings) == 1
    assert [one.steps for one in openings.all] == [[0], [1]]


@pytest.mark.parametrize(
    "text", ["[]", "null", "{", '{"wandb": 3}', '{"wandb": {"a": 3}}', '{"wandb": {"a": {}}}']
)
def test_damaged_notes_of_what_was_handed_on_are_told(
    study: tuple[Path, RunStore], text: str
) -> None:
    path, _ = study
    with StudyFolder(path).claim(a_plan()):
        pass
    (path / "trackers").mkdir()
    (path / "trackers" / "handed.json").write_text(text)
    with pytest.raises(RunError, match="delete it to begin anew"):
        track(study, Openings())


def test_runs_that_are_gone_are_told_and_the_others_handed_on(
    study: tuple[Path, RunStore],
) -> None:
    path, store = study
    plan, told, openings = a_plan(seeds=1), list[str](), Openings()
    with StudyFolder(path).claim(plan):
        pass
    runs = [begun(plan, store, index) for index in range(2)]
    for run in runs:
        ended(run)
    StudyFolder(path).write_results({"runs": {run.key: str(run.path) for run in runs}})
    shutil.rmtree(runs[1].path)
    assert track(study, openings, warn=told.append) == 1
    name = f"{plan.runs[1].arm}/seed-{plan.runs[1].seed}"
    assert told == [f"runs of the study that are not there any more: {name}"]


def test_a_run_that_two_arms_share_stands_under_both(study: tuple[Path, RunStore]) -> None:
    path, store = study
    plan = a_plan("gpt2", "gpt2", seeds=1)
    with StudyFolder(path).claim(plan):
        ended(begun(plan, store, 0))
    openings = Openings()
    track(study, openings)
    assert [one.label.name for one in openings.all] == ["gpt2/seed-0", "gpt2-2/seed-0"]
    assert len({one.label.id for one in openings.all}) == 2


def test_a_tracker_that_fails_is_left_alone_for_all_runs_and_gets_the_rest_later(
    study: tuple[Path, RunStore],
) -> None:
    path, store = study
    plan = a_plan()
    with StudyFolder(path).claim(plan):
        for index in range(4):
            ended(begun(plan, store, index))
    told: list[str] = []
    bad = Openings(lambda name, one: name == "wandb" and one.label.name == "gpt2/seed-1")
    track(study, bad, ("wandb", "trackio"), told.append)
    assert told == ["the tracker wandb cannot be opened and is left alone: no network"]
    assert len(bad.all) == 1 + 4
    later = Openings()
    assert track(study, later, ("wandb", "trackio")) == 3
    assert [one.label.name for one in later.all] == ["gpt2/seed-1", "lstm/seed-0", "lstm/seed-1"]


def test_a_tracker_that_fails_in_mid_run_is_asked_no_more(study: tuple[Path, RunStore]) -> None:
    path, store = study
    plan = a_plan()
    with StudyFolder(path).claim(plan):
        for index in range(4):
            ended(begun(plan, store, index))
    told: list[str] = []

    class Breaks(Openings):
        def __call__(self, *arguments: Any, **options: Any) -> Tracker:
            one = super().__call__(*arguments, **options)
            one.log = self.refuse  # type: ignore[method-assign]
            return one

        def refuse(self, *arguments: Any, **options: Any) -> None:
            raise OSError("a full disk")

    breaks = Breaks()
    track(study, breaks, warn=told.append)
    assert told == ["the tracker wandb failed and is left alone: a full disk"]
    assert len(breaks.all) == 1
    assert not (path / "trackers" / "handed.json").exists()


def test_a_run_that_is_damaged_meanwhile_is_told_once(study: tuple[Path, RunStore]) -> None:
    path, store = study
    plan = a_plan()
    with StudyFolder(path).claim(plan):
        runs = [begun(plan, store, index) for index in range(4)]
    told: list[str] = []
    openings = Openings()
    members = Members(path, store)
    members.find(members.now())
    (runs[1].path / "events.jsonl").write_text("{\n{\n{\n")
    for _ in range(2):
        track_study(members, ["wandb"], folder=path / "trackers", warn=told.append, opener=openings)
    assert len(told) == 2  # once each time
    assert told[0].startswith("gpt2/seed-1: ")
    assert len(openings.all) == 3


def test_two_do_not_hand_on_the_same(study: tuple[Path, RunStore]) -> None:
    path, _ = study
    with StudyFolder(path).claim(a_plan()):
        pass
    (path / "trackers").mkdir()
    with RunLock(path / "trackers" / "handed.lock"), pytest.raises(RunError, match="writing here"):
        track(study, Openings())


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no study's folder"):
        Members(tmp_path, RunStore(tmp_path / "runs"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_are_asked_for_the_group(
    name: str, study: tuple[Path, RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = study
    plan = a_plan()
    with StudyFolder(path).claim(plan):
        ended(begun(plan, store, 0))
    asked: list[dict[str, Any]] = []

    def init(**settings: Any) -> SimpleNamespace:
        asked.append(settings)
        return SimpleNamespace(
            log=lambda values, step: None, finish=lambda exit_code=0: None, summary={}
        )

    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))  # type: ignore[arg-type]
    track(study, open_tracker, (name,), project="p")  # type: ignore[arg-type]
    assert len(asked) == 1
    assert asked[0]["group"] == f"study-{plan.digest[:6]}"
    assert asked[0]["project"] == "p"
    assert asked[0]["name"].startswith("gpt2/seed-0")
    assert asked[0]["config"]["arm"] == "gpt2"
    assert asked[0]["config"]["train"]["lr"] == asked[0]["config"]["lr"]
    assert asked[0].get("reinit", "create_new") == "create_new"


def test_tensorboard_has_a_folder_for_each_run_and_its_values(
    study: tuple[Path, RunStore],
) -> None:
    path, store = study
    plan = a_plan()
    with StudyFolder(path).claim(plan):
        ended(begun(plan, store, 0))
        begun(plan, store, 2)
    for _ in range(2):  # what was lost of the first time is handed on again, in place of that
        track(study, open_tracker, ("tensorboard",))  # type: ignore[arg-type]
        (path / "trackers" / "handed.json").unlink()
    place = path / "trackers" / "tensorboard" / "compare"
    for run in ("gpt2/seed-0", "lstm/seed-0"):
        assert tensorboard_scalars(place / run)["train/loss"] == [(1, 3.0), (2, 2.0)]
    assert b"_hparams_/session_start_info" in b"".join(
        file.read_bytes() for file in (place / "gpt2/seed-0").iterdir()
    )


def test_a_comparison_with_a_tracker(windtunnel: Command, workplace: Path) -> None:
    out = workplace / "study"
    options = ("--seeds", "2", "--budget", "400", "--workers", "2", "--out", out)
    answer = windtunnel("compare", "run.yaml", "run.yaml", *options, "--track", "tensorboard")
    assert answer.code == 0, answer.err
    assert "warning" not in answer.err
    place = out / "trackers" / "tensorboard" / "compare"
    results = json.loads((out / "study.json").read_text())
    folders = {str(file.parent.relative_to(place)) for file in place.rglob("events.out*")}
    names = [arm["name"] for arm in results["arms"]]
    assert folders == {f"{name}/seed-{seed}" for name in names for seed in (0, 1)}
    for folder in folders:
        scalars = tensorboard_scalars(place / folder)
        assert scalars["eval/loss"], folder
    answer = windtunnel("runs", "track", out, "--to", "tensorboard")
    assert answer.code == 0, answer.err
    assert "0 runs handed to tensorboard, group study-" in answer.err


def test_what_hands_on_dies_and_the_study_does_not(windtunnel: Command, workplace: Path) -> None:
    """Its files cannot be written: the study has its verdicts, and says how to hand on the rest."""
    out = workplace / "study"
    command = ["compare", "run.yaml", "run.yaml", "--seeds", "1", "--budget", "400", "--out", out]
    assert windtunnel(*command).code == 0
    (out / "trackers").write_text("a file")
    answer = windtunnel(*command, "--track", "tensorboard")
    assert answer.code == 0, answer.err
    again = f"what is missing is handed on by: windtunnel runs track {out} --to tensorboard"
    assert f"trackers: cannot be made: File exists; {again}" in answer.err


def test_one_that_hangs_is_not_waited_for(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, told = workplace / "study", list[str]()
    (out / "log").mkdir(parents=True)
    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 0.1)
    hangs = [sys.executable, "-c", "import time; time.sleep(60)"]
    followers: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        followers.append(subprocess.Popen(hangs))
        return followers[-1]

    monkeypatch.setattr(tracking, "_follower", start)
    with tracking.tracked_study(out, ["wandb"], workplace / "runs", told.append) as begin:
        assert followers == []  # not before the study's folder is there
        begin()
        begin()
    assert len(followers) == 1
    assert followers[0].wait(10) == -9
    assert told == [
        "warning: the trackers did not take all in time; what is missing is handed on by: "
        f"windtunnel runs track {out} --to wandb"
    ]


def test_what_cannot_be_started_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    missing = tmp_path / "missing"  # a study's folder in which no log can be written
    with tracking.tracked_study(missing, ["wandb"], tmp_path / "runs", told.append) as begin:
        begin()
        begin()
    assert len(told) == 1
    assert told[0].startswith("warning: the trackers are not told: No such file or directory; ")


def test_a_misspelt_tracker_begins_no_study(windtunnel: Command, workplace: Path) -> None:
    options = ("--out", workplace / "study", "--track", "wanbd")
    for verb in (("compare", "run.yaml", "run.yaml"), ("probe", "run.yaml"),
                 ("ladder", "run.yaml", "--sizes", "1M", "--budgets", "1k"),
                 ("ablate", "run.yaml", "--vary", "train.lr=[1e-3, 2e-3]"),
                 ("search", "run.yaml", "--space", "run.yaml")):  # fmt: skip
        answer = windtunnel(*verb, *options)
        assert answer.code == 2, verb
        assert "did you mean 'wandb'" in answer.err
        assert not (workplace / "study").exists()
