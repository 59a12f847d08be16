"""A component's hand-written cost is checked before anything is trained by it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.apart import components_apart

from windtunnel.config import parse_document
from windtunnel.errors import UsageError
from windtunnel.runs import RunStore
from windtunnel.study import own_costs
from windtunnel.study.arms import Ground, plain_plan
from windtunnel.study.ladder.amounts import parse_budgets, parse_target
from windtunnel.study.ladder.inquiry import LadderInquiry
from windtunnel.study.ladder.rungs import LadderRequest, make_ladder
from windtunnel.study.planning import plan_compare
from windtunnel.study.rounds import Round
from windtunnel.train.run_config import LoadedRun, load_run_document

Load = Callable[..., LoadedRun]

GATED = """
from typing import Literal

from torch import nn

from windtunnel.nn.component import register
from windtunnel.nn.linear import Linear
from windtunnel.nn.mixers.attention import Attention, AttentionConfig
{imports}

class GatedConfig(AttentionConfig):
    type: Literal["gated"] = "gated"
{cost}

@register("mixer")
class Gated(Attention):
    Config = GatedConfig

    def __init__(self, config, scope):
        super().__init__(config, scope)
        {gate}

    def forward(self, x, span):
        y = super().forward(x, span)
        {use}
        return y
"""
LINEAR = "self.gate = Linear(scope.d_model, scope.d_model, bias=False)"
USE = "y = y * self.gate(x).sigmoid()"
COST = """
    def cost(self, scope, t):
        return super().cost(scope, t) + {more}
"""
RIGHT = "linear_cost(scope.d_model, scope.d_model, bias=False)"


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    with components_apart():
        yield


def own(folder: Path, *, gate: str = LINEAR, use: str = USE, more: str = RIGHT) -> LoadedRun:
    """A run whose mixer comes from a file of the user's own."""
    file = folder / "gated.py"
    text = GATED.format(
        gate=gate, use=use, cost=COST.format(more=more) if more else "",
        imports="from windtunnel.nn.cost import Cost, linear_cost",
    )  # fmt: skip
    file.write_text(text, encoding="utf-8")
    layer = {"mixer": {"type": "gated", "num_heads": 4}, "repeat": 2}
    tree = {
        "arch": {"name": "mine", "d_model": 64, "vocab_size": 512, "layers": [layer]},
        "train": {"steps": 50, "batch_size": 4, "seq_len": 32},
        "data": {"tokenizer": {"type": "bpe", "vocab_size": 512}},
        "plugins": [str(file)],
    }
    return load_run_document(parse_document(json.dumps(tree), "mine.yaml"))


def test_an_inherited_cost_without_the_new_parameters_is_refused(
    tmp_path: Path, load: Load, ground: Ground
) -> None:
    runs = [load("gpt2"), own(tmp_path, more="Cost()")]
    with pytest.raises(UsageError) as caught:
        plan_compare(runs, seeds=1, match="flops", ground=ground)
    told = str(caught.value)
    assert told.startswith("mine: it would be counted with ")
    assert "the cost of mixer gated says 16,384, and it has 20,480" in told
    assert f"windtunnel check --contracts {tmp_path / 'gated.py'}" in told
    assert "docs/add-a-component.md" in told
    for match in ("params", "tokens"):  # of every match, and of plans without any
        with pytest.raises(UsageError, match="the cost of mixer gated"):
            plan_compare(runs, seeds=1, match=match, ground=ground)
    with pytest.raises(UsageError, match="the cost of mixer gated"):
        plain_plan("search", "a", [("mine", runs[1])], seeds=[0], ground=ground)


def test_a_right_cost_passes_and_is_quick(tmp_path: Path, load: Load, ground: Ground) -> None:
    run = own(tmp_path)
    began = time.perf_counter()
    plan = plan_compare([load("gpt2"), run], seeds=1, match="flops", ground=ground)
    assert time.perf_counter() - began < 3  # well under a second where nothing else runs
    assert plan.notes == ()


def test_flops_that_the_cost_leaves_out_are_refused(
    tmp_path: Path, load: Load, ground: Ground
) -> None:
    twice = "y = y * self.gate(self.gate(x)).sigmoid()"
    run = own(tmp_path, use=twice)
    with pytest.raises(UsageError, match=r"mine: a forward of 32 tokens through mixer gated takes"):
        plan_compare([load("gpt2"), run], seeds=1, match="flops", ground=ground)


def test_flops_that_are_told_and_not_seen_are_noted(
    tmp_path: Path, load: Load, ground: Ground
) -> None:
    run = own(tmp_path, more=f"{RIGHT} + Cost(forward_flops=1000)")
    plan = plan_compare([load("gpt2"), run], seeds=1, match="tokens", ground=ground)
    (note,) = plan.notes
    assert note.startswith("mine: of mixer gated only ")
    assert plain_plan("search", "a", [("mine", run)], seeds=[0], ground=ground).notes == (note,)


def test_what_only_real_numbers_can_run_is_counted_too(
    tmp_path: Path, load: Load, ground: Ground
) -> None:
    looks = "assert bool((y == y).all()); " + USE  # the meta device has no values
    run = own(tmp_path, use=looks)
    assert plan_compare([load("gpt2"), run], seeds=1, ground=ground).notes == ()


def test_what_it_takes_with_real_numbers_is_refused_too(
    tmp_path: Path, load: Load, ground: Ground
) -> None:
    looks = "assert bool((y == y).all()); y = y + self.gate(x); " + USE
    with pytest.raises(UsageError, match="mixer gated takes"):
        plan_compare([load("gpt2"), own(tmp_path, use=looks)], seeds=1, ground=ground)


def test_what_cannot_be_counted_is_noted(tmp_path: Path, load: Load, ground: Ground) -> None:
    run = own(tmp_path, use="raise NotImplementedError")
    plan = plan_compare([load("gpt2"), run], seeds=1, ground=ground)
    (note,) = plan.notes
    assert note.startswith("mine: the FLOPs of mixer gated could not be counted")


def test_the_packages_own_parts_are_counted_by_parameters_alone(
    load: Load, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> str:
        raise AssertionError("its contracts are tested")

    monkeypatch.setattr(own_costs, "_check_flops", never)
    plan_compare([load("gpt2"), load("lstm")], seeds=1, ground=ground)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_ladder_tells_of_its_sizes_what_a_comparison_tells(
    tmp_path: Path, ground: Ground, wrong: bool
) -> None:
    """In the plan and with the results; and a cost that leaves something out is refused."""
    run = own(tmp_path, more="Cost()" if wrong else f"{RIGHT} + Cost(forward_flops=1000)")
    asked = LadderRequest(
        sizes=(60e3, 90e3, 120e3), budgets=parse_budgets("2k,4k"), seeds=(0,), rule="width",
        count="total", lr_rule="auto", target=parse_target("10x"),
    )  # fmt: skip
    inquiry = LadderInquiry(
        make_ladder([run], asked, ground), ground, RunStore(tmp_path / "runs"), draws=10
    )
    if wrong:
        with pytest.raises(UsageError, match="the cost of mixer gated"):
            inquiry.next([], lambda digest: None)
        return
    plan = inquiry.next([], lambda digest: None)
    assert plan is not None
    told = [note for note in plan.notes if "schedule" not in note]
    assert told[0].startswith("mine-120k-4k-tokens: of mixer gated only ")
    assert told[1:] == ["mine: its costs at 2 smaller sizes are so too."]
    records = {key: {"status": "failed", "reason": ""} for key in plan.keys}
    second = inquiry.next([Round(plan, records)], lambda digest: None)
    assert second is not None
    decayed = Round(second, {key: {"status": "failed", "reason": ""} for key in second.keys})
    assert set(told) < set(inquiry.result([Round(plan, records), decayed])["notes"])
