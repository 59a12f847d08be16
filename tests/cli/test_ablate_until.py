"""``windtunnel ablate --until-decided``, as a user types it."""

import json
from pathlib import Path

import pytest
from tests.conftest import Command

from windtunnel.cli import ablating
from windtunnel.study import ground

VARIED = ("ablate", "run.yaml", "--vary", "arch.layers[*].mlp.activation=relu",
          "--vary", "train.lr=3e-2", "--budget", 300)  # fmt: skip


@pytest.fixture(autouse=True)
def without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are made up: measuring takes seconds, and only the hours depend on them."""
    monkeypatch.setattr(ground, "measure_speeds", lambda configs: [50.0] * len(configs))


def test_seeds_are_added_and_reported(windtunnel: Command, workplace: Path) -> None:
    ask = (*VARIED, "--until-decided", "--first-seeds", 2, "--max-seeds", 3)
    planned = windtunnel(*ask, "--grid", "--out", "grid", "--dry-run")
    assert planned.code == 0, planned.err
    said = " ".join(planned.err.split())
    assert "4 points; the reference is activation=silu, lr=0.003" in said
    assert "up to 3: 8 to 12 runs; every look is allowed for" in said
    assert not (workplace / "grid").exists()

    answer = windtunnel(*ask, "--out", "one", "--flat-json", "flat.json")
    assert answer.code == 0, answer.err
    assert "looks from 2 to 3 seeds, all of them allowed for" in answer.out
    assert "after Holm's correction and all looks" in " ".join(answer.out.split())
    assert max(map(len, answer.out.splitlines())) <= 80
    tree = json.loads((workplace / "one" / "study.json").read_text(encoding="utf-8"))
    found = tree["ablation"]
    assert found["looks"] == [2, 3]
    for effect in found["effects"]:
        assert effect["p_looks"] >= effect["p_value"]
        assert effect["seeds"] == 3 or effect["verdict"] != "undecided"
    rows = json.loads((workplace / "flat.json").read_text(encoding="utf-8"))
    assert len(rows) == 3
    page = (workplace / "one" / "report.html").read_text(encoding="utf-8")
    assert "looks from 2 to 3 seeds" in page
    assert "after Holm’s correction and all looks over all effects" in page
    assert "--until-decided --first-seeds 2 --max-seeds 3" in page
    again = windtunnel("report", "one")
    assert (again.code, again.out) == (0, answer.out)
    trained = {path: path.stat().st_mtime_ns for path in workplace.rglob("record.json")}
    same = windtunnel(*ask, "--out", "one", "--json")
    assert same.code == 0
    assert json.loads(same.out)["ablation"] == found
    assert {p: p.stat().st_mtime_ns for p in workplace.rglob("record.json")} == trained
    fixed = windtunnel(*VARIED, "--seeds", 2, "--out", "one")
    assert fixed.code == 2
    assert "holds another study" in fixed.err


def test_a_margin_ends_it_and_tasks_are_asked(windtunnel: Command, workplace: Path) -> None:
    item = {"good": "the cat sleeps.", "bad": "the cat sleep."}
    lines = [json.dumps({**item, "good": f"the {n} sleeps."}) for n in ("cat", "dog", "king")]
    Path("pair.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    ask = (*VARIED, "--margin", 50, "--until-decided", "--first-seeds", 3, "--max-seeds", 4)
    planned = windtunnel(*ask, "--out", "one", "--dry-run")
    assert planned.code == 0, planned.err
    said = " ".join(planned.err.split())
    assert "margin: an effect whose interval lies within ±50 nats/token is equivalent" in said
    answer = windtunnel(*ask, "--task", "pair.jsonl", "--out", "one")
    assert answer.code == 0, answer.err
    assert "asked of every run behind the verdicts: pair (3 items, by accuracy)" in answer.err
    tree = json.loads((workplace / "one" / "study.json").read_text(encoding="utf-8"))
    found = tree["ablation"]
    assert found["margin"] == 50
    assert {effect["verdict"] for effect in found["effects"]} == {"equivalent"}
    assert {effect["seeds"] for effect in found["effects"]} == {3}
    assert all(effect["p_equivalence"] < 0.05 for effect in found["effects"])
    assert found["conclusion"].count("makes no difference that matters") == 2
    told = " ".join(answer.out.split())
    assert "equivalent, additive: the interval lies within a margin of 50 nats/token" in told
    assert "Task pair: 3 pairs" in answer.out
    page = (workplace / "one" / "report.html").read_text(encoding="utf-8")
    assert "differences that do not matter, by the margin" in page
    assert "--max-seeds 4 --margin 50" in page
    assert "Answers to pair, of 3 items" in page
    fixed = windtunnel(*VARIED, "--seeds", 3, "--margin", 50, "--out", "fixed", "--json")
    assert fixed.code == 0, fixed.err
    assert "is equivalent, an interaction additive" in " ".join(fixed.err.split())
    told_so = json.loads(fixed.out)["ablation"]
    assert (told_so["margin"], told_so["looks"]) == (50, None)
    assert {effect["verdict"] for effect in told_so["effects"]} == {"equivalent"}
    other = windtunnel(*VARIED, "--margin", 40, "--out", "one")
    assert (other.code, "holds another study" in other.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-seeds", 5), "--max-seeds needs --until-decided"),
        (("--first-seeds", 5), "--first-seeds needs --until-decided"),
        (("--until-decided", "--seeds", 3), "takes --first-seeds and --max-seeds, not --seeds"),
        (("--until-decided", "--first-seeds", 1), "a first look needs at least 2 seeds, not 1"),
        (("--until-decided", "--first-seeds", 0, "--max-seeds", 0), "at least 2 seeds, not 0"),
        (("--until-decided", "--first-seeds", 9, "--max-seeds", 4), "is before the first (9)"),
        (("--until-decided", "--max-seeds", 1000), "at most 100 seeds can be looked at"),
        (("--margin", 0), "--margin must be above 0, not 0"),
        (("--margin", "-0.1"), "--margin must be above 0, not -0.1"),
        (("--margin", "inf"), "--margin must be above 0, not inf"),
        (("--margin", "nan"), "--margin must be above 0, not nan"),
        (("--measure", "accuracy"), "--measure is of tasks: it needs --task FILE"),
    ],
)
def test_unfit_options_are_told(
    windtunnel: Command, workplace: Path, options: tuple[object, ...], message: str
) -> None:
    answer = windtunnel(*VARIED, *options, "--out", "study")
    assert answer.code == 2
    assert message in answer.err
    assert not (workplace / "study").exists()


def test_the_reported_command_is_the_one_that_was_given() -> None:
    request = ablating.Request(
        file=Path("a.yaml"), family=None, size="", vary=("train.lr=1",), design="grid",
        skip_invalid=False, edits=(), seeds=None, match="tokens", budget=None, out=Path("o"),
        runs=Path("runs"), workers=None, dry_run=False, flat_json=None, until_decided=True,
        max_seeds=6,
    )  # fmt: skip
    assert " --until-decided --max-seeds 6 --match tokens " in ablating._command(request)


def test_the_most_points_that_are_left_out_are_told_first() -> None:
    from tests.study.test_effects import design

    from windtunnel.study.design import Skipped

    of = design("grid", 2, 2)
    lost = [Skipped((0, 0), why) for why in ("a", "b", "b", "b", "c", "c")]
    lines = ablating.design_lines(
        type(of)(of.kind, of.factors, of.baseline, of.points, (), tuple(lost)), "first"
    )
    assert lines[-4:] == [
        "  10 points, 6 left out; the reference is first", "  left out 3: b", "  left out 2: c",
        "  left out 1: a",
    ]  # fmt: skip
