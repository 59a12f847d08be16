"""What a component does: shapes, causality, padding, states, weights, dropout, precision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.nn.component import Mixer, Span, State, build_component, reorder
from windtunnel.nn.contracts.case import Case, build, close, make_input, require, run, tensors
from windtunnel.nn.initialize import initialize


def check_shape(case: Case) -> None:
    """Shape, dtype and device stay; no input is changed; every parameter gets a gradient."""
    module, x = build(case), make_input(case).requires_grad_()
    given = x.clone()  # no leaf: what changes it is told as that, and not as autograd's refusal
    y = run(module, given, Span.of(x.shape[1]))
    require(torch.equal(given, x), case, "the input was changed")
    require(y.shape == x.shape, case, f"shape {tuple(x.shape)} became {tuple(y.shape)}")
    require(y.dtype == x.dtype, case, f"dtype {x.dtype} became {y.dtype}")
    require(y.device == x.device, case, f"device {x.device} became {y.device}")
    # 0·x, as a part may be constant
    torch.autograd.backward(y.square().sum() + 0.0 * x.sum())
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        reached = grad is not None and bool(grad.abs().sum() > 0)
        # A key's bias shifts all logits of a query alike: its gradient is truly 0.
        require(reached or name == "k.bias", case, f"{name} gets no gradient")
        require(grad is None or bool(grad.isfinite().all()), case, f"{name}: gradient not finite")


def check_causality(case: Case) -> None:
    """What comes after a token changes nothing before it, however large."""
    module, x = build(case), make_input(case)
    span = Span.of(x.shape[1])
    y = run(module, x, span)
    for cut in (1, x.shape[1] // 2, x.shape[1] - 1):
        edited = x.clone()
        edited[:, cut:] += 1e4
        close(run(module, edited, span)[:, :cut], y[:, :cut], case, f"editing token {cut} on")


def check_padding(case: Case) -> None:
    """A padded batch equals its rows alone: pads left, right and in holes, and a row of pads."""
    real = torch.ones(5, 9, dtype=torch.bool)
    real[1, :4] = False
    real[2, 6:] = False
    real[3, [0, 3, 4, 8]] = False
    real[4] = False
    check_padded(case, real)


def check_padded(case: Case, real: Tensor) -> None:
    """:func:`check_padding` for one (b, t) mask of real tokens."""
    module, x = build(case), make_input(case, *real.shape)
    x = torch.where(real[..., *(None,) * (x.ndim - 2)], x, 1e3).requires_grad_()
    given = x.clone()
    y = run(module, given, Span.of_real(real))
    require(torch.equal(given, x), case, "the input was changed")
    require(bool(y.isfinite().all()), case, "an output at a pad is not finite")
    torch.autograd.backward(y[real].square().sum() + 0.0 * x.sum())
    grad = x.grad
    assert grad is not None
    require(bool(grad.isfinite().all()), case, "a gradient is not finite beside pads")
    pads = grad[~real].abs().max()
    require(float(pads) == 0.0, case, f"pads get a gradient of {pads:.1e}")
    for row in real.any(1).nonzero().flatten().tolist():
        alone = run(module, x[row : row + 1, real[row]], Span.of(int(real[row].sum())))
        close(y[row, real[row]], alone[0], case, f"row {row} of a padded batch")
    if isinstance(module, Mixer):
        check_pads_leave_states(case, module, x.detach(), real)


def check_pads_leave_states(case: Case, module: Mixer[Any], x: Tensor, real: Tensor) -> None:
    """After a padded chunk, and one of pads alone, a row goes on as if they had not been."""
    state = module.extend(x, module.initial_state(len(x)), Span.of_real(real))[1]
    seen = real.sum(1)
    more = make_input(case, batch=len(x), t=4, seed=1)
    which = torch.ones(len(x), 4, dtype=torch.bool)
    which[1] = False
    which[0, 1] = False
    if not case.scope.causal:
        return
    y, state = module.extend(more, state, Span.of_real(which, seen))
    seen = seen + which.sum(1)
    y2, _ = module.extend(more, state, Span.of_real(torch.ones_like(which), seen))
    for row in range(len(x)):
        parts = (x[row, real[row]], more[row, which[row]], more[row])
        whole = module(torch.cat(parts)[None], Span.of(sum(len(p) for p in parts)))[0]
        after = len(parts[0]) + len(parts[1])
        close(y[row, which[row]], whole[len(parts[0]) : after], case, f"row {row} beside pads")
        close(y2[row], whole[after:], case, f"row {row} after pads")


def check_chunks(case: Case, cuts: Sequence[int] = (1, 2, 7, 8), *, uniform: bool = True) -> None:
    """``forward`` equals ``extend`` over any cutting, and no state given is changed.

    ``uniform`` tells each span that all rows have seen the same number of tokens.
    """
    check_cuts(case, build(case), make_input(case), cuts, uniform=uniform)


def check_cuts(
    case: Case,
    module: Mixer[Any],
    x: Tensor,
    cuts: Sequence[int],
    *,
    uniform: bool = True,
    during: str = "",
) -> None:
    """:func:`check_chunks` for one module and input; ``during`` begins what is told."""
    b, t = x.shape[:2]
    whole = module(x, Span.of(t))
    state: State = module.initial_state(b)
    parts = []
    for start, end in zip((0, *cuts), (*cuts, t), strict=True):
        before = [part.clone() for part in tensors(state)]
        y, after = module.extend(x[:, start:end], state, _span(start, end, b, uniform))
        same = all(torch.equal(p, q) for p, q in zip(tensors(state), before, strict=True))
        require(same, case, f"{during}extend changed the state that it was given")
        parts.append(y)
        state = after
    what = f"{during}extend of {t} tokens cut at {tuple(cuts)}"
    close(torch.cat(parts, dim=1), whole, case, what)


def _span(start: int, end: int, batch: int, uniform: bool) -> Span:
    if uniform:
        return Span.of(end - start, start=start)
    real = torch.ones(batch, end - start, dtype=torch.bool)
    return Span.of_real(real, torch.full((batch,), start))


def check_reorder(case: Case) -> None:
    """A state's rows may be picked, repeated and dropped."""
    module, x = build(case), make_input(case, batch=3)
    cut = 6
    state = module.extend(x[:, :cut], module.initial_state(3), Span.of(cut))[1]
    for part in tensors(state):
        require(part.shape[0] == 3, case, f"a state tensor {tuple(part.shape)} is not batch first")
    rows = torch.tensor([2, 0, 2, 1])
    span = Span.of(x.shape[1] - cut, start=cut)
    y = module.extend(x[rows, cut:], reorder(state, rows), span)[0]
    close(y, module(x, Span.of(x.shape[1]))[rows, cut:], case, "reordered rows")


def check_round_trip(case: Case) -> None:
    """JSON and back gives the same config; resolving is idempotent; strange keys are refused."""
    for config in (case.config, case.resolved):
        text = json.dumps(config.model_dump(mode="json"))
        back = type(config).model_validate(json.loads(text))
        require(back == config, case, f"{text} was read back as {back!r}")
    again = case.resolved.resolve(case.scope)
    require(again == case.resolved, case, f"resolving twice gives {again!r}")
    require(hash(again) == hash(case.resolved), case, "equal configs hash differently")
    try:
        type(case.config).model_validate({**case.config.model_dump(mode="json"), "bogus": 1})
    except ValueError:
        return
    raise AssertionError(f"{case}: an unknown key is accepted")


def check_seed(case: Case) -> None:
    """Weights and outputs are a function of (seed, name): not of torch's random state, nor of the
    rest."""
    torch.manual_seed(98)
    first = _initialized(case, 0)
    torch.manual_seed(99)
    second, x = _initialized(case, 0).eval(), make_input(case, dtype=torch.float32)
    y, again = (run(module.eval(), x.clone(), Span.of(x.shape[1])) for module in (first, second))
    same = torch.equal(y, again)
    require(same, case, "the output depends on torch's random state while it is built")
    around = nn.ModuleList([_initialized(case, 5), _bare(case)])
    alone = nn.ModuleList([nn.Identity(), _bare(case)])
    state = torch.random.get_rng_state()
    initialize(around, 0)
    initialize(alone, 0)
    require(
        torch.equal(state, torch.random.get_rng_state()), case, "init uses torch's random state"
    )
    for (name, one), other in zip(
        first.named_parameters(), _initialized(case, 0).parameters(), strict=True
    ):
        require(torch.equal(one, other), case, f"{name} differs under the same seed")
    for (name, one), other in zip(around[1].named_parameters(), alone[1].parameters(), strict=True):
        require(torch.equal(one, other), case, f"{name} depends on what stands beside it")


def _bare(case: Case) -> nn.Module:
    module: nn.Module = build_component(case.kind, case.resolved, case.scope)
    return module


def _initialized(case: Case, seed: int) -> nn.Module:
    module = _bare(case)
    initialize(module, seed)
    return module


def check_dropout(case: Case) -> None:
    """Dropout acts in training, not in evaluation, and by torch's random state alone."""
    if not getattr(case.config, "dropout", 0.0):
        return
    module, x = build(case), make_input(case)
    span = Span.of(x.shape[1])
    quiet = run(module, x, span)
    require(torch.equal(quiet, run(module, x, span)), case, "evaluation is random")
    module.train()
    torch.manual_seed(0)
    first, second = run(module, x, span), run(module, x, span)
    torch.manual_seed(0)
    again = run(module, x, span)
    require(not torch.equal(first, quiet), case, "dropout does nothing in training")
    require(not torch.equal(first, second), case, "dropout drops the same values every time")
    require(torch.equal(first, again), case, "dropout is not a function of the random state")


def check_bfloat16(case: Case) -> None:
    """In bfloat16 the output is finite, bfloat16, and near that of the same weights in float64."""
    module = build(case, dtype=torch.bfloat16)
    x = make_input(case, dtype=torch.bfloat16)
    span = Span.of(x.shape[1])
    y = run(module, x, span).detach()
    require(y.dtype == torch.bfloat16, case, f"bfloat16 became {y.dtype}")
    require(bool(y.isfinite().all()), case, "not finite in bfloat16")
    exact = run(module.double(), x.double(), Span.of(x.shape[1])).detach()
    error = float((y.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
    require(error < 0.03, case, f"bfloat16 is off by {error:.3f} of the largest value")
