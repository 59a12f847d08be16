"""Representative variants of every registered component: each contract is checked on each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rows import bidirectional, gathered

from windtunnel.nn.component import REGISTRIES
from windtunnel.nn.contracts import Case, place

VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("mixer", "rnn"): [{}, {"activation": "relu", "bias": False}, {"d_hidden": 24}],
    ("mixer", "lstm"): [{}, {"bias": False}, {"d_hidden": 32}],
    ("mixer", "gru"): [{}, {"bias": False}, {"d_hidden": 24}],
    ("mlp", "dense"): [
        {},
        {"activation": "relu", "bias": True},
        {"activation": "relu2", "d_ff": 24},
        {"activation": "gelu_tanh", "dropout": 0.2},
        {"activation": "silu", "ratio": 2.5},
        {"activation": "mish", "ratio": 2.0, "multiple_of": 7},
    ],
    ("mlp", "glu"): [
        {},
        {"activation": "gelu", "bias": True},
        {"activation": "relu", "dropout": 0.2},
        {"activation": "relu2"},
        {"activation": "gelu_tanh"},
        {"activation": "mish", "ratio": 3.0, "multiple_of": 10},
        {"fused": True, "bias": True, "dropout": 0.1},
        {"fused": True, "activation": "relu"},
        {"fused": True, "activation": "relu2"},
    ],
    ("mlp", "none"): [{}],
    ("norm", "layernorm"): [{}, {"affine": False, "bias": False}, {"bias": False, "eps": 0.5}],
    ("norm", "rmsnorm"): [
        {},
        {"affine": False},
        {"bias": True, "eps": 0.5},
        {"affine": False, "bias": True},
        {"unit_offset": True},
    ],
    ("norm", "scalenorm"): [{}, {"affine": False}, {"bias": True, "eps": 4.0}],
    ("norm", "cosine"): [
        {},
        {"affine": False, "length": 4.0},
        {"bias": True, "eps": 4.0},
        {"length": "sqrt", "scale": "rsqrt"},
    ],
    ("norm", "none"): [{}],
    ("position", "none"): [{}],
    ("position", "rope"): [
        {},
        {"theta": 100.0, "style": "interleaved"},
        {"fraction": 0.5},
        {"rotary_dim": 6, "style": "interleaved"},
        {"scaling": {"type": "linear", "factor": 4.0}},
        {"theta": 100.0, "scaling": {"type": "llama3", "factor": 4.0, "original_max_seq_len": 64}},
        {"fraction": 0.75, "scaling": {"type": "yarn", "factor": 4.0, "original_max_seq_len": 64}},
        {"scaling": {"type": "yarn", "factor": 2.0, "original_max_seq_len": 99, "truncate": False}},
    ],
    ("position", "alibi"): [{}],
    ("embedding_position", "none"): [{}],
    ("embedding_position", "learned"): [{}, {"init_std": 0.5}],
    ("embedding_position", "sinusoidal"): [{}, {"theta": 50.0, "scale": 0.3}],
    ("residual", "add"): [{}],
    ("residual", "none"): [{}],
    ("residual", "rezero"): [{}, {"init": 0.5}],
    ("residual", "scaled"): [{}, {"stream": 0.9, "branch": 0.3}],
    ("residual", "learned"): [{}, {"per": "channel", "alpha": 0.7, "beta": 0.2}],
    **gathered("VARIANTS"),
}


def make(kind: str, name: str, values: dict[str, Any], *, causal: bool = True) -> Case:
    """The case of one variant."""
    cls = REGISTRIES[kind].config_class(name)
    assert cls is not None, f"{kind} {name} is not registered"
    config = cls.model_validate({"type": name, **values})
    return Case(kind, config, replace(place(kind), causal=causal))


CASES = [make(kind, name, values) for (kind, name), rows in VARIANTS.items() for values in rows]
CASES += [make(kind, name, values, causal=False) for kind, name, values in bidirectional()]
