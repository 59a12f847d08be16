"""What was trained stays findable: digests and parameter names are stable API."""

import hashlib

import pytest

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.config import decode, parse_document

ATTENTION = """
vocab_size: 300
d_model: 32
embedding: {tie: true, position: learned}
layers:
  - repeat: 2
    norm: {type: layernorm, eps: 1e-5}
    mixer: {type: attention, num_heads: 4, num_kv_heads: 2, position: rope}
    mlp: {type: dense, activation: gelu_tanh, ratio: 4, bias: true}
  - placement: sandwich
    mixer: {type: attention, num_heads: 4, window: 8, softcap: 20.0, qk_norm: rmsnorm}
    mlp: {type: glu, activation: silu, ratio: 8/3}
    residual: rezero
    dropout: 0.1
head: {norm: {type: layernorm, eps: 1e-5}, softcap: 30.0}
"""
RECURRENT = """
vocab_size: 300
d_model: 16
embedding: {tie: false, init_std: 0.3}
layers: [{norm: none, placement: none, mixer: lstm, mlp: none, residual: none}, {mixer: gru}]
head: {norm: none}
"""
GOLDEN = {
    "attention": (
        ATTENTION,
        "893f030039ee736b79b1b813458c65691f4a16ec386b413823e26bbbf93ba4d7",
        "249363edb26ad327",
    ),
    "recurrent": (
        RECURRENT,
        "c812653586e8b3662066e2c8f2ab902971798d708d76807e4b965fbd72c16bf6",
        "952019b1a0a94fc2",
    ),
}
"""A spec, its digest, and the start of the SHA-256 of its parameter names (a line each), as they
were before there was more than one topology."""


@pytest.mark.parametrize("name", GOLDEN)
def test_old_architectures_keep_their_digest_and_their_parameter_names(name: str) -> None:
    text, digest, hashed_names = GOLDEN[name]
    architecture = resolve(decode(parse_document(text), ArchSpec))
    assert architecture.digest() == digest
    names = "\n".join(name for name, _ in build(architecture, device="meta").named_parameters())
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == hashed_names


def test_what_came_later_is_not_written_where_it_is_not_used() -> None:
    architecture = resolve(decode(parse_document(RECURRENT), ArchSpec))
    written = architecture.to_spec().model_dump(mode="json")
    assert set(written) == {
        "name", "type", "max_seq_len", "d_model", "embedding", "head", "vocab_size", "layers",
    }  # fmt: skip
    assert set(written["head"]) == {"norm", "bias", "softcap", "init_std"}
    assert set(written["layers"][0]) == {
        "repeat", "norm", "placement", "mixer", "mlp", "residual", "dropout",
    }  # fmt: skip
