from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from windtunnel.errors import UsageError
from windtunnel.nn.component import Scope, Span, build_component
from windtunnel.nn.embedding import Embedding, EmbeddingConfig
from windtunnel.nn.embedding_positions.learned import LearnedPosition
from windtunnel.nn.head import Head, HeadConfig
from windtunnel.nn.initialize import initialize

SCOPE = Scope(d_model=32, vocab_size=50, max_seq_len=10)
TIED = Scope(d_model=32, vocab_size=50, max_seq_len=10, tie=True)


def _embedding(scope: Scope = SCOPE, **values: Any) -> Embedding:
    module = Embedding(EmbeddingConfig(**values).resolve(scope), scope)
    initialize(module, 0)
    return module.eval()


def _head(scope: Scope = SCOPE, **values: Any) -> Head:
    module = Head(HeadConfig(**values).resolve(scope), scope)
    initialize(module, 0)
    return module.eval()


def test_embedding_is_scale_times_row_plus_position() -> None:
    module = _embedding(scale=True, position="learned")
    tokens = torch.tensor([[3, 1, 3], [0, 0, 49]])
    table = module.get_parameter("position.weight")
    expected = math.sqrt(32) * module.weight[tokens] + table[:3]
    torch.testing.assert_close(module(tokens, Span.of(3)), expected)


def test_positions_count_real_tokens() -> None:
    module = _embedding(position="learned")
    real = torch.tensor([[False, False, True, True]])
    padded = module(torch.tensor([[0, 0, 7, 8]]), Span.of_real(real))
    alone = module(torch.tensor([[7, 8]]), Span.of(2))
    assert torch.equal(padded[:, 2:], alone)


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
@pytest.mark.parametrize("scale", [False, True])
def test_positions_start_as_large_as_the_embeddings(position: str, scale: bool) -> None:
    module = _embedding(Scope(d_model=64, max_seq_len=512), position=position, scale=scale)
    zeros = torch.zeros(1, 512, 64)
    added = module.position(zeros, Span.of(512))
    rms = module.factor * module.weight.square().mean().sqrt()
    assert added.square().mean().sqrt().item() == pytest.approx(rms.item(), rel=0.05)


def test_learned_positions_end_at_max_seq_len() -> None:
    config = LearnedPosition.Config().resolve(SCOPE)
    module = build_component("embedding_position", config, SCOPE)
    initialize(module, 0)
    x = torch.zeros(1, 2, 32)
    module(x, Span.of(2, start=8))
    with pytest.raises(UsageError, match="max_seq_len = 10"):
        module(x, Span.of(2, start=9))
    real = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(UsageError, match="max_seq_len = 10"):
        module(x, Span.of_real(real, torch.tensor([9])))


def test_dropout_of_embeddings_acts_in_training_alone() -> None:
    module = _embedding(dropout=0.5)
    tokens = torch.zeros(1, 5, dtype=torch.long)
    quiet = module(tokens, Span.of(5))
    assert torch.equal(quiet, module(tokens, Span.of(5)))
    dropped = module.train()(tokens, Span.of(5))
    assert (dropped == 0).any()


def test_head_is_the_norm_then_the_product_then_the_cap() -> None:
    module = _head(bias=True, softcap=0.5)
    with torch.no_grad():
        module.get_parameter("bias").normal_()
    x = torch.randn(2, 3, 32)
    hidden = module.normed(x)
    weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
    expected = 0.5 * torch.tanh((hidden @ weight.T + bias) / 0.5)
    torch.testing.assert_close(module(hidden), expected)
    torch.testing.assert_close(hidden.square().mean(-1), torch.ones(2, 3), rtol=1e-3, atol=1e-3)


def test_a_tied_head_has_no_weight_of_its_own() -> None:
    module = _head(TIED)
    assert module.weight is None
    embedding = _embedding(TIED)
    module.weight = embedding.weight
    assert module(torch.randn(1, 32)).shape == (1, 50)
    with pytest.raises(ValueError, match="no effect on a tied head"):
        HeadConfig(init_std=0.1).resolve(TIED)


@pytest.mark.parametrize(
    ("scope", "bias", "norm"),
    [(SCOPE, False, "none"), (SCOPE, True, "rmsnorm"), (TIED, False, "layernorm")],
)
def test_costs_are_those_of_what_is_built(scope: Scope, bias: bool, norm: str) -> None:
    head = _head(scope, bias=bias, norm=norm)
    embedding = _embedding(scope, tie=scope.tie, position="learned")
    costs = [
        (embedding, embedding.config.cost(scope, 7)),
        (head, head.config.cost(scope, 7)),
    ]
    for module, cost in costs:
        assert cost.params == sum(p.numel() for p in module.parameters())
    assert costs[1][1].forward_flops == costs[1][1].decode_flops == 2 * 32 * 50


@pytest.mark.parametrize("d_model", [64, 384, 1024])
@pytest.mark.parametrize("tie", [False, True])
def test_logits_at_the_start_have_the_same_spread_at_every_width(d_model: int, tie: bool) -> None:
    scope = Scope(d_model=d_model, vocab_size=500, tie=tie)
    head, embedding = _head(scope), _embedding(scope, tie=tie)
    if tie:
        head.weight = embedding.weight
    logits = head(head.normed(torch.randn(20, d_model)))
    assert logits.std().item() == pytest.approx(0.32, rel=0.1)


def test_an_embedding_may_add_kinds_and_norm_the_sum() -> None:
    norm = {"type": "layernorm", "eps": 1e-3}
    module = _embedding(position="learned", token_types=3, norm=norm, dropout=0.5)
    tokens = torch.tensor([[3, 1, 3], [0, 0, 49]])
    kinds = module.get_parameter("token_types")
    summed = module.weight[tokens] + module.get_parameter("position.weight")[:3]
    types = torch.tensor([[0, 0, 2], [1, 2, 0]])
    told = torch.nn.functional.layer_norm(summed + kinds[types], (32,), eps=1e-3)
    untold = torch.nn.functional.layer_norm(summed + kinds[0], (32,), eps=1e-3)
    torch.testing.assert_close(module(tokens, Span.of(3), types), told)
    torch.testing.assert_close(module(tokens, Span.of(3)), untold)
    assert module.config.stream_std(32) == 1.0
    assert module.config.cost(SCOPE, 7).params == sum(p.numel() for p in module.parameters())


def test_kinds_of_tokens_need_vectors() -> None:
    with pytest.raises(UsageError, match=r"embedding\.token_types is not set"):
        _embedding()(torch.zeros(1, 2).long(), Span.of(2), torch.zeros(1, 2).long())


TRANSFORMED: list[dict[str, Any]] = [
    {"transform": {"activation": "gelu", "norm": {"type": "layernorm", "eps": 1e-3}}, "bias": True},
    {"transform": {"activation": "relu", "norm": "none", "bias": False}, "scale": "rsqrt"},
    {"scale": 0.25, "bias": True, "softcap": 0.5},
]


@pytest.mark.parametrize("values", TRANSFORMED)
@pytest.mark.parametrize("scope", [SCOPE, TIED])
def test_a_head_may_have_a_layer_of_its_own_and_a_scale(
    scope: Scope, values: dict[str, Any]
) -> None:
    head = _head(scope, norm="none", **values)
    if scope.tie:
        head.weight = _embedding(TIED).weight
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    x = torch.randn(2, 3, 32)
    hidden = x
    if "transform" in values:
        linear = hidden @ head.get_parameter("transform.linear.weight").T
        if values["transform"].get("bias", True):
            linear = linear + head.get_parameter("transform.linear.bias")
            weight, bias = (head.get_parameter(f"transform.norm.{n}") for n in ("weight", "bias"))
            active = linear * 0.5 * (1 + torch.erf(linear / math.sqrt(2)))
            hidden = torch.nn.functional.layer_norm(active, (32,), weight, bias, 1e-3)
        else:
            hidden = linear.relu()
    scale = {"rsqrt": 32**-0.5, None: 1.0}.get(values.get("scale"), 0.25)
    expected = scale * hidden @ head.get_parameter("weight").T
    if values.get("bias"):
        expected = expected + head.get_parameter("bias")
    if "softcap" in values:
        expected = 0.5 * torch.tanh(expected / 0.5)
    torch.testing.assert_close(head(head.normed(x)), expected)
    cost = head.config.cost(scope, 7)
    tied = head.get_parameter("weight").numel() if scope.tie else 0
    assert cost.params == sum(p.numel() for p in head.parameters()) - tied
    layer = 2 * 32 * 32 * ("transform" in values)
    assert cost.forward_flops == cost.decode_flops == 2 * 32 * 50 + layer


def test_a_scaled_untied_head_begins_with_the_usual_spread() -> None:
    head = _head(Scope(d_model=64, vocab_size=500), scale="rsqrt", transform={})
    logits = head(head.normed(torch.randn(20, 64)))
    assert logits.std().item() == pytest.approx(0.32, rel=0.1)


@pytest.mark.parametrize("values", [{"scale": 0.5}, {"transform": {}}])
def test_without_logits_there_is_nothing_to_scale(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} has no effect"):
        HeadConfig(type="none", **values)


KEPT: list[tuple[str, dict[str, Any]]] = [
    ("head", {"transform": {}, "bias": True}),
    ("head", {"transform": {"activation": "relu", "norm": "none"}, "scale": 0.5}),
    ("head", {"transform": {"activation": "silu", "norm": "rmsnorm"}, "softcap": 3.0}),
    ("embedding", {"token_types": 2, "norm": "layernorm", "position": "learned"}),
    ("embedding", {"norm": "rmsnorm", "dropout": 0.1}),
]


@pytest.mark.parametrize(("part", "values"), KEPT)
def test_what_is_kept_for_the_backward_is_what_is_predicted(
    part: str, values: dict[str, Any]
) -> None:
    module: Any = (_head if part == "head" else _embedding)(**values).train()

    def kept(batch: int) -> float:
        held: dict[int, torch.Tensor] = {}

        def keep(value: torch.Tensor) -> torch.Tensor:
            held[value.untyped_storage().data_ptr()] = value
            return value

        x: torch.Tensor = torch.randn(batch, 8, 32, requires_grad=True)
        tokens = torch.randint(50, (batch, 8))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            y = module(module.normed(x)) if part == "head" else module(tokens, Span.of(8))
        assert y.requires_grad
        return sum(value.untyped_storage().nbytes() for value in held.values()) / 4

    measured = (kept(4) - kept(2)) / 2 / 8
    predicted = module.config.cost(SCOPE, 8).activation_values
    assert predicted == pytest.approx(measured, rel=0.1, abs=2.0)
