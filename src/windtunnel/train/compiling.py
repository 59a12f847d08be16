"""torch.compile for the loss of training steps: always, or where a measurement says that it pays.

Evaluation, generation and checkpoints see the model as it is. Dropout draws as it does without
(``fallback_random``), and each shape of a batch is compiled by itself, so that a kernel does not
depend on the shapes that came before it and a resumed run computes with the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from windtunnel.errors import RunError

Loss = Callable[[Any], Tensor]
Compiler = Callable[[nn.Module], Loss]
Choice = Literal["eager", "compiled"]

MEASURED = 5
"""Steps of each kind that are timed; the one before them warms up, or compiles."""
LEAST_SECONDS = 60.0
"""``auto`` compiles nothing where the steps left take less without it: even small models take tens
of seconds to compile on a CPU (docs/training.md)."""
MOST_SHAPES = 8
"""Shapes of batches in one run; each is compiled by itself."""

_COMPILER_MODULES = ("torch._dynamo.", "torch._inductor.", "torch._functorch.")


def compile_loss(loss: nn.Module) -> Loss:
    """``loss`` under torch.compile's default compiler; it compiles when first called."""
    torch_compile: Any = torch.compile  # its overloads lack the last two arguments
    compiled: Loss = torch_compile(
        loss,
        dynamic=False,
        options={"fallback_random": True},
        recompile_limit=8 * MOST_SHAPES,
        isolate_recompiles=True,
    )
    return compiled


class Compiling:
    """The loss of a piece of a batch, eager or compiled; with ``auto`` it finds out which pays.

    ``auto`` times :data:`MEASURED` eager steps, compiles, and times as many compiled ones. It stays
    compiled where (eager − compiled) × steps left is more than what compiling took.

    Args:
        loss: what is called eagerly.
        mode: ``on`` or ``auto``.
        compiler: makes the compiled loss; called at the first compiled step.
        least_seconds: ``auto`` does not try where the steps left take less.
    """

    def __init__(
        self,
        loss: nn.Module,
        mode: Literal["on", "auto"],
        *,
        compiler: Compiler = compile_loss,
        least_seconds: float = LEAST_SECONDS,
    ) -> None:
        self._loss = loss
        self._compiler = compiler
        self._compiled: Loss | None = None
        self._least_seconds = least_seconds
        self._mode = mode
        self._times: dict[Choice, list[float]] = {"eager": [], "compiled": []}
        self._shapes: set[tuple[Any, ...]] = set()
        self.now: Choice = "compiled" if mode == "on" else "eager"
        """What the next step computes with."""
        self.told: dict[str, Any] | None = None
        """What was chosen and why, for log and record; None until it is known."""

    def __call__(self, batch: Any) -> Tensor:
        if self.now == "eager":
            return self._loss(batch)  # type: ignore[no-any-return]
        self._shapes.add(_shapes(batch))
        if len(self._shapes) > MOST_SHAPES:
            raise RunError(
                f"train.compile: batches have more than {MOST_SHAPES} shapes, and each is compiled "
                "by itself; set compile: off"
            )
        if self._compiled is None:
            self._compiled = self._compiler(self._loss)
        return self._compiled(batch)

    def resume(self, told: Sequence[Mapping[str, Any]]) -> None:
        """``auto``: takes the choice that this run made before it was interrupted, if it did."""
        if self._mode == "auto" and told:
            self._decide({name: told[-1][name] for name in told[-1] if name != "message"})

    def after_step(self, step: int, seconds: float, left: int) -> dict[str, Any] | None:
        """Counts a step that took ``seconds``, with ``left`` to go; what the log should tell of it:
        once with ``on``, once with ``auto`` (its choice and why), else None."""
        if self.told is not None:
            return None
        if self._mode == "on":
            return self._decide({"step": step, "chosen": "compiled", "first_step_seconds": seconds})
        times = self._times[self.now]
        times.append(seconds)
        if len(times) <= MEASURED:
            return None
        eager = median(self._times["eager"][1:])
        if self.now == "eager":
            if eager * left >= self._least_seconds:
                self.now = "compiled"
                return None
            return self._decide({"step": step, "chosen": "eager", "eager_seconds": eager})
        compiled = median(times[1:])
        spent = max(0.0, sum(times) - len(times) * compiled)
        pays = (eager - compiled) * left > spent
        return self._decide(
            {
                "step": step,
                "chosen": "compiled" if pays else "eager",
                "eager_seconds": eager,
                "compiled_seconds": compiled,
                "compile_seconds": spent,
            }
        )

    def _decide(self, told: dict[str, Any]) -> dict[str, Any]:
        self.now, self.told = told["chosen"], told
        if self.now == "eager":
            self._compiled = None
        return told


@contextmanager
def explained() -> Iterator[None]:
    """Around forward and backward: a failure to compile is told in one line.

    Raises:
        RunError: torch's compiler failed.
    """
    try:
        yield
    except Exception as error:
        if not f"{type(error).__module__}.".startswith(_COMPILER_MODULES):
            raise
        text = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]
        why = " ".join(text.split())[:200]
        raise RunError(
            f"train.compile: compiling failed ({type(error).__name__}: {why}); set compile: off"
        ) from error


def _shapes(batch: Any) -> tuple[Any, ...]:
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    assert is_dataclass(batch)
    values = [getattr(batch, field.name) for field in fields(batch)]
    return tuple(tuple(value.shape) for value in values if isinstance(value, Tensor))
