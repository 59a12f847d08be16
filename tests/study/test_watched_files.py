"""A plugin, or the package, that changes while a study runs: it stops, and says so."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.apart import components_apart

from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study import rounds, sources
from windtunnel.study.arms import Ground, plain_plan
from windtunnel.study.conduct import Conducted, conduct
from windtunnel.study.execute import Job, Progress
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import Plan, PlannedRun
from windtunnel.study.planning import plan_compare

FAKE = Path(__file__).with_name("fake_worker.py")
Load = Callable[..., Any]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of one file, in place of the one that others may be writing."""
    path = tmp_path / "package"
    (path / "nn").mkdir(parents=True)
    (path / "nn" / "mixer.py").write_text("first")
    monkeypatch.setattr(sources, "PACKAGE", path)
    with components_apart():
        yield path


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text("NUMBER = 1\n")
    return file


@pytest.fixture
def plan(load: Load, ground: Ground, plugin: Path) -> Plan:
    runs = [load("gpt2", f"plugins=[{plugin}]"), load("lstm")]
    return plan_compare(runs, seeds=2, budget=2000, ground=ground)


def create(run: PlannedRun, store: RunStore) -> RunFolder:
    return store.create(run.key, f"{run.arm}-{run.seed}", run.config)


def command(trouble: str) -> Callable[[Job], Sequence[str]]:
    return lambda job: [sys.executable, str(FAKE), str(job.run.path), str(job.steps), trouble]


def run(
    plan: Plan, folder: StudyFolder, trouble: str = "never", seen: Callable[[], None] | None = None
) -> Conducted:
    """Conducts the study; ``seen`` is called once when the first worker has taken a step."""
    done: list[bool] = []

    def look(progress: Progress) -> None:
        if seen is not None and progress.steps_done > 2 and not done:
            done.append(True)
            seen()

    return conduct(
        plan, folder, workers=1, create=create, command=command(trouble), on_progress=look
    )


@pytest.mark.parametrize("which", ["plugin", "package"])
def test_the_study_stops_before_the_next_run_and_goes_on_when_it_is_put_back(
    plan: Plan, plugin: Path, package: Path, tmp_path: Path, which: str
) -> None:
    folder = StudyFolder(tmp_path / "study")
    file = plugin if which == "plugin" else package / "nn" / "mixer.py"
    before = file.read_bytes()
    with pytest.raises(UsageError) as caught:
        run(plan, folder, "slow", lambda: file.write_text("NUMBER = 2\n") and None)
    told = str(caught.value)
    assert told.startswith(str(file))
    assert ("windtunnel's own code" in told) == (which == "package")
    assert "Put it back and repeat the command" in told
    assert "another --out" in told
    assert folder.read_results() is None
    file.write_bytes(before)
    again = run(plan, folder)
    assert {outcome.status for outcome in again.outcomes.values()} == {"finished"}
    assert sum(outcome.attempts for outcome in again.outcomes.values()) < len(plan.keys) + 1


def test_a_worker_that_the_change_refused_is_no_failure_of_its_run(
    plan: Plan, plugin: Path, tmp_path: Path
) -> None:
    """The file is saved after a worker has started, and before that has read it."""
    folder = StudyFolder(tmp_path / "study")

    def late(job: Job) -> list[str]:
        plugin.write_text("NUMBER = 2\n")
        return [sys.executable, str(FAKE), str(job.run.path), str(job.steps), "usage"]

    with pytest.raises(UsageError, match="changed since the study began"):
        conduct(plan, folder, workers=1, create=create, command=late)
    assert folder.read_results() is None


def test_a_file_that_is_saved_as_it_was_or_changes_at_the_end_stops_nothing(
    plan: Plan, plugin: Path, tmp_path: Path
) -> None:
    folder = StudyFolder(tmp_path / "study")
    run(plan, folder, seen=lambda: plugin.write_bytes(plugin.read_bytes()) and None)
    plugin.write_text("NUMBER = 3\n")  # a finished study has nothing left to start
    assert run(plan, folder).outcomes.keys() == set(plan.keys)


class Two:
    """A study of two rounds; before the second is planned, a file is saved."""

    kind, question, digest = "two", "two rounds", "d" * 64

    def __init__(self, ground: Ground, loaded: Any, between: Callable[[], Any]) -> None:
        self._ground, self._loaded, self._between = ground, loaded, between

    def next(self, past: Sequence[rounds.Round], recall: rounds.Recall) -> Plan | None:
        if len(past) == 2:
            return None
        if past:
            self._between()
        named = [("a", self._loaded)]
        return plain_plan("two", "?", named, seeds=[len(past)], ground=self._ground)

    def result(self, past: Sequence[rounds.Round]) -> Mapping[str, Any]:
        return {}


def test_a_later_round_is_not_planned_by_other_code(
    load: Load, ground: Ground, package: Path, tmp_path: Path
) -> None:
    inquiry: Any = Two(ground, load("gpt2"), lambda: (package / "nn" / "new.py").write_text("x"))
    folder = StudyFolder(tmp_path / "study")
    with pytest.raises(UsageError, match=r"new\.py \(windtunnel's own code\): changed"):
        rounds.conduct_inquiry(inquiry, folder, cores=1, create=create, command=command("never"))
    assert [path.name for path in (folder.path / "rounds").iterdir()] == ["000.json"]
