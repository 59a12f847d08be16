"""``windtunnel score``: what a run trained on pairs writes, against the truth."""

import json
from pathlib import Path

import pytest
from tests.conftest import Command

RUN = """\
arch:
  d_model: 32
  max_seq_len: 32
  layers: [{repeat: 1, mixer: {type: attention, num_heads: 2}, mlp: {type: glu, ratio: 2}}]
data: {source: {type: pairs, paths: pairs.jsonl, prompt: ask, truth: answer}, tokenizer: bytes}
train: {steps: 30, batch_size: 8, seq_len: 24, lr: 1e-2, eval_every: 30, threads: 1}
"""


@pytest.fixture
def trained(workplace: Path, windtunnel: Command) -> Path:
    words = ["red", "blue", "green", "white"]
    rows = [{"ask": f"{n}:", "answer": f" {words[n % 4]} {words[n % 3]}"} for n in range(60)]
    (workplace / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (workplace / "pairs.yaml").write_text(RUN)
    answer = windtunnel("train", "pairs.yaml", "--out", "out/p")
    assert answer.code == 0, answer.err
    return workplace / "out/p"


def test_a_run_on_pairs_is_scored(trained: Path, windtunnel: Command) -> None:
    answer = windtunnel("score", trained, "--samples", 5, "-n", 12, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert set(found["scores"]) == {"exact_match", "word_accuracy", "bleu", "chrf"}
    assert len(found["texts"]) == 5
    share = sum(t["text"].strip() == t["truth"].strip() for t in found["texts"]) / 5
    assert found["scores"]["exact_match"] == share
    one = windtunnel("score", trained, "--metric", "exact_match", "--samples", 5, "-n", 12)
    assert one.out.split() == ["exact_match", f"{share:.3f}"]
    assert windtunnel("score", trained, "--beams", 2, "--samples", 2, "-n", 6).code == 0


def test_mistakes_are_told(trained: Path, windtunnel: Command, workplace: Path) -> None:
    answer = windtunnel("score", trained, "--metric", "blue")
    assert answer.code == 2
    assert "bleu" in answer.err
    assert windtunnel("train", "run.yaml", "--out", "out/text").code == 0
    answer = windtunnel("score", "out/text")
    assert answer.code == 2
    assert "only pairs have a truth" in answer.err
