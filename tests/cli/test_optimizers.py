"""Optimizers, groups and averages, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import Command

from windtunnel.runs import RunFolder
from windtunnel.train.launch import open_trained
from windtunnel.train.optimizers.config import OPTIMIZERS


def test_two_optimizers_are_the_arms_of_a_comparison(windtunnel: Command, workplace: Path) -> None:
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    assert "train: {" in text
    other = text.replace("small", "muon").replace("train: {", "train: {optimizer: muon, ")
    (workplace / "muon.yaml").write_text(other, encoding="utf-8")
    command = ("compare", "run.yaml", "muon.yaml", "--seeds", 2, "--budget", 300, "--out", "c")
    plan = json.loads(windtunnel(*command, "--dry-run", "--json").out)
    assert len({run["key"] for run in plan["runs"]}) == 4
    answer = windtunnel(*command, "--json")
    assert answer.code == 0, answer.err
    base, muon = json.loads(answer.out)["arms"]
    assert (base["name"], base["verdict"], muon["name"]) == ("small", "reference", "muon")
    assert base["params"] == muon["params"]
    assert muon["delta"]["mean"] != 0
    page = (workplace / "c" / "report.html").read_text(encoding="utf-8")
    assert "train.optimizer" in page


def test_check_prints_the_groups_with_their_counts(windtunnel: Command, workplace: Path) -> None:
    rules = 'train.groups=[{match: "embedding.*", lr: 3}, {match: "/norm/", freeze: true}]'
    command = ("check", "run.yaml", "--set", rules, "--set", "train.optimizer=muon")
    tree = json.loads(windtunnel(*command, "--json").out)
    assert {group["optimizer"] for group in tree["groups"]} == {"muon", "adamw", None}
    assert sum(group["params"] for group in tree["groups"]) == tree["total"]["params"]
    text = windtunnel(*command).out
    for group in tree["groups"]:
        assert f"{group['params']:,} parameters in {group['tensors']} tensor" in text
    assert "adamw, decay 0, lr × 3:" in text
    assert "frozen:" in text


def test_a_rule_for_nothing_is_a_mistake(windtunnel: Command, workplace: Path) -> None:
    answer = windtunnel("train", "run.yaml", "--out", "r", "--set",
                        'train.groups=[{match: "embeddings.*", lr: 3}]')  # fmt: skip
    assert answer.code == 2
    assert "no parameter matches 'embeddings.*'; the nearest is 'embedding" in answer.err
    assert not (workplace / "r").exists()


@pytest.mark.parametrize("optimizer", ["muon", "schedule_free_adamw", "soap"])
def test_a_run_with_all_of_it_trains_and_writes(
    optimizer: str, windtunnel: Command, workplace: Path
) -> None:
    more = ["--set", f"train.optimizer={optimizer}", "--set", "train.steps=4"]
    more += ["--set", "train.watch_every=2", "--set", "train.schedule=flat"]
    if optimizer != "schedule_free_adamw":
        more += ["--set", "train.ema=0.9"]
    answer = windtunnel("train", "run.yaml", "--out", "r", *more)
    assert answer.code == 0, answer.err
    folder = RunFolder.open(workplace / "r")
    kinds = [event.kind for event in folder.read_events()]
    assert kinds.count("watch") == 2
    record = folder.read_record()
    assert record is not None
    assert "weights" in record
    assert windtunnel("generate", "r", "a", "--max-new-tokens", 3).code == 0
    if optimizer != "schedule_free_adamw":
        trained, averaged = open_trained(folder), open_trained(folder, ema=True)
        weight = "embedding.weight"
        assert not trained.model.state_dict()[weight].equal(averaged.model.state_dict()[weight])


def test_mup_is_a_matter_of_the_run_file(windtunnel: Command, workplace: Path) -> None:
    answer = windtunnel("train", "run.yaml", "--out", "r", "--set", "train.mup={base_width: 8}",
                        "--set", "train.steps=3")  # fmt: skip
    assert answer.code == 0, answer.err
    record = RunFolder.open(workplace / "r").read_record()
    assert record is not None
    assert record["final"]["loss"] > 0
    assert windtunnel("generate", "r", "a", "--max-new-tokens", 3).code == 0


PLUGIN = """
from typing import Literal

import torch

from windtunnel.train.optimizers.config import OPTIMIZERS, OptimizerConfig


@OPTIMIZERS.register
class SignConfig(OptimizerConfig):
    type: Literal["sign"] = "sign"

    def state_values(self, shape):
        return 0

    def make(self, groups, betas, eps):
        return Sign(groups, {"lr": 1.0, "weight_decay": 0.0})


class Sign(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    w.mul_(1 - group["lr"] * group["weight_decay"])
                    w.sub_(w.grad.sign(), alpha=group["lr"])
"""


def test_an_optimizer_of_ones_own_is_a_file(
    windtunnel: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_classes", dict(OPTIMIZERS._classes))
    (workplace / "sign.py").write_text(PLUGIN, encoding="utf-8")
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    (workplace / "own.yaml").write_text(
        text.replace("train: {", "plugins: [sign.py]\ntrain: {optimizer: sign, "), encoding="utf-8"
    )
    answer = windtunnel("train", "own.yaml", "--out", "r", "--set", "train.steps=3")
    assert answer.code == 0, answer.err
    tree = json.loads(windtunnel("check", "own.yaml", "--json").out)
    assert {group["optimizer"] for group in tree["groups"]} == {"sign"}
