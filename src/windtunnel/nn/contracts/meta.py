"""A component is built without memory first, as every model is, and gets its values afterwards."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from windtunnel.nn.component import Span, build_component
from windtunnel.nn.contracts.case import Case, make_input, require, run
from windtunnel.nn.initialize import initialize


def check_meta(case: Case) -> None:
    """Built on torch's meta device and initialized, it is the same as built in memory."""
    module = _built_without_memory(case)
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            plain = isinstance(value, Tensor) and value.is_meta
            where = f"{name}.{key}" if name else key
            message = (
                f"{where} is a plain tensor that __init__ made, which has no values in a model: "
                "register it as a buffer, and give its values in `buffer_values`"
            )
            require(not plain, case, message)
    module.to_empty(device="cpu")
    with torch.no_grad():
        for value in chain(module.parameters(), module.buffers()):
            value.fill_(float("nan") if value.is_floating_point() else 0)
    initialize(module, 0)
    expected = build_component(case.kind, case.resolved, case.scope)
    initialize(expected, 0)
    for name, value in chain(module.named_parameters(), module.named_buffers()):
        finite = not value.is_floating_point() or not bool(value.isnan().any())
        require(finite, case, f"{name} has no values: give them in `buffer_values`")
    x = make_input(case, dtype=torch.float32)
    y, other = (run(one.eval(), x.clone(), Span.of(x.shape[1])) for one in (module, expected))
    message = (
        "built on the meta device and initialized, it is another function than built in memory"
    )
    require(torch.equal(y, other), case, message)


def _built_without_memory(case: Case) -> nn.Module:
    try:
        with torch.device("meta"):
            module: nn.Module = build_component(case.kind, case.resolved, case.scope)
    except Exception as error:  # a component may be foreign code: whatever it raises is its fault
        raise AssertionError(
            f"{case}: __init__ cannot run on torch's meta device, where every model is built (no "
            f"value may be looked at): {type(error).__name__}: {error}"
        ) from error
    return module
