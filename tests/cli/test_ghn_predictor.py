"""``windtunnel ghn predictor`` and ``windtunnel search --prior``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean

import pytest
from tests.cli.test_ghn_init import trained
from tests.conftest import Command

from windtunnel.cli import searching
from windtunnel.hyper.predictor_results import space_for
from windtunnel.hyper.stored import open_stored
from windtunnel.study.ground import local_ground

__all__ = ["trained"]  # the fixture


@pytest.fixture
def results(trained: Path) -> Path:
    """Losses of 36 members by a formula: wide and deep is good, LSTMs are better."""
    space = space_for(open_stored(trained), "space.yaml")
    rows = []
    for member in space.shuffled(0)[:36]:
        values = member.values
        loss = 5 - 0.3 * math.log2(values["d_model"]) - 0.1 * values["n_layer"]
        loss -= 0.5 * (member.family == "lstm")
        arch = {"space": "space.yaml", "index": member.index, "name": member.name}
        rows.append({"arch": arch, "loss": loss, "ghn_loss": 5.0 + 0.01 * (member.index % 7)})
    path = trained.parent.parent / "results.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def predictor(windtunnel: Command, results: Path) -> Path:
    """A predictor of these, as ``predictor.json``."""
    command = ("ghn", "predictor", "fit", "tiny", "--results", results, "--out", "predictor.json")
    answer = windtunnel(*command)
    assert answer.code == 0, answer.err
    return Path("predictor.json")


def test_it_is_fitted_and_says_what_it_is_worth(windtunnel: Command, results: Path) -> None:
    command = ("ghn", "predictor", "fit", "tiny", "--results", results)
    answer = windtunnel(*command, "--out", "a.json")
    assert answer.code == 0, answer.err
    for text in ("Kendall's τ", "within families", "above log parameters", "GHN at step 0",
                 "bootstrap over structures", "\nthe one ranked first among 7 left out: ",
                 "\nthe best of the 3 ranked first among 7 left out: "):  # fmt: skip
        assert text in answer.out
    assert "few structures" in answer.err
    told = json.loads(windtunnel(*command, "--out", "b.json", "--json").out)
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()  # the same each time
    assert told["parts"]["overall"]["tau"]["predictor"]["value"] > 0.8
    again = windtunnel(*command, "--out", "a.json")
    assert again.code == 2
    assert "a.json: exists already" in again.err


def test_a_space_and_run_files_are_ranked(windtunnel: Command, predictor: Path) -> None:
    command = ("ghn", "predictor", "rank", predictor, "space.yaml", "mini.yaml", "--ghn", "tiny")
    told = json.loads(windtunnel(*command, "--top", "500", "--json").out)
    rows = told["architectures"]
    assert told["ranked"] == len(rows) == 109  # the space's 108 structures and the run
    assert [row["loss"] for row in rows] == sorted(row["loss"] for row in rows)
    assert all(row["sd"] > 0 for row in rows)
    assert {row["source"] for row in rows} == {"space.yaml", "mini.yaml"}
    assert rows[0]["family"] == "lstm"
    text = windtunnel(*command, "--top", "3", "--where", "family == rnn and d_model <= 16").out
    assert text.count("rnn-") <= 3
    assert "13 ranked" in text
    few = windtunnel(*command, "--sample", "20", "--json")
    assert json.loads(few.out)["ranked"] == 21
    assert "20 of 108 structures" in few.err
    assert json.loads(windtunnel(*command, "--sample", "20", "--json").out) == json.loads(few.out)


def test_finished_runs_are_results(windtunnel: Command, trained: Path) -> None:
    """Seeds of one architecture are one result, also where they were logged otherwise; other
    recipes and unfinished runs are none."""
    sizes = [(d, n, f) for d in (8, 16) for n in (1, 2, 3) for f in (1, 2)]
    for d, n, f in sizes:
        edits = (f"arch.d_model={d}", f"arch.layers[0].repeat={n}", f"arch.layers[*].mlp.ratio={f}")
        run(windtunnel, "store", f"{d}-{n}-{f}", *edits)
    small = ("arch.d_model=8", "arch.layers[0].repeat=1", "arch.layers[*].mlp.ratio=1")
    run(windtunnel, "store", "seed", "train.seed=1", "train.log_every=3", *small)
    command = ("ghn", "predictor", "fit", "tiny", "--from", "store")
    told = json.loads(windtunnel(*command, "--out", "a.json", "--json").out)
    assert told["structures"] == told["source"]["results"] == 12
    records = [json.loads(Path("store", n, "record.json").read_text()) for n in ("8-1-1", "seed")]
    mean = fmean(record["final"]["loss"] for record in records)
    rows = json.loads(Path("a.json").read_text(encoding="utf-8"))["rows"]
    assert sum(row["loss"] == pytest.approx(mean, abs=1e-12) for row in rows) == 1
    run(windtunnel, "store", "longer", "train.steps=2")
    several = windtunnel(*command, "--out", "b.json")
    assert several.code == 2
    assert "several recipes" in several.err
    key = told["source"]["recipe"]
    assert f"{key[:10]}: 13 runs of 1 steps, 4 × 8 tokens" in several.err
    chosen = windtunnel(*command, "--out", "b.json", "--recipe", key[:10], "--json")
    assert json.loads(chosen.out)["parts"] == told["parts"]


def run(windtunnel: Command, store: str, name: str, *edits: str) -> None:
    sets = [part for edit in ("train.steps=1", *edits) for part in ("--set", edit)]
    answer = windtunnel("train", "mini.yaml", "--out", f"{store}/{name}", *sets)
    assert answer.code == 0, answer.err


def test_mistakes_are_told(windtunnel: Command, predictor: Path, results: Path) -> None:
    few = Path("few.jsonl")
    few.write_text("\n".join(results.read_text(encoding="utf-8").splitlines()[:5]))
    (Path("runs") / "none").mkdir()
    rows = json.loads(predictor.read_text(encoding="utf-8"))
    del rows["rows"]
    Path("lacking.json").write_text(json.dumps(rows), encoding="utf-8")
    fit, rank = ("ghn", "predictor", "fit", "tiny"), ("ghn", "predictor", "rank", predictor)
    for command, told in (
        ((*fit, "--out", "x"), "give --results FILE or --from STORE"),
        (
            (*fit, "--out", "x", "--results", "no.jsonl"),
            "windtunnel: no.jsonl: cannot be read: No such file or directory\n",
        ),
        ((*fit, "--out", "x", "--from", "nowhere"), "nowhere: is not there; --from takes"),
        (
            (*fit, "--out", "x", "--from", "runs"),
            "runs of language models with a validation loss; left out: 1 of hypernetworks\n",
        ),
        ((*rank[:3], "lacking.json", "space.yaml", "--ghn", "tiny"), "('rows' is missing)"),
        ((*fit, "--out", "x", "--results", "cache"), "holds no evaluation"),
        ((*fit, "--out", "x", "--results", few), "at least 12 are needed"),
        ((*fit, "--out", "x", "--results", few, "--recipe", "a"), "goes with --from"),
        ((*fit, "--out", "x", "--from", "cache"), "holds no finished runs"),
        ((*rank, "nowhere", "--ghn", "tiny"), "unknown space 'nowhere'"),
        ((*rank, "mini.yaml", "--ghn", "tiny", "--where", "params < 3"), "only run files"),
        ((*rank, "space.yaml", "--ghn", "tiny", "--where", "params < 3"), "nothing to rank"),
        ((*rank[:3], "space.yaml", "space.yaml", "--ghn", "tiny"), "is no predictor"),
        ((*rank, "space.yaml", "--ghn", "tinny"), "no run 'tinny'"),
    ):
        answer = windtunnel(*command)
        assert answer.code == 2, (command, answer.err)
        assert told in answer.err
        assert not Path("x").exists()


def test_another_hypernetwork_is_refused(windtunnel: Command, predictor: Path) -> None:
    made = windtunnel("ghn", "train", "ghn.yaml", "--set", "train.seed=1", "--out", "runs/other")
    assert made.code == 0, made.err
    answer = windtunnel("ghn", "predictor", "rank", predictor, "space.yaml", "--ghn", "runs/other")
    assert answer.code == 2
    assert "belongs to the encoder" in answer.err
    assert windtunnel("ghn", "release", "tiny", "--out", "made").code == 0
    own = windtunnel("ghn", "predictor", "rank", predictor, "space.yaml", "--ghn", "./made")
    assert own.code == 0, own.err  # float16 makes no other encoder of it


def test_a_search_begins_with_what_is_ranked_best(
    windtunnel: Command, predictor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked first, told beforehand, part of the question; resumed, the same."""
    monkeypatch.setattr(searching, "local_ground", lambda: local_ground(measure=False))
    Path("search.yaml").write_text(
        "trials: 2\nbatch: 2\nsampler: random\nconfirm: 0\nspace:\n"
        "  arch.d_model: {choice: [8, 16, 32]}\n  train.lr: {log: [1e-3, 1e-2]}\n"
    )
    command = ("search", "mini.yaml", "--space", "search.yaml", "--out", "s", "--workers", 1)
    prior = ("--prior", predictor, "--prior-ghn", "tiny", "--prior-trials", 1)
    sets = ("--set", "train.steps=1")
    plan = windtunnel(*command, *prior, *sets, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert "prior: 1 architectures are tried first, the best of 256 points by tiny's" in plan.err
    first = json.loads(plan.out)["first_trials"]
    assert first[0]["params"]["arch.d_model"] == 32  # by the formula of the results
    answer = windtunnel(*command, *prior, *sets, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["search"]
    assert [t["params"] for t in found["trials"]] == [t["params"] for t in first]
    assert found["prior"]["first"] == [{"arch.d_model": 32}]
    assert "--prior predictor.json --prior-ghn tiny --prior-trials 1" in (
        Path("s/report.html").read_text(encoding="utf-8")
    )
    again = windtunnel(*command, *prior, *sets, "--json")
    assert json.loads(again.out)["search"] == found
    for other in (sets, (*prior, "--prior-sample", 9, *sets)):
        refused = windtunnel(*command, *other)
        assert refused.code == 2, refused.err
    for options, told in (
        (("--prior", predictor), "--prior and --prior-ghn go together"),
        (("--prior", "search.yaml", "--prior-ghn", "tiny"), "is no predictor"),
        (("--prior", predictor, "--prior-ghn", "tinny"), "no run 'tinny'"),
    ):
        refused = windtunnel(*command[:-3], "new", *options)
        assert refused.code == 2
        assert told in refused.err
    assert not Path("new").exists()
