"""A run that is paused at a step and goes on later is the run that was never paused."""

from pathlib import Path

import pytest
from standins import final_weights, new_folder, parts, recipe

from windtunnel.runs import RunFolder
from windtunnel.train.interrupts import PAUSE_EXIT, Paused
from windtunnel.train.runner import train_run

STEPS, RUNGS = 25, (4, 13)


def losses(folder: RunFolder) -> dict[int, float]:
    return {e.values["step"]: e.values["loss"] for e in folder.read_events() if e.kind == "eval"}


def test_zero_to_rung_to_end_is_zero_to_end(tmp_path: Path) -> None:
    straight = new_folder(tmp_path / "straight")
    record = train_run(parts(recipe(steps=STEPS)), straight)
    folder = new_folder(tmp_path / "paused")
    for rung in RUNGS:
        with pytest.raises(Paused, match=f"paused after step {rung}") as caught:
            train_run(parts(recipe(steps=STEPS)), folder, resume=True, until=rung)
        assert caught.value.exit_code == PAUSE_EXIT
        assert folder.read_record() is None
        assert folder.summary().step == rung
        assert rung in losses(folder)
    resumed = train_run(parts(recipe(steps=STEPS)), folder, resume=True)
    assert final_weights(folder) == final_weights(straight)
    for name in ("tokens", "flops", "steps", "skipped_steps", "status"):
        assert resumed[name] == record[name]
    assert resumed["final"]["loss"] == record["final"]["loss"]
    assert resumed["best"]["step"] == record["best"]["step"]
    assert [path.name for path in sorted(folder.checkpoints.iterdir())] == [
        path.name for path in sorted(straight.checkpoints.iterdir())
    ]
    regular = losses(straight)
    assert {s: x for s, x in losses(folder).items() if s in regular} == regular
    assert set(losses(folder)) - set(regular) == set(RUNGS)


def test_a_pause_at_a_lucky_step_is_not_the_best(tmp_path: Path) -> None:
    """At a rate far too high, where the loss leaps."""
    leaps = {"lr": 0.2, "schedule": {"type": "flat"}, "clip": None}
    asked = recipe(steps=STEPS, eval_every=1000, keep_checkpoints=1, **leaps)
    straight = train_run(parts(asked), new_folder(tmp_path / "straight"))
    folder = new_folder(tmp_path / "paused")
    for rung in range(2, STEPS, 3):
        with pytest.raises(Paused):
            train_run(parts(asked), folder, resume=True, until=rung)
    record = train_run(parts(asked), folder, resume=True)
    seen = losses(folder)
    assert min(seen.values()) < min(seen[0], seen[STEPS]), "no pause was at a lucky step"
    for name in ("step", "loss"):
        assert record["best"][name] == straight["best"][name]


def test_a_rung_that_is_reached_already_costs_no_step(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(Paused):
            train_run(parts(recipe(steps=STEPS)), folder, resume=True, until=4)
    assert [e.step for e in folder.read_events() if e.kind == "step"] == [1, 2, 3, 4]


def test_a_pause_at_the_end_is_the_end(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    assert train_run(parts(recipe(steps=5)), folder, until=5)["status"] == "finished"
