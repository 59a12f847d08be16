from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from windtunnel.config import decode, parse_document
from windtunnel.data.config import (
    BpeConfig,
    BytesConfig,
    CharsConfig,
    DataConfig,
    FilesSource,
    Gpt2Config,
    ParallelSource,
    ShakespeareSource,
)
from windtunnel.errors import ConfigError


def test_the_default_is_shakespeare_in_byte_pairs() -> None:
    config = DataConfig()
    assert config.source == ShakespeareSource()
    assert config.tokenizer == BpeConfig(vocab_size=4096)
    assert config.validation == 0.1


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("shakespeare", ShakespeareSource()),
        ("books/", FilesSource(paths=("books/",))),
        ("~/*.txt", FilesSource(paths=("~/*.txt",))),
        ({"type": "files", "paths": "a.txt"}, FilesSource(paths=("a.txt",))),
        (
            {"type": "files", "paths": ["a.txt", "b.jsonl"], "field": "body"},
            FilesSource(paths=("a.txt", "b.jsonl"), field="body"),
        ),
    ],
)
def test_a_source_may_be_written_short(written: object, meant: object) -> None:
    assert DataConfig.model_validate({"source": written}).source == meant


def test_an_absolute_path_begins_at_the_home_that_it_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    files, parallel = (
        DataConfig.model_validate({"source": source}).source.absolute()
        for source in (
            {"type": "files", "paths": ["~/a.txt", "/b.txt"]},
            {"type": "parallel", "source": "~/a.en", "target": "~/a.de"},
        )
    )
    assert files == FilesSource(paths=("/home/ada/a.txt", "/b.txt"))
    assert parallel == ParallelSource(source="/home/ada/a.en", target="/home/ada/a.de")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("bytes", BytesConfig()),
        ("chars", CharsConfig()),
        ("gpt2", Gpt2Config()),
        ({"type": "bpe", "vocab_size": 300}, BpeConfig(vocab_size=300)),
        ({"type": "bytes", "specials": ["pad", "bos"]}, BytesConfig(specials=("bos", "pad"))),
    ],
)
def test_a_tokenizer_may_be_written_short(written: object, meant: object) -> None:
    assert DataConfig.model_validate({"tokenizer": written}).tokenizer == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0.25, 0.25),
        ("valid.txt", FilesSource(paths=("valid.txt",))),
        (["a.txt", "b.txt"], FilesSource(paths=("a.txt", "b.txt"))),
        ({"paths": "a.jsonl", "field": "body"}, FilesSource(paths=("a.jsonl",), field="body")),
    ],
)
def test_validation_is_a_share_or_files(written: object, meant: object) -> None:
    assert DataConfig.model_validate({"validation": written}).validation == meant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source: shakespear", "did you mean 'shakespeare'?"),
        ("source: 3", "expected a name or a mapping"),
        ("source: {path: a.txt}", "`type` is missing, and 'path' is no key of 'files'"),
        ("source: {type: files}", "source.paths: is required"),
        ("source: {type: files, paths: []}", "source.paths"),
        ("source: {type: files, paths: a.txt, feild: x}", "did you mean 'field'?"),
        ("tokenizer: bpee", "did you mean 'bpe'?"),
        ("tokenizer: ./bpe", "unknown tokenizer"),
        ("tokenizer: {type: bpe, vocab_size: 100}", "must be ≥ 259"),
        ("tokenizer: {type: bytes, specials: [bos, bos]}", "twice"),
        ("validation: 0", "between 0 and 1"),
        ("validation: 1", "between 0 and 1"),
        ("validation: true", "between 0 and 1"),
        ("seed: -1", "seed: must be ≥ 0"),
        ("sede: 1", "did you mean 'seed'?"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(parse_document(text, "run.yaml"), DataConfig)
    assert expected in str(caught.value)
    assert len(caught.value.problems) == 1
    assert "run.yaml:1:" in str(caught.value)


def test_a_config_survives_the_way_through_json() -> None:
    config = DataConfig(
        source="x/*.md", tokenizer="chars", validation=["v.txt"], seed=3  # type: ignore[arg-type]
    )  # fmt: skip
    assert DataConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.replace(seed=4).source == config.source


def test_every_field_is_documented_and_in_the_schema() -> None:
    schema = TypeAdapter(DataConfig).json_schema()
    for name, definition in [("DataConfig", schema), *schema["$defs"].items()]:
        for field, described in definition["properties"].items():
            assert described.get("description"), f"{name}.{field}"
    assert {"type": "string"} in schema["properties"]["source"]["anyOf"]


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        DataConfig.model_validate({"shuffle": True})


@pytest.mark.parametrize("module", ["config", "dataset", "tokenizers", "sources"])
def test_only_the_loader_needs_torch(module: str) -> None:
    code = f"import sys, windtunnel.data.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prompts_of_validation_end_as_those_of_training_do() -> None:
    """Else no prompt of validation would be found in training, and left out there."""
    source = {"type": "pairs", "paths": "a.jsonl", "separator": "\n"}
    held = {"type": "pairs", "paths": "b.jsonl"}
    with pytest.raises(ValidationError, match="one separator, validation too"):
        DataConfig.model_validate({"source": source, "validation": held})
    with pytest.raises(ValidationError, match="one separator, validation too"):
        DataConfig.model_validate({"sources": {"one": source}, "validation": held})
    for same in ("b.jsonl", {"paths": "b.jsonl"}, {**held, "separator": "\n"}, 0.2):
        data = DataConfig.model_validate({"source": source, "validation": same})
        assert getattr(data.validation, "separator", "\n") == "\n"
