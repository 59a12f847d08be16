"""Predictions for larger sizes, other vocabularies and parts that are not known."""

from pathlib import Path

import pytest
import torch
from tests.hyper.tiny import FAMILIES, both_ties, config, limits, member, written

from windtunnel.arch import build
from windtunnel.data.config import BytesConfig, CharsConfig
from windtunnel.data.tokenizers import Tokenizer, build_tokenizer
from windtunnel.errors import UsageError
from windtunnel.hyper.limits import Limits
from windtunnel.hyper.network import HyperNetwork
from windtunnel.hyper.predict import predict, rows_by_pieces
from windtunnel.hyper.stored import Stored

TEXT = "abcabcdefghi"


def tokenizer(text: str = "abcdefgh") -> Tokenizer:
    return build_tokenizer(CharsConfig(), lambda: iter([text]))


def stored(known: Limits | None = None) -> Stored:
    given = config()
    torch.manual_seed(0)
    network = HyperNetwork(given.encoder, given.decoder, known or limits(d_model=8, n_layer=2))
    return Stored(network, tokenizer(), 8, 2, "tiny", Path())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("d", "layers"), [(8, 2), (4, 1), (16, 2), (8, 6), (24, 5)])
def test_every_parameter_of_any_size_is_predicted(family: str, d: int, layers: int) -> None:
    for tied in (True, False):
        architecture = member(family, d_model=d, n_layer=layers, tie_weights=tied)
        found = predict(stored(), architecture)
        shapes = {n: tuple(p.shape) for n, p in build(architecture).named_parameters()}
        assert {name: tuple(value.shape) for name, value in found.weights.items()} == shapes
        assert found.values == found.params
        assert all(value.isfinite().all() for value in found.weights.values())
        assert bool(found.notes) == (d > 8 or layers > 2)


def test_a_prediction_is_the_same_at_every_call() -> None:
    architecture = member("lstm", d_model=16, n_layer=4)
    one, other = (predict(stored(), architecture, seed=3).weights for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_family_that_was_left_out_gets_what_is_known() -> None:
    others = [a for a in both_ties() if not any(op.kind == "gru" for op in a.ops)]
    found = predict(stored(Limits.of(others)), member("gru"))
    assert set(found.weights) == {"embedding.weight", "head.weight"}
    assert found.values < found.params
    assert "not known to tiny: gru_bias_hh" in found.notes[-1]


def test_longer_sequences_repeat_the_last_position() -> None:
    found = predict(stored(), member("mini_gpt", max_seq_len=9))
    table = found.weights["embedding.position.weight"]
    assert torch.equal(table[6:], table[5:6].expand(3, -1))
    assert "positions beyond 6 are as the last" in found.notes


def test_parts_that_are_not_known_are_told() -> None:
    arch = {"vocab_size": 11, "max_seq_len": 6, "d_model": 8, "layers": [{"mixer": "mamba"}]}
    found = predict(stored(), written(arch))
    assert any("mamba" in note for note in found.notes)
    assert 0 < found.values < found.params


def test_what_cannot_be_grown_is_refused() -> None:
    arch = {"vocab_size": 11, "d_model": 24, "layers": [{"mixer": {"num_heads": 2}}]}
    with pytest.raises(UsageError, match="cannot be grown"):
        predict(stored(), written(arch))


@pytest.mark.parametrize("d_model", [8, 16])
def test_layers_that_differ_are_predicted_within_the_known_sizes_and_refused_beyond(
    d_model: int,
) -> None:
    layers = [{"mixer": {"num_heads": h, "position": "none"}, "mlp": {"type": "dense", "d_ff": f}}
              for h, f in ((2, 16), (4, 12))]  # fmt: skip
    arch = {"vocab_size": 11, "max_seq_len": 6, "d_model": d_model, "layers": layers}
    if d_model == 16:
        with pytest.raises(UsageError, match="cannot be grown"):
            predict(stored(), written(arch))
        return
    architecture = written(arch)
    found = predict(stored(), architecture).weights
    shapes = {n: tuple(p.shape) for n, p in build(architecture).named_parameters()}
    assert found
    assert all(tuple(value.shape) == shapes[name] for name, value in found.items())


def test_rows_of_another_vocabulary_are_means_of_pieces() -> None:
    known = build_tokenizer(BytesConfig(), lambda: iter([TEXT]))
    wanted = tokenizer("aé")
    table = torch.randn(known.vocab_size, 4)
    rows = rows_by_pieces(table, known, wanted)
    assert len(rows) == wanted.vocab_size
    for number in range(wanted.vocab_size):
        pieces = list(wanted.pieces[number])
        if not pieces:  # bos, eos, pad have rows of their own; unk has none
            names = [name for name, own in wanted.specials.items() if own == number]
            pieces = [known.specials[names[0]]] if names[0] in known.specials else []
        else:
            pieces = [known.pieces.index(bytes([byte])) for byte in pieces]
        expected = table[pieces].mean(0) if pieces else table.mean(0)
        assert torch.allclose(rows[number], expected)
