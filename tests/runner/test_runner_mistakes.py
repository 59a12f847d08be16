"""Runners: what is wrong is said, with what would be right."""

from pathlib import Path
from typing import Any

import pytest
from runner_models import PAIRS, Tiny, again, made

from windtunnel.errors import CheckpointError, UsageError, WindtunnelError
from windtunnel.runner import ArchitectureLM, BasicModelRunner


def test_a_name_that_nothing_takes_is_told() -> None:
    runner = made(optimiser="adamw", width=8)
    (note,) = runner.notes
    assert note.startswith("optimiser is no argument of Tiny; did you mean 'optimizer'?")
    assert not made(optimizer="adamw", max_len=20, dropout=0.1, num_blocks=2).notes


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_changed_byte_is_found_and_the_next_place_taken(tmp_path: Path, name: str) -> None:
    for place in ("bad", "good"):
        made().save(tmp_path / place)
    path = tmp_path / "bad" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} has another checksum"):
        again(Tiny, tmp_path / "bad")
    runner = again(Tiny, tmp_path / "bad", tmp_path / "good")
    assert "passed over" in runner.notes[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.generate("one and"), "prompts must be a list of texts, not 'one and'"),
        (lambda r: r.generate([3]), "prompts must be a list of texts"),
        (lambda r: r.train(None), "samples must be a list of mappings .* not NoneType"),
        (lambda r: r.train(PAIRS[0]), "samples must be a list of mappings .* not dict"),
        (lambda r: r.validate("ab"), "samples must be a list of mappings .* not str"),
        (lambda r: r.train([{"prompt": "x", "truth": 3}]), "'truth' must be a text, not 3"),
    ],
)
def test_what_is_no_sample_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(made())


def test_a_runner_without_a_model_says_so() -> None:
    with pytest.raises(UsageError, match="call initialize first"):
        BasicModelRunner(Tiny).train(PAIRS)
    with pytest.raises(UsageError, match="max_batch_size must be a whole number"):
        BasicModelRunner(Tiny, max_batch_size="8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arch": "llamma", "tokenizer": "bytes"}, "'llamma' is no preset; did you mean 'llama'"),
        ({"arch": "llama", "tokenizer": "byte"}, "'byte' is no folder .* did you mean 'bytes'"),
    ],
)
def test_names_of_presets_and_tokenizers_are_looked_for(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        BasicModelRunner(ArchitectureLM, overrides=values).initialize("cpu")


@pytest.mark.parametrize("values", [{"optimizer": "adamv"}, {"lr": -1}, {"lr": "high"}])
def test_arguments_of_the_optimizer_are_checked(values: dict[str, Any]) -> None:
    with pytest.raises(WindtunnelError, match=next(iter(values))):
        made(**values)
