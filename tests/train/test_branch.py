"""Runs that go on from another one's checkpoint."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Command, corpus_text

from windtunnel.errors import CheckpointError, RunError, UsageError
from windtunnel.runs import RunFolder
from windtunnel.train.branch import branch_of, with_weights
from windtunnel.train.identity import check_same_run
from windtunnel.train.interrupts import Paused
from windtunnel.train.launch import (
    create_run_folder,
    open_trained,
    ready_run,
    run_in_folder,
    run_parts,
)
from windtunnel.train.loop import create_train_state
from windtunnel.train.run_config import load_run
from windtunnel.train.tensors import read_tensors

RUN = """\
arch:
  name: parent
  d_model: 16
  embedding: {dropout: 0.1}
  layers: [{mixer: {type: attention, num_heads: 2}, mlp: {type: dense}}]
data: {source: ./corpus.txt, tokenizer: {type: bpe, vocab_size: 300}}
train: {steps: 12, batch_size: 4, seq_len: 16, lr: 3e-3, eval_every: 6, eval_tokens: 200,
        checkpoint_every: 4, keep_checkpoints: 5, log_every: 1, device: cpu, threads: 1}
"""


class Torn(Exception):
    pass


@pytest.fixture
def parent(workplace: Path) -> RunFolder:
    """A finished run with checkpoints at steps 4, 8 and 12."""
    (workplace / "run.yaml").write_text(RUN, encoding="utf-8")
    folder = create_run_folder(ready_run(load_run("run.yaml")), workplace / "parent")
    run_in_folder(folder)
    return folder


def branched(parent: RunFolder, name: str, *edits: str, **options: Any) -> tuple[RunFolder, dict]:
    ready = ready_run(branch_of(parent, edits, **options))
    folder = create_run_folder(ready, parent.path.with_name(name))
    return folder, run_in_folder(folder, ready=ready)


def weights(folder: RunFolder, step: int) -> bytes:
    return (folder.checkpoints / f"step-{step:08d}" / "model.safetensors").read_bytes()


def losses(folder: RunFolder) -> dict[int, float]:
    return {e.values["step"]: e.values["loss"] for e in folder.read_events() if e.kind == "step"}


def warnings(folder: RunFolder) -> list[str]:
    return [e.values["message"] for e in folder.read_events() if e.kind == "warning"]


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "run.lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_branch_without_an_edit_ends_with_the_bits_of_the_uninterrupted_run(
    parent: RunFolder,
) -> None:
    before = contents(parent.path)
    folder, record = branched(parent, "same", step=4)
    assert weights(folder, 12) == weights(parent, 12)
    assert {step: losses(parent)[step] for step in range(5, 13)} == losses(folder)
    final = parent.read_record()["final"]  # type: ignore[index]
    assert {k: record["final"][k] for k in ("loss", "accuracy", "tokens", "flops")} == {
        k: final[k] for k in ("loss", "accuracy", "tokens", "flops")
    }
    assert folder.key != parent.key
    assert contents(parent.path) == before
    assert warnings(folder) == []


def test_the_record_and_the_start_event_tell_the_lineage(parent: RunFolder) -> None:
    first, record = branched(parent, "first", "train.lr=0.001", "train.steps=16", step=8)
    origin = record["origin"]
    assert (origin["key"], origin["name"], origin["step"]) == (parent.key, "parent", 8)
    assert origin["edits"] == ["train.steps: 12 → 16", "train.lr: 0.003 → 0.001"]
    start = next(e.values for e in first.read_events() if e.kind == "start")
    assert start["origin"] == origin
    assert start["identity"]["origin"] == {
        "step": 8, "key": parent.key, "carry": "all", "lenient": False
    }  # fmt: skip
    assert [e.step for e in first.read_events() if e.kind == "eval"] == [8, 12, 16]
    second, record = branched(first, "second", "train.steps=18")
    assert [(a["key"], a["step"]) for a in record["origin"]["ancestors"]] == [
        (first.key, 16), (parent.key, 8)
    ]  # fmt: skip
    assert sorted(losses(second)) == [17, 18]


def test_parent_and_step_are_part_of_the_key(parent: RunFolder) -> None:
    keys = {ready_run(branch_of(parent, ["train.steps=14"], step=s)).key for s in (4, 8, 12)}
    assert len(keys) == 3
    moved = RunFolder.open(Path(shutil.copytree(parent.path, parent.path.with_name("moved"))))
    assert ready_run(branch_of(moved, ["train.steps=14"], step=4)).key in keys


@pytest.mark.parametrize("step", [5, 8, 9])
def test_a_branch_resumes_to_the_bit_and_without_its_parent(parent: RunFolder, step: int) -> None:
    edits = ("train.batch_size=6", "train.schedule=linear", "train.steps=11")
    whole, _ = branched(parent, "whole", *edits, step=4)
    ready = ready_run(branch_of(parent, edits, step=4))
    torn = create_run_folder(ready, parent.path.with_name("torn"))

    def tear(info: Any) -> None:
        if info.step == step:
            raise Torn

    with pytest.raises(Torn):
        run_in_folder(torn, ready=ready, on_step=tear)
    shutil.rmtree(parent.path / "checkpoints")
    record = run_in_folder(RunFolder.open(torn.path), resume=True)
    assert weights(torn, 11) == weights(whole, 11)
    assert record["origin"]["key"] == parent.key


@pytest.mark.parametrize("size", [1, 3, 8])
def test_with_another_batch_the_data_go_on_to_the_row(parent: RunFolder, size: int) -> None:
    def rows(ready: Any, positions: range, shift: dict[str, int]) -> list[list[int]]:
        batches = run_parts(ready).batches.shifted(shift)  # type: ignore[attr-defined]
        return [row for p in positions for row in batches.at(p).inputs.tolist()]

    first = ready_run(load_run(parent.config_path))
    ready = ready_run(branch_of(parent, [f"train.batch_size={size}", "train.steps=40"], step=8))
    parts = run_parts(ready)
    state = create_train_state(parts.model, parts.batches, parts.train)
    assert parts.beginning is not None
    parts.beginning.restore(state, lambda text: pytest.fail(text))
    assert (state.progress.step, state.progress.position) == (8, 8)
    seen = rows(first, range(8), {})
    following = rows(ready, range(8, 20), state.progress.shift)
    straight = rows(first, range(40), {})
    assert seen + following == straight[: len(seen) + len(following)]


def test_other_data_are_read_from_their_start_with_the_same_tokenizer(parent: RunFolder) -> None:
    other = parent.path.with_name("other.txt")
    other.write_text(corpus_text(2000).upper().lower().replace("king", "jester"), encoding="utf-8")
    folder, _ = branched(parent, "other", f"data.source={other}", "train.steps=16")
    assert warnings(folder) == [
        f"other data, seq_len or packing than in {parent.path}: read from the start"
    ]
    first, second = (f.path / "tokenizer" / "tokenizer.json" for f in (parent, folder))
    assert first.read_bytes() == second.read_bytes()


def test_another_optimizer_starts_clean_and_says_so(parent: RunFolder) -> None:
    folder, _ = branched(parent, "lion", "train.optimizer=lion", "train.steps=14")
    assert "Lion starts clean for" in warnings(folder)[0]


def test_what_was_frozen_and_moves_now_starts_clean_and_says_so(parent: RunFolder) -> None:
    edit = "train.groups=[{match: 'embedding.*', freeze: true}]"
    frozen, _ = branched(parent, "frozen", edit, "train.steps=14")
    names = read_tensors(frozen.checkpoints / "step-00000014" / "optimizer.safetensors")
    assert not any("embedding" in name for name in names)
    thawed, _ = branched(frozen, "thawed", "train.groups=[]", "train.steps=16")
    assert "starts clean for 1 of" in warnings(thawed)[0]


def test_another_architecture_is_refused_with_the_differences(parent: RunFolder) -> None:
    message = r"another architecture: .*layers\[0\].mlp.d_ff: 64 → 48.*--lenient"
    with pytest.raises(UsageError, match=message):
        ready_run(branch_of(parent, ["arch.layers[0].mlp={type: dense, d_ff: 48}"]))
    ready_run(branch_of(parent, ["arch.embedding.dropout=0.3", "train.steps=20"]))
    with pytest.raises(
        UsageError, match=r"architecture: layers: 1 → 2 \(layers\[1\] is new\); --l"
    ):
        ready_run(branch_of(parent, ["arch.layers[0].repeat=2"]))


def test_lenient_takes_what_fits_and_names_the_rest(parent: RunFolder) -> None:
    edits = ["arch.layers[0].mlp={type: dense, d_ff: 48}", "arch.head.norm=none", "train.steps=14"]
    folder, _ = branched(parent, "lenient", *edits, lenient=True)
    told = "\n".join(warnings(folder))
    for text in (
        "layers.0.mlp.up.weight is (64, 16) in the checkpoint, (48, 16) in the model",
        "head.norm.weight is not in the model",
    ):
        assert text in told, told
    begun = read_tensors(folder.checkpoints / "step-00000012" / "model.safetensors")
    before = read_tensors(parent.checkpoints / "step-00000012" / "model.safetensors")
    same = "embedding.weight" if "embedding.weight" in before else next(iter(before))
    assert begun[same].equal(before[same])
    deeper = ["arch.layers[0].repeat=2", "train.steps=14"]
    folder, _ = branched(parent, "deeper", *deeper, lenient=True)
    assert any(
        "layers.1." in text and "is not in the checkpoint" in text for text in warnings(folder)
    )
    new = re.compile(
        r"step-00000012: \d+ of \d+ parameters are new: the optimizer starts clean for"
    )
    assert sum(new.search(text) is not None for text in warnings(folder)) == 1
    assert not any("was made with the optimizer" in text for text in warnings(folder))
    origin = json.loads((folder.path / "record.json").read_text())["origin"]
    assert all(len(edit) < 150 for edit in origin["edits"])
    both = ["train.optimizer=lion", *deeper]
    folder, _ = branched(parent, "other", *both, lenient=True)
    assert any("Lion starts clean for" in text for text in warnings(folder))
    assert any(new.search(text) for text in warnings(folder))


def test_a_resume_with_more_layers_names_the_new_one(parent: RunFolder) -> None:
    loaded = load_run(parent.config_path, ["arch.layers[0].repeat=2"])
    began = parent.read_start()
    assert began is not None
    with pytest.raises(UsageError) as caught:
        check_same_run(began["identity"], ready_run(loaded).identity)
    text = str(caught.value)
    assert "arch.layers: 1 → 2 (arch.layers[1] is new)" in text
    assert len(text) < 300


def paused(folder: Path) -> RunFolder:
    """A run that has stopped at its fourth step."""
    found = create_run_folder(ready_run(load_run("run.yaml")), folder)
    with pytest.raises(Paused):
        run_in_folder(found, until=4)
    return found


def test_what_a_folder_has_lost_is_written_anew_on_a_resume(
    parent: RunFolder, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = paused(workplace / "mended")
    shutil.rmtree(folder.path / "tokenizer")
    folder.config_path.unlink()
    other = ready_run(load_run("run.yaml", ["train.lr=1"]))
    with pytest.raises(UsageError, match="cannot resume with another config"):
        run_in_folder(folder, ready=other, resume=True)
    assert not folder.config_path.exists()
    run_in_folder(folder, ready=ready_run(load_run("run.yaml")), resume=True)
    assert "mended: config.yaml, tokenizer/tokenizer.json: missing, and written anew" in caplog.text
    assert weights(folder, 12) == weights(parent, 12)
    assert folder.config_path.read_bytes() == parent.config_path.read_bytes()
    assert open_trained(folder).tokenizer.digest == open_trained(parent).tokenizer.digest


def test_a_resume_says_which_settings_are_others(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (workplace / "run.yaml").write_text(RUN, encoding="utf-8")
    folder = paused(workplace / "often")
    assert "from here on" not in caplog.text
    often = ready_run(load_run("run.yaml", ["train.eval_every=2"]))
    run_in_folder(folder, ready=often, resume=True)
    assert "often: train.eval_every: 2 from here on; config.yaml keeps 6" in caplog.text


def test_the_weights_of_a_checkpoint_must_fit_and_are_named(parent: RunFolder) -> None:
    ready = ready_run(branch_of(parent, ["train.steps=14"]))
    parts = run_parts(ready)
    state = create_train_state(parts.model, parts.batches, parts.train)
    del state.weights.parameters["head.norm.weight"]  # type: ignore[attr-defined]
    assert parts.beginning is not None
    with pytest.raises(CheckpointError, match=r"head\.norm\.weight is not in the model"):
        parts.beginning.restore(state, lambda text: None)


def test_what_cannot_begin_is_said_before_anything_is_written(parent: RunFolder) -> None:
    with pytest.raises(UsageError, match=r"its checkpoint is of step 12, .*: no step is left"):
        ready_run(branch_of(parent))
    steps = r"no checkpoint of step 5 \(there are: 4, 8, 12\); the nearest is that of step 4"
    with pytest.raises(UsageError, match=steps):
        branch_of(parent, step=5)
    damaged = parent.checkpoints / "step-00000008" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"abcd")
    with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
        branch_of(parent, step=8)
    loaded = branch_of(parent, ["train.steps=14", f"origin.key='{'0' * 64}'"], step=4)
    ready = ready_run(loaded)  # a run that has begun could go on without its origin
    folder = create_run_folder(ready, parent.path.with_name("lost"))
    with pytest.raises(RunError, match="holds the run"):
        run_in_folder(folder, ready=ready)


def test_another_tokenizer_is_refused(parent: RunFolder) -> None:
    kept = ready_run(branch_of(parent, ["data.seed=5", "train.steps=14"]))
    assert kept.config.data.tokenizer.type == "hf"  # what was learnt from the data stays
    text = RUN.replace("./corpus.txt", "./other.txt").replace("name: parent", "name: child")
    parent.path.with_name("other.txt").write_text(corpus_text(2000).upper(), encoding="utf-8")
    parent.path.with_name("child.yaml").write_text(text, encoding="utf-8")
    loaded = with_weights(load_run("child.yaml"), parent)
    with pytest.raises(UsageError, match=r"another tokenizer.*type: hf, path: "):
        ready_run(loaded)


def test_init_takes_weights_and_nothing_else(parent: RunFolder, windtunnel: Command) -> None:
    answer = windtunnel("train", "run.yaml", "--init", "./parent", "--out", "child")
    assert answer.code == 0, answer.err
    child = RunFolder.open(parent.path.with_name("child"))
    begun = read_tensors(child.checkpoints / "step-00000000" / "model.safetensors")
    before = read_tensors(parent.checkpoints / "step-00000012" / "model.safetensors")
    assert all(begun[name].equal(before[name]) for name in before)
    assert not read_tensors(child.checkpoints / "step-00000000" / "optimizer.safetensors")
    assert sorted(losses(child)) == list(range(1, 13))
    record = child.read_record()
    assert record is not None
    assert record["origin"]["carry"] == "weights"
    assert record["tokens"] == parent.read_record()["tokens"]  # type: ignore[index]
    assert child.key != parent.key
    shown = windtunnel("runs", "show", "./child").out
    assert f"parent {parent.key[:10]} at step 12, its weights alone" in shown


def test_the_command_line_branches_and_shows_it(parent: RunFolder, windtunnel: Command) -> None:
    answer = windtunnel(
        "branch", "./parent", "--step", "8", "--set", "train.steps=14", "--out", "child"
    )
    assert answer.code == 0, answer.err
    shown = windtunnel("runs", "show", "./child").out
    assert f"parent {parent.key[:10]} at step 8" in shown
    assert "train.steps: 12 → 14" in shown
    assert json.loads(windtunnel("runs", "show", "./child", "--json").out)["origin"]["step"] == 8
    answer = windtunnel("train", "child/config.yaml", "--out", "child", "--resume")
    assert "nothing to do" in answer.err
    for arguments, message in (
        (["--step", "8", "--best"], "--step or --best"),
        (["--step", "7"], "there are: 4, 8, 12"),
        (["--set", "train.lr=-1"], "train.lr"),
    ):
        answer = windtunnel("branch", "./parent", *arguments)
        assert answer.code in (1, 2)
        assert message in answer.err
    assert windtunnel("train", "run.yaml", "--lenient").code == 2


def test_a_diverged_run_can_be_branched_with_a_lower_rate(parent: RunFolder) -> None:
    state = parent.checkpoints / "step-00000008" / "state.json"
    document = json.loads(state.read_text())
    document["progress"]["skipped_in_a_row"] = 10
    state.write_text(json.dumps(document))
    manifest = state.with_name("manifest.json")
    written = json.loads(manifest.read_text())
    written["files"]["state.json"] = hashlib.sha256(state.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(written))
    _, record = branched(parent, "calmer", "train.lr=0.0001", step=8)
    assert record["status"] == "finished"


def test_a_plan_can_follow_a_run_without_one(parent: RunFolder) -> None:
    other = parent.path.with_name("other.txt")
    other.write_text(corpus_text(2000).replace("king", "jester"), encoding="utf-8")
    sources = f"data.sources={{old: ./corpus.txt, new: {other}}}"
    stages = "train.stages=[{name: old, data: old, steps: 12}, {name: new, data: new, steps: 3}]"
    folder, record = branched(parent, "plan", sources, stages)
    assert sorted(losses(folder)) == [13, 14, 15]
    old, new = record["stages"]
    assert (old["tokens"], new["tokens"]) == (0, 3 * 4 * 16)


def test_a_comparison_tells_that_seeds_share_their_first_weights(
    parent: RunFolder, windtunnel: Command
) -> None:
    for name, rate in (("slow", "1e-3"), ("fast", "3e-2")):
        text = RUN.replace("name: parent", f"name: {name}").replace("steps: 12", "steps: 14")
        text = text.replace("lr: 3e-3", f"lr: {rate}") + f"origin: {{run: {parent.path}}}\n"
        parent.path.with_name(f"{name}.yaml").write_text(text, encoding="utf-8")
    answer = windtunnel(
        "compare", "slow.yaml", "fast.yaml", "--seeds", "2", "--out", "s", "--dry-run", "--json"
    )
    assert answer.code == 0, answer.err
    told = "slow, fast begin with given weights"
    assert any(text.startswith(told) for text in json.loads(answer.out)["notes"])
