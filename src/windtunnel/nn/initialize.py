"""Initialisation: each parameter from its own generator, keyed by (seed, name).

Two architectures that share a parameter's name and shape share its initial value; nothing depends
on the order of construction, on the device or on the rest of the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

Fill: TypeAlias = Callable[[torch.Size, torch.Generator], Tensor]
"""Values of a shape; whatever is random in them comes from the generator."""


@dataclass(frozen=True)
class Init:
    """The distribution of one parameter.

    ``normal``: N(0, scale²). ``uniform``: U(−scale, scale). ``constant``: scale everywhere.
    ``orthogonal``: rows (or columns) of a random rotation, times scale; blocks of ``blocks`` rows
    each on their own. ``given``: scale times what ``values`` returns.
    """

    kind: Literal["normal", "uniform", "constant", "orthogonal", "given"]
    scale: float
    blocks: int = 1
    values: Fill | None = None

    def fill(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """A float32 CPU tensor of that shape."""
        out = torch.empty(shape, dtype=torch.float32)
        if self.kind == "normal":
            return out.normal_(0.0, self.scale, generator=generator) if self.scale else out.zero_()
        if self.kind == "uniform":
            return out.uniform_(-self.scale, self.scale, generator=generator)
        if self.kind == "constant":
            return out.fill_(self.scale)
        if self.kind == "given":
            assert self.values is not None, "a given init needs values"
            return out.copy_(self.values(shape, generator)).mul_(self.scale)
        for block in out.chunk(self.blocks, dim=0):
            nn.init.orthogonal_(block, gain=self.scale, generator=generator)
        return out


def normal(std: float) -> Init:
    """N(0, std²)."""
    return Init("normal", std)


def uniform(bound: float) -> Init:
    """U(−bound, bound)."""
    return Init("uniform", bound)


def constant(value: float) -> Init:
    """The same value everywhere."""
    return Init("constant", value)


def given(values: Fill) -> Init:
    """Whatever ``values(shape, generator)`` returns."""
    return Init("given", 1.0, values=values)


def keyed_generator(seed: int, *key: object) -> torch.Generator:
    """A CPU generator that depends on (seed, key) alone.

    >>> a = torch.rand(2, generator=keyed_generator(0, "head.weight"))
    >>> bool((a == torch.rand(2, generator=keyed_generator(0, "head.weight"))).all())
    True
    """
    text = "\0".join(str(part) for part in (seed, *key))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(number & (2**63 - 1))


def initialize(model: nn.Module, seed: int, *, parameters: bool = True) -> None:
    """Fills every parameter and buffer of ``model`` in place; without ``parameters``, buffers only.

    Each module names the :class:`Init` of its direct parameters with ``initializers()``, and gives
    the values of its direct buffers with ``buffer_values(seed, its full name)`` where it has any;
    every persistent one must be among them. A shared parameter takes the first name under which it
    is found.
    """
    done: set[int] = set()
    with torch.no_grad():
        for prefix, module in model.named_modules():
            inits = module.initializers() if hasattr(module, "initializers") else {}
            own = dict(module.named_parameters(recurse=False))
            missing = [n for n in own if n not in inits and id(own[n]) not in done]
            assert not missing, f"{prefix or type(module).__name__}: no init for {missing}"
            for name, parameter in own.items():
                if id(parameter) in done:
                    continue
                done.add(id(parameter))
                if not parameters:
                    continue
                full_name = f"{prefix}.{name}" if prefix else name
                value = inits[name].fill(parameter.shape, keyed_generator(seed, full_name))
                parameter.copy_(value)
            values = module.buffer_values(seed, prefix) if hasattr(module, "buffer_values") else {}
            kept = dict(module.named_buffers(recurse=False)).keys()
            empty = kept - values.keys() - module._non_persistent_buffers_set
            assert not empty, _without_values(prefix or type(module).__name__, module, empty)
            for name, value in values.items():
                module.get_buffer(name).copy_(value)


def _without_values(where: str, module: nn.Module, names: Iterable[str]) -> str:
    """What is missing, and the lines that give it."""
    names = sorted(names)
    given = ", ".join(f"{n!r}: torch.zeros({tuple(module.get_buffer(n).shape)})" for n in names)
    return (
        f"{where}: no values for {names}: `buffer_values` must give those of each buffer, "
        f"as in `def buffer_values(self, seed, name): return {{{given}}}`"
    )


def fan_in_std(fan_in: int) -> float:
    """The deviation that keeps the variance of a product: 1/√fan_in (LeCun et al. 1998)."""
    return 1.0 / math.sqrt(fan_in)
