"""Runners: a save that fails or is killed at any moment leaves a whole checkpoint."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runner_models import PAIRS, Tiny, again, made, of_layers

from windtunnel.errors import RunError
from windtunnel.runner import ArchitectureLM, BasicModelRunner, folder, read_checkpoint

HEX = "0123456789abcdef"

KILLED = """
import os, signal, sys
from pathlib import Path
from windtunnel.runner import folder

folder.exchange = lambda one, other: False
left, real = int(sys.argv[2]), Path.rename

def rename(self, target):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(self, target)

Path.rename = rename
with folder.replaced(Path(sys.argv[1])) as draft:
    (draft / "state.json").write_text("new")
"""


def content(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


def saved_twice(place: Path) -> BasicModelRunner:
    """A runner with a step more than its checkpoint."""
    runner = made()
    for _ in range(2):
        runner.train(PAIRS)
        if not place.exists():
            runner.save(place)
    return runner


def fails(*arguments: Any) -> Any:
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture(params=["exchanged", "renamed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "renamed":
        monkeypatch.setattr(folder, "exchange", lambda one, other: False)
    return str(request.param)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_rename_that_fails_leaves_the_checkpoint_before(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    runner = saved_twice(place)
    before, calls, real = content(place), [], Path.rename

    def rename(self: Path, target: Any) -> Any:
        calls.append(target)
        return fails() if len(calls) == nth + 1 else real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "exchange", lambda one, other: False)
        patch.setattr(Path, "rename", rename)
        with pytest.raises(RunError, match="Input/output"):
            runner.save(place)
    assert content(place) == before
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("there", [True, False])
def test_a_flush_that_fails_leaves_what_was_there(
    there: bool, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    runner = saved_twice(place)
    before = content(place)
    target = place if there else tmp_path / "other"
    with monkeypatch.context() as patch:
        patch.setattr(folder, "sync_folder", fails)
        with pytest.raises(RunError, match="Input/output"):
            runner.save(target)
    assert content(place) == before
    assert os.listdir(tmp_path) == ["run"]
    runner.save(target)
    assert read_checkpoint(target)["stats"]["steps"] == 2


@pytest.mark.parametrize("done", [1, 2])
def test_a_kill_between_the_renames_leaves_a_checkpoint(done: int, tmp_path: Path) -> None:
    place = tmp_path / "run"
    runner = saved_twice(place)
    before = content(place)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(place), str(done)], check=False)
    assert killed.returncode == -signal.SIGKILL
    if done == 1:
        assert not place.exists()
        assert content(folder.standing(place)) == before
        other = again(Tiny, place)
        assert other.stats.steps == 1
        assert any("a save was killed there" in note for note in other.notes)
    else:
        assert (place / "state.json").read_text() == "new"
    runner.save(place)
    assert read_checkpoint(place)["stats"]["steps"] == 2
    assert os.listdir(tmp_path) == ["run"], "what the killed one left is gone"


def test_the_checkpoint_never_lacks_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    runner = saved_twice(place)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if not folder.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot exchange two names")
    monkeypatch.setattr(Path, "rename", fails)
    runner.save(place)
    assert read_checkpoint(place)["stats"]["steps"] == 2


def test_what_another_process_left_is_in_nobodys_way(way: str, tmp_path: Path) -> None:
    place = tmp_path / "run"
    runner = saved_twice(place)
    gone = [f".run.{os.getpid()}.tmp", f".run.{os.getpid()}.old", f".run.{HEX}.tmp"]
    kept = [f".run.1.{HEX}.tmp", f".other.{HEX}.old", ".run.mine.tmp"]
    for name in gone + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    (tmp_path / f".run.{HEX[::-1]}.tmp").write_text("a file")
    runner.save(place)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, f".run.{HEX[::-1]}.tmp", "run"])


def test_what_another_process_writes_is_left_alone(way: str, tmp_path: Path) -> None:
    place = tmp_path / "run"
    runner = saved_twice(place)
    with folder.replaced(place) as draft:
        (draft / "state.json").write_text("another's")
        runner.save(place)
        assert draft.is_dir()
        assert read_checkpoint(place)["stats"]["steps"] == 2
    assert (place / "state.json").read_text() == "another's"
    handle = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / f".run.{HEX}.tmp").mkdir()
    fcntl.flock(handle, fcntl.LOCK_SH)
    runner.save(place)
    os.close(handle)
    assert (tmp_path / f".run.{HEX}.tmp").exists()


def test_a_link_is_followed(way: str, tmp_path: Path) -> None:
    place, link = tmp_path / "deep" / "run", tmp_path / "latest"
    runner = saved_twice(place)
    link.symlink_to(place)
    runner.save(link)
    assert link.is_symlink()
    assert read_checkpoint(place)["stats"]["steps"] == 2


def test_an_architecture_that_was_written_out_is_read_again(tmp_path: Path) -> None:
    runner = of_layers()
    runner.train(PAIRS)
    runner.save(tmp_path / "run")
    other = again(ArchitectureLM, tmp_path / "run")
    assert other.generate(["ab"]) == runner.generate(["ab"])
