"""Verbs on a GPU: a run, what reads it, a study. Rehearse by ``pytest -m gpu --gpu-device cpu``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Command

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


def started_on(folder: Path) -> str:
    """The device on which a run began."""
    line = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()[0]
    device: str = json.loads(line)["device"]
    return device.partition(":")[0]


@pytest.fixture
def run(workplace: Path, windtunnel: Command, gpu: str) -> Path:
    """A trained run."""
    told = windtunnel("train", "run.yaml", "--set", f"train.device={gpu}", "--out", "first")
    assert told.code == 0, told.err
    assert started_on(workplace / "first") == gpu
    return workplace / "first"


@pytest.mark.parametrize("how", [(), ("--greedy",), ("--beams", 3), ("--int8", "--greedy")])
def test_a_run_writes_on_the_gpu_what_it_writes_on_the_cpu(
    run: Path, windtunnel: Command, gpu: str, how: tuple[Any, ...]
) -> None:
    """But int8, whose products of few rows are a CPU's own and round otherwise: its loss is."""
    there, here = (
        windtunnel("generate", run, "the king", "-n", 8, *how, "--device", device)
        for device in (gpu, "cpu")
    )
    assert (there.code, here.code) == (0, 0), there.err + here.err
    if "--int8" not in how:
        assert there.out == here.out
        return
    found = [re.findall(r"\d+\.\d+", told.err)[:2] for told in (there, here)]
    assert len(found[0]) == 2, there.err
    assert list(map(float, found[0])) == pytest.approx(list(map(float, found[1])), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "verb"), [("answer", ("score", "--samples", 3, "-n", 3)), ("classify", ("classify",))]
)
def test_samples_are_scored_and_classified_there(
    windtunnel: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, gpu: str, name: str,
    verb: tuple[Any, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)  # the data is named from there
    out = workplace / "run"
    file = ROOT / "examples" / "samples" / f"{name}.yaml"
    sets = ("--set", "train.steps=2", "--set", f"train.device={gpu}")
    assert windtunnel("train", file, *sets, "--out", out).code == 0
    assert started_on(out) == gpu
    rest = ("one",) if name == "classify" else ()
    found = windtunnel(verb[0], out, *rest, *verb[1:], "--device", gpu, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)


def test_a_study_compares_two_arms_with_two_workers(
    workplace: Path, windtunnel: Command, gpu: str
) -> None:
    tree = yaml.safe_load((workplace / "run.yaml").read_text())
    tree["arch"]["name"], tree["arch"]["layers"][0]["mlp"] = "other", "dense"
    (workplace / "other.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    command = (
        "compare", "run.yaml", "other.yaml", "--seeds", 2, "--match", "tokens", "--budget", 640,
        "--set", f"train.device={gpu}", "--workers", 2, "--runs", "runs", "--out", "study",
        "--json",
    )  # fmt: skip
    told = windtunnel(*command)
    assert told.code == 0, told.err
    assert len(json.loads(told.out)["arms"]) == 2
    runs = [path for path in (workplace / "runs").iterdir() if (path / "events.jsonl").is_file()]
    assert len(runs) == 4
    assert {started_on(path) for path in runs} == {gpu}
    again = windtunnel(*command)
    assert json.loads(again.out)["arms"] == json.loads(told.out)["arms"], "nothing is trained anew"
