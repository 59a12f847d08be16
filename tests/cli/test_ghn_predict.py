"""``windtunnel ghn predict`` and ``ghn release``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.test_ghn_init import MINI, trained
from tests.conftest import Command

from windtunnel.errors import UsageError
from windtunnel.hyper.initial import network_digest
from windtunnel.hyper.network import HyperNetwork
from windtunnel.hyper.predictor import encoder_digest
from windtunnel.hyper.rounded import Precision, packed, unpacked
from windtunnel.hyper.stored import open_stored
from windtunnel.runs import RunFolder
from windtunnel.train.restore import kept_tensors

__all__ = ["trained"]  # the fixture


def test_it_says_what_is_predicted_and_how_good_it_is(windtunnel: Command, trained: Path) -> None:
    answer = windtunnel("ghn", "predict", "tiny", "mini.yaml", "--evaluate", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["share"] == 1.0
    assert told["kept"] == []
    assert 0 < told["seconds"] < 60
    assert told["weights"] is None
    begun = windtunnel("train", "mini.yaml", "--init", "ghn:tiny", "--out", "begun")
    assert begun.code == 0, begun.err
    assert windtunnel("train", "mini.yaml", "--out", "plain").code == 0
    for folder, name in (("begun", "predicted"), ("plain", "own")):
        events = RunFolder.open(Path(folder)).read_events()
        first = next(event.values for event in events if event.kind == "eval")
        assert first["step"] == 0
        assert told["loss"][name] == pytest.approx(first["loss"], abs=1e-6)
    text = windtunnel("ghn", "predict", "tiny", "run.yaml").out
    assert "(67.1%)" in text
    assert "keeps its own first values: layers.1.mlp.down.weight" in text


def test_the_weights_are_a_file_that_a_run_begins_with(windtunnel: Command, trained: Path) -> None:
    command = ("ghn", "predict", "tiny", "mini.yaml", "--out", "first.safetensors")
    assert windtunnel(*command).code == 0
    Path("begun.yaml").write_text(MINI + "origin: {weights: first.safetensors}\n", encoding="utf-8")
    one = json.loads(windtunnel("train", "begun.yaml", "--out", "one", "--json").out)
    other = windtunnel("train", "mini.yaml", "--init", "ghn:tiny", "--out", "other", "--json")
    assert json.loads(other.out)["key"] == one["key"]  # the very same run
    again = windtunnel(*command)
    assert again.code == 2
    assert "exists already" in again.err
    (kept,) = Path("runs/inits").glob("*.safetensors")
    beside = kept.with_name("mine.safetensors")  # of the same content, under a name of its own
    assert windtunnel(*command[:-1], str(beside)).code == 0
    assert kept.read_bytes() == beside.read_bytes()
    assert sorted(kept.parent.iterdir()) == sorted((kept, beside))


def test_another_vocabulary_is_told(windtunnel: Command, trained: Path) -> None:
    """The tokens of a run are the means of the pieces that the hypernetwork knows."""
    bpe = "data.tokenizer={type: bpe, vocab_size: 300}"
    answer = windtunnel("ghn", "predict", "tiny", "mini.yaml", "--set", bpe, "--json")
    assert answer.code == 0, answer.err
    assert (
        "tokens of another vocabulary are means of their pieces" in json.loads(answer.out)["notes"]
    )
    begun = windtunnel("train", "mini.yaml", "--set", bpe, "--init", "ghn:tiny", "--out", "run")
    assert begun.code == 0, begun.err
    assert f"path: {Path('runs/tiny/tokenizer')}}}" in begun.err
    small = windtunnel("ghn", "predict", "tiny", "mini.yaml", "--set", "arch.vocab_size=100")
    assert small.code == 2
    assert "arch.vocab_size: 100 is less than the tokenizer's" in small.err


def test_a_learnt_vocabulary_goes_on_in_other_text(windtunnel: Command, trained: Path) -> None:
    """A run on other text takes the tokenizer that lies beside the hypernetwork."""
    bpe = "data.tokenizer={type: bpe, vocab_size: 300}"
    options = ("--set", bpe, "--out", "runs/pieces")
    assert windtunnel("ghn", "train", "ghn.yaml", *options).code == 0
    text = Path("corpus.txt").read_text(encoding="utf-8")
    Path("other.txt").write_text(text.replace("king", "knight of old"), encoding="utf-8")
    other = ("--set", "data.source=./other.txt")
    command = ("ghn", "predict", "runs/pieces", "mini.yaml", *other, "--json")
    learnt = json.loads(windtunnel(*command, "--set", bpe).out)
    assert not learnt["same_vocabulary"]
    same = "data.tokenizer={type: hf, path: runs/pieces/tokenizer}"
    told = json.loads(windtunnel(*command, "--set", same).out)
    assert told["same_vocabulary"]
    assert not any("vocabulary" in note for note in told["notes"])


def test_a_release_is_opened_like_a_run(windtunnel: Command, trained: Path) -> None:
    answer = windtunnel("ghn", "release", "tiny", "--out", "made/tiny", "--json")
    assert answer.code == 0, answer.err
    assert "changes the loss of held-out architectures" in answer.err
    facts = json.loads(answer.out)
    weights = Path("made/tiny/weights.safetensors")
    assert facts["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    record = (trained / "record.json").read_bytes()
    assert facts["record_sha256"] == hashlib.sha256(record).hexdigest()
    assert {value.dtype for value in load_file(weights).values()} == {torch.float16}
    run, made = open_stored(trained), open_stored(Path("made/tiny"))
    mine, its = kept_tensors(made.network), kept_tensors(run.network)
    assert mine.keys() == its.keys()
    for name, value in its.items():
        assert torch.equal(mine[name], value.half().float())
    assert made.tokenizer.digest == run.tokenizer.digest
    # The loss of the whole weights is the run's own, of the average that it keeps.
    assert facts["loss"] == pytest.approx(json.loads(record)["final"]["ema_loss"], abs=1e-6)
    assert abs(facts["loss_as_stored"] - facts["loss"]) < 1e-3
    told = windtunnel("ghn", "predict", "made/tiny", "mini.yaml", "--json")
    assert json.loads(told.out)["share"] == 1.0
    init = windtunnel("train", "mini.yaml", "--init", "ghn:made/tiny", "--out", "run")
    assert init.code == 0, init.err


def test_the_card_tells_cost_and_limits(windtunnel: Command, trained: Path) -> None:
    assert windtunnel("ghn", "release", "tiny", "--out", "made").code == 0
    card = Path("made/README.md").read_text(encoding="utf-8")
    record = json.loads((trained / "record.json").read_bytes())
    loss = f"{record['final']['ema_loss']:.4f} nats a token"
    assert f"own: {loss}" in card
    assert "at the end of training, of the average of weights." in card
    for text in (
        "pretrained", "6 steps, 192 tokens", f"{record['flops']:.3g} FLOPs", "rnn", "mini_gpt",
        "d_model to 16, 2 layers", "Sequences to 8 tokens", "bytes tokenizer of 259 ids",
        "that text's own terms", hashlib.sha256((trained / "record.json").read_bytes()).hexdigest(),
    ):  # fmt: skip
        assert text in card


def test_a_release_in_float32_keeps_every_bit(windtunnel: Command, trained: Path) -> None:
    options = ("--precision", "float32", "--out", "made")
    assert windtunnel("ghn", "release", "./runs/tiny", *options).code == 0
    assert network_digest(open_stored(Path("made"))) == network_digest(open_stored(trained))


def test_a_release_in_int8_keeps_the_encoder_and_nearly_the_loss(
    windtunnel: Command, trained: Path
) -> None:
    options = ("--precision", "int8", "--name", "little", "--out", "made")
    told = windtunnel("ghn", "release", "./runs/tiny", *options, "--json")
    facts = json.loads(told.out)
    assert abs(facts["loss_as_stored"] - facts["loss"]) < 5e-3
    assert facts["loss_as_stored"] != facts["loss"]
    run, made = open_stored(trained), open_stored(Path("made"))
    assert (facts["name"], made.name) == ("little", "little")
    assert Path("made/README.md").read_text().startswith("# little: ")
    mine, its = kept_tensors(made.network), kept_tensors(run.network)
    assert facts["params"] == sum(value.numel() for value in its.values())
    for name, value in its.items():
        if value.dim() < 2 or name.startswith("encoder."):
            assert torch.equal(mine[name], value.half().float())
        else:
            step = value.abs().amax(-1, keepdim=True) / 127
            assert ((mine[name] - value).abs() <= step * 0.501).all()
            assert not torch.equal(mine[name], value)
    half = Path("made/weights.safetensors").stat().st_size
    assert half < 0.45 * sum(value.numel() * 4 for value in its.values())
    same = encoder_digest(cast(HyperNetwork, run.network).encoder)
    assert encoder_digest(cast(HyperNetwork, made.network).encoder) == same
    weights = Path("made/weights.safetensors")
    whole = weights.read_bytes()
    tensors = load_file(weights)
    tensors["scale of decoder.banks.embedding"] = torch.ones(3, 1)
    weights.unlink()
    save_file(tensors, weights)
    for content in (weights.read_bytes(), whole[:-9], b"", whole[:-1] + b"x"):
        weights.write_bytes(content)
        for kept in (True, False):  # without the digest, too
            record = Path("made/release.json")
            text = record.read_text()
            record.unlink() if not kept else None
            answer = windtunnel("ghn", "predict", "made", "mini.yaml")
            record.write_text(text)
            if kept or content != whole[:-1] + b"x":
                assert answer.code == 1, content[:30]
                assert "damaged" in answer.err


def test_a_release_that_lacks_a_file_says_which(windtunnel: Command, trained: Path) -> None:
    assert windtunnel("ghn", "release", "tiny", "--out", "made").code == 0
    command = ("ghn", "predict", "made", "mini.yaml", "--json")
    whole = windtunnel(*command)
    Path("made/release.json").unlink()
    process = subprocess.run(
        [sys.executable, "-m", "windtunnel", *command], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.returncode == 0
    assert "made: release.json is not there, so the weights are not checked" in process.stderr
    told, before = json.loads(process.stdout), json.loads(whole.out)
    assert told | {"seconds": 0} == before | {"seconds": 0}
    Path("made/weights.safetensors").unlink()
    lost = windtunnel(*command)
    assert lost.code == 1
    assert "made: is a release without its weights (weights.safetensors is not" in lost.err
    network = Path("made/network.json")
    facts = json.loads(network.read_text())
    del facts["encoder"]
    network.write_text(json.dumps(facts))
    assert "network.json: is damaged ('encoder' is missing)" in windtunnel(*command).err


def test_values_that_a_precision_cannot_hold_are_refused() -> None:
    for precision in ("int8", "float16"):
        with pytest.raises(UsageError, match="cannot hold"):
            packed({"v": torch.tensor([1e6])}, cast(Precision, precision))
    with pytest.raises(UsageError, match="cannot hold"):
        packed({"w": torch.tensor([[1.0, math.nan]])}, "int8")
    zero = {"w": torch.zeros(2, 3)}
    assert torch.equal(unpacked(packed(zero, "int8"))["w"], zero["w"])


def test_a_mistake_is_told_and_nothing_is_written(windtunnel: Command, trained: Path) -> None:
    Path("there").mkdir()
    assert windtunnel("ghn", "release", "tiny", "--out", "small").code == 0
    for command, told in (
        (("ghn", "release", "small", "--out", "new"), "small: is a release; give the folder of"),
        (("ghn", "predict", "tiny", "mini.yaml", "--out", "new/a.st"), "there is no folder new"),
        (("ghn", "predict", "small/network.json", "mini.yaml"), "is a file; give its folder"),
        (("ghn", "predict", "runs/nix", "mini.yaml"), "runs/nix: is not there"),
        (("ghn", "predict", "tny", "mini.yaml"), "no run 'tny' in runs; did you mean 'tiny'?"),
        (("ghn", "release", "tiny", "--out", "new", "--precision", "float61"), "float16"),
        (("ghn", "release", "tiny", "--out", "there"), "exists already"),
        (("ghn", "release", "tinny", "--out", "new"), "no run 'tinny'"),
        (("ghn", "release", "./there", "--out", "new"), "holds no hypernetwork"),
        (("ghn", "predict", "tiny", "ghn.yaml"), "is of a hypernetwork"),
        (("ghn", "predict", ".", "mini.yaml"), "holds no hypernetwork"),
        (("ghn", "predict", "tiny", "mini.yaml", "--set", "arch.d_modle=8"), "did you mean"),
        (("ghn", "predict", "tiny", "nowhere.yaml"), "nowhere.yaml"),
    ):
        answer = windtunnel(*command)
        assert answer.code == 2, (command, answer.err)
        assert told in answer.err
        assert answer.err.count("(allowed:") <= 1
        assert not Path("new").exists()
    network = trained / "network.json"
    network.write_text(network.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    answer = windtunnel("ghn", "predict", "tiny", "mini.yaml")
    assert answer.code == 1
    assert "network.json: is damaged" in answer.err


def test_a_run_that_has_not_ended_is_not_released(windtunnel: Command, trained: Path) -> None:
    (trained / "record.json").unlink()
    answer = windtunnel("ghn", "release", "./runs/tiny", "--out", "made")
    assert answer.code == 2
    assert "whose training has ended" in answer.err
    assert not Path("made").exists()
