"""Reading verdicts: strict about what is there, plain about what is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.report.samples import arm, verdicts

from windtunnel.errors import StudyError
from windtunnel.report.verdicts import read_verdicts


def test_values_are_read() -> None:
    study = read_verdicts(verdicts())
    assert [one.verdict for one in study.arms] == ["reference", "better", "undecided"]
    assert study.arms[0].delta is None
    assert study.arms[1].delta is not None
    assert study.arms[1].delta.mean == -0.045
    assert (study.match, study.seeds, study.budget) == ("tokens", (0, 1, 2), 819_200)


def test_what_is_not_known_is_none() -> None:
    loss = {"mean": math.nan, "low": None, "high": None, "values": [2.0, None]}
    one = read_verdicts(verdicts(arms=[arm("a", "reference", 0.0, loss=loss, params=None)])).arms[0]
    assert (one.loss.mean, one.loss.low, one.params, one.values) == (None, None, None, (2.0, None))


def broken(**changes: Any) -> dict[str, Any]:
    return verdicts(arms=[arm("a", "reference", 0.0) | changes])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "verdicts: 'arms' is missing"),
        (verdicts(metric="speed"), r"metric: unknown 'speed'; allowed: loss, bits_per_byte"),
        (verdicts(arms=[]), "at least one architecture"),
        (verdicts(arms=[3]), r"verdicts\.arms\[0\]: a mapping is needed, not int"),
        (broken(verdict="best"), r"arms\[0\]\.verdict: unknown 'best'; allowed: reference, better"),
        (broken(params="many"), r"arms\[0\]\.params: a number or null is needed, not 'many'"),
        (broken(loss={"mean": 1.0}), r"arms\[0\]\.loss: 'low' is missing"),
    ],
)
def test_another_shape_is_told_with_its_place(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        read_verdicts(tree)


def test_the_correlation_of_same_seed_runs_is_told() -> None:
    tree = verdicts()
    tree["arms"][1].update(correlation=0.417, paired=True)
    words = read_verdicts(tree).pairing_words
    first, second = tree["arms"][0]["name"], tree["arms"][1]["name"]
    assert words.startswith("runs of one seed are paired")
    assert f"with those of {first}: " in words
    assert f"{second} +0.42" in words
    for entry in tree["arms"]:
        entry["correlation"] = None
    assert read_verdicts(tree).pairing_words == ""
