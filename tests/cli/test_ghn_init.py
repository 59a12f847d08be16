"""``windtunnel train --init ghn:PATH``: a run begins with predicted weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.cli.ghn_files import write_ghn
from tests.cli.test_torchrun import ended, losses, start
from tests.conftest import Command

from windtunnel.hyper.predict import predict
from windtunnel.hyper.stored import open_stored
from windtunnel.train.launch import ready_run
from windtunnel.train.run_config import load_run

MINI = """\
arch: {preset: mini_gpt, name: mini, d_model: 16, max_seq_len: 16, embedding: {tie: true},
       set: {'layers[0].repeat': 2, 'layers[0].mixer.num_heads': 2, 'layers[0].mlp.ratio': 2}}
data: {source: ./corpus.txt, tokenizer: bytes}
train: {steps: 4, batch_size: 4, seq_len: 8, lr: 3e-3, eval_every: 2, eval_tokens: 200,
        log_every: 1, threads: 1}
"""


@pytest.fixture
def trained(windtunnel: Command, workplace: Path) -> Path:
    """A small hypernetwork's run, as ``runs/tiny``, and ``mini.yaml``, a run that it knows."""
    write_ghn(workplace)
    (workplace / "mini.yaml").write_text(MINI, encoding="utf-8")
    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "runs/tiny").code == 0
    return workplace / "runs" / "tiny"


def kept(store: str = "runs") -> Path:
    (file,) = Path(store, "inits").iterdir()
    return file


def test_a_run_begins_with_what_is_predicted(windtunnel: Command, trained: Path) -> None:
    answer = windtunnel("train", "mini.yaml", "--init", f"ghn:{trained}", "--out", "run", "--json")
    assert answer.code == 0, answer.err
    assert "(100.0%)" in answer.err
    record = json.loads(answer.out)
    assert record["origin"]["name"] == "tiny"
    made = record["origin"]["made"]
    assert made["predicted"] == made["params"] == record["params"]
    ready = ready_run(load_run("mini.yaml"))
    stored = open_stored(trained)
    expected = predict(stored, ready.architecture, tokenizer=ready.dataset.tokenizer, seed=0)
    found = load_file(kept())
    assert found.keys() == expected.weights.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.weights.items())
    origin = load_run("run/config.yaml").config.origin
    assert origin is not None
    assert not origin.lenient  # all is predicted, so nothing may be missing
    # The same command finds the ended run: the same file, the same key.
    again = windtunnel("train", "mini.yaml", "--init", "ghn:tiny", "--out", "run")
    assert "this run has ended" in again.err
    assert kept()
    # The run's own file says the same, for train, compare and all others.
    other = windtunnel("train", "run/config.yaml", "--out", "again", "--json")
    assert json.loads(other.out)["key"] == record["key"]
    assert losses("again") == losses("run")


def test_what_is_not_predicted_keeps_its_own_first_values(
    windtunnel: Command, trained: Path
) -> None:
    answer = windtunnel("train", "run.yaml", "--init", "ghn:tiny", "--out", "run", "--json")
    assert answer.code == 0, answer.err
    assert "keep their own first values: layers.0.mlp.gate.weight" in answer.err
    assert "(67.1%)" in answer.err
    assert "layers.0.mlp.gate.weight" not in load_file(kept())
    made = json.loads(answer.out)["origin"]["made"]
    assert 0 < made["predicted"] < made["params"]
    assert any("glu" in note for note in made["notes"])


def test_two_processes_begin_with_one_prediction(windtunnel: Command, trained: Path) -> None:
    command = ["torchrun", "--standalone", "--nproc-per-node", 2, "-m", "windtunnel", "train",
               "mini.yaml", "--init", "ghn:tiny", "--set", "train.distributed=ddp",
               "--out", "two"]  # fmt: skip
    process = start(command)
    assert windtunnel("train", "mini.yaml", "--init", "ghn:tiny", "--out", "one").code == 0
    said = ended(process)
    assert process.returncode == 0, said
    found, expected = losses("two"), losses("one")
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=1e-4)


def test_a_mistake_is_told_and_nothing_is_written(windtunnel: Command, trained: Path) -> None:
    Path("elsewhere").mkdir()
    assert windtunnel("ghn", "release", "tiny", "--out", "small").code == 0
    for init, more, told in (
        ("ghn:nope", (), "no run 'nope'"),
        ("ghn:./elsewhere", (), "holds no hypernetwork"),
        ("ghn:tiny", ("--lenient",), "--lenient has no effect"),
        ("ghn:tiny", ("--set", "train.mup={base_width: 8}"), "leave mup out"),
        ("tiny", (), "is of a hypernetwork"),
        ("ghn:tinny", (), "no run 'tinny' in runs; did you mean 'tiny'? there is 1 run"),
        ("ghm:tiny", (), "did you mean ghn:tiny?"),
        ("ghn:", (), "which hypernetwork?"),
        ("small", (), "did you mean ghn:small?"),
    ):
        answer = windtunnel("train", "mini.yaml", "--init", init, "--out", "run", *more)
        assert answer.code == 2, (init, answer.err)
        assert told in answer.err
        assert not Path("run").exists()
    assert windtunnel("train", "run.yaml", "--out", "runs/plain").code == 0
    answer = windtunnel("train", "mini.yaml", "--init", "ghn:plain", "--out", "run")
    assert answer.code == 2
    assert "holds no hypernetwork" in answer.err
