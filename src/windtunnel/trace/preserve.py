"""Leaves a module and the random generators as a forward found them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@contextmanager
def preserved(module: nn.Module, devices: Iterable[torch.device]) -> Iterator[None]:
    """Restores, on the way out, also after an error:

    - every buffer (running statistics, caches), in place and in the module it belongs to;
    - PyTorch's random state, on the CPU and on the CUDA devices given, and Python's.

    A forward touches neither parameters, gradients nor the training mode. Not restored: plain
    attributes that a module sets on itself, and inputs that it changes in place.
    """
    buffers = [_SavedBuffers.of(one) for one in module.modules()]
    cuda = sorted({d.index for d in devices if d.type == "cuda" and d.index is not None})
    python_state = random.getstate()
    with torch.random.fork_rng(devices=cuda):
        try:
            yield
        finally:
            random.setstate(python_state)
            for saved in buffers:
                saved.restore()


@dataclass(frozen=True)
class _SavedBuffers:
    owner: nn.Module
    originals: dict[str, Tensor | None]
    copies: dict[str, Tensor]

    @classmethod
    def of(cls, owner: nn.Module) -> _SavedBuffers:
        originals = dict(owner._buffers)
        copies = {name: b.detach().clone() for name, b in originals.items() if b is not None}
        return cls(owner, originals, copies)

    def restore(self) -> None:
        """Back to the same tensor objects with the same content."""
        with torch.no_grad():
            for name, copy in self.copies.items():
                buffer = self.originals[name]
                assert buffer is not None
                # Written only when it changed: an expanded buffer, say, cannot be written to.
                if buffer.shape != copy.shape:
                    buffer.resize_(copy.shape).copy_(copy)
                elif not (buffer.is_meta or torch.equal(buffer, copy)):
                    buffer.copy_(copy)
        self.owner._buffers.clear()
        self.owner._buffers.update(self.originals)
