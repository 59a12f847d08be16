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
