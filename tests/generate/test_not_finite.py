"""What a run that has diverged writes: nothing, whatever it was trained for."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Command

from windtunnel.config import parse_document
from windtunnel.errors import NotFiniteError
from windtunnel.generate import BeamConfig
from windtunnel.runs import RunFolder
from windtunnel.train.launch import ready_run, run_parts
from windtunnel.train.run_config import load_run_document
from windtunnel.train.writing import Writer

LAYERS = "layers: [{mixer: {type: attention, num_heads: 2}, mlp: {type: dense}}]"
ENCODER = f"{{type: encoder, d_model: 16, {LAYERS}"
PAIRS = "{source: {type: pairs, paths: p.jsonl}, tokenizer: bytes}"
KINDS = {
    "text": (f"{{d_model: 16, {LAYERS}}}", "{source: ./corpus.txt, tokenizer: bytes}", ""),
    "pairs": (f"{{d_model: 16, {LAYERS}}}", PAIRS, ", scores: [exact_match, word_accuracy]"),
    "encoder_decoder": (
        "{type: encoder_decoder, d_model: 16, embedding: {position: sinusoidal}, "
        f"encoder: {{{LAYERS}}}, decoder: {{{LAYERS}}}}}",
        PAIRS,
        "",
    ),
    "classifier": (
        f"{ENCODER}, head: {{type: classification, num_classes: 2, pooling: first}}}}",
        "{source: {type: labels, paths: l.jsonl}, tokenizer: bytes}",
        "",
    ),
    "diffusion": (
        f"{ENCODER}, embedding: {{init_std: 1.0, position: learned}}}}",
        PAIRS,
        ", objective: {type: diffusion, steps: 5}",
    ),
    "probe": (f"{{d_model: 16, {LAYERS}}}", "{source: {type: parity, length: 12}}", ""),
}


def parts_of(kind: str, workplace: Path) -> Any:
    rows = [{"prompt": f"{n}:", "truth": f"{n % 3}"} for n in range(40)]
    (workplace / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"text": f"{n}:", "label": n % 2} for n in range(40)]
    (workplace / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arch, data, more = KINDS[kind]
    text = (
        f"arch: {arch}\ndata: {data}\n"
        f"train: {{steps: 2, batch_size: 2, seq_len: 16, device: cpu, threads: 1{more}}}\n"
    )
    ready = ready_run(load_run_document(parse_document(text, "run.yaml")))
    return ready, run_parts(ready)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_whose_logits_are_not_finite_writes_nothing(
    kind: str, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ready, parts = parts_of(kind, workplace)
    assert len(parts.samples(parts.model)) == 3
    with torch.no_grad():
        for parameter in parts.model.parameters():
            parameter.fill_(math.nan)
    assert parts.samples(parts.model) == []
    assert "the record has no samples: the model's logits are not finite" in caplog.text
    if kind == "pairs":
        assert [*map(math.isnan, parts.scores(parts.model).values())] == [True, True]
    writer = Writer(parts.model, ready.dataset.tokenizer, ready.config)
    write = partial(writer.write, max_new_tokens=3)
    with pytest.raises(NotFiniteError, match="its training has diverged"):
        (writer.classify if kind == "classifier" else write)([[0, 1]])
    if kind in ("text", "encoder_decoder"):
        with pytest.raises(NotFiniteError):
            writer.write([[0, 1]], max_new_tokens=3, beams=BeamConfig(num_beams=2))


def test_a_run_that_diverged_has_a_record(windtunnel: Command, workplace: Path) -> None:
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    data = text[text.index("data:") :].replace("steps: 6", "steps: 30").replace("3e-3", "1e30")
    arch = "arch: {preset: llama, set: {d_model: 64, 'layers[0].repeat': 1}}\n"
    (workplace / "steep.yaml").write_text(arch + data, encoding="utf-8")
    answer = windtunnel("train", "steep.yaml", "--out", "out/steep", "--json")
    assert answer.code == 1, answer.err
    record = json.loads(answer.out)
    assert (record["status"], record["samples"]) == ("diverged", [])
    ends = [e for e in RunFolder.open(workplace / "out/steep").read_events() if e.kind == "end"]
    assert [event.values["status"] for event in ends] == ["diverged"]
    for options in ((), ("--greedy",), ("--beams", 2), ("--stream",), ("--int8",)):
        told = windtunnel("generate", "out/steep", "the", *options)
        assert (told.code, "not finite" in told.err, "diverged" in told.err) == (2, True, True)
