"""Sizes and budgets as they are written, and what is wrong with others."""

import pytest

from windtunnel.errors import UsageError
from windtunnel.study.ladder.amounts import parse_budgets, parse_sizes, parse_target, short
from windtunnel.study.ladder.recipe import lengths_of, parse_lr_rule, recipe_at, settled_lr_rule
from windtunnel.train.config import TrainConfig
from windtunnel.train.schedule import lr_at


def test_sizes() -> None:
    assert parse_sizes("150k, 0.5M,2M,1e9") == (150e3, 0.5e6, 2e6, 1e9)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1M,0.5M", "must grow, but 500k comes after 1M"),
        ("1M,1M", "1M stands there twice"),
        ("", "at least one size"),
        ("1M,big", "'big' is not a number"),
        ("-1", "is not a number above 0"),
        ("1.2.3M", "is not a number"),
    ],
)
def test_sizes_that_are_wrong(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        parse_sizes(text)


def test_budgets() -> None:
    assert parse_budgets("5x,20x")[1].tokens(1e6, 1.0) == 20e6
    assert parse_budgets("4M")[0].tokens(1.0, 1.0) == 4e6
    assert parse_budgets("1e13flops")[0].tokens(1.0, 1e7) == 1e6
    assert [b.name for b in parse_budgets("1e13flops,2e13flops")] == ["1e+13 FLOPs", "2e+13 FLOPs"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("20x,5x", "must grow, but 5x comes after 20x"),
        ("5x,1M", "one kind at a time, not tokens and x"),
        ("0x", "is not a number above 0"),
        (",", "at least one is needed"),
    ],
)
def test_budgets_that_are_wrong(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        parse_budgets(text)


def test_targets() -> None:
    assert parse_target("1e18").flops(1.0) == 1e18
    assert parse_target("10x").flops(3.0) == 30.0
    with pytest.raises(UsageError, match="--at"):
        parse_target("far")


def test_short_names_of_counts() -> None:
    assert [short(v) for v in (950.0, 150e3, 1.6e6, 7e9)] == ["950", "150k", "1.6M", "7B"]


def test_a_decay_is_the_end_of_the_run_of_its_length() -> None:
    """The rates of trunk and decay, joined, are those of a whole run."""
    train = TrainConfig(lr=0.01, schedule={"type": "wsd", "warmup": 0.1, "decay": 0.25})
    lengths = lengths_of(train, (40, 80, 160), "here")
    trunk = recipe_at(train, lengths, 160, 0.01)
    assert lengths.branches == (30, 60)
    assert trunk.checkpoint_at == (30, 60)
    for steps, branch in zip(lengths.steps, lengths.branches, strict=False):
        whole = train.replace(
            steps=steps, schedule={"type": "wsd", "warmup": 4, "decay": 0.25, "min_ratio": 0.0}
        )
        decay = recipe_at(train, lengths, steps, 0.01)
        joined = [lr_at(trunk, s) for s in range(branch)]
        joined += [lr_at(decay, s) for s in range(branch, steps)]
        assert joined == [lr_at(whole, s) for s in range(steps)]
    assert lengths.trained == 160 + 20 + 10
    assert lengths.alone == 280


@pytest.mark.parametrize(
    ("train", "steps", "what"),
    [
        (TrainConfig(), (10, 10), "two budgets come to 10 steps"),
        (TrainConfig(stages=({"name": "a", "steps": 5},)), (10, 20), "train.stages"),
        (TrainConfig(schedule={"warmup": 9}), (10, 20), "smallest budget has 10 steps"),
        (TrainConfig(), (1, 20), "smallest budget has 1 steps"),
    ],
)
def test_recipes_that_do_not_suit(train: TrainConfig, steps: tuple[int, ...], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        lengths_of(train, steps, "here")


def test_rates_by_rule() -> None:
    plain, mup = TrainConfig(), TrainConfig(mup={"base_width": 64})
    assert settled_lr_rule("auto", plain, "a") == "inverse_width"
    assert settled_lr_rule("auto", mup, "a") == "mup"
    with pytest.raises(UsageError, match="a has no train"):
        settled_lr_rule("mup", plain, "a")
    with pytest.raises(UsageError, match="scales the rates already"):
        settled_lr_rule("inverse_width", mup, "a")
    with pytest.raises(UsageError, match="--lr-rule: unknown"):
        parse_lr_rule("width")
