"""The runner for most models: a class, and what to override of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.runner.model import LMBase
from windtunnel.runner.runner import LMRunnerBase


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
        model = self.model_class(**arguments)
        if model_weights is None:
            return model.to(device), model.init_kwargs
        missing, unexpected = model.load_state_dict(dict(model_weights), strict=strict)
        return model.to(device), model.init_kwargs, missing, unexpected
