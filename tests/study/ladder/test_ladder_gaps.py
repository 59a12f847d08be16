"""Differences at every size and budget: pairs by seed, Holm over all cells."""

from typing import Any

import pytest
from tests.study.ladder.laws import cells_of, made

from windtunnel.study.ladder.gaps import cell_differences
from windtunnel.study.statistics import compare_arms, holm

ARMS = [made("a"), made("b", seed=1, E=1.4), made("c", seed=2)]


def found(cells: Any = None) -> list[dict[str, Any]]:
    return cell_differences(cells or cells_of(ARMS), ["a", "b", "c"])


def test_every_cell_of_every_other_arm_has_its_difference() -> None:
    rows = found()
    assert len(rows) == 2 * 4 * 3
    assert [row["arm"] for row in rows] == ["b"] * 12 + ["c"] * 12
    assert {row["against"] for row in rows} == {"a"}
    assert {(row["asked"], row["budget"]) for row in rows[:12]} == {
        (size, f"{budget:g}x") for size in (1.5e5, 3.3e5, 7.2e5, 1.6e6) for budget in (5, 10, 20)
    }


def test_runs_of_one_seed_are_pairs_and_holm_counts_all_cells() -> None:
    rows = found()
    compared = [
        compare_arms(ARMS[0].losses[i, j].tolist(), arm.losses[i, j].tolist(), paired=True)
        for arm in ARMS[1:]
        for i in range(4)
        for j in range(3)
    ]
    assert [row["mean"] for row in rows] == [one.delta for one in compared]
    assert [row["p_value"] for row in rows] == [one.p_value for one in compared]
    assert [row["p_holm"] for row in rows] == holm([one.p_value for one in compared])


def test_a_verdict_and_its_interval_do_not_contradict() -> None:
    rows = found()
    for row in rows:
        decided = row["p_holm"] < 0.05
        assert decided == (row["low"] > 0 or row["high"] < 0) == (row["verdict"] != "undecided")
        assert row["low"] <= row["low_95"] <= row["mean"] <= row["high_95"] <= row["high"]
    assert {row["verdict"] for row in rows[:12]} >= {"better"}
    assert {row["verdict"] for row in rows[12:]} == {"undecided"}


@pytest.mark.parametrize(
    ("mine", "first", "verdict", "reason"),
    [
        ({"diverged": 1}, {}, "worse", "diverged 1 of 3"),
        ({}, {"diverged": 1}, "better", "a: diverged 1 of 3"),
        ({"diverged": 1}, {"diverged": 1}, "undecided", "both diverge"),
        ({"failed": 1}, {}, "undecided", "failed 1 of 3"),
        ({}, {"failed": 1}, "undecided", "a: failed 1 of 3"),
    ],
)
def test_a_run_without_a_loss_decides_as_everywhere(
    mine: dict[str, int], first: dict[str, int], verdict: str, reason: str
) -> None:
    cells = cells_of(ARMS[:2])
    for change, cell in ((first, cells[0]), (mine, cells[12])):
        if change:
            cell |= {"values": [None, *cell["values"][1:]], **change}
    rows = cell_differences(cells, ["a", "b"])
    assert (rows[0]["verdict"], rows[0]["mean"]) == (verdict, None)
    assert reason in rows[0]["reason"]
    assert all(row["mean"] is not None for row in rows[1:])


def test_one_seed_gives_a_difference_without_an_interval() -> None:
    arms = [made("a", seeds=1), made("b", seeds=1, E=1.4)]
    for row in cell_differences(cells_of(arms), ["a", "b"]):
        assert row["mean"] is not None
        assert row["low"] is row["p_value"] is None
        assert "single seed" in row["reason"]


def test_identical_runs_differ_by_nothing() -> None:
    cells = cells_of([made("a"), made("b")])
    for row in cell_differences(cells, ["a", "b"]):
        assert (row["mean"], row["low"], row["p_value"]) == (0.0, 0.0, 1.0)
        assert (row["verdict"], row["reason"]) == ("undecided", "identical losses")
