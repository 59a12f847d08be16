"""Room to grow: states are appended to in place, and yet none ever changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from windtunnel.nn.component import Scope, Span, build_component, reorder
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mixers.attention import Attention
from windtunnel.nn.mixers.latent_attention import LatentAttention
from windtunnel.nn.ops.room import Room, appended

Branch = tuple[list[Tensor], Room | None, Tensor]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 40), st.integers(0, 3)), max_size=12))
@torch.no_grad()
def test_any_tree_of_appends_and_cuts_is_that_of_cat(steps: list[tuple[int, int, int]]) -> None:
    """Branches are picked at random, extended, and cut at their beginning, as windows are."""
    first = torch.randn(2, 3, 0, 4)
    branches: list[Branch] = [([first, first[:, 0, :, 0]], None, first)]
    for choice, count, cut in steps:
        (old, room, plain) = branches[choice % len(branches)]
        more = torch.randn(2, 3, count, 4)
        new, room = appended(old, [more, more[:, 0, :, 0]], (2, 1), room)
        plain = torch.cat((plain, more), 2)
        cut = min(cut, plain.shape[2])
        new = [new[0][:, :, cut:], new[1][:, cut:]]
        branches.append((new, room, plain[:, :, cut:]))
    for (wide, narrow), _, plain in branches:
        assert torch.equal(wide, plain)
        assert torch.equal(narrow, plain[:, 0, :, 0])


@torch.no_grad()
def test_a_buffer_is_made_anew_only_when_it_is_full() -> None:
    state: list[Tensor] = [torch.zeros(1, 0, 2)]
    room: Room | None = None
    buffers = set()
    for _ in range(1000):
        state, room = appended(state, [torch.ones(1, 1, 2)], (1,), room)
        assert room is not None
        buffers.add(id(room))
    assert state[0].shape == (1, 1000, 2)
    assert len(buffers) <= 5


def test_gradients_flow_through_plain_tensors() -> None:
    old, new = torch.ones(1, 2, 3, requires_grad=True), torch.ones(1, 1, 3, requires_grad=True)
    (joined,), room = appended([old], [new], (1,), None)
    assert room is None
    joined.sum().backward()
    assert old.grad is not None
    assert new.grad is not None


CONFIGS = [
    Attention.Config(num_heads=4, num_kv_heads=2),
    Attention.Config(num_heads=4, window=5),
    Attention.Config(num_heads=4, window=3, global_tokens=2),
    LatentAttention.Config(num_heads=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@torch.no_grad()
def test_a_state_that_is_extended_twice_serves_both(config) -> None:
    scope = Scope(d_model=16)
    module = build_component("mixer", config.resolve(scope), scope)
    initialize(module, 0)
    module = module.double().eval()
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    states = [module.initial_state(2)]
    for t in range(8):
        states.append(module.extend(x[:, t : t + 1], states[-1], Span.of(1, start=t))[1])
    kept = [[part.clone() for part in state if isinstance(part, Tensor)] for state in states]
    for t in (8, 5, 8, 3):  # from the newest and from older ones, again and again
        other = torch.randn(2, 3, 16, dtype=torch.float64)
        y, after = module.extend(other, states[t], Span.of(3, start=t))
        whole = module(torch.cat((x[:, :t], other), 1), Span.of(t + 3))
        torch.testing.assert_close(y, whole[:, t:])
        swapped = reorder(after, torch.tensor([1, 0]))
        y, _ = module.extend(x[[1, 0], 9:10], swapped, Span.of(1, start=t + 3))
        whole = module(torch.cat((x[:, :t], other, x[:, 9:10]), 1), Span.of(t + 4))[[1, 0]]
        torch.testing.assert_close(y, whole[:, -1:])
    for state, before in zip(states, kept, strict=True):
        now = [part for part in state if isinstance(part, Tensor)]
        assert all(torch.equal(p, q) for p, q in zip(now, before, strict=True))
