"""`windtunnel ladder` from end to end on tiny models, and its mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import RUN, Command

SMALL = ("--sizes", "3k,6k,12k", "--budgets", "320,640")


def test_a_ladder_from_plan_to_report(windtunnel: Command, workplace: Path) -> None:
    command = ("ladder", "run.yaml", *SMALL, "--seeds", 1, "--out", "l")
    plan = windtunnel(*command, "--dry-run", "--json")
    tree = json.loads(plan.out)
    assert (plan.code, tree["cost"]["runs"], len(tree["rungs"])) == (0, 6, 3)
    assert "6 runs (1 seed), " in plan.err
    assert not (workplace / "l").exists()
    first = windtunnel(*command, "--json")
    result = json.loads(first.out)
    assert first.code == 0, first.err
    assert len(result["cells"]) == 6
    assert all(cell["mean"] is not None for cell in result["cells"])
    assert result["notes"] == [
        "small: its cosine schedule becomes wsd (warm-up, stable rate, decay), so that one trunk "
        "gives every budget."
    ]
    assert "with one seed the noise is unknown" in result["conclusion"]
    page = (workplace / "l" / "report.html").read_text(encoding="utf-8")
    assert "<script src=" not in page
    silent = "the fit is not identified (6 cells for 5 parameters): add sizes and budgets"
    assert result["laws"][0]["law"]["reason"] == silent
    assert result["laws"][0]["law"]["A"]["low"] is None
    assert silent in page
    again = windtunnel(*command, "--at", "1e12")
    assert "(3 of them finished already)" in again.err
    assert "cannot say" in again.out
    assert json.loads(windtunnel("report", "l", "--json").out)["at"]["flops"] == 1e12
    taken = windtunnel("ladder", "run.yaml", *SMALL, "--seeds", 2, "--out", "l")
    assert (taken.code, "holds another study" in taken.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "6k,3k"), "--sizes must grow, but 3k comes after 6k"),
        (("--sizes", "3k,6k", "--budgets", "9x,3x"), "--budgets must grow"),
        (("--sizes", "3k", "--rule", "deep"), "--rule: unknown 'deep'; did you mean 'depth'"),
        (("--sizes", "3k", "--lr-rule", "constnt"), "did you mean 'constant'"),
        (("--sizes", "3k", "--count", "some"), "--count: unknown 'some'"),
        (("--sizes", "3k", "--at", "soon"), "--at: 'soon' is not a number"),
        (("--sizes", "10"), "no size within 2% of 10 parameters"),
        (("--sizes", "3k", "--budgets", "64"), "the smallest budget has 1 steps"),
        (("--sizes", "3k", "--lr-rule", "mup"), "has no train.mup"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_clear_line(
    windtunnel: Command, workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    answer = windtunnel("ladder", "run.yaml", *arguments, "--out", "l")
    assert answer.code == 2
    assert message in answer.err
    assert not (workplace / "l").exists()


@pytest.mark.slow
def test_a_ladder_of_two_that_was_killed_ends_as_one_that_was_not(
    windtunnel: Command, workplace: Path
) -> None:
    """Killed in its second round; real workers, four sizes, three budgets, two seeds."""
    other = RUN.replace("small", "gru").replace("{type: attention, num_heads: 2}", "gru")
    (workplace / "gru.yaml").write_text(other, encoding="utf-8")
    asked = ("ladder", "run.yaml", "gru.yaml", "--sizes", "3k,6k,12k,24k", "--budgets",
             "320,640,1280", "--seeds", "2")  # fmt: skip
    whole = windtunnel(*asked, "--out", "whole", "--runs", "a", "--json")
    assert whole.code == 0, whole.err
    command = [sys.executable, "-m", "windtunnel", *asked, "--out", "killed", "--runs", "b"]
    process = subprocess.Popen(command, start_new_session=True)
    second = workplace / "killed" / "rounds" / "001.json"
    while not second.exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.parent.name for path in (workplace / "b").glob("*/record.json")}
    assert len(done) >= 16
    before = {name: (workplace / "b" / name / "record.json").stat().st_mtime_ns for name in done}
    again = windtunnel(*asked, "--out", "killed", "--runs", "b", "--json")
    assert again.code == 0, again.err
    for name, time_ns in before.items():
        assert (workplace / "b" / name / "record.json").stat().st_mtime_ns == time_ns
    results = [json.loads(answer.out) for answer in (whole, again)]
    for tree in results:
        del tree["runs"]
    assert results[0] == results[1]
    assert results[0]["backtest"]["count"] == 6
