"""Files: shards, precisions, ties, what is missing or left over; runs and folders that come out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import saved, small_model
from typer.testing import CliRunner

from windtunnel.cli.main import app
from windtunnel.data.tokenizers.bpe import BpeTokenizer
from windtunnel.data.tokenizers.plain import BytesTokenizer, CharsTokenizer
from windtunnel.errors import DataError, UsageError, WindtunnelError
from windtunnel.interop.hf.export import export_run
from windtunnel.interop.hf.load import create_imported_run, read_pretrained
from windtunnel.interop.hf.tokenizer import tokenizer_files
from windtunnel.runs import RunFolder, RunStore
from windtunnel.train.launch import open_trained

TEXT = "the cat sat on the mat and the rat sat on the cat; " * 9
BPE = BpeTokenizer.train([TEXT], 268)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama as a folder, without a tokenizer."""
    return Path(saved(small_model("llama"), tmp_path / "small"))


@pytest.fixture
def talking(tmp_path: Path) -> Path:
    """A small Llama with a tokenizer."""
    values = {"vocab_size": 270, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, **values,
    )  # fmt: skip
    path = Path(saved(transformers.AutoModelForCausalLM.from_config(config), tmp_path / "talking"))
    for name, text in (tokenizer_files(BPE) or {}).items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Changes tensors of a folder; None takes one away. Dots are written as double underscores."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, value in changes.items():
        if value is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = value
    save_file(tensors, file, metadata={"format": "pt"})


def test_shards_are_read_as_one_file_is(folder: Path, tmp_path: Path) -> None:
    sharded = Path(saved(small_model("llama"), tmp_path / "shards", max_shard_size="20KB"))
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, many = read_pretrained(str(folder)), read_pretrained(str(sharded))
    assert one.weights.keys() == many.weights.keys()
    assert all(torch.equal(one.weights[name], many.weights[name]) for name in one.weights)
    sorted(sharded.glob("*.safetensors"))[0].unlink()
    with pytest.raises(UsageError, match=r"model-00001-of-\d+.safetensors, named in"):
        read_pretrained(str(sharded))


def test_a_shard_outside_of_the_folder_is_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="is missing"):
        read_pretrained(str(folder))


def test_a_pickle_is_never_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(UsageError, match="a pickle can run code when it is opened"):
        read_pretrained(str(folder))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_narrow_weights_are_read_into_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small_model("llama")
    narrow = Path(saved(model.to(dtype), tmp_path / "narrow"))
    found = read_pretrained(str(narrow))
    assert found.dtypes == (str(dtype).removeprefix("torch."),)
    assert {tensor.dtype for tensor in found.weights.values()} == {torch.float32}
    wide = transformers.AutoModelForCausalLM.from_pretrained(narrow, dtype=torch.float32).eval()
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(found.model()(tokens), wide(tokens).logits, atol=1e-5, rtol=1e-5)


def test_weights_that_are_no_floats_are_refused(folder: Path) -> None:
    rewrite(folder, model__norm__weight=torch.ones(32).to(torch.float8_e4m3fn))
    with pytest.raises(UsageError, match=r"model.norm.weight is torch.float8_e4m3fn"):
        read_pretrained(str(folder))


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    rewrite(folder, model__norm__weight=torch.ones(32, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"model.norm.weight is torch.int64"):
        read_pretrained(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name_or_taken(
    folder: Path, value: float
) -> None:
    norm, embedding = torch.ones(32), load_file(folder / "model.safetensors")["lm_head.weight"]
    norm[[3, 5]] = value
    embedding[1, 1] = value
    rewrite(folder, model__norm__weight=norm, lm_head__weight=embedding)
    with pytest.raises(UsageError) as refusal:
        read_pretrained(str(folder))
    first, second, hint = str(refusal.value).splitlines()
    total = f"{embedding.numel():,}"
    assert first == f"{folder}: lm_head.weight: 1 of {total} values are NaN or infinite"
    assert second == f"{folder}: model.norm.weight: 2 of 32 values are NaN or infinite"
    assert "--allow-nonfinite" in hint
    out = folder.parent / "out"
    refused = CliRunner().invoke(app, ["import", "hf", str(folder), "--out", str(out)])
    assert isinstance(refused.exception, UsageError)
    assert not out.exists()
    taken = read_pretrained(str(folder), allow_nonfinite=True)
    assert "model.norm.weight: 2 of 32 values are NaN or infinite" in taken.notes
    torch.testing.assert_close(taken.weights["head.norm.weight"], norm, equal_nan=True)
    command = ["import", "hf", str(folder), "--out", str(out), "--allow-nonfinite"]
    assert CliRunner().invoke(app, command).exit_code == 0


def test_a_number_too_large_for_float32_is_not_finite(folder: Path) -> None:
    rewrite(folder, model__norm__weight=torch.full((32,), 1e300, dtype=torch.float64))
    with pytest.raises(UsageError, match=r"model.norm.weight: 32 of 32 values are NaN or infinite"):
        read_pretrained(str(folder))


def test_a_tied_copy_with_nan_is_still_a_copy(tmp_path: Path) -> None:
    path = Path(saved(small_model("llama"), tmp_path / "tied"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tied = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    tied[0, 0] = float("nan")
    rewrite(path, model__embed_tokens__weight=tied, lm_head__weight=tied.clone())
    assert read_pretrained(str(path), allow_nonfinite=True).architecture.embedding.tie


@pytest.mark.parametrize("count", [10**9, 100])
def test_more_layers_than_can_be_are_refused_before_they_are_laid_out(
    folder: Path, count: int
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": count}))
    with pytest.raises(UsageError, match=rf"num_hidden_layers: {count} layers, but there can be"):
        read_pretrained(str(folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("rms_norm_eps", "x"),
        ("rms_norm_eps", float("inf")),
        ("max_position_embeddings", None),
        ("hidden_size", [16]),
        ("rope_scaling", [1]),
    ],
)
def test_a_value_of_a_config_that_makes_no_sense_is_told(
    folder: Path, key: str, value: Any
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(WindtunnelError, match="config"):
        read_pretrained(str(folder))


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '{"a":', "\0"])
def test_a_config_that_is_none_is_told(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json: "):
        read_pretrained(str(folder))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[1]", "{}", '{"weight_map": [1]}', '{"weight_map": {}}']
)
def test_a_damaged_index_is_told(folder: Path, text: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(DataError, match=r"is damaged|names no weight"):
        read_pretrained(str(folder))


def test_every_tensor_that_does_not_fit_is_named(folder: Path) -> None:
    rewrite(folder, model__norm__weight=None, model__layers__9__odd=torch.ones(3))
    with pytest.raises(UsageError) as refusal:
        read_pretrained(str(folder))
    lines = str(refusal.value).splitlines()
    assert lines[0].endswith("model.norm.weight is missing")
    assert lines[1].endswith("model.layers.9.odd has no place in our model")


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    rewrite(folder, model__norm__weight=torch.ones(33))
    with pytest.raises(UsageError, match=r"model.norm.weight gives head.norm.weight the shape"):
        read_pretrained(str(folder))


def test_a_damaged_file_is_told(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged"):
        read_pretrained(str(folder))


def test_a_tied_head_may_lie_there_twice_but_not_differ(tmp_path: Path) -> None:
    folder = Path(saved(small_model("llama-tied"), tmp_path / "tied"))
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(folder, lm_head__weight=embedding.clone())
    assert "head.weight" not in read_pretrained(str(folder)).weights
    rewrite(folder, lm_head__weight=embedding + 1)
    with pytest.raises(UsageError, match=r"lm_head.weight differs from model.embed_tokens"):
        read_pretrained(str(folder))


def test_names_of_a_base_model_and_constants_of_older_files_are_understood(tmp_path: Path) -> None:
    folder = Path(saved(small_model("gpt2"), tmp_path / "gpt2"))
    expected = read_pretrained(str(folder)).weights
    tensors = load_file(folder / "model.safetensors")
    older = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    older["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(older, folder / "model.safetensors", metadata={"format": "pt"})
    found = read_pretrained(str(folder)).weights
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_imported_run_stands_in_the_store_and_is_final(talking: Path, tmp_path: Path) -> None:
    found = read_pretrained(str(talking))
    made = create_imported_run(found, str(talking), runs=tmp_path / "runs")
    (listed,) = RunStore(tmp_path / "runs").list()
    assert (listed.status, listed.step, listed.loss, listed.params) == (
        "imported", 0, None, found.params,
    )  # fmt: skip
    record = RunFolder.open(made.path).read_record()
    assert record is not None
    assert record["imported"]["from"] == str(talking)
    assert record["imported"]["stored_as"] == ["float32"]
    trained = open_trained(made)
    for name, tensor in trained.model.state_dict().items():
        if name in found.weights:
            assert torch.equal(tensor, found.weights[name])
    with pytest.raises(UsageError, match="already exists"):
        create_imported_run(found, str(talking), runs=tmp_path / "runs")


def test_a_tokenizer_larger_than_the_model_is_refused(talking: Path, tmp_path: Path) -> None:
    files = tokenizer_files(BpeTokenizer.train([TEXT], 274)) or {}
    (talking / "tokenizer.json").write_text(files["tokenizer.json"])
    with pytest.raises(UsageError, match="has 274 ids, more than the model's vocab_size 270"):
        read_pretrained(str(talking))


@pytest.mark.parametrize("ours", [BPE, BytesTokenizer(("bos", "eos", "pad"))])
def test_our_tokenizers_are_read_by_transformers(ours: Any, tmp_path: Path) -> None:
    for name, text in (tokenizer_files(ours) or {}).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, "naïve café — 你好\r\n  1234\t's", "", "a"):
        assert theirs(text).input_ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        ours.bos, ours.eos, ours.pad,
    )  # fmt: skip
    assert len(theirs) == ours.vocab_size


def test_a_tokenizer_without_a_counterpart_is_told() -> None:
    assert tokenizer_files(CharsTokenizer.train([TEXT], ("eos",))) is None


def verb(*words: str) -> Any:
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, WindtunnelError):
        assert isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def test_in_and_out_from_the_command_line(talking: Path, tmp_path: Path) -> None:
    run, out = str(tmp_path / "run"), tmp_path / "out"
    made = verb("import", "hf", str(talking), "--out", run, "--json")
    assert json.loads(made.stdout)["model_type"] == "llama"
    told = verb("generate", run, "the cat", "--greedy", "-n", "8", "--json")
    (answer,) = json.loads(told.stdout)
    done = verb("export", "hf", run, str(out))
    assert done.exit_code == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = tokenizer("the cat", return_tensors="pt").input_ids
    expected = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert answer["text"] == tokenizer.decode(expected, skip_special_tokens=True)
    again = verb("export", "hf", run, str(out))
    assert isinstance(again.exception, UsageError)
    assert "already exists" in str(again.exception)
    for words in (["check"], ["trace"]):
        assert verb(*words, f"{run}/config.yaml").exit_code == 0


def test_an_imported_run_is_not_resumed(talking: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    verb("import", "hf", str(talking), "--out", run)
    (tmp_path / "text.txt").write_text(TEXT * 40)
    (tmp_path / "other.txt").write_text(TEXT[::-1] * 40)
    edits = ["--set", f"data.source={tmp_path}/text.txt", "--set", "train.batch_size=2"]
    edits += ["--set", f"data.validation={tmp_path}/other.txt", "--set", "train.steps=2"]
    refused = verb("train", f"{run}/config.yaml", "--resume", "--out", run, *edits)
    assert isinstance(refused.exception, UsageError)
    assert "holds a run that has ended" in str(refused.exception)
    trained = verb("train", f"{run}/config.yaml", "--out", str(tmp_path / "anew"), *edits)
    assert trained.exit_code == 0, trained.output


def test_a_run_begins_with_imported_weights(talking: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    verb("import", "hf", str(talking), "--out", run)
    (tmp_path / "text.txt").write_text(TEXT * 40)
    (tmp_path / "other.txt").write_text(TEXT[::-1] * 40)
    edits = ["--set", f"data.source={tmp_path}/text.txt", "--set", "train.batch_size=2"]
    edits += ["--set", f"data.validation={tmp_path}/other.txt", "--set", "train.steps=2"]
    begun = tmp_path / "begun"
    file = f"{run}/config.yaml"
    trained = verb("train", file, "--init", run, "--out", str(begun), *edits)
    assert trained.exit_code == 0, trained.output
    first = load_file(begun / "checkpoints" / "step-00000000" / "model.safetensors")
    weights = read_pretrained(str(talking)).weights
    assert first.keys() == weights.keys()
    assert all(torch.equal(first[name], weights[name]) for name in weights)
    refused = verb("branch", run, "--out", str(tmp_path / "no"), *edits)
    assert isinstance(refused.exception, UsageError)
    assert "holds weights alone" in str(refused.exception)
    assert not (tmp_path / "no").exists()


def test_the_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'windtunnel\[hf\]'"):
        read_pretrained(str(folder))


def test_a_name_is_looked_up_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model of that name is in the local cache"):
        read_pretrained("nobody/nothing-of-that-name")
    for name in ("./nothing", "/no/such/folder"):
        with pytest.raises(UsageError, match="is no folder"):
            read_pretrained(name)
    with pytest.raises(UsageError, match=r"has no config.json"):
        read_pretrained(str(tmp_path))


def test_a_run_of_ours_goes_out_and_comes_back(talking: Path, tmp_path: Path) -> None:
    found = read_pretrained(str(talking))
    made = create_imported_run(found, str(talking), out=tmp_path / "run", runs=tmp_path)
    export_run(made, tmp_path / "out")
    again = read_pretrained(str(tmp_path / "out"), name=found.architecture.name)
    assert again.architecture.digest() == found.architecture.digest()
    assert all(torch.equal(again.weights[name], found.weights[name]) for name in found.weights)
    assert again.tokenizer is not None
    assert again.tokenizer.digest == (found.tokenizer and found.tokenizer.digest)
