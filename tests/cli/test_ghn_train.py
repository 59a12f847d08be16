"""``windtunnel ghn train``: one process, two, interrupted ones, and mistakes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.cli.ghn_files import write_ghn
from tests.cli.test_torchrun import ended, losses, start
from tests.conftest import Command

from windtunnel.hyper.launch import load_ghn, ready_ghn
from windtunnel.runs import Event, RunFolder
from windtunnel.train.restore import MODEL
from windtunnel.train.shards import parts_in, tensors_in


@pytest.fixture(autouse=True)
def files(workplace: Path) -> None:
    write_ghn(workplace)


def same_weights(one: Path, other: Path) -> None:
    files = sorted(p.relative_to(one) for p in (one / "checkpoints").rglob("*.safetensors"))
    assert files
    for file in files:
        mine, its = load_file(one / file), load_file(other / file)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine), file


def test_a_hypernetwork_trains_and_is_a_run_like_any_other(windtunnel: Command) -> None:
    answer = windtunnel("ghn", "train", "ghn.yaml", "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert (record["status"], record["steps"], record["tokens"]) == ("finished", 6, 6 * 4 * 8)
    assert record["architectures"]["train"] > 10
    assert record["flops"] > 0
    final = record["final"]
    both = f"{final['loss']:.4f} nats/token ({final['ema_loss']:.4f} with the average of weights)"
    assert f"finished: validation loss {both}" in answer.err
    (run,) = json.loads(windtunnel("runs", "list", "--json").out)
    assert run["key"] == record["key"]
    shown = windtunnel("runs", "show", "tiny")
    assert shown.code == 0
    assert "step       6  loss" in shown.out
    again = windtunnel("ghn", "train", "ghn.yaml")
    assert "this run has ended" in again.err
    other = windtunnel("ghn", "train", "ghn.yaml", "--set", "train.seed=1", "--json")
    assert json.loads(other.out)["key"] != record["key"]


def test_an_interrupted_hypernetwork_goes_on_to_the_same_bits(
    windtunnel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windtunnel.cli import hypernetworks

    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "whole").code == 0
    real = hypernetworks.train_ghn

    def stopped(folder: RunFolder, **options: Any) -> Any:
        def on_event(event: Event) -> None:
            if event.kind == "step" and event.values["step"] == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        return real(folder, **options | {"on_event": on_event})

    with monkeypatch.context() as patch:
        patch.setattr(hypernetworks, "train_ghn", stopped)
        answer = windtunnel("ghn", "train", "ghn.yaml", "--out", "parts")
    assert answer.code == 75, answer.err
    refused = windtunnel("ghn", "train", "ghn.yaml", "--out", "parts")
    assert refused.code == 2
    assert "continue it with --resume" in refused.err
    changed = ("ghn", "train", "ghn.yaml", "--out", "parts", "--resume", "--set", "meta_batch=1")
    assert windtunnel(*changed).code == 2
    answer = windtunnel("ghn", "train", "ghn.yaml", "--out", "parts", "--resume")
    assert answer.code == 0, answer.err
    same_weights(Path("whole"), Path("parts"))
    assert losses("parts") == losses("whole")


def test_two_processes_have_the_curve_of_one(windtunnel: Command) -> None:
    """Also where a process lacks a family, a piece of the batch another, and no process one."""
    plan = ["ghn.yaml", "--set", "train.batch_size=8", "--set", "train.micro_batch_size=4"]
    plan += ["--set", "train.eps=1e-4"]  # or gradients near 0 are blown up, with their rounding
    command = ["torchrun", "--standalone", "--nproc-per-node", 2, "-m", "windtunnel", "ghn",
               "train", *plan, "--set", "train.distributed=ddp", "--out", "two"]  # fmt: skip
    process = start(command)
    assert windtunnel("ghn", "train", *plan, "--out", "one").code == 0
    said = ended(process)
    assert process.returncode == 0, said
    assert said.count("with 2 processes") == 1, said
    found, expected = losses("two"), losses("one")
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=1e-4)
    steps = [folder.name for folder in Path("one/checkpoints").iterdir()]
    assert len(steps) == 2
    for step in steps:
        mine = tensors_in(parts_in(Path("one/checkpoints", step), MODEL))
        its = tensors_in(parts_in(Path("two/checkpoints", step), MODEL))
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            torch.testing.assert_close(its[name], value, atol=1e-4, rtol=1e-3)


def test_processes_share_the_architectures_of_a_step_among_them() -> None:
    ready = ready_ghn(load_ghn(Path("ghn.yaml"), ["meta_batch=4", "train.batch_size=8"]))
    members = ready.members.draws.at(3)
    from windtunnel.hyper.launch import ghn_parts
    from windtunnel.train.accumulate import own_rows
    from windtunnel.train.distributed.world import World

    batch: Any = ghn_parts(ready).batches.at(3)
    shares = [own_rows(batch, World(rank, 2)).members.tolist() for rank in range(2)]
    assert [set(share) for share in shares] == [set(members[0::2]), set(members[1::2])]


MISTAKES = [
    (("--set", "space=resonable"), "did you mean 'reasonable'?"),
    (("--set", "space=elsewhere.yaml"), "there is no file elsewhere.yaml"),
    (("--set", "meta_batch=3"), "--set: meta_batch: train.batch_size 4 is no multiple"),
    (("--set", "decoder.knots=0"), "windtunnel: --set: decoder.knots: must be ≥ 1, not 0"),
    (("--set", "decoder.knot=1"), "decoder.knot: unknown key; did you mean 'knots'?"),
    (("--set", "decoder=bank"), "decoder: 'bank' is not allowed; did you mean 'banks'? (allowed"),
    (("--set", "trian.steps=3"), "windtunnel: --set: trian: unknown key; did you mean 'train'?"),
    (("--set", "encoder.with=8"), "encoder.with: unknown key; did you mean 'width'?"),
    (("--set", "train.stepz=8"), "did you mean 'steps'?"),
    (("--set", "split.d_model=4"), "the split leaves no architecture for train"),
    (("--set", "train.distributed=fsdp"), "use ddp"),
    (("--set", "train.compile=on"), "train.compile"),
    (("--set", "train.scores=[bleu]"), "--set: train.scores: not for hypernetworks; leave it out"),
    (("--set", "train.groups=[{match: 'decodr.*', lr: 2}]"), "decodr"),
    (("--set", "train.objective=masked_token"), "train.objective"),
    (("--track", "tensorbord"), "did you mean 'tensorboard'?"),
]


@pytest.mark.parametrize(("arguments", "told"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_told_and_nothing_is_written(
    windtunnel: Command, arguments: tuple[str, ...], told: str
) -> None:
    answer = windtunnel("ghn", "train", "ghn.yaml", "--out", "run", *arguments)
    assert answer.code == 2
    assert told in answer.err
    assert not Path("run").exists()


def test_a_decoder_without_a_type_is_banks() -> None:
    text = Path("ghn.yaml").read_text(encoding="utf-8")
    Path("plain.yaml").write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith("decoder"))
    )
    config = load_ghn(Path("plain.yaml"), ["decoder.table_std=0.3"])
    assert (config.decoder.type, config.decoder.table_std) == ("banks", 0.3)
    assert load_ghn(Path("plain.yaml"), ["decoder=tiled"]).decoder.type == "tiled"


def test_a_hypernetwork_is_no_language_model(windtunnel: Command) -> None:
    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "runs/ghn").code == 0
    for command in (
        ("generate", "ghn", "the"),
        ("classify", "ghn", "the"),
        ("score", "ghn"),
        ("branch", "ghn", "--set", "train.lr=1e-3"),
        ("train", "run.yaml", "--init", "ghn"),
        ("train", "ghn.yaml"),
        ("check", "ghn.yaml"),
        ("compare", "run.yaml", "ghn.yaml", "--out", "study"),
        ("export", "hf", "ghn", "there"),
    ):
        answer = windtunnel(*command)
        assert answer.code == 2, (command, answer.err)
        assert "is of a hypernetwork" in answer.err, command
    run = windtunnel("ghn", "train", "run.yaml")
    assert run.code == 2
    assert "train it with windtunnel train" in run.err
