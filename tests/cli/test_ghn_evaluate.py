"""windtunnel ghn singles and evaluate, from the command line to the summary."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
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
    made = windtunnel("ghn", "singles", "./ghn", "--out", "rival", "--seconds", "0.3")
    assert made.code == 0, made.err
    assert "training 3 models for 0.3 s of the processor" in made.err
    assert "rnn (1 of 3): rate 0.006: loss" in made.err
    assert "others: {singles: " in made.err
    facts = json.loads((folder / "rival" / "network.json").read_text())["training"]
    for kind, one in facts.items():
        (row,) = (line.split() for line in made.out.splitlines() if line.startswith(kind))
        assert row[1] == str(one["steps"])
        assert row[-1] == f"{one['loss']:.4f}"
        assert f"step {one['steps']} of {one['steps']}, loss {one['loss']:.4f}" in made.err
    (folder / "plain").write_text("")
    modes = {path.stat().st_mode for path in (folder / "rival" / "weights.safetensors",
             folder / "rival" / "network.json", folder / "plain")}  # fmt: skip
    assert len({stat.S_IMODE(mode) for mode in modes}) == 1
    shown = windtunnel("ghn", "evaluate", "evaluation.yaml", "--out", "out")
    assert shown.code == 0, shown.err
    assert "ghn over strong" in shown.out
    assert "ghn over rival" in shown.out
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    assert "part 1 of 3, choosing the strong initialisation: 18 of 18 trainings, 0 to go" in (
        shown.err
    )
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
    _refused(windtunnel, "(text.test was 5:6, is 5:7)", "evaluate", "evaluation.yaml", "--out",
             "out", "--set", "text.test=5:7", "--set", "text.tune=4:5")  # fmt: skip
    weights = folder / "rival" / "weights.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-3] ^= 1
    weights.write_bytes(bytes(changed))
    _refused(windtunnel, "(rival has other weights)", "evaluate", "evaluation.yaml", "--out", "out")
    assert (folder / "out" / "units.jsonl").read_text() == units


def _refused(windtunnel: Command, reason: str, *arguments: str) -> None:
    answer = windtunnel("ghn", *arguments)
    assert answer.code == 2, answer.out + answer.err
    assert reason in " ".join(answer.err.split()), answer.err


def test_mistakes_are_told_before_anything_is_trained(folder: Path, windtunnel: Command) -> None:
    _refused(windtunnel, "/ghn: is not there", "evaluate", "evaluation.yaml", "--out", "out")
    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "ghn").code == 0
    _refused(windtunnel, "others.rival: ", "evaluate", "evaluation.yaml", "--out", "out")
    (folder / "evaluation.yaml").write_text(EVALUATION.replace("others: {rival: rival}\n", ""))
    _refused(windtunnel, "also those of the hypernetwork", "evaluate", "evaluation.yaml", "--out",
             "out", "--set", "text.test=1:2")  # fmt: skip
    _refused(windtunnel, "structures", "evaluate", "evaluation.yaml", "--out", "out", "--set",
             "splits={in_distribution: 300}")  # fmt: skip
    _refused(windtunnel, "no such split", "evaluate", "evaluation.yaml", "--out", "out", "--set",
             "splits={left_out: 3}")  # fmt: skip
    (folder / "file").write_text("")
    _refused(windtunnel, "cannot be made", "evaluate", "evaluation.yaml", "--out", "file/out")
    _refused(windtunnel, "cannot be made", "singles", "./ghn", "--out", "file/rival")
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ("candidates=[default, tourch]",
         "--set: candidates[1]: 'tourch' is not allowed; did you mean 'torch'? (allowed: default,"),
        ("candidates=[]", "--set: candidates: needs at least 1, not 0"),
        ("steps=[4, 2]", "--set: steps: steps must rise from 0"),
        ("early=[0, 2]", "--set: early: steps must rise, and begin above 0"),
        ("others={gpt2: rival}", "--set: others: gpt2 is taken"),
        ("txet.train=0:1", "--set: txet: unknown key; did you mean 'text'?"),
    ],
)  # fmt: skip
def test_a_mistake_of_set_is_told_as_that(
    folder: Path, windtunnel: Command, edit: str, told: str
) -> None:
    answer = windtunnel("ghn", "evaluate", "evaluation.yaml", "--out", "out", "--set", edit)
    assert answer.code == 2
    assert f"windtunnel: {told}" in answer.err


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_something_else_is_left_alone(folder: Path, windtunnel: Command) -> None:
    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "ghn").code == 0
    (folder / "evaluation.yaml").write_text(EVALUATION.replace("others: {rival: rival}\n", ""))
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    before = _contents(folder)
    for out in ("ghn", "notes", "."):
        _refused(windtunnel, f"{out}: exists and is not an evaluation's folder; nothing was",
                 "evaluate", "evaluation.yaml", "--out", out)  # fmt: skip
    assert _contents(folder) == before


def test_what_needs_the_run_refuses_a_release(folder: Path, windtunnel: Command) -> None:
    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "runs/tiny").code == 0
    assert windtunnel("ghn", "release", "tiny", "--out", "small").code == 0
    (folder / "evaluation.yaml").write_text(EVALUATION.replace("others: {rival: rival}\n", ""))
    reason = "small: is a release; give the folder of a hypernetwork's run"
    _refused(windtunnel, reason, "singles", "small", "--out", "new")
    _refused(windtunnel, reason, "release", "small", "--out", "new")
    _refused(windtunnel, reason, "evaluate", "evaluation.yaml", "--set", "ghn=small", "--out",
             "new")  # fmt: skip
    _refused(windtunnel, "no run 'nix' in runs", "singles", "nix", "--out", "new")
    _refused(windtunnel, "nix: is not there", "singles", "runs/nix", "--out", "new")
    made = windtunnel("ghn", "singles", "tiny", "--out", "rival", "--seconds", "0.1", "--json")
    assert made.code == 0, made.err
    assert set(json.loads(made.out)) == {"rnn", "lstm", "attention"}
    _refused(windtunnel, "holds single models; give the folder", "singles", "rival", "--out", "new")
    assert not (folder / "new").exists()


def test_ctrl_c_keeps_what_has_ended_and_says_so(folder: Path, windtunnel: Command) -> None:
    """As a terminal sends it: to the command and all its workers."""
    assert windtunnel("ghn", "train", "ghn.yaml", "--out", "ghn").code == 0
    long = EVALUATION.replace("others: {rival: rival}\n", "").replace("[0, 2]", "[0, 300]")
    (folder / "evaluation.yaml").write_text(long)
    units = folder / "out" / "units.jsonl"
    command = [sys.executable, "-m", "windtunnel", "ghn", "evaluate", "evaluation.yaml", "--out",
               "out", "--workers"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    kept = b""
    # At once, while workers are born, and later, when they train.
    for reached, workers in ((folder / "out" / "evaluation.json", "1"), (units, "2")):
        process = subprocess.Popen([*command, workers], env=environment, start_new_session=True,
                                   text=True, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)  # fmt: skip
        while not reached.exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert said.splitlines()[-1] == "windtunnel: stopped; the same command goes on from here"
        assert "Traceback" not in said
        assert "Process" not in said
        if units.exists():
            assert units.read_bytes().startswith(kept)
            kept = units.read_bytes()
            assert kept.endswith(b"\n")
    assert kept
    assert not (folder / "out" / "summary.json").exists()


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
