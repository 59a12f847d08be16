"""``windtunnel evaluate``: runs and studies answer tasks."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Command

from windtunnel.data.tasks import read_task
from windtunnel.runs import RunFolder
from windtunnel.study.crossed import crossed_mean
from windtunnel.study.folder import VERDICT_ROUNDS, StudyFolder
from windtunnel.study.plan import Plan, read_plan
from windtunnel.train.launch import open_trained
from windtunnel.train.task_scores import answer_task

NOUNS = [("cat", "cats"), ("dog", "dogs"), ("bird", "birds"), ("king", "kings")]
VERBS = [("sleeps", "sleep"), ("sings", "sing"), ("runs", "run"), ("eats", "eat")]
PAIRS = """\
arch:
  d_model: 16
  max_seq_len: 32
  layers: [{repeat: 1, mixer: {type: attention, num_heads: 2}, mlp: {type: glu, ratio: 2}}]
data: {source: {type: pairs, paths: pairs.jsonl}, tokenizer: bytes}
train: {steps: 3, batch_size: 8, seq_len: 24, lr: 1e-2, threads: 1}
"""


def write_tasks() -> None:
    pairs, choices, clozes = [], [], []
    for singular, plural in NOUNS:
        for one, many in VERBS:
            pairs.append({"good": f"the {singular} {one}.", "bad": f"the {singular} {many}."})
            pairs.append({"good": f"the {plural} {many}.", "bad": f"the {plural} {one}."})
        texts = [" sleeps", " sleep", " x"]
        choices.append({"prompt": f"the {singular}", "choices": texts, "answer": 0})
        choices.append({"prompt": f"the {plural}", "choices": texts, "answer": 1})
        clozes.append({"prompt": f"the {singular}s slee", "truth": "p"})
    for name, items in (("pair", pairs), ("choice", choices), ("cloze", clozes)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture
def tasks(workplace: Path) -> Path:
    write_tasks()
    return workplace


def trained(windtunnel: Command, name: str, *more: object, file: str = "run.yaml") -> RunFolder:
    answer = windtunnel("train", file, "--out", f"out/{name}", *more)
    assert answer.code == 0, answer.err
    return RunFolder.open(Path(f"out/{name}"))


def found(windtunnel: Command, *arguments: object, code: int = 0) -> dict[str, Any]:
    answer = windtunnel("evaluate", *arguments, "--json")
    assert answer.code == code, answer.err
    tree: dict[str, Any] = json.loads(answer.out)
    return tree


def rows(tree: dict[str, Any], task: int, measure: str) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = tree["tasks"][task]["measures"][measure]
    return every


def values_of(run: RunFolder, task: str, measure: Any) -> np.ndarray[Any, Any]:
    opened = open_trained(run)
    answers = answer_task(opened.model, opened.tokenizer, opened.config, read_task(task))
    return np.array([one.measures[measure] for one in answers.items if one is not None])


def test_the_figures_are_those_of_the_items(windtunnel: Command, tasks: Path) -> None:
    runs = [trained(windtunnel, f"s{s}", "--set", f"train.seed={s}") for s in (3, 5)]
    named = ("out/s3", "out/s5", "--task", "choice.jsonl", "--task", "pair.jsonl")
    tree = found(windtunnel, *named, "--task", "cloze.jsonl")
    assert [(t["name"], t["kind"], t["items"]) for t in tree["tasks"]] == [
        ("choice", "choice", 8), ("pair", "pair", 32), ("cloze", "cloze", 4),
    ]  # fmt: skip
    assert [task["chance"] for task in tree["tasks"]] == [pytest.approx(1 / 3), 0.5, None]
    assert [list(task["measures"]) for task in tree["tasks"]] == [
        ["accuracy", "accuracy_per_byte", "right_probability", "bits_per_byte"],
        ["accuracy"],
        ["accuracy", "bits_per_byte"],
    ]
    values = [values_of(run, "choice.jsonl", "bits_per_byte") for run in runs]
    first, second = rows(tree, 0, "bits_per_byte")
    assert first["mean"] == pytest.approx(values[0].mean())
    assert (first["arm"], first["by_seed"]) == ("s3", {"3": pytest.approx(values[0].mean())})
    assert (first["difference"], first["of_items_only"]) == (None, True)
    wanted = crossed_mean((values[1] - values[0])[None])
    difference = second["difference"]
    assert difference["mean"] == pytest.approx(wanted.mean)
    assert difference["low"] == pytest.approx(wanted.interval().low)
    assert difference["of_items_only"], "two runs of different seeds are paired by the items alone"
    assert [(run["seed"], run["step"]) for arm in tree["arms"] for run in arm["runs"]] == [
        (3, 6), (5, 6),
    ]  # fmt: skip


def test_a_run_knows_the_pattern_that_it_was_trained_on(windtunnel: Command, tasks: Path) -> None:
    source = random.Random(0)
    lines = []
    for _ in range(1500):
        noun, verb, side = source.choice(NOUNS), source.choice(VERBS), source.randrange(2)
        lines.append(f"the {noun[side]} {verb[side]}.\n")
    (tasks / "corpus.txt").write_text("".join(lines), encoding="utf-8")
    sets = ("train.steps=250", "train.lr=1e-2", "arch.d_model=32", "train.seq_len=32",
            "train.batch_size=8")  # fmt: skip
    more = [argument for edit in sets for argument in ("--set", edit)]
    trained(windtunnel, "knows", *more)
    trained(windtunnel, "guesses", "--set", "train.steps=1")
    tree = found(windtunnel, "out/guesses", "out/knows", "--task", "pair.jsonl")
    guess, knows = rows(tree, 0, "accuracy")
    assert knows["mean"] > 0.8
    assert knows["low"] is None or knows["low"] > 0.5
    assert guess["low"] < 0.5 < guess["high"]
    assert knows["difference"]["low"] > 0


def test_every_answer_is_written_once(windtunnel: Command, tasks: Path) -> None:
    run = trained(windtunnel, "a")
    ask = ("out/a", "--task", "choice.jsonl", "--task", "pair.jsonl", "--out", "answers.jsonl")
    tree = found(windtunnel, *ask)
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert len(lines) == 8 + 32
    assert [line["item"] for line in lines] == [*range(8), *range(32)]
    first = lines[0]
    assert (first["arm"], first["seed"], first["key"], first["step"]) == ("a", 0, run.key, 6)
    assert (first["task"], first["place"]) == ("choice", "choice.jsonl:1")
    assert first["bytes"] == [7, 6, 2] == first["tokens"]
    share = sum(line["accuracy"] for line in lines[:8]) / 8
    assert rows(tree, 0, "accuracy")[0]["mean"] == pytest.approx(share)
    totals = np.array(first["log_probabilities"]) / first["bytes"]
    right = np.exp(totals[0]) / np.exp(totals).sum()
    assert first["right_probability"] == pytest.approx(right)
    before = Path("answers.jsonl").read_bytes()
    answer = windtunnel("evaluate", *ask)
    assert (answer.code, "already exists" in answer.err) == (2, True)
    assert Path("answers.jsonl").read_bytes() == before
    answer = windtunnel("evaluate", *ask[:-1], "nowhere/answers.jsonl")
    assert (answer.code, "there is no folder nowhere" in answer.err) == (2, True)


def test_batches_and_limits(windtunnel: Command, tasks: Path) -> None:
    trained(windtunnel, "a", "--set", "train.ema={decay: 0.9}")
    one = found(windtunnel, "out/a", "--task", "choice.jsonl", "--batch-size", 1)
    many = found(windtunnel, "out/a", "--task", "choice.jsonl", "--batch-size", 64)
    mean = [rows(tree, 0, "bits_per_byte")[0]["mean"] for tree in (one, many)]
    assert mean[0] == pytest.approx(mean[1], abs=1e-5)
    named = found(windtunnel, "a", "--runs", "out", "--task", "choice.jsonl")
    assert rows(named, 0, "bits_per_byte")[0]["mean"] == pytest.approx(mean[1], abs=1e-5)
    first = found(windtunnel, "out/a", "--task", "choice.jsonl", "--limit", 3)
    assert (first["tasks"][0]["items"], first["tasks"][0]["notes"][0]) == (
        3,
        "the first 3 of 8 items",
    )
    averaged = found(windtunnel, "out/a", "--task", "choice.jsonl", "--ema", "--device", "cpu")
    assert rows(averaged, 0, "bits_per_byte")[0]["mean"] != pytest.approx(mean[0], abs=1e-6)


def test_the_table(windtunnel: Command, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    trained(windtunnel, "a")
    trained(windtunnel, "b", "--set", "train.steps=1")
    answer = windtunnel("evaluate", "out/a", "out/b", "--task", "choice.jsonl")
    assert answer.code == 0, answer.err
    assert all(len(line) <= 80 for line in answer.out.splitlines())
    assert answer.out.isascii() or "─" in answer.out
    for text in ("Task choice: 8 choice items", "chance 0.333", "lower is better", "of one seed"):
        assert text in answer.out
    row = [line for line in answer.out.splitlines() if line.strip().startswith("b ")][-1]
    assert row.count("[") == 2, "its mean and its difference have an interval"
    assert "verdict" not in answer.out, "single seeds have none"
    alone = windtunnel("evaluate", "out/a", "--task", "choice.jsonl")
    assert "diff." not in alone.out, "one arm has no differences"


def test_what_has_no_interval_is_told_why(windtunnel: Command, tasks: Path) -> None:
    trained(windtunnel, "a")
    answer = windtunnel("evaluate", "out/a", "--task", "choice.jsonl", "--limit", "1")
    told = " ".join(answer.out.split())
    assert "- no interval: one item tells nothing of other items" in told
    assert "* of one seed" not in told, "the table has no such mark"


def test_intervals_end_where_a_measure_does(windtunnel: Command, tasks: Path) -> None:
    trained(windtunnel, "a")
    trained(windtunnel, "b", "--set", "train.steps=1")
    item = {"prompt": "the cat", "choices": [" sleeps", " x"]}
    lines = [json.dumps({**item, "answer": answer}) + "\n" for answer in (0, 1)]
    Path("both.jsonl").write_text("".join(lines))
    tree = found(windtunnel, "out/a", "out/b", "--task", "both.jsonl")
    # One of the two is right, so a t-interval goes far beyond both ends.
    for row in rows(tree, 0, "accuracy"):
        assert (row["low"], row["mean"], row["high"]) == (0.0, 0.5, 1.0)
    for measure in ("accuracy_per_byte", "right_probability", "bits_per_byte"):
        for row in rows(tree, 0, measure):
            assert row["low"] is None or row["low"] >= 0.0
            assert row["high"] is None or row["high"] <= 1.0 or measure == "bits_per_byte"
            if (difference := row["difference"]) is not None and measure != "bits_per_byte":
                assert difference["low"] is None or difference["low"] >= -1.0
                assert difference["high"] is None or difference["high"] <= 1.0


def test_tasks_of_one_name_are_told_apart_by_their_files(windtunnel: Command, tasks: Path) -> None:
    trained(windtunnel, "a")
    (tasks / "more").mkdir()
    lines = Path("choice.jsonl").read_text().splitlines(keepends=True)
    Path("more/choice.jsonl").write_text("".join(lines[:4]))
    named = ("--task", "choice.jsonl", "--task", "more/choice.jsonl", "--task", "pair.jsonl")
    tree = found(windtunnel, "out/a", *named)
    assert [task["name"] for task in tree["tasks"]] == [
        "choice.jsonl", "more/choice.jsonl", "pair",
    ]  # fmt: skip


def study_of(runs: dict[tuple[str, int], RunFolder], path: Path, **failures: str) -> None:
    """A finished study of those runs, by arm and seed; those of the arm ``tuned`` tuned it."""
    arm = {
        "source": "", "config": {}, "arch_digest": "", "params": 1, "steps": 1, "tokens": 1,
        "flops_per_token": 1.0, "memory_bytes": 1, "steps_per_second": None, "diff": [],
        "changes": [],
    }  # fmt: skip

    def plan(kind: str, *names: str) -> Plan:
        planned = [
            {"arm": name, "seed": seed, "key": run.key, "config": {}}
            for (name, seed), run in runs.items()
            if name in names
        ]
        return read_plan({
            "format": 1, "kind": kind, "question": "?", "digest": kind, "seeds": [0, 1],
            "arms": [{**arm, "name": name} for name in names], "runs": planned,
            "match": "tokens", "budget": 1.0, "metric": "loss", "notes": [],
        })  # fmt: skip

    folder = StudyFolder(path)
    with folder.claim_question("compare", "?", "d"):
        folder.write_round(0, plan("tune", "tuned"))
        folder.write_round(1, plan("compare", "one", "two"))
        where = {run.key: str(run.path.resolve()) for run in runs.values()}
        folder.write_results({VERDICT_ROUNDS: [1], "runs": where, "failures": failures})


def values_of_both(runs: dict[tuple[str, int], RunFolder], arm: str, measure: str) -> Any:
    return np.stack([values_of(runs[arm, seed], "choice.jsonl", measure) for seed in (0, 1)])


def test_a_study_has_arms_and_seeds(
    windtunnel: Command, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    runs = {
        (arm, seed): trained(
            windtunnel, f"{arm}{seed}", "--set", f"train.seed={seed}", "--set", f"train.steps={n}"
        )
        for arm, n in (("one", 6), ("two", 2), ("tuned", 3))
        for seed in (0, 1)
    }
    study_of(runs, tasks / "study")
    tree = found(windtunnel, "study", "--task", "choice.jsonl")
    assert [(arm["name"], len(arm["runs"])) for arm in tree["arms"]] == [("one", 2), ("two", 2)]
    values = {
        name: np.stack([values_of(runs[name, s], "choice.jsonl", "bits_per_byte") for s in (0, 1)])
        for name in ("one", "two")
    }
    first, second = rows(tree, 0, "bits_per_byte")
    assert (first["seeds"], first["items"], first["of_items_only"]) == (2, 8, False)
    mean = crossed_mean(values["one"])
    assert (first["mean"], first["high"]) == pytest.approx((mean.mean, mean.interval().high))
    difference = crossed_mean(values["two"] - values["one"])
    assert second["difference"]["low_95"] == pytest.approx(difference.interval().low)
    assert second["difference"]["seeds"] == 2
    # one verdict, by the measure that was named; all else stays as it is
    by_default = rows(tree, 0, "right_probability")[1]["difference"]
    assert (second["difference"]["verdict"], by_default["verdict"]) == (None, "undecided")
    assert by_default["p_holm"] == pytest.approx(
        crossed_mean(
            values_of_both(runs, "two", "right_probability")
            - values_of_both(runs, "one", "right_probability")
        ).p_value()
    )
    named = found(windtunnel, "study", "--task", "choice.jsonl", "--measure", "bits_per_byte")
    chosen = rows(named, 0, "bits_per_byte")[1]["difference"]
    assert chosen["p_holm"] == pytest.approx(difference.p_value())
    assert (named["tasks"][0]["deciding"], chosen["low"]) == ("bits_per_byte", chosen["low_95"])
    more = found(windtunnel, "study", "--task", "choice.jsonl", "--task", "cloze.jsonl")
    first_p, second_p = (
        rows(more, task, measure)[1]["difference"]
        for task, measure in ((0, "right_probability"), (1, "bits_per_byte"))
    )
    assert max(first_p["p_holm"], second_p["p_holm"]) >= 2 * min(
        first_p["p_value"], second_p["p_value"]
    )
    told = windtunnel("evaluate", "study", "--task", "choice.jsonl", "--task", "cloze.jsonl")
    assert "corrected for 2 comparisons (Holm)" in " ".join(told.out.split())
    assert all(len(line) <= 80 for line in told.out.splitlines())
    assert "two against one is undecided" in " ".join(told.out.split())
    # a study and a run beside each other: the seeds that both have
    both = found(windtunnel, "study", "out/tuned1", "--task", "choice.jsonl")
    single = rows(both, 0, "bits_per_byte")[2]
    only = values_of(runs["tuned", 1], "choice.jsonl", "bits_per_byte") - values["one"][1]
    assert single["difference"]["mean"] == pytest.approx(only.mean())
    assert (single["difference"]["seeds"], single["difference"]["of_seeds"]) == (1, 2)
    told = windtunnel("evaluate", "study", "out/tuned1", "--task", "choice.jsonl")
    assert "tuned1: its difference is of the 1 seed that both arms have" in " ".join(
        told.out.split()
    )


def test_what_went_wrong_is_told(windtunnel: Command, tasks: Path) -> None:
    text = (tasks / "run.yaml").read_text(encoding="utf-8")
    data = text[text.index("data:") :].replace("steps: 6", "steps: 30").replace("3e-3", "1e30")
    arch = "arch: {preset: llama, set: {d_model: 64, 'layers[0].repeat': 1}}\n"
    (tasks / "steep.yaml").write_text(arch + data, encoding="utf-8")
    assert windtunnel("train", "steep.yaml", "--out", "out/steep").code == 1
    runs = {("one", seed): trained(windtunnel, f"s{seed}", "--set", f"train.seed={seed}")
            for seed in (0, 1)}  # fmt: skip
    runs |= {("two", 0): runs["one", 0], ("two", 1): RunFolder.open(Path("out/steep"))}
    study_of(runs, tasks / "study", **{runs["one", 1].key: "killed"})
    tree = found(windtunnel, "study", "--task", "pair.jsonl")
    assert [arm["troubles"] for arm in tree["arms"]] == [{"1": "failed"}, {"1": "diverged"}]
    told = " ".join(windtunnel("evaluate", "study", "--task", "pair.jsonl").out.split())
    assert "two: seed 1 diverged; its figures are of its other runs alone" in told
    tree = found(windtunnel, "out/s0", "out/steep", "--task", "pair.jsonl", code=1)
    first, second = rows(tree, 0, "accuracy")
    assert (second["mean"], second["difference"], second["by_seed"]) == (None, None, {})
    assert first["mean"] is not None
    answer = windtunnel("evaluate", "out/s0", "out/steep", "--task", "pair.jsonl")
    assert "steep: seed 0 diverged; it has no figures" in " ".join(answer.out.split())
    answer = windtunnel("evaluate", "out/steep", "--task", "pair.jsonl")
    assert (answer.code, "no run can answer: steep: seed 0 diverged" in answer.err) == (2, True)


def test_items_that_one_run_cannot_be_asked_are_left_out_for_all(
    windtunnel: Command, tasks: Path
) -> None:
    trained(windtunnel, "a")
    trained(windtunnel, "short", "--set", "arch.embedding.position=learned")
    items = [{"prompt": "the", "choices": [" a" * n, " b"], "answer": 1} for n in (1, 2, 40)]
    Path("t.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    tree = found(windtunnel, "out/a", "out/short", "--task", "t.jsonl", "--out", "o.jsonl")
    task = tree["tasks"][0]
    assert (task["items"], task["left_out"], rows(tree, 0, "accuracy")[0]["items"]) == (2, 1, 2)
    assert (
        "1 of 3 items are left out for all runs: not every run can be asked them" in task["notes"]
    )
    reason = "one of its choices is too long for the 32 learned positions"
    assert f"short: 1 left out: {reason}" in task["notes"]
    last = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()][-1]
    assert (last["item"], last["left_out"]) == (2, reason)


def test_a_run_on_pairs_answers_prompts(windtunnel: Command, tasks: Path) -> None:
    lines = [{"prompt": f"{n}:", "truth": f" {n % 3}"} for n in range(60)]
    Path("pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tasks / "pairs.yaml").write_text(PAIRS)
    trained(windtunnel, "p", file="pairs.yaml")
    item = {"prompt": "7:", "choices": [" 0", " 1", " 2"], "answer": 1}
    Path("t.jsonl").write_text(json.dumps(item) + "\n" + json.dumps({**item, "prompt": ""}) + "\n")
    tree = found(windtunnel, "out/p", "--task", "t.jsonl")
    assert (
        "p: 1 left out: the run is trained on pairs, and there is no prompt"
        in (tree["tasks"][0]["notes"])
    )
    trained(windtunnel, "a")
    answer = windtunnel("evaluate", "out/a", "out/p", "--task", "pair.jsonl")
    assert (answer.code, "write them as choices" in answer.err) == (2, True)
    assert "windtunnel: out/p: " in answer.err, "which of the runs it is"
    assert "started" not in answer.err, "it is told before any run is asked"
    Path("none.jsonl").write_text(json.dumps({**item, "prompt": ""}) + "\n")
    answer = windtunnel("evaluate", "out/p", "--task", "none.jsonl")
    assert (answer.code, "out/p: none.jsonl: " in answer.err) == (2, True)


def test_mistakes_are_told(windtunnel: Command, tasks: Path) -> None:
    trained(windtunnel, "a")
    Path("bad.jsonl").write_text('{"good": "a"}\n')
    Path("again.jsonl").write_bytes(Path("pair.jsonl").read_bytes())
    (tasks / "empty").mkdir()
    half = StudyFolder(tasks / "half")
    with half.claim_question("compare", "?", "d"):
        pass
    ladder = StudyFolder(tasks / "ladder")
    with ladder.claim_question("ladder", "?", "d"):
        ladder.write_results({"kind": "ladder", "runs": {}})
    for arguments, told in (
        (("out/a", "--task", "pairs.jsonl"), "did you mean 'pair.jsonl'"),
        (("out/a", "--task", "bad.jsonl"), "bad.jsonl:1: a pair needs the key 'bad'"),
        (("out/b", "--task", "pair.jsonl"), "no run 'out/b'"),
        (("out/a", "out/a", "--task", "pair.jsonl"), "out/a: is named twice"),
        (("out/a", "--task", "pair.jsonl", "--task", "again.jsonl"), "asks the same as pair.jsonl"),
        (("half", "--task", "pair.jsonl"), "holds a study that has not ended"),
        (("ladder", "--task", "pair.jsonl"), "a study of the kind ladder has no arms"),
        (("empty", "--task", "pair.jsonl"), "is a folder, but not a run's"),
        (("out/a", "--task", "pair.jsonl", "--ema"), "keeps no average"),
        (("out/a", "--task", "pair.jsonl", "--device", "cuda:9"), "--device"),
        (("out/a", "--task", "pair.jsonl", "--limit", "0"), "--limit"),
        (("out/a", "--task", "pair.jsonl", "--measure", "acuracy"), "did you mean 'accuracy'"),
        (
            ("out/a", "--task", "pair.jsonl", "--measure", "bits_per_byte"),
            "--measure bits_per_byte: no task has it; there are accuracy",
        ),
        (("out/a", "--task", "pair.jsonl", "--keep"), "--keep is of one study"),
        (("out/a",), "--task"),
    ):
        answer = windtunnel("evaluate", *arguments)
        assert answer.code == 2, (arguments, answer)
        assert told in answer.err, (arguments, answer.err)


def test_a_study_with_damaged_results_is_told(windtunnel: Command, tasks: Path) -> None:
    run = trained(windtunnel, "a")
    study_of({("one", 0): run, ("two", 0): run}, tasks / "study")
    for results in ({}, {"runs": {}, "failures": {}}, {"runs": [], "failures": {}}):
        StudyFolder(tasks / "study").write_results({VERDICT_ROUNDS: [1], **results})
        answer = windtunnel("evaluate", "study", "--task", "pair.jsonl")
        assert answer.code == 1
        assert "study.json: is damaged" in answer.err


def test_a_comparison_asks_its_runs(windtunnel: Command, tasks: Path) -> None:
    text = (tasks / "run.yaml").read_text(encoding="utf-8").replace("steps: 6", "steps: 2")
    (tasks / "short.yaml").write_text(text, encoding="utf-8")
    compare = ("compare", "run.yaml", "short.yaml", "--match", "params", "--seeds", 2)
    compare = (*compare, "--out", "study")
    wrong = windtunnel(*compare, "--task", "pair.jsonl", "--task", "chioce.jsonl")
    assert (wrong.code, "did you mean 'choice.jsonl'" in wrong.err) == (2, True)
    wrong = windtunnel(*compare, "--measure", "accuracy")
    assert (wrong.code, "it needs --task FILE" in wrong.err) == (2, True)
    assert not Path("study").exists(), "a mistake is told before anything is trained"
    plan = windtunnel(*compare, "--task", "choice.jsonl", "--dry-run")
    assert "choice (8 items, by right_probability)" in plan.err
    answer = windtunnel(*compare, "--task", "choice.jsonl", "--task", "pair.jsonl", "--json")
    assert answer.code == 0, answer.err
    tree = json.loads(answer.out)
    asked = tree["tasks"]
    assert [[run["seed"] for run in arm["runs"]] for arm in asked["arms"]] == [[0, 1], [0, 1]]
    assert {run["key"] for arm in asked["arms"] for run in arm["runs"]} <= set(tree["runs"])
    again = found(windtunnel, "study", "--task", "choice.jsonl", "--task", "pair.jsonl")
    assert again == asked
    page = Path("study/report.html").read_text(encoding="utf-8")
    assert "Answers to choice, of 8 items" in page
    assert "--task choice.jsonl --task pair.jsonl" in page
    # other answers in their place, on request
    kept = windtunnel("evaluate", "study", "--task", "cloze.jsonl", "--keep")
    assert kept.code == 0, kept.err
    page = Path("study/report.html").read_text(encoding="utf-8")
    assert "Answers to cloze, of 4 items" in page
    assert "Answers to choice" not in page
    report = windtunnel("report", "study")
    assert "Task cloze: 4 clozes" in report.out
    # of other runs, or damaged
    kept_tree = json.loads(Path("study/tasks.json").read_text(encoding="utf-8"))
    kept_tree["arms"][0]["runs"][0]["key"] = "other"
    Path("study/tasks.json").write_text(json.dumps(kept_tree), encoding="utf-8")
    report = windtunnel("report", "study")
    assert (report.code, "is of other runs, and is left out" in report.err) == (0, True)
    Path("study/tasks.json").write_text('{"arms": [], "tasks": [{}]}', encoding="utf-8")
    report = windtunnel("report", "study")
    assert (report.code, "the answers to tasks are damaged" in report.err) == (1, True)


@pytest.mark.slow
def test_a_study_that_was_trained(windtunnel: Command, tasks: Path) -> None:
    answer = windtunnel(
        "compare", "run.yaml", "run.yaml", "--seeds", 2, "--tune", "train.lr=[1e-3,3e-3]",
        "--out", "study",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    tree = found(windtunnel, "study", "--task", "pair.jsonl")
    assert [len(arm["runs"]) for arm in tree["arms"]] == [2, 2]
    assert rows(tree, 0, "accuracy")[1]["difference"]["mean"] == 0.0
