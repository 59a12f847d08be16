"""The recurrent mixers are torch's own, and pads do not exist for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from windtunnel.nn.component import Scope, Span, build_component
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mixers.gru import GRU
from windtunnel.nn.mixers.lstm import LSTM
from windtunnel.nn.mixers.rnn import RNN

PAIRS: list[tuple[Any, Any, dict[str, Any], dict[str, Any]]] = [
    (RNN, nn.RNN, {}, {}),
    (RNN, nn.RNN, {"activation": "relu", "bias": False}, {"nonlinearity": "relu", "bias": False}),
    (GRU, nn.GRU, {}, {}),
    (LSTM, nn.LSTM, {}, {}),
    (LSTM, nn.LSTM, {"bias": False}, {"bias": False}),
]


def _pair(ours: Any, theirs: Any, values: dict[str, Any], same: dict[str, Any]) -> Any:
    scope = Scope(d_model=12)
    mixer = build_component("mixer", ours.Config(**values).resolve(scope), scope)
    initialize(mixer, 3)
    twin = theirs(12, 12, batch_first=True, **same)
    state = {f"{name}_l0": value for name, value in mixer.state_dict().items()}
    twin.load_state_dict(state)
    return mixer, twin


@pytest.mark.parametrize(("ours", "theirs", "values", "same"), PAIRS)
def test_equals_torch_with_the_same_weights(
    ours: Any, theirs: Any, values: dict[str, Any], same: dict[str, Any]
) -> None:
    mixer, twin = _pair(ours, theirs, values, same)
    x = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixer(x, Span.of(7)), twin(x)[0])


@pytest.mark.parametrize(("ours", "theirs", "values", "same"), PAIRS)
def test_autocast_leaves_it_in_float32(
    ours: Any, theirs: Any, values: dict[str, Any], same: dict[str, Any]
) -> None:
    mixer, _ = _pair(ours, theirs, values, same)
    x = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0)).bfloat16()
    real = torch.ones(3, 7, dtype=torch.bool)
    real[0, :2] = False
    for span in (Span.of(7), Span.of_real(real)):
        with torch.autocast("cpu", torch.bfloat16):
            found, state = mixer.extend(x, mixer.initial_state(3), span)
        expected, after = mixer.extend(x.float(), mixer.initial_state(3), span)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
        assert all(map(torch.equal, state, after))


@pytest.mark.parametrize(("ours", "theirs", "values", "same"), PAIRS)
def test_init_has_the_spread_of_torch(
    ours: Any, theirs: Any, values: dict[str, Any], same: dict[str, Any]
) -> None:
    mixer, _ = _pair(ours, theirs, values, same)
    bound = 12**-0.5
    for name, parameter in mixer.named_parameters():
        assert parameter.abs().max() <= bound, name
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.15), name


def test_a_row_of_pads_keeps_its_state() -> None:
    mixer, _ = _pair(LSTM, nn.LSTM, {}, {})
    x = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    state = mixer.extend(x, mixer.initial_state(2), Span.of(4))[1]
    real = torch.tensor([[True, False], [False, False]])
    span = Span.of_real(real, torch.tensor([4, 4]))
    after = mixer.extend(x[:, :2], state, span)[1]
    assert torch.equal(after.h[1], state.h[1])
    assert torch.equal(after.c[1], state.c[1])
    assert not torch.equal(after.h[0], state.h[0])


def test_another_hidden_width_is_projected_back() -> None:
    scope = Scope(d_model=12)
    config = GRU.Config(d_hidden=20).resolve(scope)
    mixer = build_component("mixer", config, scope)
    names = {name: tuple(p.shape) for name, p in mixer.named_parameters()}
    assert names["out.weight"] == (12, 20)
    assert names["weight_hh"] == (60, 20)
