"""A study as a whole: with made-up workers, and once with real ones."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from windtunnel.config import parse_document
from windtunnel.errors import StudyError, UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study import starts
from windtunnel.study.arms import Ground, read_tree
from windtunnel.study.conduct import RunMaker, conduct
from windtunnel.study.execute import Job, Progress, StudyInterrupted
from windtunnel.study.finding import finished_keys
from windtunnel.study.folder import StudyFolder
from windtunnel.study.ground import (
    free_memory_bytes,
    local_ground,
    measure_speeds,
    usable_cores,
)
from windtunnel.study.plan import Plan, PlannedRun
from windtunnel.study.planning import plan_compare
from windtunnel.train.run_config import LoadedRun, load_run_document

FAKE = Path(__file__).with_name("fake_worker.py")
Load = Callable[..., LoadedRun]


def fake(trouble: str = "never") -> Callable[[Job], list[str]]:
    return lambda job: [sys.executable, str(FAKE), str(job.run.path), str(job.steps), trouble]


def create(run: PlannedRun, store: RunStore) -> RunFolder:
    return store.create(run.key, f"{run.arm}-{run.seed}", run.config)


def test_a_study_runs_judges_and_is_not_run_again(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=2, budget=2000, ground=ground)
    folder = StudyFolder(tmp_path / "study")
    done = conduct(plan, folder, workers=2, create=create, command=fake())
    assert [arm.verdict for arm in done.verdicts.arms] == ["reference", "undecided"]
    assert folder.read_results() == json.loads(json.dumps(done.to_dict()))
    assert set(done.to_dict()["runs"]) == set(plan.keys)
    assert finished_keys(plan, RunStore(folder.runs)) == set(plan.keys)
    again = conduct(plan, folder, workers=2, create=create, command=fake("fail"))
    assert all(outcome.attempts == 0 for outcome in again.outcomes.values())


def test_a_shared_store_lends_its_runs(load: Load, ground: Ground, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "store")
    first = plan_compare([load("gpt2"), load("lstm")], seeds=1, budget=1000, ground=ground)
    second = plan_compare([load("lstm"), load("gru")], seeds=1, budget=1000, ground=ground)
    attempts = []
    for name, plan in (("a", first), ("b", second)):
        folder = StudyFolder(tmp_path / name)
        done = conduct(plan, folder, store=store, workers=2, create=create, command=fake())
        attempts.append([done.outcomes[key].attempts for key in plan.keys])
    assert attempts == [[1, 1], [0, 1]]


def test_runs_are_found_from_any_folder(
    load: Load, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=1, budget=1000, ground=ground)
    folder = StudyFolder(Path("study"))
    done = conduct(plan, folder, store=RunStore("store"), workers=2, create=create, command=fake())
    assert all(Path(where).is_absolute() for where in done.to_dict()["runs"].values())


@pytest.mark.parametrize("file", ["record.json", "events.jsonl"])
def test_a_damaged_run_is_named_with_the_way_out(
    load: Load, ground: Ground, tmp_path: Path, file: str
) -> None:
    store = RunStore(tmp_path / "store")
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=1, budget=1000, ground=ground)
    path = create(plan.runs[0], store).path
    (path / file).write_text("{\n{\n{\n")
    with pytest.raises(StudyError, match=r"seed 0: .*delete or move") as caught:
        conduct(
            plan, StudyFolder(tmp_path / "s"), store=store, workers=1, create=create,
            command=fake(),
        )  # fmt: skip
    assert str(path) in str(caught.value)


def test_an_interrupted_study_goes_on_by_the_same_command(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=1, budget=2000, ground=ground)
    folder = StudyFolder(tmp_path / "study")

    def stop(progress: Progress) -> None:
        if progress.steps_done > 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(StudyInterrupted):
        conduct(plan, folder, workers=2, create=create, command=fake("slow"), on_progress=stop)
    assert folder.read_results() is None
    recalled = folder.recall(plan.digest)
    assert recalled is not None
    done = conduct(recalled, folder, workers=2, create=create, command=fake())
    assert {outcome.status for outcome in done.outcomes.values()} == {"finished"}


def test_failures_are_in_the_results(load: Load, ground: Ground, tmp_path: Path) -> None:
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=1, budget=1000, ground=ground)
    folder = StudyFolder(tmp_path / "study")
    tree = conduct(plan, folder, workers=2, create=create, command=fake("usage")).to_dict()
    assert set(tree["failures"]) == set(plan.keys)
    assert "cannot train" in tree["arms"][1]["reason"]
    assert tree["arms"][1]["verdict"] == "undecided"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"{n} plus {n} is {n + n}.\n" for n in range(400)))
    return path


@pytest.fixture
def tiny(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LoadedRun]:
    """A run of a tiny model on a text file; the cache beside that file."""
    monkeypatch.setenv("WINDTUNNEL_CACHE", str(corpus.parent / "cache"))

    def loaded(name: str, mixer: str = "attention") -> LoadedRun:
        tree = {
            "arch": {"name": name, "d_model": 16, "layers": [{"mixer": mixer}]},
            "data": {"source": str(corpus), "tokenizer": "bytes"},
            "train": {
                "steps": 6, "batch_size": 4, "seq_len": 16, "eval_every": 3,
                "eval_tokens": 256, "checkpoint_every": 2, "device": "cpu",
            },
        }  # fmt: skip
        return load_run_document(parse_document(json.dumps(tree), f"{name}.yaml"))

    return loaded


def planned(tiny: Callable[..., LoadedRun], seeds: int = 1) -> Plan:
    runs = [tiny("first"), tiny("again"), tiny("gru", "gru")]
    return plan_compare(runs, seeds=seeds, ground=local_ground(measure=False))


def test_real_workers_give_a_verdict_even_when_one_is_killed(
    tiny: Callable[..., LoadedRun], tmp_path: Path
) -> None:
    plan = planned(tiny)
    assert len(plan.keys) == 2
    killed: list[str] = []

    def kill_once(progress: Progress) -> None:
        for path in (tmp_path / "study" / "runs").glob("*/run.lock"):
            if not killed and (pid := path.read_text().strip()):
                killed.append(pid)
                os.kill(int(pid), signal.SIGKILL)

    done = conduct(plan, StudyFolder(tmp_path / "study"), workers=2, on_progress=kill_once)
    assert killed
    assert {outcome.status for outcome in done.outcomes.values()} == {"finished"}
    assert sorted(outcome.attempts for outcome in done.outcomes.values()) == [1, 2]
    first, again, gru = done.verdicts.arms
    assert again.verdict == "undecided"
    assert "shared" in again.reason
    assert again.loss == first.loss
    assert 2 < (gru.loss["mean"] or 0) < 7
    assert gru.tokens == 6 * 4 * 16
    assert gru.mismatch["tokens"] == 0.0


def test_a_changed_corpus_is_noticed(
    tiny: Callable[..., LoadedRun], corpus: Path, tmp_path: Path
) -> None:
    plan = planned(tiny)
    text = corpus.read_text()
    corpus.write_text(text + "and more\n")
    try:
        with pytest.raises(UsageError, match="have changed since the plan was made"):
            RunMaker()(plan.runs[0], RunStore(tmp_path))
    finally:
        corpus.write_text(text)
    made = RunMaker()(plan.runs[0], RunStore(tmp_path))
    assert made.key == plan.runs[0].key
    assert RunStore(tmp_path).find(made.key) is not None


def test_speeds_are_measured_in_a_child(
    tiny: Callable[..., LoadedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [tiny(name).config for name in ("first", "second")]
    monkeypatch.setattr(starts, "_measured", [])
    speeds = measure_speeds(configs)
    assert speeds[0] == speeds[1] > 1  # one measurement for equal shapes
    assert 0.2 < starts.start_seconds() < 300  # it started Python and torch, as a worker does


def test_a_run_survives_the_way_through_the_plan(tiny: Callable[..., LoadedRun]) -> None:
    run = planned(tiny).runs[0]
    assert read_tree(run.config).config.model_dump(mode="json") == run.config
    # Names take no control characters, which a terminal would act on; other texts do.
    arch = {**run.config["arch"], "name": "\U0001f600 \xa0 \ufeff \u200b"}
    source = {**run.config["data"]["source"], "paths": ["\U0001f600 \x7f \x85 \x01 \u2028.txt"]}
    data = {**run.config["data"], "source": source}
    odd = {**run.config, "arch": arch, "data": data}
    assert read_tree(odd).config.model_dump(mode="json") == odd


def test_the_machine_is_known() -> None:
    assert usable_cores() >= 1
    memory = free_memory_bytes()
    assert memory is None or memory > 0
