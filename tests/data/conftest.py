"""Small corpora, and wheels made on the spot in place of downloaded ones."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from windtunnel.data.packages import Package, members_digest

MakeWheel = Callable[[Path, Mapping[str, bytes]], Package]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def make_wheel() -> MakeWheel:
    """Writes a wheel into a folder; gives the package that pins its wanted members."""

    def make(folder: Path, members: Mapping[str, bytes]) -> Package:
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / "toy-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        wanted = {name: text for name, text in members.items() if name.startswith("toy/texts/")}
        return Package(
            name="toy",
            version="1.0",
            wheel=wheel.name,
            wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            members=r"toy/texts/[a-z]+\.md",
            members_sha256=members_digest(wanted),
        )

    return make


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Twelve different files of a few hundred bytes."""
    folder = tmp_path / "books"
    folder.mkdir()
    for number in range(12):
        lines = [f"Book {number}, line {line}: the cat sat on the mat.\n" for line in range(20)]
        (folder / f"{number:02}.txt").write_text("".join(lines))
    return folder
