"""Safetensors files, written in one pass: flushed to the disk and hashed on the way.

The library's own writer holds a second copy of all tensors in memory, and hides a full disk behind
an error of its own. The format: github.com/huggingface/safetensors, README. Reading is the
library's.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write the tensors and flush them; the SHA-256 of the file, as hex digits.

    Args:
        metadata: what else the file says, in this order.

    Raises:
        OSError: the disk is full, say; the file is then incomplete.
    """
    assert sys.byteorder == "little", "the format is little-endian"
    # Wide numbers first, as the library does: each tensor then starts at a multiple of its size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    total = hashlib.sha256()
    with path.open("wb") as file:
        for part in (struct.pack("<Q", len(text)), text):
            total.update(part)
            file.write(part)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            content = flat.view(torch.uint8).numpy().data
            total.update(content)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return total.hexdigest()


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in a file, by name, without reading its tensors."""
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
