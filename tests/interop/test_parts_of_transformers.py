"""Parts of ours against the modules of transformers: outputs, and the gradients of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from windtunnel.nn.component import Scope, Span, build_component
from windtunnel.nn.embedding import Embedding, EmbeddingConfig
from windtunnel.nn.head import Head, HeadConfig
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.mixers.mamba import MambaConfig
from windtunnel.nn.positions.relative import bucket_starts

bert = pytest.importorskip("transformers.models.bert.modeling_bert")
t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")

LAYERNORM = {"type": "layernorm", "eps": 1e-12}


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _given(ours: nn.Module, theirs: nn.Module, names: Mapping[str, str]) -> nn.Module:
    """Ours in double precision with random weights, and theirs with the same; ``names`` are ours to
    theirs, with a ' at the end where the one is the other's transpose."""
    ours.to_empty(device="cpu").double().eval()
    theirs.double().eval()
    assert {n for n, _ in ours.named_parameters()} == set(names)
    assert {n for n, _ in theirs.named_parameters()} == {n.rstrip("'") for n in names.values()}
    with torch.no_grad():
        for seed, (our, their) in enumerate(names.items()):
            value = _random(*ours.get_parameter(our).shape, seed=seed) * 0.3
            ours.get_parameter(our).copy_(value)
            turned = value.T if their.endswith("'") else value
            theirs.get_parameter(their.rstrip("'")).copy_(turned)
    return ours


def _same(
    ours: nn.Module,
    theirs: nn.Module,
    names: Mapping[str, str],
    y: Tensor,
    wanted: Tensor,
    tolerance: float = 1e-9,
) -> None:
    """Outputs are equal, and so are the gradients of every parameter."""
    torch.testing.assert_close(y, wanted, rtol=tolerance, atol=tolerance)
    probe = _random(*y.shape, seed=99)
    (y * probe).sum().backward()
    (wanted * probe).sum().backward()
    for our, their in names.items():
        found, expected = (
            ours.get_parameter(our).grad,
            theirs.get_parameter(their.rstrip("'")).grad,
        )
        assert found is not None
        assert expected is not None
        turned = expected.T if their.endswith("'") else expected
        torch.testing.assert_close(found, turned, rtol=10 * tolerance, atol=10 * tolerance)


def _pairs(names: Mapping[str, str], *ends: str) -> dict[str, str]:
    return {f"{our}.{end}": f"{their}.{end}" for our, their in names.items() for end in ends}


def _meta(build: Any) -> Any:
    with torch.device("meta"):
        return build()


def test_the_embedding_of_bert() -> None:
    config = bert.BertConfig(
        vocab_size=30, hidden_size=16, max_position_embeddings=12, type_vocab_size=3
    )
    scope = Scope(d_model=16, vocab_size=30, max_seq_len=12)
    written = EmbeddingConfig(position="learned", token_types=3, norm=LAYERNORM)
    ours = _meta(lambda: Embedding(written.resolve(scope), scope))
    theirs = bert.BertEmbeddings(config)
    theirs.word_embeddings.padding_idx = None  # else the gradient of id 0 is left out
    names = {
        "weight": "word_embeddings.weight",
        "position.weight": "position_embeddings.weight",
        "token_types": "token_type_embeddings.weight",
        **_pairs({"norm": "LayerNorm"}, "weight", "bias"),
    }
    _given(ours, theirs, names)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(30, (2, 9), generator=generator)
    types = torch.randint(3, (2, 9), generator=generator)
    torch.testing.assert_close(ours(tokens, Span.of(9)), theirs(tokens))
    _same(ours, theirs, names, ours(tokens, Span.of(9), types), theirs(tokens, types))


def test_the_head_of_bert() -> None:
    config = bert.BertConfig(vocab_size=30, hidden_size=16)
    scope = Scope(d_model=16, vocab_size=30)
    written = HeadConfig(norm="none", transform={"norm": LAYERNORM}, bias=True)
    ours = _meta(lambda: Head(written.resolve(scope), scope))
    theirs = bert.BertLMPredictionHead(config)
    theirs.decoder.bias = theirs.bias
    names = {
        "weight": "decoder.weight",
        "bias": "bias",
        **_pairs({"transform.linear": "transform.dense"}, "weight", "bias"),
        **_pairs({"transform.norm": "transform.LayerNorm"}, "weight", "bias"),
    }
    _given(ours, theirs, names)
    x = _random(2, 5, 16, seed=7)
    _same(ours, theirs, names, ours(ours.normed(x)), theirs(x))


@pytest.mark.parametrize("buckets", [32, 8])
@pytest.mark.parametrize("causal", [False, True])
def test_the_attention_of_t5(causal: bool, buckets: int) -> None:
    config = t5.T5Config(
        d_model=16, d_kv=6, num_heads=4, relative_attention_num_buckets=buckets,
        relative_attention_max_distance=20, is_decoder=causal,
    )  # fmt: skip
    config._attn_implementation = "eager"
    scope = Scope(d_model=16, causal=causal)
    position = {"type": "relative", "buckets": buckets, "max_distance": 20}
    written = AttentionConfig(num_heads=4, head_dim=6, scale=1.0, position=position).resolve(scope)
    ours = _meta(lambda: build_component("mixer", written, scope))
    theirs = t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    names = {
        **_pairs({"q": "q", "k": "k", "v": "v", "out": "o"}, "weight"),
        "position.weight": "relative_attention_bias.weight'",
    }
    _given(ours, theirs, names)
    x = _random(2, 50, 16, seed=7)
    mask = torch.zeros(1, 1, 50, 50, dtype=torch.float64)
    if causal:
        mask = mask.masked_fill(~torch.ones(50, 50, dtype=torch.bool).tril(), float("-inf"))
    _same(ours, theirs, names, ours(x, Span.of(50)), theirs(x, mask=mask)[0])


@pytest.mark.parametrize("max_distance", [20, 64, 128, 500])
@pytest.mark.parametrize("side", [4, 7, 16, 32])
def test_every_distance_is_in_the_bucket_of_t5(side: int, max_distance: int) -> None:
    distance = torch.arange(600)
    starts = torch.tensor(bucket_starts(side, max_distance))
    expected = t5.T5Attention._relative_position_bucket(-distance, False, side, max_distance)
    assert torch.equal(torch.bucketize(distance, starts, right=True), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_the_mixer_of_mamba(bias: bool) -> None:
    config = mamba.MambaConfig(
        hidden_size=16, state_size=5, time_step_rank=3, use_bias=bias, use_conv_bias=not bias,
        use_associative_scan=False,
    )  # fmt: skip
    scope = Scope(d_model=16)
    written = MambaConfig(d_state=5, dt_rank=3, bias=bias, conv_bias=not bias).resolve(scope)
    ours = _meta(lambda: build_component("mixer", written, scope))
    theirs = mamba.MambaMixer(config, layer_idx=0)
    maps = {"in_proj": "in_proj", "out": "out_proj"}
    names = {
        **_pairs({**maps, "conv": "conv1d", "x_proj": "x_proj", "dt_proj": "dt_proj"}, "weight"),
        **_pairs({"dt_proj": "dt_proj", **(maps if bias else {"conv": "conv1d"})}, "bias"),
        "a_log": "A_log",
        "skip": "D",
    }
    _given(ours, theirs, names)
    x = _random(2, 13, 16, seed=7)
    # transformers scans in float32, whatever the weights are
    _same(ours, theirs, names, ours(x, Span.of(13)), theirs(x), tolerance=1e-6)
