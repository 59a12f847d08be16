"""What holds in evaluation holds in training as well, and what training changes is saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.nn.component import Span, after_update
from windtunnel.nn.contracts.behaviour import check_cuts
from windtunnel.nn.contracts.case import Case, build, close, make_input, require, run

_RANDOM_KNOBS = ("dropout", "noise")


def check_training(case: Case) -> None:
    """In training too: shape, causality, ``forward`` against ``extend``; randomness only by a knob
    named ``…dropout`` or ``…noise``."""
    with torch.random.fork_rng(devices=()):
        _check_training(case, make_input(case))


def _check_training(case: Case, x: Tensor) -> None:
    y, changed = _trained(case, x, seed=0)
    require(y.shape == x.shape, case, f"in training, {tuple(x.shape)} became {tuple(y.shape)}")
    require(y.dtype == x.dtype, case, f"in training, {x.dtype} became {y.dtype}")
    random = _is_random(case.resolved.model_dump().items())
    if not random:
        same = torch.equal(y, _trained(case, x, seed=1)[0])
        knobs = " or ".join(_RANDOM_KNOBS)
        require(same, case, f"in training, the output is random, without a knob named {knobs}")
    if not case.scope.causal:
        return
    for cut in (1, x.shape[1] // 2, x.shape[1] - 1):
        edited = x.clone()
        edited[:, cut:] += 1e4
        found = _trained(case, edited, seed=0)[0]  # the same drops as those of y
        close(found[:, :cut], y[:, :cut], case, f"in training, editing token {cut} on")
    if case.kind == "mixer" and not random and not changed:
        check_cuts(case, build(case).train(), x, (1, 2, 7, 8), during="in training, ")


def _trained(case: Case, x: Tensor, seed: int) -> tuple[Tensor, bool]:
    """The output of a new module in training, and whether its buffers were changed."""
    torch.manual_seed(0)  # what is drawn while it is built is check_seed's affair
    module = build(case).train()
    before = [buffer.clone() for buffer in module.buffers()]
    torch.manual_seed(seed)
    given = x.clone()
    y = run(module, given, Span.of(x.shape[1]))
    require(torch.equal(given, x), case, "in training, the input was changed")
    pairs = zip(before, module.buffers(), strict=True)
    return y, not all(torch.equal(one, other) for one, other in pairs)


def _is_random(knobs: Iterable[tuple[str, Any]]) -> bool:
    """Whether a knob, also one of a part inside, makes training random."""
    return any(
        _is_random(value.items())
        if isinstance(value, dict)
        else bool(value) and any(name in key for name in _RANDOM_KNOBS)
        for key, value in knobs
    )


def check_saved(case: Case) -> None:
    """After training steps, a new module with the same state_dict is the same function."""
    x = make_input(case)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # what is drawn while it is built is check_seed's affair
        module = build(case).train()
        for step in (1, 2):
            read = make_input(case, seed=step).requires_grad_()
            y = run(module, read.clone(), _span(x))
            torch.autograd.backward(y.square().sum() + 0.0 * read.sum())  # a part may be constant
            after_update(module, 0, step)
        torch.manual_seed(0)
        resumed = build(case).train()
        resumed.load_state_dict(module.state_dict())
        _check_same(case, module, resumed, x)
        _check_same(case, module.eval(), resumed.eval(), x)


def _check_same(case: Case, module: nn.Module, resumed: nn.Module, x: Tensor) -> None:
    outputs = []
    for one in (module, resumed):
        torch.manual_seed(0)
        outputs.append(run(one, x.clone(), _span(x)))
    message = (
        "training changed something that is not in the state_dict (a buffer with persistent=False, "
        "or a plain attribute), so a resumed run is another one"
    )
    close(outputs[1], outputs[0], case, message)


def _span(x: Tensor) -> Span:
    return Span.of(x.shape[1])
