"""Claims tell writers of several machines apart, and fence off those that were taken for dead."""

import json
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from windtunnel.errors import RunError
from windtunnel.runs import EventLog, RunFolder
from windtunnel.runs import claim as claiming
from windtunnel.runs.claim import LEASE_SECONDS, Claim, is_claimed_elsewhere


def claimed_by(folder: Path, number: int, host: str, *, age: float) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:08d}"
    path.write_text(json.dumps({"host": host, "process": 17}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_claims_are_numbered_and_the_earlier_owner_is_fenced(tmp_path: Path) -> None:
    first = Claim.take(tmp_path / "claims")
    first.check()
    second = Claim.take(tmp_path / "claims")  # the same machine: the file lock has decided
    assert int(second.path.name) == int(first.path.name) + 1
    second.check()
    with pytest.raises(RunError, match="has taken this run over"):
        first.check()
    third = Claim.take(tmp_path / "claims")
    assert not first.path.exists(), "old claims do not pile up"
    for claim in (first, second):
        with pytest.raises(RunError, match="has taken this run over"):
            claim.check()
    third.check()
    for claim in (first, second, third):
        claim.release()


def test_a_folder_that_is_gone_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    claim = Claim.take(tmp_path / "run" / "claims")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RunError, match="run: the run's folder is not there any more"):
        claim.check()


def test_an_owner_that_was_fenced_stays_so_after_the_taker_has_let_go(tmp_path: Path) -> None:
    first = Claim.take(tmp_path)
    Claim.take(tmp_path).release()
    with pytest.raises(RunError, match="has taken this run over"):
        first.check()
    first.release()
    third = Claim.take(tmp_path)
    third.check()
    third.release()


def test_another_machine_that_lives_is_not_disturbed(tmp_path: Path) -> None:
    path = claimed_by(tmp_path, 3, "elsewhere", age=LEASE_SECONDS / 2)
    with pytest.raises(RunError, match="process 17 of elsewhere writes this run"):
        Claim.take(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


def test_a_lease_that_is_over_is_taken(tmp_path: Path) -> None:
    claimed_by(tmp_path, 3, "elsewhere", age=LEASE_SECONDS + 5)
    claim = Claim.take(tmp_path)
    assert int(claim.path.name) == 4
    assert json.loads(claim.path.read_text())["host"] == socket.gethostname()
    claim.release()


def test_what_was_let_go_elsewhere_is_free_at_once(tmp_path: Path) -> None:
    claimed_by(tmp_path, 1, "elsewhere", age=0)
    os.utime(tmp_path / "00000001", (1.0, 1.0))
    Claim.take(tmp_path).release()


@pytest.mark.parametrize("content", ["", "{", '{"host": 3}', "[]"])
def test_a_claim_that_cannot_be_read_counts_as_alive(content: str, tmp_path: Path) -> None:
    claimed_by(tmp_path, 1, "elsewhere", age=0).write_text(content)
    with pytest.raises(RunError, match="process unknown of unknown"):
        Claim.take(tmp_path)


def test_a_writer_that_was_taken_over_writes_no_event_more(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", key="k" * 64, name="n", config={})
    with folder.lock() as lock, folder.open_events(lock) as log:
        log.append("start", step=0)
        claimed_by(folder.path / "claims", 2, "elsewhere", age=0)
        with pytest.raises(RunError, match="taken this run over"):
            log.append("step", step=1)
        with pytest.raises(RunError, match="taken this run over"):
            log.sync()
    assert [event.kind for event in folder.read_events()] == ["start"]
    with pytest.raises(RunError, match="of elsewhere writes this run"):
        folder.lock().acquire()


def test_a_log_without_a_guard_writes(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        assert log.append("start").kind == "start"


def test_a_process_that_died_while_it_claimed_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def died(*names: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", died)
        patch.setattr(Path, "unlink", died)
        with pytest.raises(KeyboardInterrupt):
            Claim.take(tmp_path)
    assert [entry.name[:9] for entry in tmp_path.iterdir()] == [".00000001"]
    Claim.take(tmp_path).release()
    Claim.take(tmp_path).release()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["00000001", "00000002"]


def test_processes_of_one_number_on_two_machines_do_not_write_each_other_s_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another begins its own while the draft of the first is written but not yet in place."""
    link, taken = os.link, []

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        with monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "elsewhere")
            link(source, target)
            with pytest.raises(FileExistsError):  # the other is slower
                claiming._make(target)
        taken.append(target)

    monkeypatch.setattr(os, "link", late)
    claim = Claim.take(tmp_path)
    assert taken == [claim.path]
    assert json.loads(claim.path.read_text())["host"] == socket.gethostname()
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000001"]
    claim.release()


@pytest.mark.parametrize("differs", ["boot", "processes"])
def test_machines_of_one_name_are_told_apart(
    differs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As containers are: of another machine, or beside one on the same."""
    boot = tmp_path / "boot_id"
    boot.write_text("a7\n")
    monkeypatch.setattr(claiming, "_BOOT", boot)
    folder = tmp_path / "claims"
    first = Claim.take(folder)
    assert json.loads(first.path.read_text())["boot"] == "a7"
    with monkeypatch.context() as patch:
        if differs == "boot":
            boot.write_text("b8\n")
        else:
            patch.setattr(os, "readlink", lambda *_: "pid:[1]")
        assert is_claimed_elsewhere(folder)
        with pytest.raises(RunError, match="writes this run"):
            Claim.take(folder)
        first.check()
    boot.write_text("a7\n")
    assert not is_claimed_elsewhere(folder)
    second = Claim.take(folder)
    first.release()
    second.release()


def test_a_machine_that_says_no_more_than_its_name_is_known_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed_by(tmp_path, 1, socket.gethostname(), age=0)  # as it was written before
    assert not is_claimed_elsewhere(tmp_path)
    Claim.take(tmp_path).release()
    monkeypatch.setattr(claiming, "_BOOT", tmp_path / "nothing")
    monkeypatch.setattr(claiming, "_PROCESSES", str(tmp_path / "nothing"))
    claim = Claim.take(tmp_path)
    assert set(json.loads(claim.path.read_text())) == {"host", "process"}
    Claim.take(tmp_path).release()
    claim.release()


def test_no_sign_of_life_comes_after_a_claim_was_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat that has begun when the claim is released: another machine would wait for a lease."""
    real, begun, released = claiming._touch, threading.Event(), threading.Event()

    def slow(path: Path, moment: float | None) -> None:
        if moment is None:
            begun.set()
            released.wait(0.5)
        real(path, moment)

    monkeypatch.setattr(claiming, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(claiming, "_touch", slow)
    claim = Claim.take(tmp_path / "claims")
    assert begun.wait(5)
    claim.release()
    released.set()
    time.sleep(0.1)
    assert claim.path.stat().st_mtime == claiming._LET_GO
