"""Cross-entropy in chunks of rows against the plain one."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.ops.chunked_cross_entropy import summed_cross_entropy

N, D, V = 50, 16, 301


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of about unit variance, as models have them at the start."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=g).to(dtype).requires_grad_()
    weight = (torch.randn(V, D, generator=g) / D**0.5).to(dtype).requires_grad_()
    bias = torch.randn(V, generator=g).to(dtype).requires_grad_()
    targets = torch.randint(V, (N,), generator=g)
    targets[::7] = -100
    targets[20:40] = -100  # a chunk of its own without any target
    return hidden, weight, bias, targets


def plain(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None
) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, targets, reduction="sum")


def apart(found: Tensor, expected: Tensor) -> float:
    """The length of the difference, relative to that of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("rows", [1, 7, 20, 64])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("biased", [False, True])
def test_loss_and_gradients_are_those_of_the_plain_one(
    rows: int, softcap: float | None, biased: bool
) -> None:
    hidden, weight, bias, targets = data()
    given = [hidden, weight, *([bias] if biased else [])]
    exact = [x.detach().double().requires_grad_() for x in given]
    usual = [x.detach().clone().requires_grad_() for x in given]
    for x in (exact, usual):
        loss = plain(x[0], x[1], x[2] if biased else None, targets, softcap) / 30
        loss.backward()
    found = summed_cross_entropy(
        hidden, weight, targets, rows=rows, bias=bias if biased else None, softcap=softcap
    )
    (found / 30).backward()
    assert float(found / 30) == pytest.approx(loss.item(), rel=1e-6)
    for x, plainly, truth in zip(given, usual, exact, strict=True):
        assert x.grad is not None
        assert plainly.grad is not None
        assert truth.grad is not None
        # A single row is multiplied by another kernel, which rounds more often.
        assert apart(x.grad, truth.grad) <= (2 if rows == 1 else 1.1) * apart(
            plainly.grad, truth.grad
        )


def test_in_bfloat16_it_is_as_near_the_truth_as_the_plain_one() -> None:
    hidden, weight, _, targets = data(torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    plain(*exact, None, targets, None).backward()
    plain(hidden, weight, None, targets, None).backward()
    usual = [apart(x.grad, e.grad) for x, e in zip((hidden, weight), exact, strict=True)]
    hidden.grad = weight.grad = None
    summed_cross_entropy(hidden, weight, targets, rows=8).backward()
    for x, reference, error in zip((hidden, weight), exact, usual, strict=True):
        assert x.grad is not None
        assert x.grad.dtype == torch.bfloat16
        assert apart(x.grad, reference.grad) <= 1.3 * error


def test_without_gradients_none_are_made() -> None:
    hidden, weight, _, targets = data()
    frozen = weight.detach()
    summed_cross_entropy(hidden, frozen, targets, rows=8).backward()
    assert hidden.grad is not None
    found = summed_cross_entropy(hidden.detach(), frozen, targets, rows=8)
    assert not found.requires_grad
    assert float(found) == pytest.approx(float(plain(hidden, weight, None, targets, None)), 1e-6)


def test_no_more_logits_are_kept_than_rows_say() -> None:
    """What autograd keeps is of the size of rows and weight; logits are V / D times as many."""
    hidden, weight, _, targets = data()
    kept: list[int] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        summed_cross_entropy(hidden, weight, targets, rows=8)
    assert sum(kept) == N * D + V * D
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        plain(hidden, weight, None, targets, None)
    assert sum(kept) > N * V
