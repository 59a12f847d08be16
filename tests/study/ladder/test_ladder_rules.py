"""Every rule hits its sizes, keeps what it promises to keep, and says what it cannot do."""

from typing import Any

import pytest

from windtunnel.arch import build, resolve
from windtunnel.config import Document
from windtunnel.errors import UsageError
from windtunnel.study.ladder.rules import TOLERANCE, Scaler, counted, parse_count, parse_rule
from windtunnel.train.run_config import load_run_document

VOCAB = 512


def spec(preset: str, **changes: Any) -> Any:
    tree = {
        "arch": {"preset": preset, "name": preset, **changes},
        "data": {"source": "shakespeare", "tokenizer": {"type": "bpe", "vocab_size": VOCAB}},
    }
    return load_run_document(Document(tree, source="test")).config.arch


def scaler(preset: str, rule: Any = "width", count: Any = "total", **changes: Any) -> Scaler:
    return Scaler(spec(preset, **changes), VOCAB, rule, count)


@pytest.mark.parametrize("rule", ["width", "aspect"])
@pytest.mark.parametrize("preset", ["llama", "gru", "mamba", "gla"])
def test_sizes_are_hit_within_two_per_cent(preset: str, rule: str) -> None:
    for size in (0.15e6, 1.6e6):
        sized = scaler(preset, rule).sized(size)
        assert abs(sized.params / size - 1) <= TOLERANCE
        assert sized.params == counted(sized.architecture, "total")
        model = build(sized.architecture, device="meta")
        assert sized.params == sum(p.numel() for p in model.parameters())


def test_width_keeps_layers_and_the_width_of_heads() -> None:
    small, large = (scaler("llama").sized(size) for size in (0.15e6, 5e6))
    for sized in (small, large):
        mixer: Any = sized.architecture.layers[0].mixer
        assert (sized.layers, mixer.head_dim) == (4, 32)
        assert mixer.num_heads % mixer.num_kv_heads == 0
        assert abs(mixer.num_heads - sized.spec.d_model / 32) < 1
    assert large.spec.d_model > 4 * small.spec.d_model


def test_the_written_size_is_as_written() -> None:
    sized = scaler("llama").sized(counted(resolve(spec("llama"), VOCAB), "total"))
    assert sized.architecture.d_model == 128
    assert sized.architecture.layers == resolve(spec("llama"), VOCAB).layers


def test_widths_that_are_written_grow_and_states_do_not() -> None:
    layers = [
        {
            "mixer": {"type": "mamba", "d_state": 8, "d_inner": 96},
            "mlp": {"type": "glu", "d_ff": 64},
        }
    ]
    scaled = Scaler(spec("llama", d_model=48, layers=layers), VOCAB, "width").sized(1e6)
    mixer: Any = scaled.architecture.layers[0].mixer
    wider = scaled.spec.d_model / 48
    assert mixer.d_state == 8
    assert mixer.d_inner == pytest.approx(96 * wider, abs=1)
    assert scaled.architecture.layers[0].mlp.d_ff == pytest.approx(64 * wider, abs=1)  # type: ignore[attr-defined]


def test_depth_keeps_the_width() -> None:
    for layers, size in ((1, 0.35e6), (4, 0.8e6), (8, 1.6e6)):
        sized = scaler("llama", "depth").sized(size)
        assert (sized.spec.d_model, sized.layers) == (128, layers)
        assert abs(sized.params / size - 1) <= TOLERANCE


def test_aspect_keeps_width_over_layers() -> None:
    for size in (0.3e6, 1.6e6, 5e6):
        sized = scaler("llama", "aspect").sized(size)
        assert 32 / 1.25 < sized.spec.d_model / sized.layers < 32 * 1.25


def test_a_hybrid_keeps_its_pattern() -> None:
    layers = [{"repeat": 2, "layers": [{"mixer": "mamba"}, {"mixer": "attention"}]}]
    sized = scaler("llama", "depth", d_model=64, layers=layers).sized(1.2e6)
    kinds = [layer.mixer.type for layer in sized.architecture.layers]
    assert len(kinds) > 4
    assert kinds == ["mamba", "attention"] * (len(kinds) // 2)


def test_parameters_without_embeddings_are_those_of_the_stack() -> None:
    for preset in ("llama", "gpt2"):
        architecture = resolve(spec(preset), VOCAB)
        model = build(architecture, device="meta")
        inside = [
            p.numel() for n, p in model.named_parameters() if n.startswith(("layers", "head.norm"))
        ]
        assert counted(architecture, "non_embedding") == sum(inside)


def test_a_size_out_of_reach_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no size within 2% of 20,000 .*the nearest has 278,912"):
        scaler("llama", "depth").sized(20_000)


def test_layers_named_by_their_place_are_not_repeated() -> None:
    layers = [{"mixer": "attention"}, {"mixer": "attention", "share_with": 0}]
    with pytest.raises(UsageError, match="choose rule width"):
        scaler("llama", "depth", layers=layers).sized(1e6)


def test_unknown_rules_are_named() -> None:
    with pytest.raises(UsageError, match=r"unknown 'widht'.*did you mean 'width'"):
        parse_rule("widht")
    with pytest.raises(UsageError, match="unknown 'all'"):
        parse_count("all")
    assert parse_count("non-embedding") == "non_embedding"


def test_a_path_along_a_rule_grows() -> None:
    for rule in ("width", "depth", "aspect"):
        sizes = [sized.params for sized in scaler("llama", rule).path(1e5, 3e7, 1.2)]
        assert sizes == sorted(sizes)
        assert sizes[-1] > 3e7
        assert len(sizes) > 8
