"""``windtunnel ablate``, as a user types it."""

import json
from pathlib import Path

import pytest
from tests.conftest import Command

from windtunnel.study import ground

ACTIVATION = "arch.layers[*].mlp.activation=relu"
RATE = "train.lr=3e-2"
TERMS = ("--seeds", 2, "--budget", 300)


def study(path: Path) -> dict:
    return json.loads((path / "study.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are made up: measuring takes seconds, and only the hours depend on them."""
    monkeypatch.setattr(ground, "measure_speeds", lambda configs: [50.0] * len(configs))


def test_a_grid_then_other_designs_on_the_same_runs(windtunnel: Command, workplace: Path) -> None:
    varied = ("ablate", "run.yaml", "--vary", ACTIVATION, "--vary", RATE, *TERMS)
    planned = windtunnel(*varied, "--grid", "--out", "grid", "--dry-run")
    assert planned.code == 0, planned.err
    assert "4 points; the reference is activation=silu, lr=0.003" in planned.err
    assert "8 runs, " in planned.err
    assert not (workplace / "grid").exists()

    answer = windtunnel(*varied, "--grid", "--out", "grid", "--flat-json", "flat.json")
    assert answer.code == 0, answer.err
    assert "Effects on the validation loss" in answer.out
    assert "Interactions" in answer.out
    tree = study(workplace / "grid")["ablation"]
    assert [effect["name"] for effect in tree["effects"]] == [
        "activation: relu against silu", "lr: 0.03 against 0.003"
    ]  # fmt: skip
    assert len(tree["interactions"]) == 1
    page = (workplace / "grid" / "report.html").read_text(encoding="utf-8")
    assert 'id="effects"' in page
    assert 'id="interactions"' in page
    rows = json.loads((workplace / "flat.json").read_text(encoding="utf-8"))
    assert [row["params"] for row in rows[:2]] == [
        {"activation": "silu", "lr": 0.003}, {"activation": "silu", "lr": 0.03}
    ]  # fmt: skip
    assert all(row["metrics"]["perplexity"] > 1 for row in rows)

    again = windtunnel("report", "grid")
    assert again.code == 0
    assert again.out == answer.out

    for design in ("both", "leave-one-out", "one"):
        other = windtunnel(*varied, "--design", design, "--out", design, "--json")
        assert other.code == 0, other.err
        assert "finished already" in other.err
        found = json.loads(other.out)["ablation"]
        assert found["design"] == design.replace("-", "_")
    runs = list((workplace / "runs").glob("*/record.json"))
    assert len(runs) == 8, "no run was trained twice"
    alone = {e["name"]: e["delta"] for e in found["effects"]}
    arms = {p["arm"]: p["settings"] for p in study(workplace / "grid")["ablation"]["points"]}
    by_arm = {arm["name"]: arm["loss"]["mean"] for arm in study(workplace / "grid")["arms"]}
    losses = {tuple(settings.values()): by_arm[arm] for arm, settings in arms.items()}
    expected = losses["relu", "0.003"] - losses["silu", "0.003"]
    assert alone["activation: relu against silu"]["mean"] == pytest.approx(expected)

    taken = windtunnel(*varied, "--design", "one", "--out", "grid")
    assert taken.code == 2
    assert "holds another study" in taken.err


TINY = ("data={source: ./corpus.txt, tokenizer: bytes}", "train.steps=1000", "train.batch_size=2",
        "train.seq_len=16", "arch.d_model=32")  # fmt: skip
EDITS = tuple(word for edit in TINY for word in ("--set", edit))


def test_a_familys_grid_is_planned_without_a_file(windtunnel: Command, workplace: Path) -> None:
    command = ("ablate", "--family", "lstm", "--size", "small", "--seeds", 1, "--out", "c", *EDITS)
    answer = windtunnel(*command, "--dry-run")
    assert answer.code == 0, answer.err
    assert "162 points, 81 left out" in answer.err
    assert "left out 81: a bidirectional LSTM would see the token" in answer.err
    assert "  81 runs, " in answer.err
    assert not (workplace / "c").exists()


def test_presets_are_compared_without_files(windtunnel: Command, workplace: Path) -> None:
    command = (
        "compare",
        "--preset-set",
        "gpt,transformer,rnn,lstm",
        "--size",
        "small",
        "--out",
        "c",
    )
    answer = windtunnel(*command, *EDITS, "--seeds", 2, "--dry-run")
    assert answer.code == 0, answer.err
    assert "transformer-small, rnn-small, lstm-small against gpt-small" in answer.err
    assert "  8 runs, " in answer.err
    both = windtunnel("compare", "run.yaml", "--preset-set", "gpt,rnn", "--out", "c")
    assert (both.code, "no FILE beside it" in both.err) == (2, True)
    wrong = windtunnel("compare", "--preset-set", "gtp,rnn", "--size", "small", "--out", "c")
    assert (wrong.code, "did you mean 'gpt'" in wrong.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run.yaml",), "nothing is varied"),
        ((), "give a run's FILE"),
        (("run.yaml", "--family", "gpt"), "no FILE and no --vary"),
        (("--family", "gtp"), "did you mean 'gpt'"),
        (("--family", "rnn", "--size", "huge"), "'huge' (allowed: small, default, large)"),
        (("run.yaml", "--vary", "train.lr=1", "--design", "girds"), "did you mean 'grid'"),
        (("run.yaml", "--vary", "train.lr=1", "--grid", "--design", "one"), "two designs"),
        (("run.yaml", "--vary", "train.lr=1", "--match", "token"), "'tokens'"),
        (("run.yaml", "--vary", "train.lr=1", "--flat-json", "no/x.json"), "does not exist"),
        (("run.yaml", "--vary", "train.lr=[1, 1]"), "has the value 1 twice"),
        (("run.yaml", "--vary", "arch.layrs[*].mlp=glu"), "is not a list"),
        (("run.yaml", "--vary", "train.steps=7"), "with tokens matched these are the same runs"),
        (("missing.yaml", "--vary", "train.lr=1"), "No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_told_and_nothing_is_written(
    windtunnel: Command, workplace: Path, arguments, message
) -> None:
    before = sorted(p.name for p in workplace.iterdir() if p.name != "cache")
    answer = windtunnel("ablate", *arguments, "--out", "c", "--seeds", 2)
    assert answer.code == 2, answer.err
    assert message in answer.err
    assert sorted(p.name for p in workplace.iterdir() if p.name != "cache") == before
