"""Writing so that a crash leaves the old content or the new, never half of it.

The one place that knows the dance: write beside the target, flush to the disk, rename, flush the
folder.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(
    path: Path, content: str | bytes, *, guard: Callable[[], None] | None = None
) -> None:
    """Replace ``path`` by ``content``: readers see the old file or the new one, whole.

    Args:
        guard: asked at the last moment; raises where nothing may be written any more.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp gives 0600
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if guard is not None:
            guard()
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that a rename within it survives a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """Standard JSON: a number that is not finite becomes ``null``, keys keep their order.

    >>> strict_json({"loss": float("nan"), "step": 3})
    '{"loss": null, "step": 3}'
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
