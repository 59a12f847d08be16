"""torch.compile for the loss of training steps: always, or where a measurement says that it pays.

Evaluation, generation and checkpoints see the model as it is. Dropout draws as it does without
(``fallback_random``). The first shapes of batches in a run are each compiled by itself, and others
are computed without: so a kernel does not depend on the shapes that came before it, and a resumed
run computes with the same ones.
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
"""Shapes of batches that are compiled in one run, each by itself; later ones are not."""

_COMPILER_MODULES = ("torch._dynamo.", "torch._inductor.", "torch._functorch.", "triton.")


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
    compiled where (eager − compiled) × steps left is more than what compiling took. Where the
    compiler fails, ``auto`` goes on without it.

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
        self._failure: str | None = None
        self.shapes: list[str] = []
        """Those of the run's batches that were to be compiled, as they came: those that are
        compiled, and one more as soon as there was one too many. Part of a run's progress."""
        self.warnings: list[str] = []
        """What the log should tell; whoever reads them clears them."""
        self.now: Choice = "compiled" if mode == "on" else "eager"
        """What the next step computes with."""
        self.told: dict[str, Any] | None = None
        """What was chosen and why, for log and record; None until it is known."""

    def __call__(self, batch: Any) -> Tensor:
        if self.now == "eager":
            return self._loss(batch)  # type: ignore[no-any-return]
        if not self._is_compiled(_shapes(batch)):
            return self._loss(batch)  # type: ignore[no-any-return]
        if self._compiled is None:
            self._compiled = self._compiler(self._loss)
        return self._compiled(batch)

    def _is_compiled(self, shapes: str) -> bool:
        """Whether batches of these shapes are; the first :data:`MOST_SHAPES` of a run are."""
        if shapes not in self.shapes and len(self.shapes) <= MOST_SHAPES:
            self.shapes.append(shapes)
            if len(self.shapes) > MOST_SHAPES:
                self.warnings.append(
                    f"train.compile: batches have more than {MOST_SHAPES} shapes; the first "
                    f"{MOST_SHAPES} are compiled, and steps of other shapes are not"
                )
        return shapes in self.shapes[:MOST_SHAPES]

    def gives_up(self, error: Exception) -> bool:
        """``auto``: whether an error is the compiler's; then the run goes on without it, from the
        start of the step, and says so."""
        if self._mode != "auto" or not is_compilers(error):
            return False
        self._failure = _told(error)
        self.now, self._compiled = "eager", None
        self.warnings.append(
            f"train.compile: compiling failed ({self._failure}); the run goes on without"
        )
        return True

    def resume(self, told: Sequence[Mapping[str, Any]]) -> None:
        """``auto``: takes the choice that this run made before it was interrupted, if it did."""
        if self._mode == "auto" and told:
            self._decide({name: told[-1][name] for name in told[-1] if name != "message"})

    def after_step(self, step: int, seconds: float, left: int) -> dict[str, Any] | None:
        """Counts a step that took ``seconds``, with ``left`` to go; what the log should tell of it:
        once with ``on``, once with ``auto`` (its choice and why), else None."""
        if self._failure is not None and "failure" not in (self.told or {}):
            return self._decide({"step": step, "chosen": "eager", "failure": self._failure})
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
        if not is_compilers(error):
            raise
        raise RunError(
            f"train.compile: compiling failed ({_told(error)}); set compile: off, or auto, which "
            "goes on without"
        ) from error


def is_compilers(error: Exception) -> bool:
    """Whether an error was raised by torch's compiler, and not by what it compiles."""
    return f"{type(error).__module__}.".startswith(_COMPILER_MODULES)


def _told(error: Exception) -> str:
    text = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]
    return f"{type(error).__name__}: {' '.join(text.split())[:200]}"


def _shapes(batch: Any) -> str:
    """As ``4x16 4x16``: of each tensor of a batch."""
    values = [batch]
    if is_dataclass(batch):
        values = [getattr(batch, field.name) for field in fields(batch)]
    return " ".join("x".join(map(str, v.shape)) for v in values if isinstance(v, Tensor))
