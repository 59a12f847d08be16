"""The runner for most models: a class, and what to override of its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from windtunnel.config.nearest import suggestion
from windtunnel.runner.model import LMBase
from windtunnel.runner.runner import OPTIMIZER_ARGUMENTS, LMRunnerBase


class BasicModelRunner(LMRunnerBase):
    """Makes ``model_class(**arguments)``; ``overrides`` win over what is asked or was saved."""

    def __init__(
        self,
        model_class: type[LMBase],
        max_batch_size: int = 25,
        overrides: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, **kwargs)
        self.model_class = model_class
        self.overrides = dict(overrides or {})

    def _construct_model(
        self,
        device: Any,
        model_weights: Mapping[str, Any] | None = None,
        model_args: Mapping[str, Any] | None = None,
        strict: bool = False,
        **parameters: Any,
    ) -> tuple[Any, ...]:
        arguments = {**(model_args or {}), **parameters, **self.overrides}
        known = _arguments_of(self.model_class)
        for name in sorted(parameters.keys() - known - {"num_blocks"}):
            near = suggestion(name, sorted({*known, *OPTIMIZER_ARGUMENTS}))
            self._note(f"{name} is no argument of {self.model_class.__name__}{near}")
        model = self.model_class(**arguments)
        if model_weights is None:
            return model.to(device), model.init_kwargs
        missing, unexpected = model.load_state_dict(dict(model_weights), strict=strict)
        return model.to(device), model.init_kwargs, missing, unexpected


def _arguments_of(model_class: type) -> set[str]:
    """The names that a class and those above it give their arguments: what one passes on as
    ``**kwargs`` another one takes."""
    makers = [vars(cls)["__init__"] for cls in model_class.__mro__ if "__init__" in vars(cls)]
    names = {name for maker in makers if inspect.isfunction(maker)
             for name in inspect.signature(maker).parameters}  # fmt: skip
    return names - {"self", "args", "kwargs"}
