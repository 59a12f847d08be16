"""A run that begins with a file of weights: ``origin: {weights: FILE}``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import Command

from windtunnel.runs import RunFolder
from windtunnel.study.arms import read_tree
from windtunnel.train.launch import ready_run
from windtunnel.train.origin_config import OriginConfig
from windtunnel.train.run_config import load_run


@pytest.fixture
def weights(windtunnel: Command) -> Path:
    """The weights of a small run, as a file."""
    assert windtunnel("train", "run.yaml", "--out", "parent").code == 0
    tensors = load_file("parent/checkpoints/step-00000006/model.safetensors")
    save_file(tensors, "given.safetensors")
    return Path("given.safetensors")


def with_origin(origin: str, name: str = "begun.yaml") -> Path:
    text = Path("run.yaml").read_text(encoding="utf-8")
    Path(name).write_text(f"{text}origin: {origin}\n", encoding="utf-8")
    return Path(name)


def test_a_run_begins_with_the_weights_of_a_file(windtunnel: Command, weights: Path) -> None:
    answer = windtunnel("train", with_origin("{weights: given.safetensors}"), "--out", "run")
    assert answer.code == 0, answer.err
    folder = RunFolder.open(Path("run"))
    evaluations = [e.values for e in folder.read_events() if e.kind == "eval"]
    parent = RunFolder.open(Path("parent")).read_record()
    assert parent is not None
    assert evaluations[0]["step"] == 0
    assert evaluations[0]["loss"] == parent["final"]["loss"]  # to the bit
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    origin = load_run(folder.config_path).config.origin
    assert origin is not None
    assert (origin.key, origin.carry, origin.lenient) == (digest, "weights", False)
    record = folder.read_record()
    assert record is not None
    assert record["origin"]["ancestors"][0]["key"] == digest
    assert record["origin"]["name"] == "given"
    shown = windtunnel("runs", "show", "./run").out
    assert f"given {digest[:10]}, weights of {weights.absolute()}" in shown


def test_it_needs_the_file_no_more_once_it_has_begun(windtunnel: Command, weights: Path) -> None:
    """Interrupted and resumed, it ends with the same bits."""
    from windtunnel.train.interrupts import Paused
    from windtunnel.train.launch import create_run_folder, run_in_folder

    file = with_origin("{weights: given.safetensors}")
    assert windtunnel("train", file, "--out", "whole").code == 0
    ready = ready_run(load_run(file))
    folder = create_run_folder(ready, Path("parts"))
    with pytest.raises(Paused):
        run_in_folder(folder, ready=ready, until=2)
    weights.unlink()
    answer = windtunnel("train", "parts/config.yaml", "--out", "parts", "--resume")
    assert answer.code == 0, answer.err
    mine = load_file("parts/checkpoints/step-00000006/model.safetensors")
    its = load_file("whole/checkpoints/step-00000006/model.safetensors")
    assert all(torch.equal(mine[name], its[name]) for name in its)


def test_another_content_is_another_run_and_is_told(windtunnel: Command, weights: Path) -> None:
    file = with_origin("{weights: given.safetensors}")
    before = ready_run(load_run(file))
    written = before.config.origin
    assert written is not None
    moved = Path("moved.safetensors")
    moved.write_bytes(weights.read_bytes())
    there = ready_run(load_run(with_origin("{weights: moved.safetensors}", "moved.yaml")))
    assert there.key == before.key  # where it lies does not count
    tensors = load_file(weights)
    save_file({name: value + 1 for name, value in tensors.items()}, weights)
    assert ready_run(load_run(file)).key != before.key
    pinned = with_origin(f"{{weights: given.safetensors, key: {written.key}}}", "pinned.yaml")
    answer = windtunnel("train", pinned, "--out", "pinned")
    assert answer.code == 1
    assert "given.safetensors has changed: its SHA-256" in answer.err
    assert not Path("pinned").exists()


def test_what_does_not_fit_is_an_error_or_with_lenient_is_told(
    windtunnel: Command, weights: Path
) -> None:
    tensors = load_file(weights)
    gone = tensors.pop("layers.1.mlp.down.weight")
    assert gone.numel()
    save_file(tensors | {"more": torch.zeros(2)}, weights)
    answer = windtunnel("train", with_origin("{weights: given.safetensors}"), "--out", "run")
    assert answer.code == 2
    assert "layers.1.mlp.down.weight missing; more not in the model" in answer.err
    assert not Path("run").exists()
    lenient = with_origin("{weights: given.safetensors, lenient: true}")
    answer = windtunnel("train", lenient, "--out", "run", "--json")
    assert answer.code == 0, answer.err
    assert "not all of the weights fit: layers.1.mlp.down.weight" in answer.err
    save_file({"else": torch.zeros(2)}, weights)
    answer = windtunnel("train", lenient, "--out", "other")
    assert answer.code == 2
    assert "none of its tensors is one of small" in answer.err


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ("{}", "give either run (a folder) or weights (a file)"),
        ("{run: parent, weights: given.safetensors}", "give either run"),
        ("{weights: given.safetensors, step: 3}", "a file of weights has none"),
        ("{weights: given.safetensors, carry: all}", "a file has weights alone"),
        ("{weigths: given.safetensors}", "did you mean 'weights'?"),
        ("{weights: nowhere.safetensors}", "nowhere.safetensors"),
        ("{weights: run.yaml}", "is no safetensors file"),
    ],
)
def test_a_mistake_is_told(windtunnel: Command, origin: str, told: str) -> None:
    answer = windtunnel("train", with_origin(origin), "--out", "run")
    assert answer.code == 2
    assert told in answer.err
    assert not Path("run").exists()


def test_an_arm_of_a_study_begins_with_the_same_file(windtunnel: Command, weights: Path) -> None:
    """Plans hold configs as trees: the run that is read from one is the very same."""
    ready = ready_run(load_run(with_origin("{weights: given.safetensors}")))
    tree = ready.config.model_dump(mode="json")
    assert tree["origin"]["weights"] == str(weights.absolute())
    arm = ready_run(read_tree(tree))
    assert (arm.key, arm.config.origin) == (ready.key, ready.config.origin)
    other = read_tree(tree, {"train.seed": 1})
    assert other.config.origin == ready.config.origin


def test_what_a_run_with_an_origin_writes_is_what_it_wrote() -> None:
    origin = OriginConfig(run="parent", key="abc")
    assert json.loads(origin.model_dump_json()) == {
        "run": "parent", "step": None, "key": "abc", "carry": "all", "lenient": False,
    }  # fmt: skip
