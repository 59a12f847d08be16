"""Events: append-only, torn ends tolerated, superseded steps left out."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import RunError
from windtunnel.runs.events import EventLog, read_events, read_last_events


def write(path: Path, *events: tuple[str, dict]) -> None:
    with EventLog(path, clock=lambda: 1.5) as log:
        for kind, values in events:
            log.append(kind, **values)


def test_events_come_back_as_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, ("start", {"steps": 2}), ("step", {"step": 1, "loss": 0.5, "note": "é"}))
    start, step = read_events(path)
    assert (start.kind, start.time, start.values) == ("start", 1.5, {"steps": 2})
    assert step.step == 1
    assert step.values == {"step": 1, "loss": 0.5, "note": "é"}
    assert start.step is None


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, ("eval", {"loss": float("nan"), "more": [{"x": float("inf")}]}))
    assert "NaN" not in path.read_text()
    assert read_events(path)[0].values == {"loss": None, "more": [{"x": None}]}


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_reads_as_its_whole_lines_and_can_be_continued(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "events.jsonl"
    write(path, *[("step", {"step": n, "loss": 1 / 3}) for n in range(1, 7)])
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    whole = content.count(b"\n")
    assert [e.step for e in read_events(path)] == list(range(1, whole + 1))
    write(path, ("step", {"step": 99}))
    assert [e.step for e in read_events(path)] == [*range(1, whole + 1), 99]


def test_a_damaged_line_before_the_last_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, *[("step", {"step": n}) for n in range(3)])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-4], lines[2]]) + "\n")
    with pytest.raises(RunError, match=r"events\.jsonl:2: this line is damaged"):
        read_events(path)


def test_a_resume_supersedes_later_steps_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(
        path,
        ("start", {}),
        *[("step", {"step": n, "life": 1}) for n in range(1, 6)],
        ("warning", {"message": "kept"}),
        ("resume", {"step": 3}),
        *[("step", {"step": n, "life": 2}) for n in range(4, 7)],
        ("resume", {"step": 5}),
        ("step", {"step": 6, "life": 3}),
    )
    events = read_events(path)
    steps = [(e.step, e.values["life"]) for e in events if e.kind == "step"]
    assert steps == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)]
    assert [e.kind for e in events if e.kind not in ("step", "resume")] == ["start", "warning"]


def test_the_last_events_are_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, *[("step", {"step": n}) for n in range(500)])
    last = read_last_events(path, tail_bytes=300)
    assert last[-1].step == 499
    assert 0 < len(last) < 20
    assert len(read_last_events(path)) == 500


def test_a_write_that_fails_half_way_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    real_write, calls = os.write, []

    def full_disk(handle: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real_write(handle, data[:5])

    with EventLog(path) as log:
        log.append("start")
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk)
            with pytest.raises(RunError, match="No space left"):
                log.append("step", step=1)
        assert path.read_bytes() == before
        log.append("step", step=2)
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["start", "step"]


def test_a_missing_file_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot read"):
        read_events(tmp_path / "events.jsonl")
