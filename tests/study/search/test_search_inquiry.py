"""A search as a whole, with workers whose loss is a formula: every sampler and pruning, any number
of workers, memory that runs out, and deaths."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from windtunnel.config import digest, parse_document
from windtunnel.errors import StudyError, UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study.arms import Ground, Settled
from windtunnel.study.execute import Job
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import PlannedRun
from windtunnel.study.rounds import Answer, conduct_inquiry
from windtunnel.study.search.inquiry import Searching
from windtunnel.study.search.outlook import look_ahead, steps_share
from windtunnel.study.search.result import CONTEXT, UNTUNED
from windtunnel.study.search.space import read_search
from windtunnel.study.search.trial import BOOK, Book
from windtunnel.train.identity import WITHOUT_EFFECT
from windtunnel.train.run_config import LoadedRun, load_run_document

WORKER = Path(__file__).with_name("trial_worker.py")
MIB = 2**20
STEPS = 20
SPACE = {
    "train.lr": {"log": [1e-4, 3e-2], "points": 3},
    "arch.d_model": {"int": [16, 64], "step": 16},
    "arch.layers[*].mixer": {"choice": ["attention", "gru"]},
    "arch.layers[*].mixer.num_heads": {
        "choice": [1, 3], "when": {"arch.layers[*].mixer": "attention"},
    },
}  # fmt: skip


def base(batch_size: int = 4) -> LoadedRun:
    tree = {
        "arch": {"name": "base", "d_model": 16, "layers": [{"mixer": "gru"}]},
        "data": {"tokenizer": {"type": "bpe", "vocab_size": 300}},
        "train": {"steps": STEPS, "batch_size": batch_size, "seq_len": 16, "threads": 1},
    }
    return load_run_document(parse_document(json.dumps(tree), "run.yaml"))


def settle(loaded: LoadedRun) -> Settled:
    tree = loaded.config.model_dump(mode="json")
    arch = {k: v for k, v in tree["arch"].items() if k != "name"}
    train = {k: v for k, v in tree["train"].items() if k not in WITHOUT_EFFECT}
    return Settled(digest({**tree, "arch": arch, "train": train}), tree, "text", 300)


def create(run: PlannedRun, store: RunStore) -> RunFolder:
    return store.create(run.key, f"{run.arm}-{run.seed}", run.config)


def command(job: Job) -> list[str]:
    more = ["--until", str(job.until)] if job.until is not None else []
    more += ["--memory", str(job.limit_bytes)] if job.limit_bytes is not None else []
    return [sys.executable, str(WORKER), str(job.run.path), *more]


def question(**more: Any) -> Any:
    tree = {"trials": 6, "batch": 3, "confirm": {"best": 1, "seeds": 2}, "space": SPACE, **more}
    return read_search(parse_document(json.dumps(tree), "search.yaml"))


def inquiry(
    search: Any, folder: Path | None = None, *, memory: int | None = None, room: int | None = None,
    batch_size: int = 4, say: Callable[[str], None] = lambda text: None,
) -> Searching:  # fmt: skip
    ground = Ground(settle, None, lambda train: room)
    book = Book(None if folder is None else folder / BOOK)
    return Searching(
        search, base(batch_size), ground=ground, book=book, memory_bytes=memory, on_notice=say
    )


def searched(search: Any, folder: Path, *, workers: int = 2, **more: Any) -> Answer:
    return conduct_inquiry(
        inquiry(search, folder, **more), StudyFolder(folder), cores=workers, workers=workers,
        create=create, command=command,
    )  # fmt: skip


def plain(folder: Path) -> dict[str, Any]:
    """The study's results without folders."""
    tree: dict[str, Any] = json.loads((folder / "study.json").read_text())
    del tree["runs"]
    return tree


def started(folder: Path) -> int:
    """Workers that were started in a study."""
    return len(list((folder / "log").glob("*.err")))


SAMPLERS: list[Any] = [
    {"type": "tpe", "startup_trials": 3}, "random", "grid", {"type": "nsga2", "population": 3},
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_search_finds_and_confirms_the_best(sampler: Any, tmp_path: Path) -> None:
    found = searched(question(sampler=sampler), tmp_path / "s").to_dict()["search"]
    trials = found["trials"]
    assert len(trials) == 6
    assert sum(found["counts"].values()) == 6
    losses = [t["loss"] for t in trials if t["status"] == "complete" and t["same_as"] is None]
    assert [trials[n]["loss"] for n in found["best"]] == sorted(losses)
    (confirmed,) = found["confirmed"]
    assert confirmed["trial"] == found["best"][0]
    assert confirmed["optimism"] == pytest.approx(
        confirmed["confirmed"]["mean"] - confirmed["searched"]
    )
    for trial in trials:  # 3 heads divide none of the widths but 48
        heads = trial["params"].get("arch.layers[*].mixer.num_heads")
        wrong = heads == 3 and trial["params"]["arch.d_model"] != 48
        assert (trial["status"] == "invalid") == wrong
        assert ("num_heads 3 does not divide" in trial["reason"]) == wrong


@pytest.mark.parametrize("pruning", ["median", "halving", "hyperband"])
def test_a_pruned_search_is_the_same_with_one_and_three_workers(
    pruning: str, tmp_path: Path
) -> None:
    search = question(
        pruning={"type": pruning, "rungs": [2, 6]}
        | ({"startup_trials": 2} if pruning == "median" else {}),
        sampler={"type": "tpe", "startup_trials": 3},
    )
    for workers in (1, 3):
        searched(search, tmp_path / str(workers), workers=workers)
    assert plain(tmp_path / "1") == plain(tmp_path / "3")
    found = plain(tmp_path / "1")["search"]
    assert found["counts"]["pruned"] >= 1
    for trial in found["trials"]:
        if trial["status"] == "pruned":
            assert trial["loss"] is None
            assert trial["reason"] == f"at step {list(trial['rungs'])[-1]}"


def test_cma_es_searches_numbers(tmp_path: Path) -> None:
    space = {name: SPACE[name] for name in ("train.lr", "arch.d_model")}
    search = question(space=space, sampler={"type": "cma-es", "population": 4}, trials=6)
    found = searched(search, tmp_path / "s").to_dict()["search"]
    assert set(found["counts"]) <= {"complete", "pruned"}


def test_several_objectives_give_a_front(tmp_path: Path) -> None:
    search = question(
        objectives=["loss", "params"], sampler={"type": "nsga2", "population": 4}, trials=8,
        batch=4, confirm=0,
    )  # fmt: skip
    found = searched(search, tmp_path / "s").to_dict()["search"]
    front = [found["trials"][n] for n in found["front"]["trials"]]
    assert found["front"]["axes"] == ["loss", "params"]
    assert found["best"] == found["front"]["trials"]
    for one in front:
        for other in found["trials"]:
            if other["status"] == "complete":
                assert not (
                    other["loss"] < one["loss"] and other["model_params"] < one["model_params"]
                )


def test_divergence_and_failure_are_outcomes(tmp_path: Path) -> None:
    space = {"train.lr": {"choice": [0.003, 0.045, 0.5]}}
    found = searched(question(space=space, sampler="grid", trials=3), tmp_path / "s").to_dict()
    outcomes = {t["params"]["train.lr"]: t for t in found["search"]["trials"]}
    assert outcomes[0.003]["status"] == "complete"
    assert outcomes[0.045]["status"] == "failed"
    assert "no luck" in outcomes[0.045]["reason"] or "exit code 2" in outcomes[0.045]["reason"]
    assert outcomes[0.5]["status"] == "diverged"
    assert outcomes[0.5]["reason"] == "after step 3"
    assert found["search"]["best"] == [outcomes[0.003]["number"]]


def test_a_search_without_one_valid_configuration_is_an_error(tmp_path: Path) -> None:
    space = {
        "arch.layers[*].mixer": {"choice": ["attention"]},
        "arch.layers[*].mixer.num_heads": {"choice": [3, 5]},
    }
    search = question(space=space, sampler="grid", trials=2)
    with pytest.raises(StudyError, match=r"none of 2 configurations is valid and fits .*does not"):
        searched(search, tmp_path / "s")


def test_an_equal_configuration_is_not_trained_again(tmp_path: Path) -> None:
    space = {"arch.d_model": {"choice": [16, 32]}, "train.lr": {"choice": [1e-3]}}
    search = question(space=space, sampler="random", trials=8, batch=4, confirm=0)
    found = searched(search, tmp_path / "s").to_dict()
    trials = found["search"]["trials"]
    copies = [t for t in trials if t["same_as"] is not None]
    assert len(copies) == found["search"]["copies"] == 6
    assert all(t["loss"] == trials[t["same_as"]]["loss"] for t in copies)
    assert started(tmp_path / "s") == 2
    assert len(found["search"]["best"]) == 2
    assert "arms" not in found


def test_a_searched_context_has_a_note(tmp_path: Path) -> None:
    """The losses of trials are not measured alike, nor are those of the confirmation."""
    space = {"train.seq_len": {"choice": [8, 32]}, "arch.max_seq_len": {"choice": [64]}}
    found = searched(question(space=space, sampler="grid", trials=2), tmp_path / "s").to_dict()
    assert found["search"]["notes"] == [CONTEXT]
    best = found["search"]["trials"][found["search"]["best"][0]]
    own = f"trial-{best['number']:03d} {best['params']['train.seq_len']}"
    assert (
        f"train.seq_len differs (file 16, {own}): the losses are not measured alike."
        in found["note"]
    )
    assert UNTUNED in found["note"]


def test_without_one_it_has_none(tmp_path: Path) -> None:
    space = {"train.lr": {"choice": [1e-3]}}
    found = searched(question(space=space, sampler="grid", trials=1), tmp_path / "s").to_dict()
    assert found["search"]["notes"] == []
    assert "seq_len" not in found["note"]


def test_what_does_not_fit_is_skipped_with_the_number(tmp_path: Path) -> None:
    search = question(sampler="random")
    free = inquiry(search)
    costs = sorted(t.memory_bytes for t in _costs(free))
    room = costs[len(costs) // 2 - 1]
    said: list[str] = []
    found = searched(search, tmp_path / "s", room=room, say=said.append).to_dict()["search"]
    large = [t for t in found["trials"] if t["status"] == "too_large"]
    assert large
    for trial in large:
        assert trial["predicted_memory_bytes"] > room
        assert (
            f"{trial['predicted_memory_bytes']:,} bytes, and {room:,} are there"
            in (trial["reason"])
        )
    assert len([text for text in said if "too large" in text]) == len(large)


def test_a_trial_whose_loss_measures_something_else_is_invalid() -> None:
    """An encoder's objective hides tokens, and its loss is not that of the next one."""
    from windtunnel.study.search.gate import make_trial
    from windtunnel.study.search.trial import Gate

    kinds = ["decoder", "encoder"]
    search = inquiry(question(space={"arch.type": {"choice": kinds}}, sampler="grid", trials=2))
    same, other = (
        make_trial(n, {"arch.type": kind}, search.base, seed=0, ground=search.ground, gate=Gate())
        for n, kind in enumerate(kinds)
    )
    assert same.status == "open"
    assert other.status == "invalid"
    assert "do not measure the same" in other.reason


def _costs(search: Searching) -> list[Any]:
    from windtunnel.study.search.gate import make_trial
    from windtunnel.study.search.sampling import Asker
    from windtunnel.study.search.trial import Gate

    asked = Asker(search.config).ask(search.config.trials)
    made = [
        make_trial(i, p, search.base, seed=0, ground=search.ground, gate=Gate())
        for i, p in enumerate(asked)
    ]
    return [trial.costs for trial in made if trial.costs is not None]


def test_memory_that_runs_out_corrects_predictions_and_shrinks_the_micro_batch(
    tmp_path: Path,
) -> None:
    """16 rows of width 48 or 64 are more than the worker takes; 8 of 64 are not."""
    space = {"arch.d_model": {"choice": [32, 64]}, "train.lr": {"choice": [1e-3, 2e-3, 4e-3]}}
    search = question(space=space, sampler="grid", trials=6, batch=6, confirm=0)
    said: list[str] = []
    found = searched(
        search, tmp_path / "s", memory=4096 * MIB, batch_size=16, say=said.append
    ).to_dict()["search"]
    wide = [t for t in found["trials"] if t["params"]["arch.d_model"] == 64]
    assert {t["status"] for t in found["trials"]} == {"complete"}
    assert {t["micro_batch_size"] for t in wide} <= {1, 2, 4, 8}
    assert {t["micro_batch_size"] for t in found["trials"] if t not in wide} == {None}
    assert found["memory"]["factor"] > 1
    assert found["memory"]["enforced"]
    assert [c["trial"] for c in found["memory"]["corrections"]][:3] == [t["number"] for t in wide]
    told = [text for text in said if "predictions are now multiplied by" in text]
    assert "tried again with" in told[0]


def test_a_corrected_prediction_refuses_later_trials(tmp_path: Path) -> None:
    space = {"arch.d_model": {"choice": [640]}, "train.lr": {"choice": [1e-3, 2e-3, 4e-3]}}
    search = question(space=space, sampler="grid", trials=3, batch=1, confirm=0)
    found = searched(search, tmp_path / "s", memory=4096 * MIB, batch_size=1).to_dict()["search"]
    assert [t["status"] for t in found["trials"]] == ["out_of_memory", "too_large", "too_large"]
    assert found["best"] == []
    assert "times" in found["trials"][1]["reason"]


def test_stored_trials_win_over_what_would_be_asked_now(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    search = question(sampler="random", trials=6)
    searched(search, folder)
    book = json.loads((folder / BOOK).read_text())
    book["batches"][0][0]["params"] = {
        "train.lr": 0.0123, "arch.d_model": 32, "arch.layers[*].mixer": "gru",
    }  # fmt: skip
    book["batches"][0][0]["gate"] = {"status": "open", "reason": "", "same_as": None}
    (folder / BOOK).write_text(json.dumps(book))
    said: list[str] = []
    found = searched(search, folder, say=said.append).to_dict()["search"]
    assert found["trials"][0]["params"]["train.lr"] == 0.0123
    assert any("trials 0: the sampler would now ask other parameters" in text for text in said)


def test_a_finished_search_is_not_run_again_and_another_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    search = question(pruning={"type": "halving", "rungs": [5]}, sampler="random")
    searched(search, folder)
    before, first = started(folder), plain(folder)
    searched(search, folder)
    assert started(folder) == before
    assert plain(folder) == first
    with pytest.raises(UsageError, match="holds another study"):
        searched(question(trials=7, sampler="random"), folder)


SCRIPT = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_search_inquiry as t
t.searched(t.killed_question(), Path(sys.argv[2]), workers=2)
"""


def killed_question() -> Any:
    return question(
        pruning={"type": "halving", "rungs": [3, 8], "factor": 2},
        sampler={"type": "tpe", "startup_trials": 3}, trials=8, batch=4,
    )  # fmt: skip


def test_a_search_that_is_killed_again_and_again_is_the_search_that_was_not(
    tmp_path: Path,
) -> None:
    """kill −9 after so many workers; the same command goes on; no run that has come to its rung or
    its end is trained again."""
    straight = tmp_path / "straight"
    searched(killed_question(), straight)
    folder = tmp_path / "killed"
    arguments = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
    for wanted in (2, 9):
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, start_new_session=True)
        while process.poll() is None and started(folder) < wanted:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert not (folder / "study.json").exists()
    searched(killed_question(), folder)
    assert plain(folder) == plain(straight)
    for path in sorted((folder / "runs").iterdir()):
        if (path / "events.jsonl").exists():
            steps = [e.step for e in RunFolder.open(path).read_events() if e.kind == "step"]
            assert steps == sorted(set(steps))


def test_what_is_to_come_is_counted_beforehand() -> None:
    search = question(pruning={"type": "halving", "rungs": [5, 10], "factor": 2}, seeds=2)
    asked = inquiry(search)
    asked.speed = 10.0
    outlook = look_ahead(asked)
    assert (outlook.trials, outlook.runs, outlook.confirming) == (6, 12, 4)
    assert outlook.drawn == 24
    assert 0 < outlook.invalid < 24
    assert outlook.share == pytest.approx((5 + 5 / 2 + 10 / 4) / STEPS)
    assert outlook.seconds is not None
    assert outlook.seconds > 2.0 * 4
    assert steps_share(search.config.pruning.replace(type="halving"), (), STEPS) == 1.0
    tight = replace(inquiry(search, room=1).room, limit_bytes=1)
    assert not tight.fits(2)
