"""The page about hypernetworks, the schema and the example say what the code does."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from windtunnel.config import decode, parse_document
from windtunnel.hyper.config import GhnConfig, SplitConfig, ghn_schema
from windtunnel.hyper.evaluation.config import CANDIDATES, EvaluationConfig, TextConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "hypernetwork.md").read_text(encoding="utf-8")
VALIDATOR = jsonschema.Draft202012Validator(ghn_schema())


def table(page: str) -> dict[str, str]:
    """The keys of a table and their defaults."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \| [^|]* \|$", page, flags=re.MULTILINE))


def test_the_table_of_evaluations_has_every_key_and_default() -> None:
    rows = table(PAGE.partition("## What it is worth")[2])
    assert set(rows) == set(EvaluationConfig.model_fields)
    made = EvaluationConfig(
        ghn="x",
        text=TextConfig(train="0:1", tune="1:2", test="2:3"),
        splits={"in_distribution": 1},
    )
    for name in ("name", "tune_members", "lr_factor", "ranking", "batch_size", "eval_tokens"):
        assert yaml.safe_load(rows[name]) == getattr(made, name), name
    assert float(rows["first_lr"]) == made.first_lr
    assert rows["steps"] == ", ".join(map(str, made.steps))
    assert rows["seeds"] == ", ".join(map(str, made.seeds))
    for name in CANDIDATES:
        assert f"`{name}`" in PAGE


def test_the_table_has_every_key_and_default() -> None:
    rows = table(PAGE.partition("## What it is worth")[0])
    assert list(rows) == list(GhnConfig.model_fields)
    config = GhnConfig(space="reasonable")
    for name in ("name", "predicts", "meta_batch", "largest_first", "bins", "eval_members"):
        assert yaml.safe_load(rows[name]) == getattr(config, name), name
    encoder = config.encoder
    told = f"{encoder.layers} layers, width {encoder.width}, {encoder.heads} heads"
    assert rows["encoder"] == told
    assert rows["decoder"] == f"`{config.decoder.type}`"
    split = SplitConfig()
    for name in ("d_model", "n_layer", "held_out"):
        assert re.search(rf"`{name}` \({getattr(split, name)}\)", PAGE), name
    for name in SplitConfig.model_fields:
        assert f"`{name}`" in PAGE


def test_the_schema_takes_the_example_and_the_page() -> None:
    jsonschema.Draft202012Validator.check_schema(ghn_schema())
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    example = (ROOT / "examples" / "ghn" / "small.yaml").read_text(encoding="utf-8")
    for text in (block, example):
        document = parse_document(text)
        decode(document, GhnConfig)
        tree: Any = json.loads(json.dumps(document.tree))
        assert [error.message for error in VALIDATOR.iter_errors(tree)] == []


@pytest.mark.parametrize(
    "wrong",
    [{}, {"space": 3}, {"space": "full", "decoder": "bank"}, {"space": "full", "bin": 3},
     {"space": "full", "encoder": {"layers": -1}}, {"space": "full", "predicts": "some"}],
)  # fmt: skip
def test_the_schema_refuses_what_is_wrong(wrong: Any) -> None:
    assert list(VALIDATOR.iter_errors(wrong))
