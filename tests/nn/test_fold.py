"""Folding: the plain form of a trained model has the same logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from windtunnel.arch import ArchSpec, Model, build, cost, fold, resolve
from windtunnel.errors import UsageError
from windtunnel.nn.component import Scope, Span
from windtunnel.nn.embedding import Embedding, EmbeddingConfig
from windtunnel.nn.fold import Folded, fold_part
from windtunnel.nn.initialize import initialize, keyed_generator
from windtunnel.nn.unified_embedding import UnifiedConfig, mean_square

UNIFIED = {"tie": False, "unified": {"factor": 2.5, "d_hidden": 12}}


def trained(**values: Any) -> Model:
    """A model whose weights are all off their init, in float64."""
    spec = ArchSpec.model_validate({"d_model": 16, "layers": ({"mixer": "lstm"},), **values})
    model = build(resolve(spec, 30), seed=0).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=keyed_generator(0, name))
            parameter.add_(0.2 * noise.double())
    return model


def tokens(b: int = 2, t: int = 9) -> Tensor:
    return torch.randint(30, (b, t), generator=torch.Generator().manual_seed(0))


def check_folds(model: Model) -> Model:
    """Folds the model; logits are equal, whole and in chunks, and the model is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model)
    expected = model(tokens())
    torch.testing.assert_close(folded(tokens()), expected, rtol=1e-12, atol=1e-12)
    state = folded.initial_state(2)
    first, state = folded.extend(tokens()[:, :5], state)
    second, _ = folded.extend(tokens()[:, 5:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert cost(folded.architecture).total.params == sum(p.numel() for p in folded.parameters())
    assert resolve(folded.architecture.to_spec()) == folded.architecture
    assert fold(folded).architecture == folded.architecture
    return folded


@pytest.mark.parametrize("extra", [{}, {"scale": True, "position": "learned"}])
def test_a_unified_embedding_folds_into_a_table(extra: dict[str, Any]) -> None:
    model = trained(embedding={**UNIFIED, **extra})
    folded = check_folds(model)
    assert folded.architecture.embedding.unified is None
    assert folded.embedding.weight.shape == (30, 16)
    assert not any("unified" in name for name, _ in folded.named_parameters())


def test_a_plain_model_folds_into_a_copy() -> None:
    model = trained()
    folded = check_folds(model)
    assert folded.architecture == model.architecture
    assert folded.head.weight is folded.embedding.weight
    assert folded.get_parameter("embedding.weight") is not model.get_parameter("embedding.weight")


def test_shared_layers_and_experts_stay_as_they_are() -> None:
    moe = {"type": "moe", "num_experts": 3, "shared_experts": 1, "dense": "dense",
           "balance": "loss_free"}  # fmt: skip
    layer = {"mixer": "lstm", "mlp": moe, "repeat": 2, "share": 2}
    model = trained(embedding=UNIFIED, layers=(layer,))
    with torch.no_grad():
        model.get_buffer("layers.0.mlp.balance_bias").copy_(torch.tensor([0.9, -0.9, 0.0]))
    folded = check_folds(model)
    assert folded.architecture.layers == model.architecture.layers
    assert folded.layers[0] is folded.layers[1]


def test_an_encoder_decoder_folds_on_both_sides() -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2}}
    spec = ArchSpec.model_validate({
        "type": "encoder_decoder", "d_model": 16, "embedding": UNIFIED,
        "encoder": {"layers": (layer,), "embedding": UNIFIED}, "decoder": {"layers": (layer,)},
    })  # fmt: skip
    model: Any = build(resolve(spec, 30), seed=0).double().eval()
    folded: Any = fold(model)
    torch.testing.assert_close(folded(tokens(), tokens(2, 5)), model(tokens(), tokens(2, 5)))
    assert folded.architecture.embedding.unified is None
    assert folded.architecture.encoder.embedding.unified is None


def test_a_part_that_hides_what_can_be_folded_is_refused() -> None:
    class Inner(nn.Linear):
        def folded(self) -> Folded:
            raise NotImplementedError

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner(2, 2)

    with pytest.raises(UsageError, match="Outer does not say how to fold inner"):
        fold_part(Outer())


# the unified embedding itself

SCOPE = Scope(d_model=16, vocab_size=30)


def embedding(**values: Any) -> Embedding:
    config = EmbeddingConfig(tie=False, unified=UnifiedConfig(**values)).resolve(SCOPE)
    module = Embedding(config, SCOPE)
    initialize(module, 0)
    return module


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu2"])
def test_a_unified_embedding_is_a_network_on_rows(activation: Any) -> None:
    module = embedding(factor=2.0, d_hidden=8, activation=activation).double()
    weights = dict(module.named_parameters())
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    assert shapes == {
        "weight": (30, 32), "unified.inner.weight": (8, 32), "unified.inner.bias": (8,),
        "unified.outer.weight": (16, 8), "unified.outer.bias": (16,),
    }  # fmt: skip

    def act(name: str, x: Tensor) -> Tensor:
        gelu = x * (1 + torch.erf(x / 2**0.5)) / 2
        relu2 = torch.where(x > 0, x, torch.zeros_like(x)) ** 2
        return {"gelu": gelu, "silu": x / (1 + torch.exp(-x)), "relu2": relu2}[name]

    def naive(token: int) -> Tensor:
        row = act(activation, weights["weight"][token])
        hidden = weights["unified.inner.weight"] @ row + weights["unified.inner.bias"]
        outer = weights["unified.outer.weight"] @ act("gelu", hidden)
        return outer + weights["unified.outer.bias"]

    ids = torch.tensor([[3, 7, 3, 3], [0, 29, 7, 3]])
    expected = torch.stack([torch.stack([naive(int(i)) for i in row]) for row in ids])
    found = module(ids, Span.of(4))
    torch.testing.assert_close(found, expected)
    probe = torch.randn(found.shape, dtype=torch.float64)
    wanted = list(weights.values())
    pairs = zip(
        torch.autograd.grad((found * probe).sum(), wanted),
        torch.autograd.grad((expected * probe).sum(), wanted),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other)


def test_each_different_token_is_computed_once() -> None:
    module, rows = embedding(factor=2.0), []
    assert module.unified is not None
    module.unified.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    module(torch.tensor([[5, 5, 5, 5, 9], [9, 5, 9, 5, 1]]), Span.of(5))
    assert rows == [3]


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu", "mish"])
def test_unified_vectors_start_with_the_spread_of_plain_ones(activation: Any) -> None:
    scope = Scope(d_model=64, vocab_size=400)
    config = EmbeddingConfig(tie=False, init_std=0.3, unified=UnifiedConfig(activation=activation))
    module = Embedding(config.resolve(scope), scope)
    initialize(module, 0)
    x = module(torch.arange(400)[None], Span.of(400))
    assert x.std().item() == pytest.approx(0.3, rel=0.05)


def test_the_mean_square_of_an_activation_is_that_of_samples() -> None:
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.nn.functional.silu(z).square().mean().item()
    assert mean_square("silu") == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"tie": True}, "no table for the head"), ({"unified": {"factor": 1.03}}, "is no width")],
)
def test_a_unified_embedding_that_cannot_be_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingConfig.model_validate({**UNIFIED, **values}).resolve(SCOPE)


@pytest.mark.parametrize("values", [{}, {"factor": 2.0, "d_hidden": 24}])
def test_the_cost_is_that_of_a_sequence_of_different_tokens(values: dict[str, Any]) -> None:
    module = embedding(**values)
    ids = torch.arange(20)[None]
    for t in (7, 20):
        found = module.config.cost(SCOPE, t)
        assert found.params == sum(p.numel() for p in module.parameters())
        with FlopCounterMode(display=False) as counter:
            module(ids[:, :t], Span.of(t))
        assert found.forward_flops * t == counter.get_total_flops()
    assert found.decode_flops == found.forward_flops
    long = module.config.cost(SCOPE, 300)
    assert long.forward_flops == pytest.approx(found.forward_flops / 10)
