"""The command that a report names is one that a shell takes as it was given."""

import shlex
from pathlib import Path

from windtunnel.cli import ablating, comparing, searching

EDITS = ("arch.layers[*].mlp={type: glu}", "data.source='a b.txt'")
PLACE = Path("out of $HOME")


def test_a_comparison() -> None:
    request = comparing.Request(
        files=(Path("a b.yaml"), Path("c.yaml")), edits=EDITS, seeds=2, match="params",
        budget=1_234_567, out=PLACE, runs=Path("runs"), workers=None, dry_run=False,
        tune=("train.lr=[1e-3, 2e-3]",), tasks=(Path("a b.jsonl"),), measure="accuracy",
    )  # fmt: skip
    assert shlex.split(comparing._command(request)) == [
        "windtunnel", "compare", "a b.yaml", "c.yaml", "--set", EDITS[0], "--set", EDITS[1],
        "--seeds", "2", "--match", "params", "--tune", "train.lr=[1e-3, 2e-3]",
        "--task", "a b.jsonl", "--measure", "accuracy", "--budget", "1234567", "--out", str(PLACE),
    ]  # fmt: skip


def test_an_ablation() -> None:
    request = ablating.Request(
        file=Path("a.yaml"), family=None, size="", vary=("gated: {'arch.layers[*].mlp': glu}",),
        design="one", skip_invalid=True, edits=EDITS[1:], seeds=3, match="tokens", budget=None,
        out=PLACE, runs=Path("runs"), workers=None, dry_run=False, flat_json=None, margin=0.02,
        tasks=(Path("t.jsonl"),),
    )  # fmt: skip
    assert shlex.split(ablating._command(request)) == [
        "windtunnel", "ablate", "a.yaml", "--vary", "gated: {'arch.layers[*].mlp': glu}",
        "--design", "one", "--set", EDITS[1], "--skip-invalid", "--seeds", "3",
        "--margin", "0.02", "--match", "tokens", "--task", "t.jsonl", "--out", str(PLACE),
    ]  # fmt: skip


def test_a_search() -> None:
    request = searching.Request(
        file=Path("a.yaml"), space=Path("s.yaml"), edits=EDITS[:1], trials=4, memory=10**9,
        out=PLACE, runs=Path("runs"), workers=2, dry_run=False,
    )  # fmt: skip
    assert shlex.split(searching._command(request)) == [
        "windtunnel", "search", "a.yaml", "--space", "s.yaml", "--set", EDITS[0],
        "--trials", "4", "--memory", "1000000000", "--out", str(PLACE),
    ]  # fmt: skip
