"""The JSON schema of a run file takes every right file there is, and refuses wrong ones."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from windtunnel.arch.presets import preset_names, preset_text
from windtunnel.cli.template import render_run_file
from windtunnel.config import Document, parse_document
from windtunnel.train.run_config import load_run_document
from windtunnel.train.run_schema import run_schema

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(run_schema())
EXAMPLES = [
    file
    for file in sorted((ROOT / "examples").rglob("*.yaml"))
    if "arch" in parse_document(file.read_text(encoding="utf-8")).tree  # not a search's space
]


def mistakes(document: Document, under: str | None = None) -> list[str]:
    tree: Any = json.loads(json.dumps(document.tree))
    if under is not None:
        tree = {under: tree}
    return [error.message[:300] for error in VALIDATOR.iter_errors(tree)]


def documented() -> Iterator[Any]:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for number, block in enumerate(blocks):
            tree = parse_document(block).tree
            if "arch" in tree and "plugins" not in tree:
                yield pytest.param(block, None, id=f"{page.name}-{number}")
            elif {"layers", "encoder"} & tree.keys():
                yield pytest.param(block, "arch", id=f"{page.name}-{number}")


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(run_schema())


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_it_takes_the_examples(file: Path) -> None:
    assert mistakes(parse_document(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("name", preset_names())
def test_it_takes_the_presets(name: str) -> None:
    assert mistakes(parse_document(preset_text(name)), "arch") == []


def test_it_takes_a_new_run_file() -> None:
    assert mistakes(parse_document(render_run_file("llama", "run.yaml"))) == []


@pytest.mark.parametrize(("block", "under"), list(documented()))
def test_it_takes_what_is_documented(block: str, under: str | None) -> None:
    assert mistakes(parse_document(block), under) == []


def test_there_is_something_documented() -> None:
    assert len(list(documented())) >= 4


RIGHT = [
    "arch: {preset: gpt2, set: {'layers[0].repeat': 2}}",
    "arch: {preset: gpt2, d_model: 64, head: {norm: {bias: false}}}",
    "arch: {d_model: 32, layers: [norm > attention > +, lstm]}",
    "arch: {d_model: 32, layers: [{repeat: 2, block: norm > attention > +}]}",
    "arch: {d_model: 32, layers: [{repeat: 2, layers: [{mixer: gru}, {layers: [lstm]}]}]}",
    "arch: {d_model: 32, layers: [{norm: {placement: post}, mlp: {ratio: 8/3}}]}",
    "arch: {d_model: 32, layers: [{norm: null, placement: none, mixer: lstm, mlp: null}]}",
    "arch: {d_model: 32, layers: [lstm], head: vocabulary}\ntrain: {schedule: cosine}",
    "arch: {d_model: 32, type: encoder_decoder, encoder: {layers: [lstm]}, "
    "decoder: {layers: [{mixer: lstm, cross: {num_heads: 2}}]}}",
    "arch: {d_model: 32, layers: [lstm]}\ndata: {source: ./a.txt, tokenizer: {vocab_size: 500}}",
    "arch: {d_model: 32, layers: [lstm]}\ntrain: {clip: null, betas: [0.9, 0.99]}",
]
WRONG = [
    "arch: {preset: gpt3}",
    "arch: {layers: [lstm]}",
    "arch: {d_model: 0, layers: [lstm]}",
    "arch: {d_model: 32, layers: []}",
    "arch: {d_model: 32, layers: [3]}",
    "arch: {d_model: 32, layers: lstm}",
    "arch: {d_model: 32, layers: [{mixer: atention}]}",
    "arch: {d_model: 32, layers: [{mixer: {type: attention, num_heds: 2}}]}",
    "arch: {d_model: 32, layers: [{mixer: {num_heads: '2'}}]}",
    "arch: {d_model: 32, layers: [{mpl: glu}]}",
    "arch: {d_model: 32, layers: [{repeat: 2, layers: []}]}",
    "arch: {d_model: 32, layers: [{repeat: 0, layers: [lstm]}]}",
    "arch: {d_model: 32, layers: [{repeat: 2, mixer: lstm, layers: [lstm]}]}",
    "arch: {d_model: 32, layers: [{placement: befor}]}",
    "arch: {d_model: 32, layers: [{mlp: {ratio: eight thirds}}]}",
    "arch: {d_model: 32, layers: [{mlp: {ratio: -1}}]}",
    "arch: {d_model: 32, layers: [lstm]}\ntrain: {lr: '3e-4'}",
    "arch: {d_model: 32, layers: [lstm]}\ntrain: {betas: [0.9]}",
    "arch: {d_model: 32, layers: [lstm]}\ntrain: {schedule: cosin}",
    "arch: {d_model: 32, layers: [lstm]}\ndata: {tokenizer: bpee}",
    "arch: {d_model: 32, layers: [lstm]}\ndatta: {}",
    "data: {tokenizer: bpe}",
]


@pytest.mark.parametrize("text", RIGHT)
def test_it_takes_what_a_run_takes(text: str) -> None:
    load_run_document(parse_document(text, "f.yaml"))
    assert mistakes(parse_document(text)) == []


@pytest.mark.parametrize("text", WRONG)
def test_it_refuses_what_a_run_refuses(text: str) -> None:
    with pytest.raises(Exception, match=r"f\.yaml"):
        load_run_document(parse_document(text, "f.yaml"))
    assert mistakes(parse_document(text))
