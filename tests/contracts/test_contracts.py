"""Every contract, over every variant of every registered component."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import CASES, VARIANTS, make
from hypothesis import given, settings
from hypothesis import strategies as st
from references import REFERENCES

from windtunnel.nn.component import REGISTRIES, Span
from windtunnel.nn.contracts import Case, Contract, check_component, contracts_of
from windtunnel.nn.contracts.behaviour import check_chunks
from windtunnel.nn.contracts.case import build, make_input, run
from windtunnel.nn.ops import attention

ALL = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
MIXERS = [case for case in CASES if case.kind == "mixer" and case.scope.causal]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_registered_component_has_variants_and_a_reference(kind: str, name: str) -> None:
    assert (kind, name) in VARIANTS, f"add a row for {kind} {name} to cases.py"
    assert (kind, name) in REFERENCES, f"add a reference for {kind} {name} to references.py"


@pytest.mark.parametrize(
    ("case", "contract"),
    [
        pytest.param(case, contract, id=f"{contract.__name__}-{case}")
        for case in CASES
        for contract in contracts_of(case)
    ],
)
def test_contract(case: Case, contract: Contract) -> None:
    contract(case)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_component_passes_on_its_own_examples(kind: str, name: str) -> None:
    assert check_component(kind, name) >= 10


@pytest.mark.parametrize("case", MIXERS, ids=str)
@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, 10)), uniform=st.booleans())
def test_any_cutting_equals_the_whole(case: Case, cuts: set[int], uniform: bool) -> None:
    check_chunks(case, sorted(cuts), uniform=uniform)


def _gradients(y: torch.Tensor, wanted: list[torch.Tensor]) -> list[torch.Tensor]:
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    loss = (y * probe).sum() + 0 * sum(w.sum() for w in wanted)
    return list(torch.autograd.grad(loss, wanted))


def _compare(case: Case, t: int, real: torch.Tensor | None) -> None:
    module, x = build(case), make_input(case, t=t).requires_grad_()
    span = Span.of(t) if real is None else Span.of_real(real)
    positions = span.positions.expand(x.shape[0], t)
    weights = dict(module.named_parameters())
    naive = REFERENCES[case.kind, case.config.type]
    values = {**weights, **dict(module.named_buffers())}
    expected = torch.stack(
        [naive(case, values, row, p.tolist()) for row, p in zip(x, positions, strict=True)]
    )
    wanted = [x, *weights.values()]
    found = run(module, x, span)
    kept = positions >= 0
    found, expected = found[kept], expected[kept]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    pairs = zip(_gradients(found, wanted), _gradients(expected, wanted), strict=True)
    for name, (one, other) in zip(["x", *weights], pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_outputs_and_gradients_equal_the_naive_reference(case: Case, padded: bool) -> None:
    real = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 1, 0]]).bool() if padded else None
    _compare(case, 6, real)


@pytest.mark.parametrize("position", ["none", "alibi", "rope"])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(("t", "window", "block"), [(32, 3, 8), (29, 2, 8), (240, 2, None)])
def test_banded_attention_equals_the_naive_reference(
    t: int,
    window: int,
    block: int | None,
    softcap: float | None,
    position: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if block is not None:
        monkeypatch.setattr(attention, "_LEAST_BLOCK", block)
    assert attention.executed_keys(t, window) < t, "not banded"
    values = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 2, "window": window}
    case = make("mixer", "attention", {**values, "softcap": softcap, "position": position})
    _compare(replace(case, scope=replace(case.scope, d_model=4)), t, None)
