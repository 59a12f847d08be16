"""A part written without ``type`` is of the type that its place has by default."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from windtunnel.arch.spec import EncoderSpec, LayerSpec
from windtunnel.config import Choice, parse_document
from windtunnel.errors import ConfigError
from windtunnel.nn.component import REGISTRIES
from windtunnel.nn.embedding import EmbeddingConfig
from windtunnel.nn.head import HeadConfig
from windtunnel.train.config import TrainConfig
from windtunnel.train.run_config import RunConfig, load_run_document

OWNERS: list[Any] = [LayerSpec, EncoderSpec, HeadConfig, EmbeddingConfig, TrainConfig] + [
    config
    for registry in REGISTRIES.values()
    for name in registry.names()
    if (config := registry.config_class(name)) is not None
]
RUN = "arch: {d_model: 16, layers: [{}]}"


def slots() -> Iterator[Any]:
    for owner in OWNERS:
        for name, field in owner.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Choice):
                    default = field.get_default(call_default_factory=True)
                    yield pytest.param(mark, default, id=f"{owner.__name__}.{name}")


@pytest.mark.parametrize(("mark", "default"), list(slots()))
def test_the_type_assumed_is_that_of_the_default(mark: Choice, default: BaseModel) -> None:
    kind = default.model_dump()["type"]
    keys = type(default).model_fields.keys() - {"type"}
    assert mark.default in (kind, None)
    assert (mark.default is None) <= (kind in ("none", "auto") or not keys)


def edited(*edits: str) -> RunConfig:
    return load_run_document(parse_document(RUN, "f.yaml"), edits).config


@pytest.mark.parametrize(
    ("edit", "path", "kind"),
    [
        ("arch.layers[0].norm.eps=1e-5", "arch.layers.0.norm", "rmsnorm"),
        ("arch.layers[0].mixer.num_heads=4", "arch.layers.0.mixer", "attention"),
        ("arch.layers[0].mixer.position.theta=1e6", "arch.layers.0.mixer.position", "rope"),
        ("arch.layers[0].mlp.ratio=3", "arch.layers.0.mlp", "glu"),
        ("arch.head.norm.eps=1e-5", "arch.head.norm", "rmsnorm"),
        ("train.schedule.warmup=10", "train.schedule", "cosine"),
        ("data.tokenizer.vocab_size=500", "data.tokenizer", "bpe"),
        ("data.source.paths=[a.txt]", "data.source", "files"),
    ],
)
def test_a_key_of_a_part_that_is_left_out_can_be_edited(edit: str, path: str, kind: str) -> None:
    node: Any = edited(edit)
    for step in path.split("."):
        node = node[int(step)] if step.isdigit() else getattr(node, step)
    assert node.type == kind


def test_a_width_that_does_not_fit_is_told_with_the_place_of_the_width() -> None:
    with pytest.raises(ConfigError) as caught:
        edited("arch.layers[0].mixer.num_heads=4", "arch.d_model=30")
    (problem,) = caught.value.problems
    assert problem.path == "arch.layers[0].mixer"
    assert problem.message.endswith("; d_model is written at --set")
