"""``windtunnel search`` as a user types it, with workers that train."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Command, corpus_text

from windtunnel.arch import Architecture
from windtunnel.cli import searching
from windtunnel.study.ground import local_ground
from windtunnel.study.search import gate
from windtunnel.study.search.outlook import Outlook
from windtunnel.study.search.result import CONTEXT, UNTUNED
from windtunnel.train.config import TrainConfig

LIMIT = 450 * 2**20
SEARCH = """\
trials: 4
batch: 3
sampler: grid
pruning: {type: halving, rungs: [2], factor: 3}
confirm: {best: 1, seeds: 2}
space:
  arch.layers[*].mixer.num_heads: {choice: [2, 3]}
  train.lr: {choice: [0.003, 0.01]}
"""


@pytest.fixture
def space(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a search; no speed is measured, since that takes a process of its own."""
    monkeypatch.setattr(searching, "local_ground", lambda: local_ground(measure=False))
    path = workplace / "search.yaml"
    path.write_text(SEARCH, encoding="utf-8")
    return path


def test_a_search_trains_prunes_confirms_and_reports(
    windtunnel: Command, workplace: Path, space: Path
) -> None:
    command = ("search", "run.yaml", "--space", space, "--out", "s", "--workers", 2)
    answer = windtunnel(*command, "--json")
    assert answer.code == 0, answer.err
    first = answer.err.index("search: the best of small by 2 knobs; grid, 4 trials, 3 at a time")
    assert "at most 4 runs, and 4 to confirm the best" in answer.err
    assert first < answer.err.index("trials 0 to 1 to step 2")
    result = json.loads(answer.out)
    found = result["search"]
    assert found["counts"] == {"complete": 1, "invalid": 2, "pruned": 1}
    assert "num_heads 3 does not divide d_model 16" in found["trials"][2]["reason"]
    assert [arm["name"] for arm in result["arms"]] == ["file", f"trial-{found['best'][0]:03d}"]
    assert result["arms"][1]["delta"]["mean"] is not None
    page = (workplace / "s" / "report.html").read_text(encoding="utf-8")
    for text in ("search-front", "search-data", "Every trial, the best first", "Confirmed"):
        assert text in page
    shown = windtunnel(*command)
    assert "training" not in shown.err
    assert "2 invalid" in shown.out
    assert "Searched against confirmed" in shown.out
    text = " ".join(shown.out.split())
    assert f"{UNTUNED} {result['conclusion']}" in text
    assert UNTUNED in page.replace("&#x27;", "'")
    told = windtunnel("report", "s")
    assert told.code == 0, told.err
    assert "Searched against confirmed" in told.out


@pytest.mark.slow
def test_what_an_earlier_search_left_in_the_store_changes_no_bit(
    windtunnel: Command, workplace: Path, space: Path
) -> None:
    """It judged at another rung: one run has finished, the other is half-way, and both have passed
    this search's rung without an evaluation there."""
    text = SEARCH.replace("{best: 1, seeds: 2}", "0")
    earlier = workplace / "earlier.yaml"
    earlier.write_text(text.replace("[2], factor", "[4], factor"), encoding="utf-8")
    space.write_text(text, encoding="utf-8")

    def search(file: Path, out: str, runs: str) -> tuple[dict[str, Any], str]:
        answer = windtunnel(
            "search", "run.yaml", "--space", file, "--out", out, "--runs", runs, "--workers", 2,
            "--json", "--set", "train.eval_every=5",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        found: dict[str, Any] = json.loads(answer.out)["search"]
        del found["memory"]  # what is free now
        return found, answer.err

    alone, _ = search(space, "alone", "empty")
    assert alone["counts"] == {"complete": 1, "invalid": 2, "pruned": 1}
    search(earlier, "earlier", "store")
    found, said = search(space, "s", "store")
    assert found == alone
    assert said.count("the store's run is past step 2 and was not evaluated there") == 2
    assert len([run for run in (workplace / "s" / "runs").iterdir() if run.is_dir()]) == 2


def test_a_searched_context_is_told_before_anything_is_trained(
    windtunnel: Command, space: Path
) -> None:
    command = ("search", "run.yaml", "--space", space, "--out", "s", "--dry-run")
    assert CONTEXT not in windtunnel(*command).err
    space.write_text(f"{SEARCH}  train.seq_len: {{choice: [8, 32]}}\n", encoding="utf-8")
    assert f"  note: {CONTEXT}\n" in windtunnel(*command).err


def test_memory_is_kept_to_and_a_smaller_micro_batch_is_found(
    windtunnel: Command, workplace: Path, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction is made to be far too low: the process itself runs into the limit, is told so
    by an exception, and the same batch is trained in smaller pieces."""
    (workplace / "corpus.txt").write_text(corpus_text(60_000), encoding="utf-8")
    space.write_text(
        "trials: 1\nbatch: 1\nsampler: grid\nconfirm: 0\nspace:\n  train.lr: {choice: [0.01]}\n"
    )

    def too_low(architecture: Architecture, train: TrainConfig) -> int:
        return 1000 * train.largest_micro_batch

    monkeypatch.setattr(gate, "predicted_memory", too_low)
    answer = windtunnel(
        "search", "run.yaml", "--space", space, "--out", "s", "--json",
        "--set", "train.batch_size=2048", "--set", "train.steps=1", "--set", "train.seq_len=32",
        "--memory", LIMIT,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["search"]
    (trial,) = found["trials"]
    assert trial["status"] == "complete"
    assert trial["micro_batch_size"] in (1024, 512, 256)
    assert found["memory"]["factor"] > 1
    assert "out of memory with 2048 sequences at once" in answer.err
    assert (workplace / "s" / "report.html").is_file()
    told = windtunnel("report", "s")
    assert told.code == 0, told.err
    assert "1 complete" in told.out


def test_a_dry_run_writes_nothing(windtunnel: Command, workplace: Path, space: Path) -> None:
    before = [p for p in sorted(workplace.iterdir()) if p.name != "cache"]
    answer = windtunnel(
        "search", "run.yaml", "--space", space, "--out", "s", "--trials", 2, "--dry-run", "--json"
    )
    assert answer.code == 0, answer.err
    tree = json.loads(answer.out)
    assert tree["question"]["trials"] == 2
    assert len(tree["first_trials"]) == 2
    assert [p for p in sorted(workplace.iterdir()) if p.name != "cache"] == before


def test_mistakes_of_both_files_are_told_at_once(
    windtunnel: Command, workplace: Path, space: Path
) -> None:
    (workplace / "run.yaml").write_text("arch: {d_modl: 16, layers: []}\n", encoding="utf-8")
    space.write_text("trials: 0\nspace: {train.lr: {lag: [1, 2]}}\n", encoding="utf-8")
    answer = windtunnel("search", "run.yaml", "--space", space, "--out", "s")
    assert answer.code == 2
    assert "run.yaml:1:8: arch.d_modl: unknown key of 'decoder'" in answer.err
    assert "search.yaml:1:9: trials: must be > 0, not 0" in answer.err
    assert "search.yaml:2:20: space.train.lr.lag: unknown key; did you mean 'log'?" in answer.err
    assert "is empty" not in answer.err
    assert not (workplace / "s").exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("train.lrr: {choice: [1.0]}", "search.yaml:8:3: space.train.lrr: unknown key; did you"),
        ("data.source: {choice: [plays]}", "cannot be searched: trials on different data"),
    ],
)
def test_a_knob_that_leads_nowhere_is_a_mistake(
    windtunnel: Command, space: Path, edit: str, said: str
) -> None:
    space.write_text(SEARCH.replace("train.lr: {choice: [0.003, 0.01]}", edit), encoding="utf-8")
    answer = windtunnel("search", "run.yaml", "--space", space, "--out", "s")
    assert answer.code == 2
    assert said in answer.err


def test_a_folder_of_something_else_is_left_alone(
    windtunnel: Command, workplace: Path, space: Path
) -> None:
    (workplace / "s").mkdir()
    (workplace / "s" / "mine.txt").write_text("mine")
    answer = windtunnel("search", "run.yaml", "--space", space, "--out", "s")
    assert answer.code == 2
    assert "exists and is not a study" in answer.err
    assert [p.name for p in (workplace / "s").iterdir()] == ["mine.txt"]


def test_a_search_without_a_valid_configuration_says_why(windtunnel: Command, space: Path) -> None:
    text = SEARCH.replace("[2, 3]", "[3, 5]")
    space.write_text(text, encoding="utf-8")
    answer = windtunnel("search", "run.yaml", "--space", space, "--out", "s")
    assert answer.code == 1
    assert "none of 4 configurations is valid and fits into memory" in answer.err
    assert "num_heads 3 does not divide d_model 16" in answer.err


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((), ""),
        ((1.0, 1.0, 1.001), "take as many FLOPs as the file's own run"),
        ((2.0, 2.0), "take 2 times the FLOPs of the file's own run"),
        ((0.5, 1.0, 3.0), "take 0.5 to 3 times the FLOPs of the file's own run (1.5 on average)"),
    ],
)
def test_what_drawn_configurations_cost_is_said_once(ratios: tuple[float, ...], said: str) -> None:
    outlook = Outlook(
        trials=1, runs=1, confirming=0, drawn=3, invalid=0, too_large=0, ratios=ratios, share=1.0,
        seconds=None,
    )  # fmt: skip
    assert searching._spread(outlook) == said


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (1, "grid, 1 trial: at most 1 run, and 4 to confirm the best"),
        (2, "grid, 2 trials, all at once: at most 2 runs, and 4 to confirm the best"),
        (4, "grid, 4 trials, 3 at a time: at most 4 runs, and 4 to confirm the best"),
    ],
)
def test_how_many_trials_are_tried_at_a_time(
    windtunnel: Command, space: Path, trials: int, said: str
) -> None:
    answer = windtunnel(
        "search", "run.yaml", "--space", space, "--out", "s", "--trials", trials, "--dry-run"
    )
    assert f"2 knobs; {said}\n" in answer.err
