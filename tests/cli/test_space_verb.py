"""``windtunnel space``: every option, and every mistake."""

import json
from pathlib import Path

import pytest
import yaml
from tests.conftest import Command


def test_counts_members_and_names(windtunnel: Command) -> None:
    assert windtunnel("space", "reasonable", "--count").out == "16704\n"
    answer = windtunnel("space", "full", "--where", "family in [lstm, gru]", "--count", "--json")
    assert json.loads(answer.out) == {"space": "full", "count": 19_008}
    name = "gpt-encoder-4001-256d-16L-2h-ff4-d0.2-tTrue"
    by_name = json.loads(windtunnel("space", "reasonable", "--find", name, "--json").out)
    by_index = json.loads(windtunnel("space", "reasonable", "--index", "4000", "--json").out)
    assert by_name == by_index
    assert (by_name["index"], by_name["num_params"]) == (4000, 25_633_536)
    assert "25,633,536" in windtunnel("space", "reasonable", "--find", name).out


def test_a_sample_is_listed(windtunnel: Command) -> None:
    asked = ("space", "reasonable", "--sample", 10, "--where", "params < 10M")
    found = json.loads(windtunnel(*asked, "--json").out)
    assert len(found) == 10
    assert len({row["model_type"] for row in found}) == 5
    assert all(row["num_params"] < 10_000_000 for row in found)
    assert found[0]["name"] in windtunnel(*asked).out
    assert json.loads(windtunnel(*asked, "--seed", 1, "--json").out) != found


def test_statistics_with_a_histogram(windtunnel: Command) -> None:
    found = json.loads(windtunnel("space", "reasonable", "--json").out)
    assert (found["count"], found["structures"]) == (16_704, 2896)
    assert found["params"]["least"] == 3_224_768
    assert found["params"]["most"] == 607_186_944
    assert sum(row["count"] for row in found["histogram"]) == 16_704
    text = windtunnel("space", "reasonable").out
    assert "mini_gpt" in text
    assert "█" in text
    none = windtunnel("space", "reasonable", "--where", "params < 0")
    assert none.code == 0
    assert json.loads(windtunnel("space", "reasonable", "--where", "params < 0", "--json").out)[
        "params"
    ] is None  # fmt: skip


def test_a_member_is_a_run_file(windtunnel: Command, workplace: Path) -> None:
    asked = ("space", "reasonable", "--vocab-size", 300, "--max-seq-len", 16)
    text = windtunnel(*asked, "--index", -1, "--yaml").out
    tree = yaml.safe_load(text)
    tree["data"]["source"] = {"type": "files", "paths": ["./corpus.txt"]}
    assert tree["train"] == {"seq_len": 16}
    (workplace / "member.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    told = json.loads(windtunnel("check", "member.yaml", "--json").out)
    member = json.loads(windtunnel(*asked, "--index", -1, "--json").out)
    assert sum(part["params"] for part in told["parts"]) == member["num_params"]
    first = windtunnel(*asked, "--where", "family == gru", "--index", 0, "--yaml").out
    (workplace / "gru.yaml").write_text(first, encoding="utf-8")
    answer = windtunnel(
        "train", "gru.yaml", "--set", "train.steps=2", "--set", "train.batch_size=2", "--set",
        "data.source={type: files, paths: [./corpus.txt]}", "--out", "out/gru", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["status"] == "finished"


def test_a_space_of_ones_own(windtunnel: Command, workplace: Path) -> None:
    text = """\
name: mine
base: run.yaml
axes:
  arch.d_model: [16, 32]
  arch.layers[0].dropout: [0.0, 0.1]
"""
    (workplace / "mine.yaml").write_text(text, encoding="utf-8")
    assert windtunnel("space", "mine.yaml", "--count").out == "4\n"
    found = json.loads(windtunnel("space", "mine.yaml", "--json").out)
    assert (found["count"], found["structures"]) == (4, 2)
    member = windtunnel("space", "mine.yaml", "--index", 3)
    assert "mine-004-d_model=32-dropout=0.1" in member.out
    (workplace / "member.yaml").write_text(
        windtunnel("space", "mine.yaml", "--index", 3, "--yaml").out, encoding="utf-8"
    )
    told = json.loads(windtunnel("check", "member.yaml", "--json").out)
    shown = json.loads(windtunnel("space", "mine.yaml", "--index", 3, "--json").out)
    assert sum(part["params"] for part in told["parts"]) == shown["num_params"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resonable",), "unknown space 'resonable'; did you mean 'reasonable'?"),
        (("reasonable", "--where", "parms < 3"), "did you mean 'params'?"),
        (("reasonable", "--find", "rnn-5"), "did you mean 'rnn-001-64d-1L-d0.0-tTrue'"),
        (("reasonable", "--index", "16704"), "has 16,704 members, none at 16,704"),
        (("reasonable", "--index", "1", "--count"), "--count and --index ask for different"),
        (("reasonable", "--yaml"), "--yaml prints one member"),
        (("reasonable", "--index", "1", "--yaml", "--json"), "two forms of one answer"),
        (("reasonable", "--index", "4000", "--vocab-size", "100", "--yaml"),
         "is no run file that can be trained: gpt_encoder: arch.vocab_size: 100 is less than the"),
        (("reasonable", "--where", "family == 'lsmt'"), "did you mean 'lstm'?"),
        (("reasonable", "--sample", "20000"), "cannot be drawn"),
        (("missing.yaml",), "missing.yaml: No such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_told(windtunnel: Command, arguments: tuple[str, ...], message: str) -> None:
    answer = windtunnel("space", *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert not answer.out


def test_conditions_narrow_down_one_after_another(windtunnel: Command, workplace: Path) -> None:
    text = """\
preset: gpt2
axes:
  arch.d_model: {from: 64, to: 12800, step: 64}
  arch.layers[0].repeat: {from: 1, to: 150}
"""
    (workplace / "slow.yaml").write_text(text, encoding="utf-8")
    asked = ("space", "slow.yaml", "--count", "--where", "d_model == 64 and repeat < 3")
    assert windtunnel(*asked, "--where", "params < 100M").out == "2\n"
    refused = windtunnel("space", "slow.yaml", "--count", "--where", "params < 100M")
    assert refused.code == 2
    assert "at most 20,000 are" in refused.err
