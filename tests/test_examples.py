"""Every example file is right, and every documented command is one of the program's."""

import json
from pathlib import Path

import pytest
from tests.conftest import Command

from windtunnel.data.tasks import read_task
from windtunnel.hyper.launch import load_ghn
from windtunnel.hyper.members import Members
from windtunnel.spaces.declared import load_space
from windtunnel.study.search.space import check_paths, load_search
from windtunnel.train.run_config import load_run

ROOT = Path(__file__).parents[1]
SAMPLES = sorted((ROOT / "examples" / "samples").glob("*.yaml"))
TASKS = sorted((ROOT / "examples" / "tasks").glob("*.jsonl"))
SPACES = sorted((ROOT / "examples" / "search").glob("*space.yaml"))
GHN = ROOT / "examples" / "ghn"
OTHERS = [*SPACES, *(path for path in GHN.glob("*.yaml") if path.name != "run.yaml")]
RUN_FILES = [path for path in sorted((ROOT / "examples").rglob("*.yaml")) if path not in OTHERS]


@pytest.mark.parametrize("file", RUN_FILES, ids=lambda file: file.stem)
def test_an_example_checks_without_a_warning(
    windtunnel: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # its data is named from there
    answer = windtunnel("check", file, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["warnings"] == []


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_an_example_on_samples_trains_and_answers(
    windtunnel: Command, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # its data is named from there
    run = tmp_path / "run"
    answer = windtunnel("train", file, "--set", "train.steps=2", "--out", run)
    assert answer.code == 0, answer.err
    verb = "classify" if file.stem == "classify" else "generate"
    more = ("--steps", 2) if file.stem == "diffuse" else ()
    assert windtunnel(verb, run, "one", *more).code == 0


def test_the_example_tasks_are_answered(
    windtunnel: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert windtunnel("train", "run.yaml", "--set", "train.steps=2", "--out", run).code == 0
    monkeypatch.chdir(ROOT)
    asked = [argument for file in TASKS for argument in ("--task", file)]
    answer = windtunnel("evaluate", run, *asked, "--json")
    assert answer.code == 0, answer.err
    found = {task["name"]: task for task in json.loads(answer.out)["tasks"]}
    assert {name: task["items"] for name, task in found.items()} == {
        "agreement": 80,
        "next_word": 32,
    }
    assert all(read_task(file).notes == () for file in TASKS)


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_an_example_of_a_space_fits_its_run(file: Path) -> None:
    check_paths(load_search(file), load_run(file.with_name("run.yaml")))


def test_the_example_of_a_hypernetwork_knows_its_space() -> None:
    config = load_ghn(GHN / "small.yaml")
    space = load_space(config.space, vocab_size=512, max_seq_len=config.train.seq_len)
    parts = {name: len(part) for name, part in Members.of(config, space).parts.items()}
    assert parts["train"] > 100
    assert min(parts[name] for name in ("in_distribution", "wide", "deep")) > 30


def test_there_are_examples() -> None:
    assert len(RUN_FILES) >= 4
    assert SPACES
