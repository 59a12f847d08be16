"""Progress: sparse lines in a log, bars in a terminal, an honest time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from windtunnel.report.progress import (
    BarDisplay,
    LineDisplay,
    Pace,
    ProgressDisplay,
    open_progress,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)


def lines(shown: Console) -> list[str]:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue().splitlines()


def run(step_seconds: float, steps: int) -> list[str]:
    clock, shown = Clock(), console()
    with LineDisplay(shown, clock) as progress:
        progress.start("a", "llama [red], seed 0", steps)
        for step in range(1, steps + 1):
            clock.now += step_seconds
            progress.update("a", step, note=f"loss {step}")
        progress.finish("a", "finished, loss 2.31")
    return lines(shown)


def test_a_log_gets_a_line_a_tenth() -> None:
    said = run(1.0, 100)
    assert said[0] == "llama [red], seed 0: started"
    assert said[1] == "llama [red], seed 0:  10%  10/100, loss 10, 1 min 30 s left"
    assert said[-1] == "llama [red], seed 0: finished, loss 2.31 (1 min 40 s)"
    assert len(said) == 12


def test_a_quick_task_says_little_and_a_slow_one_is_not_silent() -> None:
    assert len(run(0.01, 100)) == 2
    slow = run(20.0, 100)
    assert len(slow) == 2 + 50  # each second step: at least every half minute


def test_several_tasks_keep_their_own_count() -> None:
    clock, shown = Clock(), console()
    progress = LineDisplay(shown, clock)
    progress.start("a", "a", 10)
    progress.start("b", "b", 10, done=5)
    clock.now += 10
    progress.update("b", 6)
    progress.update("a", 1)
    assert lines(shown)[1:] == [
        "b: started at 5 of 10",
        "b:  60%  6/10, 40 s left",
        "a:  10%  1/10, 1 min 30 s left",
    ]


def test_a_task_that_was_not_started() -> None:
    for display in (LineDisplay(console(), Clock()), BarDisplay(console(terminal=True), Clock())):
        with pytest.raises(AssertionError, match="no task 'x' was started"):
            display.update("x", 1)


def test_time_left_follows_the_recent_pace_and_falls_between_updates() -> None:
    pace = Pace(total=100, done=0, now=0.0)
    assert pace.remaining_seconds(5.0) is None
    for second in range(1, 11):
        pace.add(second, second)
    assert pace.remaining_seconds(10.0) == pytest.approx(90.0)
    assert pace.remaining_seconds(15.0) == pytest.approx(85.0)
    for second in range(11, 61):
        pace.add(second, 10 + (second - 10) * 0.5)
    assert pace.remaining_seconds(60.0) == pytest.approx((100 - 35) / 0.5)
    assert pace.remaining_seconds(1e9) == 0.0


def test_resuming_does_not_count_what_was_done_before() -> None:
    pace = Pace(total=100, done=90, now=0.0)
    pace.add(5.0, 95)
    assert pace.remaining_seconds(5.0) == pytest.approx(5.0)
    assert Pace(total=0, done=0, now=0.0).fraction == 1.0


def test_a_terminal_gets_bars_that_go_when_done() -> None:
    clock, shown = Clock(), console(terminal=True)
    with open_progress(shown, clock) as progress:
        assert isinstance(progress, BarDisplay)
        progress.start("a", "llama [red]", 10)
        clock.now += 10
        progress.update("a", 5, note="loss 2.31")
        progress._progress.refresh()
        text = "\n".join(lines(shown))
        assert "llama [red]" in text
        assert "50%" in text
        assert "loss 2.31" in text
        assert "10 s left" in text
        progress.finish("a", "finished")
        assert progress._progress.tasks == []
    assert "llama [red]: finished (10 s)" in "\n".join(lines(shown))


def test_without_a_terminal_there_are_lines() -> None:
    assert isinstance(open_progress(console()), LineDisplay)


def test_the_time_left_is_the_callers_where_that_knows_it() -> None:
    """In both displays; between updates it falls, and nothing is said before anything is known."""
    for shown in (console(), console(terminal=True)):
        clock = Clock()
        with open_progress(shown, clock) as progress:
            progress.start("study", "runs", 10, knows_left=True)
            clock.now += 40
            progress.update("study", 5)
            refresh(progress)
            assert "left" not in shown_text(shown)
            clock.now += 40
            progress.update("study", 6, note="a seed 0", left=300.0)
            if isinstance(progress, LineDisplay):
                assert lines(shown)[-1] == "runs:  60%  6/10, a seed 0, 5 min 00 s left"
                continue
            clock.now += 100
            refresh(progress)
            assert "3 min 20 s left" in shown_text(shown)


def refresh(progress: ProgressDisplay) -> None:
    if isinstance(progress, BarDisplay):
        progress._progress.refresh()


def shown_text(shown: Console) -> str:
    return "\n".join(lines(shown))
