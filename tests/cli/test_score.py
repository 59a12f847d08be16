"""``windtunnel score``: what a run trained on pairs writes, against the truth."""

import json
from pathlib import Path

import pytest
from tests.conftest import Command

from windtunnel.runs import RunFolder

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


def test_the_average_of_the_weights_is_scored(trained: Path, windtunnel: Command) -> None:
    """One that has hardly moved from the first weights is worse than what was trained."""
    ask = ("--set", "train.ema={decay: 0.9999, warmup: false}")
    assert windtunnel("train", "pairs.yaml", "--out", "out/averaged", *ask).code == 0
    chrf = ("--metric", "chrf", "--samples", 5, "-n", 12, "--json")
    scores = [
        json.loads(windtunnel("score", "out/averaged", *chrf, *more).out)["scores"]["chrf"]
        for more in ((), ("--ema",))
    ]
    assert scores[0] == json.loads(windtunnel("score", trained, *chrf).out)["scores"]["chrf"]
    assert scores[1] < scores[0]
    answer = windtunnel("score", trained, "--ema")
    assert (answer.code, "keeps no average" in answer.err) == (2, True)


def test_scores_stand_in_every_evaluation(trained: Path, windtunnel: Command) -> None:
    """They change no weight; the last ones are those that `score` gives."""
    ask = ("--set", "train.scores=[exact_match, word_accuracy]", "--set", "train.eval_every=10")
    answer = windtunnel("train", "pairs.yaml", "--out", "out/scored", *ask)
    assert answer.code == 0, answer.err
    runs = [RunFolder.open(path) for path in (trained, Path("out/scored"))]
    weights = [max(run.checkpoints.glob("step-*")) / "model.safetensors" for run in runs]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert runs[0].key == runs[1].key
    found = [event.values for event in runs[1].read_events() if event.kind == "eval"]
    assert [values["step"] for values in found] == [0, 10, 20, 30]
    assert all({"exact_match", "word_accuracy"} <= values.keys() for values in found)
    later = windtunnel("score", "out/scored", "--samples", 32, "-n", 24, "--json")
    scores = json.loads(later.out)["scores"]
    assert found[-1]["word_accuracy"] == pytest.approx(scores["word_accuracy"])


def test_scores_of_a_text_are_refused_before_the_first_step(
    windtunnel: Command, workplace: Path
) -> None:
    answer = windtunnel("train", "run.yaml", "--out", "out/t", "--set", "train.scores=[bleu]")
    assert answer.code == 2
    assert "train.scores: only pairs have a truth" in answer.err
    assert not (workplace / "out/t").exists()


def test_mistakes_are_told(trained: Path, windtunnel: Command, workplace: Path) -> None:
    answer = windtunnel("score", trained, "--metric", "blue")
    assert answer.code == 2
    assert "bleu" in answer.err
    assert windtunnel("train", "run.yaml", "--out", "out/text").code == 0
    answer = windtunnel("score", "out/text")
    assert answer.code == 2
    assert "only pairs have a truth" in answer.err
