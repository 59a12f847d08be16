"""What is written under ``train.optimizer``. No torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from windtunnel.config import Choice, Config, offer

if TYPE_CHECKING:
    from torch.optim import Optimizer

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Fraction, Fraction]
Shape = Sequence[int]
Groups = list[dict[str, Any]]
"""What torch takes: ``params`` and ``weight_decay`` of each group."""

VECTOR_LIKE = re.compile(r"norm|embed|position|bias|a_log")
HEAD = re.compile(r"(^|\.)head\.")


def is_matrix(name: str, shape: Shape) -> bool:
    """Whether a parameter maps vectors to vectors: what weight decay acts on.

    Not vectors and scalars, nor what a part of its dotted name calls a norm, an embedding (a tied
    head is one), a position, a bias or the logarithm of a decay rate, ``a_log``.

    >>> is_matrix("layers.0.mlp.up.weight", (4, 2)), is_matrix("embedding.weight", (4, 2))
    (True, False)
    """
    return len(shape) >= 2 and not VECTOR_LIKE.search(name.lower())


def _fits(values: int, below: int | None) -> bool:
    return below is None or values < below


class OptimizerConfig(Config):
    """The base of all optimizers; ``type`` picks one.

    ``train.lr`` times the schedule is the learning rate γ of every one of them, and the decay λ,
    ``train.weight_decay``, is decoupled for all but adam: w ← w − γ λ w, beside the step
    (arXiv 1711.05101).
    """

    adam_like: ClassVar[bool] = False
    """Whether every number moves by about γ, whatever the gradient's size: what muP rests on."""

    type: str

    def base_decay(self, weight_decay: float) -> float:
        """The decay of a matrix, where ``train.weight_decay`` is ``weight_decay``."""
        return weight_decay

    def width_factor(self, ratio: float) -> float | None:
        """muP's factor of the rate of a matrix inside a model ``ratio`` times as wide as the base;
        None where there is no such rule."""
        return 1 / ratio if self.adam_like else None

    def takes(self, name: str, shape: Shape) -> bool:
        """Whether it can move a parameter."""
        return True

    def remainder(self) -> OptimizerConfig:
        """What moves the parameters that it does not take."""
        raise NotImplementedError(type(self).__qualname__)

    def state_values(self, shape: Shape) -> int:
        """Numbers that it keeps for a parameter of that shape, counters included."""
        raise NotImplementedError(type(self).__qualname__)

    def update_values(self, shapes: Sequence[Shape], below: int | None = None) -> int:
        """Numbers that a step on parameters of those shapes works with besides, in blocks of fewer
        than ``below`` each: unless told, as many as the largest has."""
        return max((math.prod(s) for s in shapes if _fits(math.prod(s), below)), default=0)

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        """The torch optimizer of those groups; ``betas`` and ``eps`` are those of the recipe."""
        raise NotImplementedError(type(self).__qualname__)


class AdamConfig(OptimizerConfig):
    """Adam (arXiv 1412.6980): no decoupled decay; ``train.weight_decay`` does not act."""

    adam_like: ClassVar[bool] = True

    type: Literal["adam"] = "adam"
    betas: Betas | None = None
    """Memory of the averages of the gradient and of its square; `train.betas` if not given."""
    eps: Positive | None = None
    """Added to the root of the averaged square; `train.eps` if not given."""
    l2: NotNegative = 0.0
    """A penalty: the matrix times this is added to its gradient, as torch's `weight_decay`."""

    def base_decay(self, weight_decay: float) -> float:
        return self.l2

    def state_values(self, shape: Shape) -> int:
        return 2 * math.prod(shape) + 1

    def update_values(self, shapes: Sequence[Shape], below: int | None = None) -> int:
        return 0  # fused

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.torch_own import adam

        return adam(groups, self.betas or betas, self.eps or eps)


class AdamWConfig(OptimizerConfig):
    """AdamW (arXiv 1711.05101): torch's own, fused where the device has it."""

    adam_like: ClassVar[bool] = True

    type: Literal["adamw"] = "adamw"
    betas: Betas | None = None
    """Memory of the averages of the gradient and of its square; `train.betas` if not given."""
    eps: Positive | None = None
    """Added to the root of the averaged square; `train.eps` if not given."""

    def state_values(self, shape: Shape) -> int:
        return 2 * math.prod(shape) + 1

    def update_values(self, shapes: Sequence[Shape], below: int | None = None) -> int:
        return 0  # fused

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.torch_own import adamw

        return adamw(groups, self.betas or betas, self.eps or eps)


class AdagradConfig(OptimizerConfig):
    """Adagrad (Duchi et al. 2011): torch's own, with decoupled decay."""

    type: Literal["adagrad"] = "adagrad"
    eps: Positive = 1e-10
    """Added to the root of the summed squares."""
    initial: NotNegative = 0.0
    """The sum of squares at the start."""

    def state_values(self, shape: Shape) -> int:
        return math.prod(shape) + 1

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.torch_own import Adagrad

        return Adagrad(groups, lr=1.0, eps=self.eps, initial_accumulator_value=self.initial)


class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent: torch's own, with decoupled decay.

    b ← μ b + g; w ← w − γ b, or with nesterov w ← w − γ (g + μ b).
    """

    type: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.9
    """μ, how much of the last step is kept; 0: plain gradient descent, without any state."""
    nesterov: bool = False
    """Whether the step looks ahead."""

    def state_values(self, shape: Shape) -> int:
        return math.prod(shape) if self.momentum else 0

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.torch_own import SGD

        nesterov = self.nesterov and self.momentum > 0
        return SGD(groups, lr=1.0, momentum=self.momentum, nesterov=nesterov)


class RMSpropConfig(OptimizerConfig):
    """RMSprop (Tieleman and Hinton 2012): torch's own, with decoupled decay."""

    type: Literal["rmsprop"] = "rmsprop"
    alpha: Fraction = 0.99
    """Memory of the average of the squared gradient."""
    eps: Positive = 1e-8
    """Added to the root of the averaged square; centered, alone under a gradient that stays."""
    momentum: Fraction = 0.0
    """How much of the last step is kept."""
    centered: bool = False
    """Whether the square of the averaged gradient is taken off the average of its square."""

    def state_values(self, shape: Shape) -> int:
        return (1 + (self.momentum > 0) + self.centered) * math.prod(shape) + 1

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.torch_own import RMSprop

        return RMSprop(
            groups, lr=1.0, alpha=self.alpha, eps=self.eps,
            momentum=self.momentum, centered=self.centered,
        )  # fmt: skip


class AdafactorConfig(OptimizerConfig):
    """Adafactor (arXiv 1804.04235, algorithm 4): torch's own. A row and a column of second moments
    for each matrix; the learning rate is relative to the size of the weights, and at most 1/√t.
    The paper adds 1e-30 to squared gradients; torch holds second moments at ``eps[0]``² or more."""

    type: Literal["adafactor"] = "adafactor"
    beta2_decay: Annotated[float, Field(lt=0, allow_inf_nan=False)] = -0.8
    """c: the second moments remember 1 − t^c at step t."""
    eps: tuple[Positive, Positive] | None = None
    """The least root of a second moment, and least size of weights; 1.2e-7, 1e-3 if not given."""
    threshold: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    """The root mean square to which an update is cut."""

    @field_validator("eps")
    @classmethod
    def _has_a_square(cls, eps: Any) -> Any:
        if eps is not None and eps[0] ** 2 < 2.0**-126:
            why = (
                "torch squares it, float32 cannot hold that, and rows without a gradient become NaN"
            )
            raise ValueError(f"{eps[0]:g} is below 1.1e-19: {why}; the paper's 1e-30 is 1e-15 here")
        return eps

    def state_values(self, shape: Shape) -> int:
        if len(shape) < 2:
            return math.prod(shape) + 1
        return math.prod(shape) // shape[-1] + math.prod(shape) // shape[-2] + 1

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.torch_own import adafactor

        return adafactor(groups, self.beta2_decay, self.eps or (None, 1e-3), self.threshold)


class LionConfig(OptimizerConfig):
    """Lion (arXiv 2302.06675, algorithm 2): steps of the sign of an average. The paper advises a
    learning rate 3 to 10 times smaller than AdamW's, and a decay as many times larger."""

    adam_like: ClassVar[bool] = True

    type: Literal["lion"] = "lion"
    betas: Betas = (0.9, 0.99)
    """How much of the momentum is in the step, and how long it remembers."""

    def state_values(self, shape: Shape) -> int:
        return math.prod(shape)

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.lion import Lion

        return Lion(groups, betas=self.betas)


class MuonConfig(OptimizerConfig):
    """Muon (Jordan et al. 2024): orthogonal steps for the matrices inside the stack; the rest
    (embeddings, head, vectors) is moved by another optimizer, at the same learning rate."""

    type: Literal["muon"] = "muon"
    momentum: Fraction = 0.95
    """Memory of the average of the gradient."""
    nesterov: bool = True
    """Whether the step looks ahead."""
    steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Iterations of Newton and Schulz that make the step nearly orthogonal."""
    adjust: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """The step of an (a, b) matrix is multiplied by 0.2·√max(a, b), so that the learning rate and
    decay of AdamW serve (arXiv 2502.16982, 2.2); or, original, by √max(1, a/b)."""
    rest: Annotated[OptimizerConfig, Choice("optimizer")] = AdamWConfig()
    """What moves the rest."""

    def takes(self, name: str, shape: Shape) -> bool:
        return len(shape) == 2 and is_matrix(name, shape) and not HEAD.search(name)

    def remainder(self) -> OptimizerConfig:
        return self.rest

    def width_factor(self, ratio: float) -> float | None:
        """What keeps the step's largest singular value: the original scaling does by itself."""
        return 1.0 if self.adjust == "original" else ratio**-0.5

    def state_values(self, shape: Shape) -> int:
        return math.prod(shape)

    def update_values(self, shapes: Sequence[Shape], below: int | None = None) -> int:
        """Matrices of one shape are iterated together: what is looked at, matrix by matrix, its
        stack, and of an iteration the stack and three terms, with the smaller side's square."""
        most = 0
        for (a, b), n in Counter(map(tuple, shapes)).items():
            looked = n * a * b * _fits(a * b, below)
            stacks = (5 * n * a * b + n * min(a, b) ** 2) * _fits(n * a * b, below)
            most = max(most, looked + stacks)
        return most

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.muon import Muon

        return Muon(
            groups, momentum=self.momentum, nesterov=self.nesterov,
            steps=self.steps, adjust=self.adjust,
        )  # fmt: skip


class SOAPConfig(OptimizerConfig):
    """SOAP (arXiv 2409.11321, algorithm 3): Adam in the eigenbasis of Shampoo's preconditioner."""

    type: Literal["soap"] = "soap"
    betas: Betas = (0.95, 0.95)
    """Memory of the averages of the gradient and of its squares."""
    eps: Positive = 1e-8
    """Added to the root of the averaged square."""
    every: Annotated[int, Field(ge=1)] = 10
    """Steps between two turns of the basis."""
    max_dim: Annotated[int, Field(ge=1)] = 2048
    """A longer side of a matrix (a vocabulary) keeps its own basis."""

    def state_values(self, shape: Shape) -> int:
        moments = 2 * math.prod(shape) + 1
        if len(shape) < 2:
            return moments
        sides = sum(2 * n * n for n in shape[-2:] if n <= self.max_dim)
        return moments + math.prod(shape[:-2]) * sides

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.soap import SOAP

        return SOAP(groups, betas=self.betas, eps=self.eps, every=self.every, max_dim=self.max_dim)


class ScheduleFreeConfig(OptimizerConfig):
    """Schedule-free AdamW (arXiv 2405.15682, algorithm 1): an average of the weights in place of a
    falling rate. Give it ``schedule: flat``, with a warm-up. What is evaluated and saved is the
    average."""

    adam_like: ClassVar[bool] = True

    type: Literal["schedule_free_adamw"] = "schedule_free_adamw"
    betas: tuple[Annotated[float, Field(gt=0, lt=1)], Fraction] = (0.9, 0.999)
    """How much of the average is in the weights that gradients are taken at, and the memory of the
    averaged square."""
    eps: Positive = 1e-8
    """Added to the root of the averaged square."""

    def state_values(self, shape: Shape) -> int:
        return 2 * math.prod(shape) + 1

    def update_values(self, shapes: Sequence[Shape], below: int | None = None) -> int:
        return 4 * super().update_values(shapes, below)

    def make(self, groups: Groups, betas: Betas, eps: float) -> Optimizer:
        from windtunnel.train.optimizers.schedule_free import ScheduleFreeAdamW

        return ScheduleFreeAdamW(groups, betas=self.betas, eps=self.eps)


class Optimizers:
    """The optimizers by name: those of the package, and those that plugins register."""

    def __init__(self) -> None:
        self._classes: dict[str, type[OptimizerConfig]] = {}
        offer("optimizer", self)

    def register(self, cls: type[OptimizerConfig]) -> type[OptimizerConfig]:
        """Adds a config class under the default of its ``type``; a second one is refused."""
        name = cls.model_fields["type"].default
        known = self._classes.get(name, cls)
        same = (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)
        if not same:
            raise ValueError(f"optimizer {name!r} is registered twice: {known}, {cls}")
        self._classes[name] = cls
        return cls

    def names(self) -> Iterable[str]:
        return tuple(sorted(self._classes))

    def config_class(self, name: str) -> type[BaseModel] | None:
        return self._classes.get(name)

    def __iter__(self) -> Any:
        return iter(self._classes.values())


OPTIMIZERS = Optimizers()
for _cls in (
    AdamWConfig,
    AdamConfig,
    AdagradConfig,
    SGDConfig,
    RMSpropConfig,
    AdafactorConfig,
    LionConfig,
    MuonConfig,
    SOAPConfig,
    ScheduleFreeConfig,
):
    OPTIMIZERS.register(_cls)
