"""Plans of stages: from a file to the record, resumed anywhere to the bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import Command, corpus_text

from windtunnel.config import parse_document
from windtunnel.data.dataset import prepare
from windtunnel.errors import ConfigError, UsageError
from windtunnel.runs import RunFolder
from windtunnel.train.config import TrainConfig
from windtunnel.train.feed import feed_of, row_sources
from windtunnel.train.launch import ReadyRun, create_run_folder, ready_run, run_in_folder
from windtunnel.train.run_config import load_run_document
from windtunnel.train.schedule import lr_at

ARCH = (
    "arch: {name: tiny, d_model: 16, embedding: {dropout: 0.1}, "
    "layers: [{mixer: {type: attention, num_heads: 2}, mlp: {type: dense}}]}"
)
MIX = "{name: mix, data: {stories: 2, plays: 1}, rows: 58, schedule: flat}"
FINISH = "{name: finish, data: plays, steps: 9, batch_size: 4, lr: 0.0005, schedule: linear}"
PLAN = f"[{MIX}, {FINISH}]"
SOURCES = "{sources: {stories: ./stories/, plays: ./plays/}, tokenizer: bytes}"


def run_file(stages: str = PLAN, data: str = SOURCES, more: str = "") -> str:
    return (
        f"{ARCH}\ndata: {data}\ntrain: {{batch_size: 8, seq_len: 16, lr: 0.01, eval_every: 5, "
        f"checkpoint_every: 4, log_every: 1, device: cpu, threads: 1, stages: {stages}{more}}}\n"
    )


def ready(stages: str = PLAN, data: str = SOURCES, more: str = "") -> ReadyRun:
    return ready_run(load_run_document(parse_document(run_file(stages, data, more), "f.yaml")))


@pytest.fixture
def place(workplace: Path) -> Path:
    """Two folders of text: the one in small letters, the other in capitals."""
    text = corpus_text(1200)
    for name, content in (("stories", text.lower()), ("plays", text.upper()[: len(text) // 2])):
        (workplace / name).mkdir()
        lines = content.splitlines()
        for part in range(12):
            chosen = lines[part::12]
            (workplace / name / f"{part}.txt").write_text("\n".join(chosen), encoding="utf-8")
    return workplace


def text_of(run: ReadyRun, batch: Any) -> list[str]:
    return [run.dataset.tokenizer.decode(row.tolist()) for row in batch.inputs]


def test_the_rows_of_a_stage_are_of_its_sources_in_their_shares(place: Path) -> None:
    run = ready()
    assert [stage.known_steps(8) for stage in run.config.train.stages] == [8, 9]
    assert run.config.train.steps == 17
    assert run.config.train.borders == (8, 17)
    batches = feed_of(run.dataset, run.config).batches
    mixed = [text for step in range(8) for text in text_of(run, batches.at(step))]
    finish = [text for step in range(8, 17) for text in text_of(run, batches.at(step))]
    assert len(mixed) == 58
    assert len(finish) == 36
    lower = sum(text == text.lower() for text in mixed)
    assert lower in (38, 39)  # 19 cycles of three rows, and one row more
    assert all(text == text.upper() for text in finish)
    assert len(batches.at(7).inputs) == 2  # the last batch of the stage is short


def test_every_token_of_a_source_is_a_target_once_in_an_epoch(place: Path) -> None:
    run = ready("[{name: a, data: plays, epochs: 0.5}, {name: b, data: plays, epochs: 0.5}]")
    batches = feed_of(run.dataset, run.config).batches
    first, last = run.dataset.parts["plays"]["train"]
    text = np.asarray(run.dataset.train.tokens[first:last])
    found = torch.cat(
        [batches.at(step).targets.flatten() for step in range(run.config.train.steps)]
    )
    rows = len(row_sources(run.dataset, run.config)["plays"])
    assert sum(stage.rows or 0 for stage in run.config.train.stages) in (rows, rows + 1)
    if sum(stage.rows or 0 for stage in run.config.train.stages) == rows:
        assert sorted(found[found != -100].tolist()) == sorted(text[1:].tolist())


@pytest.mark.parametrize("until", ["first_exhausted", "all_exhausted"])
def test_a_stage_ends_when_a_source_or_all_have_been_read(place: Path, until: str) -> None:
    run = ready(f"[{{name: a, data: {{stories: 1, plays: 3}}, epochs: 1.5, until: {until}}}]")
    sizes = {name: len(rows) for name, rows in row_sources(run.dataset, run.config).items()}
    seen = feed_of(run.dataset, run.config).batches.seen(run.config.train.steps)
    done = [seen[name] >= round(1.5 * size) for name, size in sizes.items()]
    assert all(done) if until == "all_exhausted" else sum(done) == 1
    exact = "stories" if until == "all_exhausted" else "plays"
    assert seen[exact] == round(1.5 * sizes[exact])


def test_the_length_in_epochs_is_the_same_for_every_seed(place: Path) -> None:
    stages = "[{name: a, data: {stories: 2, plays: 1}, epochs: 0.7}]"
    steps = {ready(stages, more=f", seed: {seed}").config.train.tokens for seed in range(4)}
    assert len(steps) == 1


def test_the_learning_rate_goes_by_stages() -> None:
    train = TrainConfig(
        lr=1.0,
        schedule={"type": "linear", "warmup": 0, "min_ratio": 0.0},
        stages=(
            {"name": "a", "steps": 4, "lr": 0.5, "schedule": "flat"},
            {"name": "b", "steps": 4},
            {"name": "c", "steps": 2, "schedule": {"type": "linear", "warmup": 0}},
        ),
    )
    rates = [round(lr_at(train, step), 4) for step in range(10)]
    assert rates == [0.5] * 4 + [0.6, 0.5, 0.4, 0.3] + [1.0, 0.55]


def test_a_stage_may_have_pieces_larger_than_the_recipe_s_batch() -> None:
    train = TrainConfig(
        batch_size=4,
        micro_batch_size=6,
        stages=({"name": "a", "steps": 2}, {"name": "b", "steps": 2, "batch_size": 8}),
    )
    assert len({lr_at(train, step) for step in range(4)}) == 4


def test_a_schedule_that_does_not_fit_into_epochs_is_told(place: Path) -> None:
    stages = "[{name: a, data: plays, epochs: 0.05}]"
    with pytest.raises(UsageError, match=r"train.schedule.warmup \(200 steps\) must be at most"):
        ready(stages, more=", schedule: {type: cosine, warmup: 200}")


@pytest.fixture
def whole(place: Path) -> tuple[dict[str, Any], bytes, RunFolder]:
    folder = create_run_folder(ready(), place / "whole")
    return run_in_folder(folder), weights(folder), folder


def weights(folder: RunFolder) -> bytes:
    newest = max(folder.checkpoints.glob("step-*"))
    return (newest / "model.safetensors").read_bytes()


def test_events_and_the_record_tell_of_stages(
    whole: tuple[dict[str, Any], bytes, RunFolder],
) -> None:
    record, _, folder = whole
    steps = [e.values for e in folder.read_events() if e.kind == "step"]
    evals = [e.values for e in folder.read_events() if e.kind == "eval"]
    assert [e["step"] for e in evals] == [0, 5, 8, 10, 15, 17]
    assert [e["stage"] for e in evals] == ["mix"] * 3 + ["finish"] * 3
    mix, finish = record["stages"]
    assert (mix["name"], mix["first_step"], mix["steps"]) == ("mix", 0, 8)
    assert (finish["name"], finish["first_step"], finish["steps"]) == ("finish", 8, 9)
    assert mix["tokens"] + finish["tokens"] == record["tokens"]
    before = {0: 0} | {s["step"]: s["tokens"] for s in steps}
    for stage, (first, last) in ((mix, (1, 8)), (finish, (9, 17))):
        mine = [s for s in steps if first <= s["step"] <= last]
        nats = sum(s["loss"] * (s["tokens"] - before[s["step"] - 1]) for s in mine)
        assert stage["train_loss"] == pytest.approx(nats / stage["tokens"], rel=1e-9)
    assert mix["valid_loss"] == next(e["loss"] for e in evals if e["step"] == 8)
    assert finish["valid_loss"] == record["final"]["loss"]
    assert evals[-1]["stages"] == record["stages"]


@pytest.mark.parametrize("step", [3, 8, 9, 14])
def test_a_run_torn_within_a_stage_or_at_its_border_ends_with_the_same_bits(
    whole: tuple[dict[str, Any], bytes, RunFolder], place: Path, step: int
) -> None:
    record, expected, _ = whole

    class Torn(Exception):
        pass

    def tear(info: Any) -> None:
        if info.step == step:
            raise Torn

    folder = create_run_folder(ready(), place / "torn")
    with pytest.raises(Torn):
        run_in_folder(folder, on_step=tear)
    again = run_in_folder(RunFolder.open(folder.path), resume=True)
    assert weights(folder) == expected
    assert again["stages"] == record["stages"]
    assert again["final"]["loss"] == record["final"]["loss"]


def test_one_stage_of_all_data_trains_to_the_bits_of_a_run_without_stages(place: Path) -> None:
    plain = "{source: ./stories/, tokenizer: bytes}"
    staged = ready("[{name: all, steps: 6}]", plain)
    without = load_run_document(parse_document(run_file("[]", plain, ", steps: 6"), "f.yaml"))
    found = []
    for name, run in (("staged", staged), ("plain", ready_run(without))):
        folder = create_run_folder(run, place / name)
        run_in_folder(folder)
        found.append(weights(folder))
    assert found[0] == found[1]


def test_no_text_held_out_of_one_source_is_trained_on_in_another(place: Path) -> None:
    for file in (place / "stories").glob("*.txt"):
        (place / "plays" / f"again-{file.name}").write_text(file.read_text("utf-8"), "utf-8")
    with pytest.raises(UsageError, match=r"held out of data\.sources\.stories are trained on in"):
        prepare(load_run_document(parse_document(run_file(), "f.yaml")).config.data)


@pytest.mark.parametrize(
    ("stages", "data", "message"),
    [
        ("[{name: a, data: poems, steps: 2}]", SOURCES, "unknown source 'poems'"),
        ("[{name: a, data: plays, steps: 2}]", "{tokenizer: bytes}", "name sources under"),
        ("[{name: a}]", SOURCES, "one of steps, rows and epochs, not none"),
        ("[{name: a, steps: 2, epochs: 1}]", SOURCES, "not steps and epochs"),
        ("[{name: a, steps: 2}, {name: a, steps: 3}]", SOURCES, "two stages have one name"),
        ("[{name: a, data: {plays: 0}, steps: 2}]", SOURCES, "must be > 0"),
        ("[{name: a, steps: 2, until: all_exhausted}]", SOURCES, "until has no effect"),
        ("[{name: a, steps: 2, schedule: {warmup: 5}}]", SOURCES, "stage a: schedule.warmup"),
        ("[{name: a, steps: 2}], steps: 5", SOURCES, r"leave steps \(5\) out"),
        ("[]", "{source: a.txt, sources: {a: ./b.txt}}", "source or sources, not both"),
        ("[]", "{sources: {a: ./b.txt, b: {type: pairs, paths: p.jsonl}}}", "all hold the same"),
    ],
)
def test_a_wrong_plan_says_what_is_wrong(stages: str, data: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run_document(parse_document(run_file(stages, data), "f.yaml"))


def test_the_command_line_shows_and_trains_a_plan(windtunnel: Command, place: Path) -> None:
    epochs = "[{name: mix, data: {stories: 2, plays: 1}, epochs: 0.2}, {name: all, steps: 4}]"
    (place / "plan.yaml").write_text(run_file(epochs), encoding="utf-8")
    answer = windtunnel("check", "plan.yaml")
    assert answer.code == 0, answer.err
    shown = " ".join(answer.out.split())
    assert "stage mix: " in shown
    assert "stories 67%, plays 33%" in shown
    assert "stage all: 4 steps of 8, 512 tokens of all data" in shown
    assert "mix (cosine): " in shown
    stages = json.loads(windtunnel("check", "plan.yaml", "--json").out)["stages"]
    answer = windtunnel("train", "plan.yaml", "--out", "run")
    assert answer.code == 0, answer.err
    shown = windtunnel("runs", "show", "./run").out
    assert f"mix: {stages[0]['steps']} steps, " in shown
    again = windtunnel("train", "plan.yaml", "--out", "run", "--resume")
    assert "nothing to do" in again.err


def test_a_comparison_takes_plans_that_agree_and_refuses_to_stretch_them(
    windtunnel: Command, place: Path
) -> None:
    tokens = (4 * 8 + 2 * 8) * 16
    for name, stages in (("a", "[{name: x, steps: 4}, {name: y, data: plays, steps: 2}]"),
                         ("b", "[{name: x, data: plays, steps: 6}]")):  # fmt: skip
        text = run_file(stages).replace("name: tiny", f"name: {name}")
        (place / f"{name}.yaml").write_text(text, encoding="utf-8")
    options = ("--seeds", "2", "--dry-run", "--json")
    answer = windtunnel("compare", "a.yaml", "b.yaml", "--out", "s", *options)
    assert answer.code == 0, answer.err
    plan = json.loads(answer.out)
    assert [arm["tokens"] for arm in plan["arms"]] == [tokens, tokens]
    answer = windtunnel("compare", "a.yaml", "b.yaml", "--out", "s", "--budget", "2000", *options)
    assert answer.code == 2
    assert "a plan is not stretched" in answer.err
