"""What a component costs: its closed forms against what is built and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from windtunnel.nn.component import ComponentConfig, Mixer, Scope, Span
from windtunnel.nn.contracts.case import Case, build, make_input, require, run, tensors
from windtunnel.nn.cost import Cost

_LENGTHS = (1, 5, 24, 240)
_KEPT_MARGIN = 0.1


def check_cost(case: Case) -> None:
    """Parameters, FLOPs and state are exactly those of the module, at several lengths."""
    module = build(case, dtype=torch.float32)
    params = sum(p.numel() for p in module.parameters())
    for t in _LENGTHS:
        if t > case.scope.max_seq_len:
            continue
        cost = case.resolved.cost(case.scope, t)
        _equal(cost.params, params, case, "parameters")
        flops = _measured_flops(lambda t=t: _forward(module, case, t))  # type: ignore[misc]
        _equal(cost.forward_flops * t, flops, case, f"forward FLOPs of {t} tokens")
        if isinstance(module, Mixer):
            _check_state(case, module, t, cost)
        else:
            _equal(cost.decode_flops, flops / t, case, "decoding FLOPs")


def _check_state(case: Case, module: Mixer[Any], t: int, cost: Cost) -> None:
    state = module.extend(make_input(case, 1, t).float(), module.initial_state(1), Span.of(t))[1]
    held = cost.state_values + t * cost.state_values_per_token
    _equal(held, sum(p.numel() for p in tensors(state)), case, f"state after {t} tokens")
    if case.scope.causal:
        more = make_input(case, 1, 1, seed=1).float()
        flops = _measured_flops(lambda: module.extend(more, state, Span.of(1, start=t)))
        _equal(cost.decode_flops, flops, case, f"decoding FLOPs after {t} tokens")


def check_kept(case: Case) -> None:
    """Numbers kept for the backward, within a tenth of what autograd is seen to keep.

    Bytes over 4, in float32 training, on the backends that are used; what does not grow with the
    batch (weights, shared masks) is left out by taking the difference of two batches.
    """
    module = build(case, dtype=torch.float32).train()
    for t in (16, 64, 192):
        if t > case.scope.max_seq_len:
            continue
        predicted = case.resolved.cost(case.scope, t).activation_values
        small, large = (_kept_values(module, case, b, t) for b in (2, 4))
        measured = (large - small) / (2 * t)
        margin = max(_KEPT_MARGIN * measured, 2.0)
        message = f"keeps {measured:.1f} numbers a token at {t} tokens, predicted {predicted:.1f}"
        require(abs(predicted - measured) <= margin, case, message)


def check_cost_of_arrays(case: Case) -> None:
    """One formula counts many: arrays in place of t, the width and every number of the config."""
    resolved = case.resolved
    lengths = np.array([1, 7, 200])
    many = resolved.cost(case.scope, lengths)
    for index, t in enumerate(lengths):
        _same_cost(many, resolved.cost(case.scope, int(t)), index, case, "t")
    places = [Scope(**{**vars(case.scope), "d_model": d}) for d in (16, 32)]
    width = Scope(**{**vars(case.scope), "d_model": np.array([16, 32])})
    many = resolved.cost(width, 200)
    for index, place in enumerate(places):
        _same_cost(many, resolved.cost(place, 200), index, case, "d_model")
    for name, value in resolved:
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        values = [value, value * 2]
        many = _with(resolved, name, np.array(values)).cost(case.scope, 200)
        for index, one in enumerate(values):
            _same_cost(many, _with(resolved, name, one).cost(case.scope, 200), index, case, name)


def _with(config: ComponentConfig, name: str, value: object) -> ComponentConfig:
    """A copy with one field set, whatever it is: as a space of architectures does it."""
    return type(config).model_construct(**{**dict(config), name: value})


def _same_cost(many: Cost, one: Cost, index: int, case: Case, what: str) -> None:
    for field in fields(Cost):
        values = np.broadcast_to(getattr(many, field.name), (3,) if what == "t" else (2,))
        message = f"{field.name} of an array of {what}"
        _equal(float(values[index]), float(getattr(one, field.name)), case, message)


def _forward(module: nn.Module, case: Case, t: int) -> Tensor:
    return run(module, make_input(case, 1, t).float(), Span.of(t))


@contextmanager
def products_visible() -> Iterator[None]:
    """Attention and recurrences as plain products, which the counter sees."""
    enabled: bool = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _measured_flops(call: Callable[[], object]) -> int:
    with products_visible(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _kept_values(module: nn.Module, case: Case, batch: int, t: int) -> float:
    """Bytes over 4 of all storages that a training forward keeps, the input's included."""
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value
        return value

    x = make_input(case, batch, t).float().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        y = run(module, x.clone(), Span.of(t))  # no leaf, which could not be changed in place
    if not y.requires_grad:
        return 0.0
    return sum(value.untyped_storage().nbytes() for value in kept.values()) / 4


def _equal(predicted: float, found: float, case: Case, what: str) -> None:
    same = abs(predicted - found) <= 1e-9 * max(abs(found), 1.0)
    require(same, case, f"{what}: predicted {predicted:,}, found {found:,}")
