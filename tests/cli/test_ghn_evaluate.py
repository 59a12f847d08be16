"""windtunnel ghn singles and evaluate, from the command line to the summary."""

import json
from pathlib import Path

import pytest
from tests.cli.ghn_files import GHN, SPACE
from tests.conftest import Command

from windtunnel.runs import RunLock

EVALUATION = """\
name: tiny
ghn: ghn
others: {rival: rival}
text: {train: "2:4", tune: "4:5", test: "5:6"}
splits: {in_distribution: 3, wide: 3}
tune_members: 1
candidates: [default, torch]
steps: [0, 2]
batch_size: 2
eval_tokens: 64
"""


@pytest.fixture
def folder(workplace: Path) -> Path:
    tmp_path = workplace
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "the",
        "mat",
        "the",
        "dog",
        "ran",
        "over",
        "a",
        "red",
        "hill",
        "and",
        "far",
        "away",
    ]
    lines = []
    for number in range(6):
        text = " ".join(words[(i * (number + 3) + i // 5) % len(words)] for i in range(400))
        lines.append(json.dumps({"text": text}) + "\n")
    (tmp_path / "corpus.jsonl").write_text("".join(lines))
    (tmp_path / "space.yaml").write_text(SPACE)
    source = '{type: files, paths: [corpus.jsonl], documents: "0:2"}'
    ghn = GHN.replace("./corpus.txt", source).replace("held_out: 0.3", "held_out: 0.6")
    (tmp_path / "ghn.yaml").write_text(ghn)
    (tmp_path / "evaluation.yaml").write_text(EVALUATION)
    return tmp_path


def test_from_a_hypernetwork_to_its_worth(folder: Path, windtunnel: Command) -> None:
    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "ghn").code == 0
    made = windtunnel("ghn", "singles", "ghn", "--out", "rival", "--seconds", "0.3")
    assert made.code == 0, made.err
    shown = windtunnel("ghn", "evaluate", "evaluation.yaml", "--out", "out")
    assert shown.code == 0, shown.err
    assert "ghn over strong" in shown.out
    assert "ghn over rival" in shown.out
    summary = json.loads((folder / "out" / "summary.json").read_text())
    part = summary["splits"]["in_distribution"]
    assert part["architectures"] == 3
    assert set(part["inits"]) == {"strong", "ghn", "rival"}
    assert set(part["kinds"]) == {"rnn", "lstm", "gpt_encoder"}
    assert 0 < part["inits"]["ghn"]["loss"]["0"] < 10
    units = (folder / "out" / "units.jsonl").read_text()

    again = windtunnel("ghn", "evaluate", "evaluation.yaml", "--out", "out", "--json")
    assert json.loads(again.out) == summary
    assert (folder / "out" / "units.jsonl").read_text() == units, "nothing was trained again"

    with RunLock(folder / "out" / "evaluation.lock"):
        busy = windtunnel("ghn", "evaluate", "evaluation.yaml", "--out", "out")
    assert (busy.code, "is writing here; wait for it" in busy.err) == (1, True)
    _refused(windtunnel, "another text", "evaluate", "evaluation.yaml", "--out", "out", "--set",
             "text.test=5:7", "--set", "text.tune=4:5")  # fmt: skip
    weights = folder / "rival" / "weights.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-3] ^= 1
    weights.write_bytes(bytes(changed))
    _refused(windtunnel, "another rival", "evaluate", "evaluation.yaml", "--out", "out")
    assert (folder / "out" / "units.jsonl").read_text() == units


def _refused(windtunnel: Command, reason: str, *arguments: str) -> None:
    answer = windtunnel("ghn", *arguments)
    assert answer.code == 2, answer.out + answer.err
    assert reason in " ".join(answer.err.split()), answer.err


def test_mistakes_are_told_before_anything_is_trained(folder: Path, windtunnel: Command) -> None:
    _refused(windtunnel, "no hypernetwork", "evaluate", "evaluation.yaml", "--out", "out")
    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "ghn").code == 0
    (folder / "evaluation.yaml").write_text(EVALUATION.replace("others: {rival: rival}\n", ""))
    _refused(windtunnel, "also those of the hypernetwork", "evaluate", "evaluation.yaml", "--out",
             "out", "--set", "text.test=1:2")  # fmt: skip
    _refused(windtunnel, "structures", "evaluate", "evaluation.yaml", "--out", "out", "--set",
             "splits={in_distribution: 300}")  # fmt: skip
    _refused(windtunnel, "no such split", "evaluate", "evaluation.yaml", "--out", "out", "--set",
             "splits={left_out: 3}")  # fmt: skip
    (folder / "file").write_text("")
    _refused(windtunnel, "cannot be made", "evaluate", "evaluation.yaml", "--out", "file/out")
    _refused(windtunnel, "cannot be made", "singles", "ghn", "--out", "file/rival")
    assert not (folder / "out").exists()


def test_an_evaluation_feeds_the_predictor(folder: Path, windtunnel: Command) -> None:
    from windtunnel.hyper.predictor_results import read_results
    from windtunnel.hyper.stored import open_stored

    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "ghn").code == 0
    (folder / "evaluation.yaml").write_text(EVALUATION.replace("others: {rival: rival}\n", ""))
    answer = windtunnel("ghn", "evaluate", "evaluation.yaml", "--out", "out", "--set",
                        "splits={in_distribution: 3}")  # fmt: skip
    assert answer.code == 0, answer.err
    rows = json.loads((folder / "out" / "summary.json").read_text())
    rows = rows["splits"]["in_distribution"]["rows"]
    found = read_results(folder / "out", open_stored(folder / "ghn"))
    assert sorted(one.loss for one in found) == sorted(row["strong"]["2"] for row in rows)
    assert sorted(one.ghn_loss or 0 for one in found) == sorted(row["ghn"]["0"] for row in rows)
