"""Limits: the largest sizes, and the corner of a bank that a smaller tensor takes."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hyper.tiny import both_ties, limits, member, written
from torch import Tensor

from windtunnel.hyper.anatomy import Axis, Slot, anatomy_of
from windtunnel.hyper.limits import Limits, Role, corner, fan_in, head_rows

LARGEST = Limits(d_model=12, d_ff=20, vocab_size=7, max_seq_len=5, roles=())
Place = Callable[[int], tuple[int, ...]]


def places(axis: Axis, size: int, heads: int, gates: int) -> Place:
    """Where index i of a tensor's axis lies in the bank: worked out one number at a time."""

    def of_heads(index: int) -> tuple[int, ...]:
        each = size // heads
        head, channel = divmod(index, each)
        return (math.floor(head * LARGEST.d_model / heads) + channel,)

    def of_gates(index: int) -> tuple[int, ...]:
        gate, unit = divmod(index, size // gates)
        return (gate, unit)

    if axis == "heads":
        return of_heads
    if axis == "gates":
        return of_gates
    return lambda index: (index,)


@st.composite
def slots(draw: st.DrawFn) -> tuple[Slot, int]:
    """A slot of any axes and sizes within the largest, and how many gates it has."""
    axes = tuple(draw(st.lists(
        st.sampled_from(["model", "ff", "heads", "gates", "vocab", "position"]), min_size=1,
        max_size=2, unique=True,
    )))  # fmt: skip
    heads, gates = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.sampled_from([1, 3, 4]))
    shape = []
    for axis in axes:
        if axis == "heads":
            size = heads * draw(st.integers(1, 12 // heads))
        elif axis == "gates":
            size = gates * draw(st.integers(1, 12))
        else:
            size = draw(st.integers(1, LARGEST.size(axis)))
        shape.append(size)
    return Slot("any", "any", axes, tuple(shape), 0, heads), gates


@settings(max_examples=200, deadline=None)
@given(slots(), st.integers(1, 3))
def test_corners_are_those_of_a_loop(drawn: tuple[Slot, int], count: int) -> None:
    slot, gates = drawn
    shape = LARGEST.shape(Role("any", slot.axes, gates))
    bank = torch.arange(count * math.prod(shape)).view(count, *shape)
    found = corner(bank, slot, LARGEST)
    assert found.shape == (count, *slot.shape)
    at = [
        places(axis, size, slot.heads, gates)
        for axis, size in zip(slot.axes, slot.shape, strict=True)
    ]
    for index in itertools.product(*(range(size) for size in slot.shape)):
        where = [part for place, i in zip(at, index, strict=True) for part in place(i)]
        for number in range(count):
            assert found[(number, *index)] == bank[(number, *where)]


@given(
    st.sampled_from([(h, h * k) for h in (1, 2, 3, 4, 5) for k in (1, 2, 3)]), st.integers(15, 40)
)
def test_heads_never_overlap(sizes: tuple[int, int], largest: int) -> None:
    heads, size = sizes
    rows = head_rows(heads, size, largest).tolist()
    assert len(set(rows)) == size
    assert rows == sorted(rows)
    assert 0 <= rows[0] <= rows[-1] < largest


def test_a_grouped_head_lies_with_its_first_query() -> None:
    queries, keys = head_rows(8, 16, 64).view(8, 2), head_rows(2, 4, 64).view(2, 2)
    assert keys.tolist() == [queries[0].tolist(), queries[4].tolist()]


def test_gradients_go_to_the_corner_alone() -> None:
    bank = torch.zeros(1, 12, 12, dtype=torch.float64, requires_grad=True)
    slot = Slot("q", "q_weight", ("heads", "model"), (6, 5), 0, 3)
    corner(bank, slot, LARGEST).sum().backward()
    expected = torch.zeros(12, 12)
    expected[[0, 1, 4, 5, 8, 9], :5] = 1
    assert isinstance(bank.grad, Tensor)
    assert torch.equal(bank.grad[0].float(), expected)


def test_limits_are_the_largest_of_each() -> None:
    anatomies = [
        *both_ties(d_model=8, ff_ratio=4, vocab_size=9, max_seq_len=3),
        *both_ties(d_model=12, ff_ratio=2, vocab_size=5, max_seq_len=7),
    ]
    found = Limits.of(anatomies)
    assert (found.d_model, found.d_ff, found.vocab_size, found.max_seq_len) == (12, 32, 9, 7)
    names = [role.name for role in found.roles]
    assert names == sorted(names)
    assert set(names) == {slot.role for anatomy in anatomies for slot in anatomy.slots}
    shapes = {role.name: found.shape(role) for role in found.roles}
    assert shapes["lstm_weight_hh"] == (4, 12, 12)
    assert shapes["gru_bias_ih"] == (3, 12)
    assert shapes["down_weight"] == (12, 32)
    assert shapes["head"] == (9, 12)
    layered = {role.name for role in found.roles if role.layered}
    assert set(names) - layered == {
        "embedding", "head", "position", "head_norm_weight", "head_norm_bias",
    }  # fmt: skip


def test_kept_roles_alone() -> None:
    found = Limits.of(both_ties(), keep=["head", "q_weight"])
    assert [role.name for role in found.roles] == ["head", "q_weight"]


@pytest.mark.parametrize(
    "sizes", [{"d_model": 16}, {"ff_ratio": 3}, {"max_seq_len": 7}], ids=["wide", "ff", "long"]
)
def test_what_is_larger_does_not_fit(sizes: dict[str, int]) -> None:
    largest = limits()
    assert largest.fits(anatomy_of(member("mini_gpt", n_layer=20)))
    assert not largest.fits(anatomy_of(member("mini_gpt", **sizes)))


def test_layers_as_wide_as_the_widest_must_fit() -> None:
    layers = [
        {"mixer": {"type": "attention", "num_heads": 2}, "mlp": {"type": "dense", "d_ff": width}}
        for width in (4, 40)
    ]
    anatomy = anatomy_of(written({"d_model": 8, "max_seq_len": 6, "layers": layers}))
    assert not limits().fits(anatomy)


def test_the_inputs_of_maps_are_counted_against_the_widest() -> None:
    found = {}
    for slot in anatomy_of(member("mini_gpt", d_model=4, ff_ratio=3)).slots:
        found[slot.role] = fan_in(slot, LARGEST)
    assert found["q_weight"] == (4, 12)
    assert found["out_weight"] == (4, 12)
    assert found["down_weight"] == (12, 48)
    assert found["q_bias"] == found["embedding"] == found["norm_weight"] == (1, 1)


def test_what_was_never_seen_is_told() -> None:
    known = limits()
    assert known.strange(anatomy_of(member("mini_gpt", n_layer=9))) == ()
    llama = anatomy_of(written({"preset": "llama", "d_model": 16}))
    assert known.strange(llama) == (
        "attention with position rope",
        "rmsnorm before the head",
        "rmsnorm pre",
        "silu in glu",
    )
    edits = {"embedding.scale": True, "head.softcap": 5.0, "layers[0].mixer.window": 4,
             "layers[0].parallel": True, "layers[0].residual": "scaled"}  # fmt: skip
    edited = anatomy_of(written({"preset": "mini_gpt", "d_model": 16, "set": edits}))
    assert known.strange(edited) == (
        "capped logits",
        "parallel branches",
        "residual scaled",
        "scaled embeddings",
        "window of attention",
    )
    assert Limits(8, 8, 8, 8, ()).strange(llama) == (), "of a network that did not keep them"
