"""The contract of decoders, over all of them, and what each promises besides."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hyper.tiny import FAMILIES, both_ties, limits, member
from torch import Tensor
from torch.func import functional_call

from windtunnel.hyper.anatomy import Anatomy, Slot, anatomy_of
from windtunnel.hyper.banks import NestedBanks
from windtunnel.hyper.coded import CodedDecoder
from windtunnel.hyper.config import BanksConfig, LowRankConfig, TiledConfig
from windtunnel.hyper.limits import Limits
from windtunnel.hyper.low_rank import LowRankDecoder
from windtunnel.hyper.network import decoder_of
from windtunnel.hyper.tiled import TiledDecoder

WIDTH = 5
CONFIGS: dict[str, Any] = {
    "banks": BanksConfig(components=2, knots=3, hidden=7),
    "tiled": TiledConfig(block=5, hidden=40),
    "low_rank": LowRankConfig(rank=3, hidden=40),
}
LARGEST = limits(d_model=8, ff_ratio=3)


def decoder(name: str, largest: Limits = LARGEST, *, stirred: bool = True) -> Any:
    """In float64; ``stirred``: no parameter where the start has put it, such as at 0."""
    torch.manual_seed(0)
    made = decoder_of(CONFIGS[name], largest, WIDTH).double()
    if stirred:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return made


def nodes_of(anatomy: Anatomy, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(anatomy.ops), WIDTH, generator=generator).double()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(
    sizes=st.fixed_dictionaries(
        {
            "d_model": st.sampled_from([2, 4, 6, 8]),
            "n_layer": st.integers(1, 4),
            "n_head": st.sampled_from([1, 2]),
            "ff_ratio": st.integers(1, 3),
            "tie_weights": st.booleans(),
            "max_seq_len": st.integers(1, 6),
        }
    )
)
def test_every_tensor_of_a_family_has_its_shape(
    name: str, family: str, sizes: dict[str, Any]
) -> None:
    anatomy = anatomy_of(member(family, **sizes))
    with torch.no_grad():
        found = decoder(name)(anatomy, nodes_of(anatomy))
    assert {n: tuple(v.shape) for n, v in found.items()} == {s.name: s.shape for s in anatomy.slots}
    for name_of, value in found.items():
        assert torch.isfinite(value).all(), name_of


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_comes_out_again_whatever_was_asked_before(name: str) -> None:
    made, anatomies = decoder(name), both_ties(d_model=6)
    first = [made(a, nodes_of(a)) for a in anatomies]
    again = [made(a, nodes_of(a)) for a in reversed(anatomies)][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_every_number_over_all_families(name: str) -> None:
    """A meta-batch of all families, tied and untied, at the largest width and depths that touch
    every knot: no entry of any parameter is without a gradient."""
    made = decoder(name)
    anatomies = [a for n in (1, 2, 5) for a in both_ties(d_model=8, ff_ratio=3, n_layer=n)]
    total = torch.zeros((), dtype=torch.float64)
    for number, anatomy in enumerate(anatomies):
        for key, value in made(anatomy, nodes_of(anatomy, number)).items():
            generator = torch.Generator().manual_seed(len(key) + number)
            total = total + (value * torch.randn(value.shape, generator=generator)).sum()
    total.backward()
    for key, parameter in made.named_parameters():
        assert parameter.grad is not None, key
        untouched = int((parameter.grad == 0).sum())
        assert untouched == 0, f"{key}: {untouched} numbers without a gradient"


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    tiny = limits(d_model=2, n_head=1, ff_ratio=1, vocab_size=3, max_seq_len=2)
    made = decoder(name, tiny)
    for family in ("gpt_encoder", "gru"):
        anatomy = anatomy_of(
            member(family, d_model=2, n_head=1, ff_ratio=1, vocab_size=3, max_seq_len=2, n_layer=2)
        )
        names = [n for n, _ in made.named_parameters()]

        def written(nodes: Tensor, *values: Tensor, names: Any = names, a: Any = anatomy) -> Tensor:
            found = functional_call(made, dict(zip(names, values, strict=True)), (a, nodes))
            return torch.cat([value.flatten() for value in found.values()])

        values = [p.detach().clone().requires_grad_() for p in made.parameters()]
        nodes = nodes_of(anatomy).requires_grad_()
        assert torch.autograd.gradcheck(written, (nodes, *values), fast_mode=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_two_tensors_are_the_same(name: str) -> None:
    """Layers, gates and the two maps of a recurrent layer differ, though an operation may have
    several of them."""
    made = decoder(name)
    for family in ("lstm", "mini_gpt"):
        anatomy = anatomy_of(member(family, n_layer=2))
        found = made(anatomy, nodes_of(anatomy))
        pieces = []
        for slot in anatomy.slots:
            gates = slot.shape[0] // 8 if "gates" in slot.axes else 1
            pieces += list(found[slot.name].chunk(gates))
        for number, one in enumerate(pieces):
            for other in pieces[:number]:
                assert one.shape != other.shape or not torch.allclose(one, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unknown_role_is_left_out(name: str) -> None:
    few = Limits.of(both_ties(), keep={"embedding", "q_weight", "q_bias"})
    anatomy = anatomy_of(member("mini_gpt", n_layer=1))
    found = decoder(name, few)(anatomy, nodes_of(anatomy))
    assert set(found) == {"embedding.weight", "layers.0.mixer.q.weight", "layers.0.mixer.q.bias"}
    table = Limits.of(both_ties(), keep={"embedding"})
    assert set(decoder(name, table)(anatomy, nodes_of(anatomy))) == {"embedding.weight"}


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_start_at_a_usual_size(name: str) -> None:
    """Maps within a factor of 4 of 1/√inputs, those that end a branch of half of it; gains about 1,
    biases small."""
    torch.manual_seed(0)
    wide = limits(d_model=64, ff_ratio=4, n_head=4)
    anatomy = anatomy_of(member("mini_gpt", d_model=64, ff_ratio=4, n_head=4, n_layer=2))
    configs = {"banks": BanksConfig(), "tiled": TiledConfig(), "low_rank": LowRankConfig()}
    made = decoder_of(configs[name], wide, 64)
    with torch.no_grad():
        found = made(anatomy, torch.randn(len(anatomy.ops), 64))
    for slot in anatomy.slots:
        value = found[slot.name]
        if len(slot.axes) == 2 and slot.role not in ("embedding", "head", "position"):
            usual = 0.5 if slot.role in ("out_weight", "down_weight") else 1.0
            assert 0.25 * usual < value.std() * math.sqrt(slot.shape[1]) < 4 * usual, slot.name
        elif slot.role.endswith("norm_weight"):
            assert 0.2 < value.min() <= value.mean() < 1.8
        elif slot.role.endswith("bias"):
            assert value.abs().max() < 0.8


# Nested banks


def constant_nodes(anatomy: Anatomy) -> Tensor:
    """Every operation alike, so that all mixtures are."""
    return torch.linspace(-1, 1, WIDTH).double().expand(len(anatomy.ops), WIDTH)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_head", [1, 2])
def test_a_channel_means_the_same_at_every_width(family: str, n_head: int) -> None:
    """A narrow tensor is the wide one at its channels, but for the factor of its inputs: the first
    ones of the stream, of each head and of each gate."""
    made = decoder("banks")
    narrow, wide = (
        anatomy_of(member(family, d_model=d, n_head=n_head, ff_ratio=3, n_layer=3)) for d in (4, 8)
    )
    small, large = (made(a, constant_nodes(a)) for a in (narrow, wide))
    for slot, other in zip(narrow.slots, wide.slots, strict=True):
        assert slot.name == other.name
        expected = large[slot.name]
        for dimension, axis in enumerate(slot.axes):
            rows = channels(slot, dimension, axis, n_head)
            expected = expected.index_select(dimension, torch.tensor(rows))
        maps = len(slot.axes) == 2 and slot.role not in ("embedding", "head", "position")
        factor = math.sqrt(other.shape[-1] / slot.shape[-1]) if maps else 1.0
        torch.testing.assert_close(small[slot.name], expected * factor, rtol=1e-12, atol=1e-14)


def channels(slot: Slot, dimension: int, axis: str, n_head: int) -> list[int]:
    """Of a tensor at width 4, where its channels lie at width 8."""
    size = slot.shape[dimension]
    if axis == "heads":
        each = 4 // n_head
        return [head * 8 // n_head + channel for head in range(n_head) for channel in range(each)]
    if axis == "gates":
        return [gate * 8 + unit for gate in range(size // 4) for unit in range(4)]
    return list(range(size))


@given(st.integers(1, 40), st.integers(1, 9))
def test_hats_share_one_whole(n_layer: int, knots: int) -> None:
    made = NestedBanks(BanksConfig(components=0, knots=knots), LARGEST, WIDTH)
    anatomy = anatomy_of(member("rnn", n_layer=n_layer))
    places = []
    for slot in anatomy.slots:
        if slot.role != "rnn_weight_ih":
            continue
        shares = made._hats(slot, anatomy, knots)
        assert shares.min() >= 0
        assert shares.sum() == pytest.approx(1)
        touched = torch.nonzero(shares).flatten()
        assert touched.max() - touched.min() <= 1
        places.append(float(shares @ torch.arange(knots, dtype=torch.float32)))
    assert places == sorted(places)
    assert places[0] + places[-1] == pytest.approx(knots - 1, abs=1e-4)


def test_outside_the_stack_there_is_no_depth() -> None:
    made = decoder("banks")
    shallow, deep = (anatomy_of(member("mini_gpt", n_layer=n)) for n in (1, 4))
    one, other = (made(a, constant_nodes(a)) for a in (shallow, deep))
    for name in (
        "embedding.weight",
        "embedding.position.weight",
        "head.norm.weight",
        "head.weight",
    ):
        assert torch.equal(one[name], other[name])


def test_depth_alone_tells_layers_apart_where_operations_are_alike() -> None:
    made = decoder("banks")
    deep = anatomy_of(member("mini_gpt", n_layer=8))
    shallow = anatomy_of(member("mini_gpt", n_layer=2))
    found, other = made(deep, constant_nodes(deep)), made(shallow, constant_nodes(shallow))
    layers = [found[f"layers.{n}.mixer.q.weight"] for n in range(8)]
    assert not torch.allclose(layers[0], layers[7])
    torch.testing.assert_close(  # a layer at 1/4 is halfway between those at 3/16 and 5/16
        other["layers.0.mixer.q.weight"], (layers[1] + layers[2]) / 2, rtol=1e-9, atol=1e-9
    )


# The baselines


def codes_of(made: CodedDecoder, count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3)).double()


def test_a_block_is_cut_and_repeated() -> None:
    made = decoder("tiled")
    assert isinstance(made, TiledDecoder)
    codes = codes_of(made, 1)
    ((large,), (small,)) = (made.maps(codes, [shape]) for shape in ((13, 7), (2, 4)))
    for i in range(13):
        for j in range(7):
            assert large[i, j] == large[i % 5, j % 5]
    assert torch.equal(small, large[:2, :4])
    (line,) = made.vectors(codes, [12])
    assert all(line[i] == line[i % 5] for i in range(12))


def test_a_product_has_its_rank() -> None:
    made = decoder("low_rank")
    assert isinstance(made, LowRankDecoder)
    (large,) = made.maps(codes_of(made, 1), [(24, 8)])
    values = torch.linalg.svdvals(large)
    assert values[2] > 1e-3 * values[0]
    assert values[3] < 1e-12 * values[0]
    (small,) = made.maps(codes_of(made, 1), [(3, 5)])
    assert torch.equal(small, large[:3, :5])


def test_what_no_row_was_made_for_is_not_written() -> None:
    made = decoder("low_rank")
    with pytest.raises(AssertionError, match="longer than the limits, 24"):
        made.maps(codes_of(made, 1), [(25, 3)])
    wide = anatomy_of(member("rnn", d_model=16))
    for name in ("tiled", "low_rank"):
        with pytest.raises(AssertionError, match="than the limits"):
            decoder(name)(wide, nodes_of(wide))


@pytest.mark.parametrize("name", ["tiled", "low_rank"])
def test_values_are_rescaled_as_ghn_3_does(name: str) -> None:
    """Against the same numbers, made one tensor at a time and rescaled here."""
    made = decoder(name)
    for family in ("mini_gpt", "gru"):
        anatomy = anatomy_of(member(family, n_layer=3, ff_ratio=3))
        nodes = nodes_of(anatomy)
        found = made(anatomy, nodes)
        numbers = iter(range(10_000))
        first = {}
        tables = ("embedding", "head", "position")
        for role in [r for r in made.limits.roles if r.name not in tables]:
            first[role.name] = [next(numbers) for _ in range(role.gates)]
        for slot in anatomy.slots:
            if slot.role in tables:
                table = made.tables[slot.role][: slot.shape[0], : slot.shape[1]]
                gain = (made.gain.weight[0] @ nodes[slot.op] + made.gain.bias).exp()
                torch.testing.assert_close(found[slot.name], table * gain)
                continue
            rows = slot.shape[0] // len(first[slot.role])
            pieces = []
            for number in first[slot.role]:
                code = (nodes[slot.op] + made.codes[number])[None] / 2**0.5
                if len(slot.shape) == 2:
                    (value,) = made.maps(code, [(rows, slot.shape[1])])
                    value = value * (2 / slot.shape[1]) ** 0.5
                    if slot.name.split(".")[-2] in ("out", "down"):
                        value = value / (2 * 3) ** 0.5
                else:
                    (value,) = made.vectors(code, [rows])
                    gain_of_norm = "norm" in slot.name and slot.name.endswith("weight")
                    value = 2 / (1 + (-value / 2).exp()) if gain_of_norm else (value / 5).tanh()
                pieces.append(value)
            torch.testing.assert_close(found[slot.name], torch.cat(pieces))


def test_a_table_is_cropped_alike_at_every_width() -> None:
    for name in ("tiled", "low_rank"):
        made = decoder(name)
        narrow, wide = (anatomy_of(member("lstm", d_model=d)) for d in (4, 8))
        small, large = (made(a, constant_nodes(a)) for a in (narrow, wide))
        for key in ("embedding.weight", "head.weight"):
            assert torch.equal(small[key], large[key][:, :4])


def test_decoders_of_a_trials_size_are_comparable() -> None:
    """At d 128, f 512 and 512 tokens, the usual config of each: within a tenth."""
    trial = limits(d_model=128, ff_ratio=4, n_head=4, vocab_size=512, max_seq_len=64)
    usual = (BanksConfig(), TiledConfig(), LowRankConfig())
    counts = [
        sum(p.numel() for p in decoder_of(config, trial, 64).parameters()) for config in usual
    ]
    assert max(counts) < 1.1 * min(counts), counts
