"""Every knob changes something: parameters, their init, the cost or the output."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from rows import gathered

from windtunnel.config import Config
from windtunnel.nn.auxiliary import collect_auxiliary
from windtunnel.nn.component import REGISTRIES, Scope, Span, build_component
from windtunnel.nn.contracts import Case, place
from windtunnel.nn.contracts.case import build, make_input, run
from windtunnel.nn.embedding import Embedding, EmbeddingConfig
from windtunnel.nn.head import Head, HeadConfig, HeadTransform, HeadTransformConfig
from windtunnel.nn.initialize import initialize

Knob = tuple[dict[str, Any], Any]
"""(what else is written, the value that differs from the default)"""

_CLASSES = {"type": "classification", "num_classes": 3}
_WIDTH: dict[str, Knob] = {
    "activation": ({}, "mish"),
    "d_ff": ({}, 20),
    "ratio": ({}, 3.0),
    "multiple_of": ({"ratio": 2.5}, 32),
    "bias": ({}, True),
    "dropout": ({}, 0.5),
}
_RECURRENT: dict[str, Knob] = {"d_hidden": ({}, 24), "bias": ({}, False)}
_AFFINE: dict[str, Knob] = {"affine": ({}, False), "eps": ({}, 50.0)}

KNOBS: dict[tuple[str, str], dict[str, Knob]] = {
    ("mixer", "rnn"): {**_RECURRENT, "activation": ({}, "relu")},
    ("mixer", "lstm"): _RECURRENT,
    ("mixer", "gru"): _RECURRENT,
    ("mlp", "dense"): _WIDTH,
    ("mlp", "glu"): {**_WIDTH, "fused": ({}, True)},
    ("mlp", "none"): {},
    ("norm", "layernorm"): {**_AFFINE, "bias": ({}, False)},
    ("norm", "rmsnorm"): {**_AFFINE, "bias": ({}, True), "unit_offset": ({}, True)},
    ("norm", "scalenorm"): {**_AFFINE, "bias": ({}, True)},
    ("norm", "cosine"): {**_AFFINE, "bias": ({}, True), "length": ({}, 4.0), "scale": ({}, 0.5)},
    ("norm", "none"): {},
    ("position", "none"): {},
    ("position", "rope"): {
        "theta": ({}, 50.0),
        "fraction": ({}, 0.5),
        "rotary_dim": ({}, 4),
        "style": ({}, "interleaved"),
        "scaling": ({}, {"type": "linear", "factor": 2.0}),
    },
    ("position", "alibi"): {},
    ("embedding_position", "none"): {},
    ("embedding_position", "learned"): {"init_std": ({}, 0.5)},
    ("embedding_position", "sinusoidal"): {"theta": ({}, 50.0), "scale": ({}, 0.1)},
    ("residual", "add"): {},
    ("residual", "none"): {},
    ("residual", "rezero"): {"init": ({}, 0.5)},
    ("residual", "scaled"): {"stream": ({}, 0.5), "branch": ({}, 0.3)},
    ("residual", "learned"): {"per": ({}, "channel"), "alpha": ({}, 0.5), "beta": ({}, 0.5)},
    **gathered("KNOBS"),
    ("", "embedding"): {
        "tie": ({}, False),
        "scale": ({}, True),
        "dropout": ({}, 0.5),
        "init_std": ({}, 0.5),
        "position": ({}, "sinusoidal"),
        "token_types": ({}, 2),
        "norm": ({}, "layernorm"),
        "unified": ({"tie": False}, {"factor": 2.0}),
    },
    ("", "head"): {
        "norm": ({}, "layernorm"),
        "transform": ({}, {}),
        "scale": ({}, "rsqrt"),
        "bias": ({}, True),
        "softcap": ({}, 0.1),
        "init_std": ({}, 0.5),
        "num_classes": (_CLASSES, 4),
        "pooling": (_CLASSES, "last"),
    },
    ("", "transform"): {
        "activation": ({}, "relu"),
        "norm": ({}, "rmsnorm"),
        "bias": ({}, False),
    },
}
_ENDS: dict[str, type[Config]] = {
    "embedding": EmbeddingConfig,
    "head": HeadConfig,
    "transform": HeadTransformConfig,
}
_MODULES: dict[str, Any] = {
    "embedding": Embedding,
    "head": Head,
    "transform": HeadTransform,
}


def _config(kind: str, name: str, values: dict[str, Any]) -> Any:
    cls = REGISTRIES[kind].config_class(name) if kind else _ENDS[name]
    assert cls is not None
    return cls.model_validate(values)


def _effect(kind: str, name: str, values: dict[str, Any]) -> tuple[Any, ...]:
    """All that a config decides: names, shapes and values of parameters, cost, output."""
    scope = place(kind) if kind else Scope(d_model=16, vocab_size=30)
    config = _config(kind, name, values).resolve(scope)
    span = Span.of(9)
    torch.manual_seed(0)
    module: Any
    beside: Any = None
    if kind:
        module = build_component(kind, config, scope)
        initialize(module, 0)
        case = Case(kind, config, scope)
        x = make_input(case, 2, 9, dtype=torch.float32)
        with collect_auxiliary() as auxiliary:
            y = run(module.train(), x, span)
        moved = run(build(case), x.double(), span)  # what does not show at the init
        beside = torch.as_tensor(auxiliary.total()).tolist(), _updated(module), moved.tolist()
    else:
        module = _MODULES[name](config, scope)
        initialize(module, 0)
        torch.manual_seed(1)
        if name == "embedding":
            y = module(torch.randint(30, (2, 9)), span)
        elif name == "head":
            y = module(module.pooled(module.normed(torch.randn(5, 9, 16))))
        else:
            y = module(torch.randn(5, 16))
    weights = {n: p.tolist() for n, p in module.named_parameters()}
    return weights, config.cost(scope, 100), y.tolist(), beside


def _updated(module: torch.nn.Module) -> dict[str, Any]:
    """What the module makes of its buffers and weights after a step."""
    if not hasattr(module, "after_update"):
        return {}
    changed: Any = copy.deepcopy(module)
    changed.after_update(seed=0, step=1)
    return {name: value.tolist() for name, value in changed.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
    + [("", name) for name in _ENDS],
)
def test_every_knob_changes_something(kind: str, name: str) -> None:
    cls = REGISTRIES[kind].config_class(name) if kind else _ENDS[name]
    assert cls is not None
    knobs = KNOBS[kind, name]
    assert set(knobs) == set(cls.model_fields) - {"type"}, "a knob without a row, or a stale row"
    for knob, (others, value) in knobs.items():
        before = _effect(kind, name, others)
        assert _effect(kind, name, others) == before, "the effect itself is random"
        after = _effect(kind, name, {**others, knob: value})
        assert after != before, f"{knob}: {value} changes nothing"
