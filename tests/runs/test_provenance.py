"""Atomic writes, and where a run came from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import windtunnel
from windtunnel.runs import code_digest, environment, git_state, write_atomic
from windtunnel.runs.provenance import DECIDING_LAYERS


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_failed_write_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_atomic(path, "old")

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_get_the_usual_rights(tmp_path: Path) -> None:
    write_atomic(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_environment_names_torch_without_importing_it() -> None:
    script = (
        "import sys; from windtunnel.runs import environment; print(environment()['torch']);"
        "assert 'torch' not in sys.modules"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    known = environment(threads=3)
    assert printed.stdout.decode().strip() == known["torch"]
    assert known["threads"] == 3
    assert known["cores"] >= 1
    assert known["cpu"]


def test_git_state_tells_clean_from_dirty(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == {
        "commit": None,
        "dirty": True,
        "patch_digest": None,
        "untracked_files": 0,
    }
    (tmp_path / "a.txt").write_text("one\n")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = git_state(tmp_path)
    assert clean == {
        "commit": git(tmp_path, "rev-parse", "HEAD"),
        "dirty": False,
        "patch_digest": None,
        "untracked_files": 0,
    }
    digests = set()
    for text in ("two\n", "three\n"):
        (tmp_path / "a.txt").write_text(text)
        state = git_state(tmp_path)
        assert state is not None
        assert state["dirty"] is True
        digests.add(state["patch_digest"])
    assert len(digests) == 2
    (tmp_path / "b.txt").write_text("")
    state = git_state(tmp_path)
    assert state is not None
    assert state["untracked_files"] == 1


def test_the_code_digest_sees_plugins(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("x = 1\n")
    first = code_digest((plugin,))
    assert first == code_digest((plugin,)) != code_digest()
    plugin.write_text("x = 2\n")
    assert code_digest((plugin,)) != first


def test_every_layer_that_decides_a_result_is_in_the_code_digest() -> None:
    package = Path(windtunnel.__file__).parent
    assert all(any((package / layer).rglob("*.py")) for layer in DECIDING_LAYERS)
