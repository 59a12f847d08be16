"""Comparisons on pairs and labels: tokens are the targets, and losses must be of the same thing."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Command

from windtunnel.config import parse_document
from windtunnel.errors import UsageError
from windtunnel.study.ground import local_ground
from windtunnel.study.planning import plan_compare
from windtunnel.train.launch import create_run_folder, ready_run, run_in_folder
from windtunnel.train.run_config import LoadedRun, load_run_document

LAYERS = "[{mixer: {type: attention, num_heads: 2}}]"
TRAIN = "{steps: 12, batch_size: 8, seq_len: 40, eval_every: 12, threads: 1, device: cpu"
PAIRS = "{source: {type: pairs, paths: p.jsonl}, tokenizer: bytes}"
ARCHS = {
    "decoder": f"{{name: decoder, d_model: 16, layers: {LAYERS}}}",
    "whole": (
        f"{{name: whole, type: encoder_decoder, d_model: 16, encoder: {{layers: {LAYERS}}}, "
        f"decoder: {{layers: {LAYERS}}}}}"
    ),
    "encoder": f"{{name: encoder, type: encoder, d_model: 16, layers: {LAYERS}}}",
}


@pytest.fixture(autouse=True)
def corpus(workplace: Path) -> Path:
    texts = ["".join(letters) * (1 + n % 3) for n, letters in enumerate(product("abcd", repeat=3))]
    pairs = [json.dumps({"prompt": text, "truth": text[::-1]}) for text in texts]
    labels = [json.dumps({"text": text, "label": text[0]}) for text in texts]
    (workplace / "p.jsonl").write_text("\n".join(pairs))
    (workplace / "l.jsonl").write_text("\n".join(labels))
    return workplace


def load(arch: str, more: str = "", data: str = PAIRS) -> LoadedRun:
    text = f"arch: {ARCHS[arch]}\ndata: {data}\ntrain: {TRAIN}{more}}}\n"
    return load_run_document(parse_document(text, f"{arch}.yaml"))


def plan(*runs: LoadedRun, **options: Any) -> Any:
    return plan_compare(list(runs), seeds=1, ground=local_ground(measure=False), **options)


def test_a_decoder_and_an_encoder_decoder_learn_equally_many_targets(corpus: Path) -> None:
    runs = [load("decoder"), load("whole")]
    found = plan(*runs)
    assert found.metric == "loss"
    assert found.arms[0].tokens == found.arms[1].tokens
    assert found.arms[0].steps == found.arms[1].steps == 12
    for arm, loaded in zip(found.arms, runs, strict=True):
        ready = ready_run(loaded)
        record = run_in_folder(create_run_folder(ready, corpus / arm.name), ready=ready)
        assert record["tokens"] == pytest.approx(arm.tokens, rel=0.1)
        assert record["flops"] == pytest.approx(arm.flops, rel=0.1)


def test_flops_are_matched_at_the_width_of_batches() -> None:
    found = plan(load("decoder"), load("whole"), match="flops")
    first, second = found.arms
    assert first.flops <= second.flops < first.flops + second.flops / second.steps


@pytest.mark.parametrize(
    ("arch", "more", "message"),
    [
        ("encoder", "", "encoder: train.objective is diffusion, steps 2000"),
        ("decoder", ", objective: {type: next_token, loss_on: all}", "next_token, loss_on all"),
    ],
)
def test_losses_of_different_things_are_not_compared(arch: str, more: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(load("decoder"), load(arch, more))


@pytest.mark.slow
def test_classes_are_compared_by_their_loss_alone(windtunnel: Command, corpus: Path) -> None:
    for name, tokenizer in (("one", "bytes"), ("two", "chars")):
        arch = ARCHS["encoder"].replace("encoder,", f"{name},", 1)[:-1]
        arch += ", head: {type: classification, num_classes: 4}}"
        data = f"{{source: {{type: labels, paths: l.jsonl}}, tokenizer: {tokenizer}}}"
        (corpus / f"{name}.yaml").write_text(f"arch: {arch}\ndata: {data}\ntrain: {TRAIN}}}\n")
    answer = windtunnel("compare", "one.yaml", "two.yaml", "--seeds", "2", "--out", "s", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["metric"] == "loss"
    assert found["arms"][1]["delta"]["mean"] is not None
    assert found["arms"][1]["bits_per_byte"]["mean"] is None
    assert found["arms"][0]["tokens"] == 12 * 8
    assert windtunnel("report", "s").code == 0


def test_arms_that_see_other_contexts_are_told_apart() -> None:
    packed = load("decoder", data=PAIRS.replace("bytes", "bytes, packing: documents"))
    found = plan(load("decoder"), packed)
    assert any("data.packing differs" in note for note in found.notes)
