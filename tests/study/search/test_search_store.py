"""A search is a function of its question: what other studies left in the store changes how much is
trained, and nothing else."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.study.search import trial_worker
from tests.study.search.test_search_inquiry import (
    STEPS,
    base,
    command,
    create,
    inquiry,
    plain,
    question,
    started,
)

from windtunnel.cli.conducting import follower
from windtunnel.errors import RunError, StudyError
from windtunnel.report.progress import open_progress
from windtunnel.runs import RunFolder, RunLock, RunStore, claim
from windtunnel.study.execute import SIGNS_OF_ANOTHER, Job, Progress, execute
from windtunnel.study.finding import finished_keys, found_or_made
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import PlannedRun, read_plan
from windtunnel.study.rounds import Answer, conduct_inquiry
from windtunnel.study.standing import standing_of

RUNGS = [3, 8]


def pruned(kind: str = "halving", rungs: list[int] = RUNGS, **more: Any) -> Any:
    own = {"startup_trials": 2} if kind == "median" else {"factor": 2}
    return question(
        pruning={"type": kind, "rungs": rungs, **own},
        sampler={"type": "tpe", "startup_trials": 3}, trials=8, batch=4, **more,
    )  # fmt: skip


def searched(
    search: Any, folder: Path, store: RunStore | None = None, *, workers: int = 2,
    say: Callable[[str], None] | None = None, how: Callable[[Job], list[str]] = command,
    follow: Callable[[Progress], None] | None = None,
) -> Answer:  # fmt: skip
    return conduct_inquiry(
        inquiry(search, folder), StudyFolder(folder), store=store, cores=workers, workers=workers,
        create=create, command=how, on_notice=say, on_progress=follow,
    )  # fmt: skip


def planned(folder: Path) -> dict[str, PlannedRun]:
    """Every run that a search has asked for, by key."""
    plans = [
        read_plan(json.loads(path.read_text())) for path in sorted((folder / "rounds").iterdir())
    ]
    return {run.key: run for plan in plans for run in plan.runs}


def older(store: RunStore, run: PlannedRun, *how: object, eval_every: int = 100) -> RunFolder:
    """A run that another study has made, and trained with the worker's arguments."""
    config = {**run.config, "train": {**run.config["train"], "eval_every": eval_every}}
    made = store.create(run.key, f"older-{run.arm}-{run.seed}", config)
    trial_worker.main([str(made.path), *map(str, how)])
    return made


def fill(store: RunStore, folder: Path) -> None:
    """Some of everything: the runs of a search in all states, one after the other."""
    for run, state in zip(planned(folder).values(), itertools.cycle(MIXED)):
        if state is not None:
            older(store, run, *state[1], eval_every=state[0])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a search with a store of its own, by its pruning."""
    known: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in known:
            known[kind] = tmp_path_factory.mktemp(kind) / "s"
            searched(pruned(kind), known[kind])
            counts = plain(known[kind])["search"]["counts"]
            assert set(counts) >= {"complete", "pruned"}
        return known[kind]

    return folder


STATES: dict[str, tuple[int, tuple[object, ...]]] = {
    "finished, not evaluated at a rung": (7, ()),
    "finished, evaluated at every rung": (1, ()),
    "half-way, behind both": (100, ("--leave", 12)),
    "paused at a rung of another search": (100, ("--until", 5)),
}
MIXED: list[tuple[int, tuple[object, ...]] | None] = [
    *STATES.values(), (8, ()), (100, ("--leave", 2)), (100, ("--leave", 5)), None,
]  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_what_a_store_holds_changes_nothing(
    state: str, alone: Callable[[str], Path], tmp_path: Path
) -> None:
    straight, store = alone("halving"), RunStore(tmp_path / "store")
    eval_every, how = STATES[state]
    for run in planned(straight).values():
        older(store, run, *how, eval_every=eval_every)
    searched(pruned(), tmp_path / "s", store)
    assert plain(tmp_path / "s") == plain(straight)
    assert "failed" not in plain(tmp_path / "s")["search"]["counts"]
    if state == "finished, evaluated at every rung":
        assert started(tmp_path / "s") == 0


@pytest.mark.parametrize("kind", ["halving", "median", "hyperband"])
def test_nor_does_a_store_with_some_of_everything(
    kind: str, alone: Callable[[str], Path], tmp_path: Path
) -> None:
    straight, store = alone(kind), RunStore(tmp_path / "store")
    fill(store, straight)
    searched(pruned(kind), tmp_path / "s", store, workers=3)
    assert plain(tmp_path / "s") == plain(straight)
    before = started(tmp_path / "s")
    searched(pruned(kind), tmp_path / "s", store)
    assert started(tmp_path / "s") == before
    assert plain(tmp_path / "s") == plain(straight)


def test_every_seed_of_a_trial_is_judged_at_the_rung(tmp_path: Path) -> None:
    """One of two seeds has finished: its last loss is not averaged with the other's at the rung."""
    search = pruned(seeds=2)
    searched(search, tmp_path / "alone")
    store = RunStore(tmp_path / "store")
    for run in planned(tmp_path / "alone").values():
        if run.seed % 2:
            older(store, run, eval_every=7)
    searched(search, tmp_path / "s", store)
    assert plain(tmp_path / "s") == plain(tmp_path / "alone")


def test_a_run_that_passed_a_rung_is_trained_to_it_again_and_no_further(
    alone: Callable[[str], Path], tmp_path: Path
) -> None:
    """Beside it, in the search's own folder: the store's run stays what it was, and is the one that
    is told where the trial goes on to its end."""
    straight, store = alone("halving"), RunStore(tmp_path / "store")
    runs = [older(store, run, eval_every=7) for run in planned(straight).values()]
    before = [(run.path / "events.jsonl").read_bytes() for run in runs]
    answer = searched(pruned(), tmp_path / "s", store)
    assert [(run.path / "events.jsonl").read_bytes() for run in runs] == before
    own = tmp_path / "s" / "runs"
    trials = answer.result["search"]["trials"]
    for trial in trials:
        if trial["key"] is None or trial["same_as"] is not None:
            continue
        where = answer.runs[trial["key"]].path.parent
        assert where == (own if trial["status"] == "pruned" else store.root)
    for path in (path for path in own.iterdir() if path.is_dir()):
        run = RunFolder.open(path)
        steps = [event.step for event in run.read_events() if event.kind == "step"]
        reached = max(step for step in (steps[-1],) if step is not None)
        assert reached in RUNGS
        assert steps == list(range(1, reached + 1))
        assert run.read_record() is None


SCRIPT = """\
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import tests.study.search.test_search_store as t
t.by_itself(*sys.argv[2:])
"""
ROOT = Path(__file__).parents[3]


def slowly(job: Job) -> list[str]:
    return [*command(job), "--slow", "0.02"]


def by_itself(folder: str, store: str, rungs: str) -> None:
    search = pruned(rungs=json.loads(rungs))
    searched(search, Path(folder), RunStore(store), how=slowly)


def begin(folder: Path, store: Path, rungs: list[int] = RUNGS) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", SCRIPT, ROOT, folder, store, json.dumps(rungs)]
    return subprocess.Popen(
        list(map(str, words)), stderr=subprocess.PIPE, start_new_session=True
    )  # fmt: skip


def test_a_search_over_older_runs_that_is_killed_is_the_search_that_was_not(
    alone: Callable[[str], Path], tmp_path: Path
) -> None:
    straight, store = alone("halving"), RunStore(tmp_path / "store")
    fill(store, straight)
    folder = tmp_path / "s"
    for wanted in (1, 4, 7):
        process = begin(folder, store.root)
        while process.poll() is None and started(folder) < wanted:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    searched(pruned(), folder, store)
    assert plain(folder) == plain(straight)


def test_two_searches_at_once_over_one_store(alone: Callable[[str], Path], tmp_path: Path) -> None:
    """The same question twice, and once with other rungs: each is what it is by itself."""
    other = [2, 6, 11]
    searched(pruned(rungs=other), tmp_path / "other")
    expected = [plain(alone("halving"))] * 2 + [plain(tmp_path / "other")]
    asked = {"a": RUNGS, "b": RUNGS, "c": other}
    running = [begin(tmp_path / name, tmp_path / "store", rungs) for name, rungs in asked.items()]
    for process in running:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    assert [plain(tmp_path / name) for name in asked] == expected


def test_a_run_that_another_study_meanwhile_trains_too_far_changes_nothing(
    alone: Callable[[str], Path], tmp_path: Path
) -> None:
    """The store's runs are trained to their ends where this search asks for the first rung."""
    store = RunStore(tmp_path / "store")

    def too_far(job: Job) -> list[str]:
        words = command(job)
        return words[:3] if job.run.path.parent == store.root else words

    said: list[str] = []
    follow = follower(open_progress(Console(file=StringIO())))
    searched(pruned(), tmp_path / "s", store, how=too_far, say=said.append, follow=follow)
    assert plain(tmp_path / "s") == plain(alone("halving"))
    assert any("passed: it is past step 3, and was not evaluated there" in text for text in said)
    assert any("is trained to that step again, in" in text for text in said)


def test_what_a_lock_and_a_claim_say_of_another_process_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunLock(tmp_path / "run.lock"), pytest.raises(RunError) as held:
        RunLock(tmp_path / "run.lock").acquire()
    claims = tmp_path / "claims"
    claims.mkdir()
    (claims / f"{1:08d}").write_text(json.dumps({"host": "far", "process": 7}))
    with pytest.raises(RunError) as claimed:
        claim.Claim.take(claims)
    monkeypatch.setattr(claim, "_numbers", lambda folder: [])
    with pytest.raises(RunError) as lost:
        claim.Claim.take(claims)
    said = [str(error.value) for error in (held, claimed, lost)]
    for text, sign in zip(said, SIGNS_OF_ANOTHER, strict=True):
        assert sign in text


def test_a_run_that_another_process_takes_a_moment_earlier_is_no_failure(tmp_path: Path) -> None:
    """So often that it would be given up, if those were attempts."""
    run = RunStore(tmp_path / "store").create("key", "run", base().config.model_dump(mode="json"))
    (tmp_path / "log").mkdir()
    script = (
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]); n = len(p.read_text()) if p.exists() "
        "else 0; p.write_text('.' * (n + 1)); n < 4 and sys.exit('run: process 7 is writing here; "
        "wait for it or stop it'); from tests.study.search.trial_worker import main; "
        "sys.exit(main(sys.argv[2:]))"
    )
    words = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]; {script}"]
    outcomes = execute(
        [Job(run=run, name="run", steps=STEPS)], workers=1, log=tmp_path / "log",
        command=lambda job: [*words, str(tmp_path / "tries"), str(job.run.path)],
    )  # fmt: skip
    assert (tmp_path / "tries").read_text() == "....."
    assert outcomes["key"].status == "finished"
    assert outcomes["key"].attempts == 1


# One run


def made(store: RunStore, *events: tuple[str, int], record: tuple[str, int] | None = None) -> Any:
    run = store.create(f"{len(store.list())}", "run", {})
    with run.lock(), run.open_events() as log:
        for kind, step in events:
            log.append(kind, step=step, **({"loss": step / 10} if kind == "eval" else {}))
    if record is not None:
        run.write_record({"status": record[0], "steps": record[1], "final": {"loss": 9.0}})
    return run


SAVED = ("checkpoint", 30)
FINISHED, DIVERGED = ("finished", STEPS * 5), ("diverged", 20)


@pytest.mark.parametrize(
    ("events", "record", "status"),
    [
        ([], None, None),
        ([("eval", 30)], None, None),  # without a checkpoint a resume would take it back
        ([("checkpoint", 20), ("eval", 30)], None, None),
        ([("eval", 30), SAVED], None, "paused"),
        ([("eval", 30), SAVED, ("resume", 30), ("eval", 60)], None, "paused"),
        ([("eval", 30), ("checkpoint", 40)], None, "paused"),
        ([("eval", 30), ("checkpoint", 40), ("resume", 20)], None, None),
        ([("checkpoint", 40), ("eval", 40)], None, "passed"),
        ([("resume", 40)], None, "passed"),
        ([("checkpoint", 25), ("step", 47)], None, None),
        ([("eval", 30)], FINISHED, "paused"),
        ([("eval", 40)], FINISHED, "passed"),
        ([("eval", 20)], DIVERGED, "diverged"),
        ([("eval", 30)], ("diverged", 45), "paused"),
        ([], ("diverged", 45), "passed"),
        ([("eval", 25)], ("finished", 25), "finished"),  # its steps end before
    ],
)
def test_how_a_run_stands_at_a_step(
    events: list[tuple[str, int]], record: tuple[str, int] | None, status: str | None,
    tmp_path: Path,
) -> None:  # fmt: skip
    found = standing_of(made(RunStore(tmp_path), *events, record=record), 30)
    assert (found and found.status) == status
    if found is not None and found.status == "paused":
        assert found.values == {"status": "paused", "steps": 30, "final": found.values["final"]}
        assert found.values["final"]["loss"] == 3.0


def test_to_its_end_a_run_is_its_record(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert standing_of(made(store, ("eval", 30), SAVED), None) is None
    found = standing_of(made(store, record=FINISHED), None)
    assert found is not None
    assert found.status == "finished"


def asking(run: RunFolder, until: int | None = 30) -> PlannedRun:
    return PlannedRun(arm="arm", seed=0, key=run.key, config={}, until=until)


def test_of_several_runs_of_a_key_the_one_that_answers_is_taken(tmp_path: Path) -> None:
    """Two searches that began at the same moment made one each; the one that got furthest has no
    evaluation at this one's rung."""
    store, apart = RunStore(tmp_path / "store"), RunStore(tmp_path / "apart")
    first = made(store, ("eval", 30), SAVED)
    second = store.create(first.key, "other", {})
    second.write_record({"status": "finished", "steps": 100})
    found = found_or_made(asking(first), store, apart, create)
    assert found.path == first.path
    assert found_or_made(asking(first, None), store, apart, create).path == second.path
    assert not apart.root.exists()


def test_a_run_whose_events_are_damaged_is_of_no_use_at_a_rung(tmp_path: Path) -> None:
    store, apart = RunStore(tmp_path / "store"), RunStore(tmp_path / "apart")
    run = made(store, ("eval", 30), SAVED, record=FINISHED)
    (run.path / "events.jsonl").write_text("damaged\n{}\n", encoding="utf-8")
    assert found_or_made(asking(run), store, apart, create).path.parent == apart.root


def test_one_of_its_own_that_has_passed_too_is_named_with_the_way_out(tmp_path: Path) -> None:
    store, apart = RunStore(tmp_path / "store"), RunStore(tmp_path / "apart")
    run = made(store, record=FINISHED)
    own = made(apart, ("checkpoint", 40))
    with pytest.raises(StudyError, match=f"step 30.*delete or move {own.path}"):
        found_or_made(asking(run), store, apart, create)


def test_a_run_that_another_study_makes_at_the_same_moment_is_shared(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run = PlannedRun(arm="arm", seed=0, key="key", config={})

    def late(asked: PlannedRun, where: RunStore) -> RunFolder:
        create(asked, where)
        return create(asked, where)

    assert found_or_made(run, store, store, late).key == "key"


def test_what_has_come_to_its_rung_counts_as_done(
    alone: Callable[[str], Path], tmp_path: Path
) -> None:
    straight, store = alone("halving"), RunStore(tmp_path / "store")
    first = read_plan(json.loads((straight / "rounds" / "000.json").read_text()))
    states = [(100, ("--until", 3)), (1, ()), (7, ()), (100, ("--leave", 2))]
    runs = list(zip(first.runs, states, strict=False))
    for run, (eval_every, how) in runs:
        older(store, run, *how, eval_every=eval_every)
    assert finished_keys(first, store) == {run.key for run, _ in runs[:2]}
