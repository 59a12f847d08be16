"""The optimizers of a run as one: built from the recipe's groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from windtunnel.train.config import TrainConfig
from windtunnel.train.groups import Group, WidthScale, parameter_groups
from windtunnel.train.optimizers.config import OptimizerConfig
from windtunnel.train.optimizers.schedule_free import ScheduleFreeAdamW
from windtunnel.train.optimizers.torch_own import RMSprop


class Together(Optimizer):
    """Several optimizers that take their steps together, each with its own groups and state."""

    def __init__(self, parts: Iterable[Optimizer]) -> None:
        self.parts = tuple(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the parts, not copies: what is set here is what they read."""
        return [group for part in self.parts for group in part.param_groups]

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        assert not value, "each part keeps its own"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Nothing: the parts have their groups."""

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """All that the parts remember, by parameter."""
        held = ((p, values) for part in self.parts for p, values in part.state.items())
        return defaultdict(dict, held)

    @state.setter
    def state(self, value: Any) -> None:
        assert not value, "each part keeps its own"

    def step(self, closure: Any = None) -> Any:
        for part in self.parts:
            part.step(closure)


def kind_of(part: Optimizer) -> str:
    """The name of an optimizer's class, and what decides which state it keeps."""
    name, settings = type(part).__name__, part.defaults
    if isinstance(part, RMSprop):
        name += " with momentum" * bool(settings["momentum"])
        name += " centered" * bool(settings["centered"])
    return name


def parts_of(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """The optimizers that a run's optimizer is made of."""
    return optimizer.parts if isinstance(optimizer, Together) else (optimizer,)


def build_optimizer(
    config: TrainConfig,
    parameters: Mapping[str, nn.Parameter],
    tagged: Iterable[str] = (),
    scale: WidthScale | None = None,
) -> Optimizer:
    """What the recipe's optimizers move, over the given parameters; frozen ones are left out.

    Each group of torch has besides ``lr_factor``, of the rate that the loop sets before each step.

    Raises:
        UsageError: a rule of ``train.groups`` cannot be followed.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    by_optimizer: list[tuple[OptimizerConfig, list[Group]]] = []
    for group in parameter_groups(config, shapes, tagged, scale):
        if group.treatment.frozen:
            continue
        for optimizer, groups in by_optimizer:
            if optimizer == group.treatment.optimizer:
                groups.append(group)
                break
        else:
            by_optimizer.append((group.treatment.optimizer, [group]))
    built = []
    for optimizer, groups in by_optimizer:
        described = [
            {
                "params": [parameters[name] for name in group.names],
                "weight_decay": group.treatment.weight_decay,
                "lr": config.lr * group.treatment.lr,
                "lr_factor": group.treatment.lr,
            }
            for group in groups
        ]
        built.append(optimizer.make(described, config.betas, config.eps))
    return built[0] if len(built) == 1 else Together(built)


def freeze(config: TrainConfig, model: nn.Module) -> None:
    """Asks for no gradient of the frozen parameters.

    Raises:
        UsageError: a rule of ``train.groups`` cannot be followed.
    """
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    for group in parameter_groups(config, shapes):
        if group.treatment.frozen:
            for name in group.names:
                parameters[name].requires_grad_(False)


def tagged_names(model: nn.Module) -> frozenset[str]:
    """The parameters that ask for the secondary optimizer."""
    return frozenset(
        name for name, p in model.named_parameters() if getattr(p, "secondary_optimizer", False)
    )


def use_average(optimizer: Optimizer, *, on: bool) -> bool:
    """For optimizers whose result is an average: the parameters become it, or, off, what is trained
    again. Whether there is such an optimizer."""
    for part in parts_of(optimizer):
        if isinstance(part, ScheduleFreeAdamW):
            part.average() if on else part.train()
    return has_average(optimizer)


def has_average(optimizer: Optimizer) -> bool:
    """Whether the result of some of the optimizers is an average."""
    return any(isinstance(part, ScheduleFreeAdamW) for part in parts_of(optimizer))


def state_sizes(optimizer: Optimizer) -> int:
    """Numbers that an optimizer keeps."""
    kept = (v for values in optimizer.state.values() for v in values.values())
    return sum(value.numel() for value in kept if isinstance(value, Tensor))
