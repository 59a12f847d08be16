"""Growth computes what the small architecture computes."""

import pytest
import torch
from tests.hyper.tiny import grown_space, written
from torch import Tensor
from torch.func import functional_call

from windtunnel.arch import Architecture, build
from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.grow import grown, growth_of
from windtunnel.hyper.limits import Limits
from windtunnel.hyper.singles import Singles, source_key
from windtunnel.spaces import Member

FAMILIES = ("rnn", "lstm", "gru", "mini_gpt", "gpt_encoder")


def member(family: str, tie: bool, d: int, layers: int, ratio: int = 2) -> Member:
    more = f" and n_head == 2 and ff_ratio == {ratio}" if "gpt" in family else ""
    found = grown_space().where(
        f"family == {family} and tie_weights == {str(tie).lower()} and d_model == {d} "
        f"and n_layer == {layers}{more}"
    )
    return found[0]


def trained(architecture: Architecture) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """A model in float64 whose every parameter is far from its start."""
    model = build(architecture, seed=1).double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    return model, {name: p.detach() for name, p in model.named_parameters()}


def compared(
    small: Member, large: Member, n_layer: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return grown_from(small.architecture, large.architecture, n_layer)


def grown_from(
    small: Architecture, large: Architecture, n_layer: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    model, weights = trained(small)
    growth = growth_of(large, Limits.of([anatomy_of(small)]), n_layer)
    assert growth is not None
    made = grown(weights, growth)
    target = build(large, seed=2).double().eval()
    assert made.keys() == {name for name, _ in target.named_parameters()}
    tokens = torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(tokens), functional_call(target, made, (tokens,)), made


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("times", [2, 3])
def test_wider_is_exact(family: str, tie: bool, times: int) -> None:
    small, large = member(family, tie, 8, 2), member(family, tie, 8 * times, 2)
    before, after, made = compared(small, large, 2)
    assert torch.allclose(before, after, rtol=0, atol=1e-12)
    again = compared(small, large, 2)[2]
    assert all(torch.equal(made[name], again[name]) for name in made)


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_are_told_apart_by_what_reads_them(family: str) -> None:
    """Without that, equal channels would have equal gradients for ever."""
    made = compared(member(family, False, 8, 2), member(family, False, 16, 2), 2)[2]
    head = made["head.weight"]
    assert (head[:, 0::2] - head[:, 1::2]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["mini_gpt", "gpt_encoder"])
@pytest.mark.parametrize("tie", [True, False])
def test_deeper_is_exact_with_a_residual(family: str, tie: bool) -> None:
    before, after, _ = compared(member(family, tie, 8, 2), member(family, tie, 8, 6), 2)
    assert torch.allclose(before, after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_deeper_is_exact_with_gated_feed_forwards(bias: bool) -> None:
    small, large = (
        written(
            {
                "d_model": 8, "vocab_size": 11, "max_seq_len": 6,
                "layers": [
                    {"mixer": {"type": "attention", "num_heads": 2},
                     "mlp": {"type": "glu", "bias": bias}, "repeat": layers}
                ],
            }
        )
        for layers in (2, 5)
    )  # fmt: skip
    before, after, _ = grown_from(small, large, 2)
    assert torch.allclose(before, after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("d", [8, 16])
def test_deeper_is_near_without_a_residual(family: str, d: int) -> None:
    before, after, _ = compared(member(family, False, 8, 2), member(family, False, d, 6), 2)
    assert (before - after).abs().mean() < 0.1 * before.std()


def test_a_wider_feed_forward_is_exact() -> None:
    small = member("mini_gpt", False, 8, 2, ratio=2)
    large = member("mini_gpt", False, 8, 2, ratio=4)
    before, after, _ = compared(small, large, 2)
    assert torch.allclose(before, after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tie", [True, False])
def test_cuts_of_a_single_model_have_the_right_shapes_and_values(family: str, tie: bool) -> None:
    large = member(family, tie, 16, 2)
    singles = Singles({source_key(anatomy_of(large.architecture)): large.architecture})
    whole = singles.weights(anatomy_of(large.architecture))
    source = dict(singles.models[source_key(anatomy_of(large.architecture))].named_parameters())
    assert all(torch.equal(whole[name], source[name]) for name in source)
    small = member(family, tie, 8, 1)
    cut = singles.weights(anatomy_of(small.architecture))
    shapes = {n: tuple(p.shape) for n, p in build(small.architecture).named_parameters()}
    assert {name: tuple(value.shape) for name, value in cut.items()} == shapes
    table = source["embedding.weight"]
    assert torch.equal(cut["embedding.weight"], table[:, :8])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_model_serves_untied_architectures(family: str) -> None:
    tied, untied = member(family, True, 16, 2), member(family, False, 16, 2)
    singles = Singles({source_key(anatomy_of(tied.architecture)): tied.architecture}).eval()
    source = singles.models[source_key(anatomy_of(tied.architecture))]
    target = build(untied.architecture, seed=4).eval()
    made = singles.weights(anatomy_of(untied.architecture))
    assert made.keys() == {name for name, _ in target.named_parameters()}
    tokens = torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(source(tokens), functional_call(target, made, (tokens,)), atol=1e-6)


def test_singles_know_nothing_of_other_kinds() -> None:
    large = member("lstm", True, 16, 2).architecture
    singles = Singles({source_key(anatomy_of(large)): large})
    assert singles.weights(anatomy_of(member("gru", True, 8, 1).architecture)) == {}
