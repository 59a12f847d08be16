"""Probing: what each cell is given, how its rate is chosen, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.study.conftest import load_config

from windtunnel.data.probes import probe_classes
from windtunnel.errors import ConfigError, UsageError
from windtunnel.report.probe_matrix import read_matrix
from windtunnel.report.probe_page import render_probe
from windtunnel.report.probe_table import probe_view
from windtunnel.study.arms import Ground
from windtunnel.study.plan import PlannedRun
from windtunnel.study.probe_tasks import losses_of, named_tasks, suite
from windtunnel.study.probes import ProbeRecipe, Probing
from windtunnel.study.rounds import Round
from windtunnel.study.tune import TUNING_SEED

RecordOf = Callable[[PlannedRun], Mapping[str, Any]]


def recorded(run: PlannedRun) -> dict[str, Any]:
    """The validation loss is least at 3e-3; the test accuracy is best at 1e-2, and says so."""
    train = run.config["train"]
    lr, seed = train["lr"], train["seed"]
    loss = 1.0 + abs({0.001: 2, 0.003: 0, 0.01: 1}.get(lr, 3)) / 10
    final = {"loss": loss, "test_accuracy": {0.003: 0.5, 0.01: 0.9}.get(lr, 0.1) + seed % 5 / 100}
    for length in run.config["data"]["source"].get("test_lengths", ()):
        final[f"test_accuracy_at_{length}"] = 0.25
    return {"status": "finished", "final": final}


def answered(
    inquiry: Probing, record_of: RecordOf = recorded
) -> tuple[dict[str, Any], list[Round]]:
    past: list[Round] = []
    while (plan := inquiry.next(past, lambda digest: None)) is not None:
        past.append(Round(plan, {run.key: record_of(run) for run in plan.runs}))
    return inquiry.result(past), past


def probing(ground: Ground, tasks: str = "parity,mqar", **options: Any) -> Probing:
    recipe = options.pop("recipe", ProbeRecipe(steps=30, batch_size=8))
    loaded = [load_config(name, "train.weight_decay=0.07") for name in ("gru", "llama")]
    return Probing(loaded, named_tasks(tasks), recipe, ground=ground, **options)


def test_every_cell_is_given_the_same(ground: Ground) -> None:
    _, past = answered(probing(ground))
    tuned, scored = past
    assert [one.plan.kind for one in past] == ["tune", "probe"]
    assert len(tuned.plan.arms) == 2 * 3 * 3  # architectures, tasks and text, rates
    assert len(scored.plan.runs) == 2 * 3 * 3  # the same, seeds
    for arm in (*tuned.plan.arms, *scored.plan.arms):
        train, source = arm.config["train"], arm.config["data"]["source"]
        assert train["weight_decay"] == 0.07  # the file's own
        if arm.name.split(" · ")[1] == "text":
            assert (train["steps"], source["type"]) == (50, "shakespeare")
            continue
        assert (train["steps"], train["batch_size"], train["eval_tokens"]) == (30, 8, None)
        longest = max([source["length"], *source["test_lengths"]])
        assert train["seq_len"] == arm.config["arch"]["max_seq_len"] == longest
        assert arm.config["arch"]["vocab_size"] == "auto"


def test_rates_are_chosen_on_validation_with_a_seed_of_their_own(ground: Ground) -> None:
    result, (tuned, scored) = answered(probing(ground, text=False))
    assert {run.seed for run in tuned.plan.runs} == {TUNING_SEED}
    assert {run.seed for run in scored.plan.runs} == {0, 1, 2}
    assert {run.config["train"]["lr"] for run in scored.plan.runs} == {0.003}
    cell = result["cells"]["gru"]["parity"]
    assert cell["lr"] == 0.003  # not 0.01, whose test is better
    assert cell["score"]["values"] == [0.5, 0.51, 0.52]
    assert cell["score"]["mean"] == pytest.approx(0.51)
    assert cell["score"]["low"] < 0.5 < 0.52 < cell["score"]["high"]
    assert not cell["at_edge"]
    assert [trial["lr"] for trial in cell["trials"]] == [0.001, 0.003, 0.01]


def test_a_rate_at_the_edge_is_followed_once_and_told(ground: Ground) -> None:
    def falling(run: PlannedRun) -> dict[str, Any]:
        record = recorded(run)
        record["final"]["loss"] = 1 / run.config["train"]["lr"]
        return record

    result, past = answered(probing(ground, text=False), falling)
    assert [one.plan.kind for one in past] == ["tune", "tune", "probe"]
    cell = result["cells"]["llama"]["mqar"]
    assert len(cell["trials"]) == 4
    assert cell["lr"] == cell["trials"][-1]["lr"] == pytest.approx(0.0333333)
    assert cell["at_edge"]


def test_a_run_that_diverged_is_shown_and_never_left_out(ground: Ground) -> None:
    def bad(run: PlannedRun) -> dict[str, Any]:
        if run.arm == "gru · parity" and run.seed == 1:
            return {"status": "diverged", "final": None}
        return recorded(run)

    result, _ = answered(probing(ground, text=False), bad)
    cell = result["cells"]["gru"]["parity"]
    assert cell["score"] == {
        "mean": None, "low": None, "high": None, "values": [0.5, None, 0.52],
    }  # fmt: skip
    assert cell["diverged"] == 1
    assert result["cells"]["llama"]["parity"]["score"]["mean"] is not None
    row = read_matrix(result).rows[0]
    assert row.scores["gru"].text == "diverged 1 of 3"
    assert row.scores["llama"].text == "0.51"
    assert "! diverged 1 of 3" in render_probe(result)
    assert probe_view(result) is not None


def test_a_cell_without_any_finished_trial_is_scored_all_the_same(ground: Ground) -> None:
    def lost(run: PlannedRun) -> dict[str, Any]:
        return {"status": "diverged"} if run.arm.startswith("gru · parity") else recorded(run)

    result, past = answered(probing(ground, text=False), lost)
    cell = result["cells"]["gru"]["parity"]
    assert (cell["lr"], cell["at_edge"], cell["diverged"]) == (0.001, True, 3)
    assert [trial["loss"] for trial in cell["trials"]] == [None] * 3
    assert len(past[-1].plan.runs) == 12


def test_equal_scores_have_no_interval(ground: Ground) -> None:
    def same(run: PlannedRun) -> dict[str, Any]:
        return {"status": "finished", "final": {"loss": 1.0, "test_accuracy": 1.0}}

    result, _ = answered(probing(ground, text=False), same)
    score = result["cells"]["gru"]["mqar"]["score"]
    assert (score["mean"], score["low"], score["high"]) == (1.0, None, None)


def test_longer_tests_are_rows_of_their_own(ground: Ground) -> None:
    result, _ = answered(probing(ground, "parity", text=False))
    names = [row.name for row in read_matrix(result).rows]
    assert names == ["parity", "parity at 32", "parity at 64"]
    assert result["cells"]["gru"]["parity"]["longer"]["64"]["mean"] == 0.25


def test_the_state_is_that_of_the_task_s_length(ground: Ground) -> None:
    result, _ = answered(probing(ground, text=False))
    matrix = read_matrix(result)
    lengths = [length for length, _ in matrix.states]
    assert lengths == [32, 64]
    held = {name: [states[name] for _, states in matrix.states] for name in matrix.names}
    assert held["gru"][0] == held["gru"][1]  # a recurrence holds as much at any length
    assert held["llama"][1] == 2 * held["llama"][0] > held["gru"][1]


def test_losses_are_taken_from_a_finished_study(ground: Ground) -> None:
    known = losses_of({"arms": [{"name": "gru", "loss": {"mean": 2.0, "low": 1.9, "high": 2.1}}]})
    result, past = answered(probing(ground, losses=known))
    assert all("text" not in arm.name for one in past for arm in one.plan.arms)
    assert result["text"] == {"gru": {"score": {"mean": 2.0, "low": 1.9, "high": 2.1}}}
    assert "The other study has no loss of llama." in result["notes"]
    row = read_matrix(result).text
    assert row is not None
    assert list(row.scores) == ["gru"]
    assert losses_of(result) == known
    with pytest.raises(UsageError, match="no losses by architecture"):
        losses_of({"arms": [{"name": "x"}]})


def test_the_question_has_a_digest_of_all_that_is_asked(ground: Ground) -> None:
    recipe = ProbeRecipe(steps=30, batch_size=8)
    others = [
        replace(recipe, steps=31), replace(recipe, seeds=(0, 1)), replace(recipe, lrs=(1e-3, 2e-3)),
        replace(recipe, data_seed=1), replace(recipe, batch_size=9),
    ]  # fmt: skip
    digests = [probing(ground, text=False, recipe=one).digest for one in (recipe, *others)]
    digests += [probing(ground, "parity", text=False).digest, probing(ground).digest]
    assert len(set(digests)) == len(digests)
    assert probing(ground, text=False).digest == digests[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lrs": (1e-3,)}, "at least 2 different rates"),
        ({"lrs": (1e-3, 1e-3)}, "at least 2 different rates"),
        ({"lrs": (1e-3, -1.0)}, "must be above 0"),
        ({"seeds": ()}, "--seeds must be at least 1"),
        ({"steps": 0}, "must be 1 or more"),
    ],
)
def test_a_recipe_that_is_none_is_refused(
    changes: dict[str, Any], expected: str, ground: Ground
) -> None:
    with pytest.raises(UsageError, match=expected):
        probing(ground, recipe=ProbeRecipe(**changes))


def test_what_is_no_decoder_is_refused(ground: Ground) -> None:
    with pytest.raises(UsageError, match="this encoder is trained on masked_token"):
        Probing([load_config("bert")], suite(), ProbeRecipe(), ground=ground)


def test_the_suite_has_every_task_at_every_level() -> None:
    easy, hard = suite(), suite("hard")
    assert [task.name for task in easy] == [task.name for task in hard]
    assert {task.name for task in easy} >= {"mqar", "parity", "permutations", "memorization"}
    parity = {t.name: t.source for t in hard}["parity"]
    assert parity.lengths == (64, 128, 256)
    assert all(a.source != b.source for a, b in zip(easy, hard, strict=True))


def test_tasks_are_named_or_read(tmp_path: Path) -> None:
    assert [task.name for task in named_tasks("mqar, parity")] == ["mqar", "parity"]
    file = tmp_path / "mine.yaml"
    file.write_text("tasks: {s5: {type: permutations, group: S5}, s3: permutations}")
    found = named_tasks(str(file))
    assert [(t.name, t.source.chance) for t in found] == [("s5", 1 / 120), ("s3", 1 / 6)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("mqra",), "did you mean 'mqar'?"),
        (("mqar,mqar",), "stands there twice"),
        (("mqar", "easyy"), "did you mean 'easy'?"),
        (("a.yaml", "hard"), "say themselves how hard"),
    ],
)
def test_tasks_that_there_are_not_are_refused(asked: Sequence[Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected.replace("?", r"\?")):
        named_tasks(*asked)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tasks: {a: shakespeare}", "shakespeare is no synthetic task"),
        ("tasks: {text: mqar}", "cannot be the name of a task"),
        ("tasks: {}", "holds no task"),
        ("tasks: {a: {type: mqar, pairs: 3}}", "tasks.a.pairs: unknown key"),
    ],
)
def test_a_wrong_file_of_tasks_is_told(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text)
    with pytest.raises((UsageError, ConfigError), match=expected):
        named_tasks(str(file))


def test_hostile_names_stay_text_in_the_page(ground: Ground) -> None:
    result, _ = answered(probing(ground, "parity", text=False))
    name = "<script>alert(1)</script>"
    result["architectures"] = [name, "llama"]
    result["cells"][name] = result["cells"].pop("gru")
    page = render_probe(result)
    assert name not in page
    assert "&lt;script&gt;" in page
    assert page == render_probe(result)


def test_there_are_tasks_to_probe_with() -> None:
    assert len(probe_classes()) >= 10
