"""Trackers read a run's events: the same numbers under the same names, and no harm if they fail."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Command

from windtunnel.cli.tracking import tracked
from windtunnel.errors import UsageError
from windtunnel.interop.trackers import TRACKERS, Following, Tracker, named, open_tracker, track_run
from windtunnel.runs import Event, RunFolder


class Remembered(Tracker):
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.status = ""

    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        self.logged.append((step, dict(values)))

    def close(self, status: str) -> None:
        self.status = status


class Broken(Remembered):
    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        super().log(values, step=step, time=time)
        raise OSError("no network")


def a_run(path: Path) -> RunFolder:
    folder = RunFolder.create(path, key="k" * 64, name="tiny", config={"train": {"lr": 0.5}})
    with folder.open_events() as log:
        log.append("start", key="k")
        log.append("step", step=1, loss=3.0, lr=0.1, grad_norm=2.0, tokens=10, skipped=False)
        log.append("eval", step=1, loss=2.5, perplexity=12.2, tokens=10, flops=1.0, accuracy=None)
        log.append("step", step=2, loss=float("nan"), lr=0.1, tokens=20)
        log.append("resume", step=1)
        log.append("step", step=2, loss=2.0, lr=0.1, tokens=20)
    return folder


EXPECTED = [
    (1, {"train/loss": 3.0, "train/learning_rate": 0.1, "train/grad_norm": 2.0,
         "train/tokens": 10.0}),
    (1, {"eval/loss": 2.5, "eval/perplexity": 12.2}),
    (2, {"train/loss": 2.0, "train/learning_rate": 0.1, "train/tokens": 20.0}),
]  # fmt: skip


def test_a_run_is_handed_over_without_superseded_steps(tmp_path: Path) -> None:
    tracker = Remembered()
    track_run(a_run(tmp_path / "run"), {"it": tracker}, warn=pytest.fail)
    assert tracker.logged == EXPECTED
    assert tracker.status == "interrupted"


def test_following_goes_on_until_the_run_has_stopped(tmp_path: Path) -> None:
    folder, tracker = a_run(tmp_path / "run"), Remembered()
    lock = folder.lock()
    lock.acquire()

    def meanwhile(seconds: float) -> None:
        with folder.open_events() as log:
            log.append("step", step=3, loss=1.0)
        lock.release()

    track_run(folder, {"it": tracker}, warn=pytest.fail, follow=True, sleep=meanwhile)
    assert tracker.logged == [*EXPECTED, (3, {"train/loss": 1.0})]


def test_following_a_resume_misses_no_step_that_is_taken_again(tmp_path: Path) -> None:
    folder, tracker = a_run(tmp_path / "run"), Remembered()
    lock = folder.lock()
    lock.acquire()
    with folder.open_events() as log:
        for step in (3, 4, 5, 6):
            log.append("step", step=step, loss=9.0)

    def resumed(seconds: float) -> None:
        with folder.open_events() as log:
            log.append("resume", step=2)
            log.append("step", step=3, loss=1.0)
        lock.release()

    track_run(folder, {"it": tracker}, warn=pytest.fail, follow=True, sleep=resumed)
    assert tracker.logged[-2:] == [(6, {"train/loss": 9.0}), (3, {"train/loss": 1.0})]


def test_a_tracker_that_cannot_be_opened_does_not_keep_a_run_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("windtunnel.cli.tracking.open_tracker", refuse)
    told: list[str] = []
    with tracked(a_run(tmp_path / "run"), ["wandb"], told.append) as tell:
        tell(Event("step", 0.0, {"step": 1, "loss": 1.0}))
    assert told == ["the tracker wandb cannot be opened and is left alone: no network"]


def test_a_tracker_that_fails_is_told_once_and_the_others_go_on() -> None:
    broken, whole, told = Broken(), Remembered(), list[str]()
    following = Following({"bad": broken, "good": whole}, told.append)
    for step in (1, 2):
        following.event(Event("step", 0.0, {"step": step, "loss": 1.0}))
    following.close("finished")
    assert len(broken.logged) == 1
    assert len(whole.logged) == 2
    assert told == ["the tracker bad failed and is left alone: no network"]
    assert (broken.status, whole.status) == ("", "finished")


def test_nested_numbers_have_paths_and_other_events_none() -> None:
    event = Event("watch", 0.0, {"step": 2, "grad_norm": {"mlp": 1.5}, "text": "no"})
    assert named(event) == {"watch/grad_norm/mlp": 1.5}
    assert named(Event("checkpoint", 0.0, {"step": 2, "folder": "x"})) == {}


def test_stages_stand_apart_by_their_names() -> None:
    stages = [{"name": "mix", "loss": 2.0, "steps": 5}, {"name": "finish", "loss": None}]
    found = named(Event("eval", 0.0, {"step": 2, "loss": 1.5, "stage": "mix", "stages": stages}))
    assert found == {"eval/loss": 1.5, "eval/stages/mix/loss": 2.0, "eval/stages/mix/steps": 5.0}


def test_an_unknown_tracker_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'tensorbord'.*tensorboard"):
        open_tracker("tensorbord", a_run(tmp_path / "run"))


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_tracker_that_is_not_installed_says_how(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'windtunnel\[{name}\]'"):
        open_tracker(name, a_run(tmp_path / "run"))


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    track_run(folder, {"tb": open_tracker("tensorboard", folder)}, warn=pytest.fail)
    scalars = tensorboard_scalars(folder.path / "trackers" / "tensorboard")
    assert scalars["train/loss"] == [(1, 3.0), (2, 2.0)]
    assert scalars["eval/perplexity"] == [(1, pytest.approx(12.2))]


def fake(calls: list[tuple[str, Any]]) -> SimpleNamespace:
    run = SimpleNamespace(
        log=lambda values, step: calls.append(("log", (step, values))),
        summary={},
        finish=lambda exit_code=0: calls.append(("finish", exit_code)),
    )

    def init(**settings: Any) -> SimpleNamespace:
        calls.append(("init", settings))
        return run

    return SimpleNamespace(init=init, log=run.log, finish=run.finish)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_the_same_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    monkeypatch.setitem(sys.modules, name, fake(calls))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = a_run(tmp_path / "run")
    track_run(folder, {name: open_tracker(name, folder, project="p")}, warn=pytest.fail)
    settings = calls[0][1]
    assert settings["project"] == "p"
    assert settings["config"] == {"train": {"lr": 0.5}}
    assert settings.get("mode", "offline") == "offline"
    assert [arguments for kind, arguments in calls if kind == "log"] == EXPECTED
    assert calls[-1][0] == "finish"


def test_training_with_a_tracker(windtunnel: Command, workplace: Path) -> None:
    out = workplace / "out"
    answer = windtunnel("train", "run.yaml", "--out", out, "--track", "tensorboard")
    assert answer.code == 0, answer.err
    scalars = tensorboard_scalars(out / "trackers" / "tensorboard")
    assert [step for step, _ in scalars["train/loss"]] == [1, 2, 3, 4, 5, 6]
    answer = windtunnel("runs", "track", out, "--to", "tensorboard", "--out", workplace / "again")
    assert answer.code == 0, answer.err
    assert tensorboard_scalars(workplace / "again" / "tensorboard") == scalars


def test_a_misspelt_tracker_changes_nothing(windtunnel: Command, workplace: Path) -> None:
    answer = windtunnel("train", "run.yaml", "--out", workplace / "out", "--track", "wanbd")
    assert answer.code == 2
    assert "wandb" in answer.err
    assert not (workplace / "out").exists()


def test_a_folder_that_is_no_run_is_a_mistake(windtunnel: Command, workplace: Path) -> None:
    (workplace / "plain").mkdir()
    answer = windtunnel("runs", "track", "plain", "--to", "tensorboard")
    assert (answer.code, "is a folder, but not a run's" in answer.err) == (2, True)


def test_a_tracker_that_cannot_be_opened_afterwards_is_a_failure_in_one_line(
    windtunnel: Command, workplace: Path
) -> None:
    folder = a_run(workplace / "run")
    (folder.path / "trackers").write_text("a file")
    answer = windtunnel("runs", "track", folder.path, "--to", "tensorboard")
    assert answer.code == 1
    assert "the tracker tensorboard cannot be opened" in answer.err
    assert "Traceback" not in answer.err
    assert "handed to" not in answer.err
