"""The course of an evaluation, its statistics, and what it refuses."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.hyper.tiny import grown_space, member, written

from windtunnel.arch import Architecture, build
from windtunnel.errors import RunError, UsageError
from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.evaluation.config import CANDIDATES, EvaluationConfig
from windtunnel.hyper.evaluation.inits import initial, scaling_of
from windtunnel.hyper.evaluation.plan import Course, Group, groups_of, ranks_of, shares
from windtunnel.hyper.evaluation.ranking import ranked_losses
from windtunnel.hyper.evaluation.run import Context, _differences
from windtunnel.hyper.evaluation.saved import saved
from windtunnel.hyper.evaluation.summary import summarized
from windtunnel.hyper.evaluation.text import _check_disjoint
from windtunnel.hyper.evaluation.unit import mean_loss, train_unit
from windtunnel.hyper.evaluation.units import MOST_RATES, Results, Unit, best_rate, next_rates
from windtunnel.report.hypernetwork import _gain, evaluation_view
from windtunnel.runs.durable import strict_json
from windtunnel.train.group_config import MupConfig

TEXT = {"train": "0:1", "tune": "1:2", "test": "2:3"}


def config(**more: Any) -> EvaluationConfig:
    values = {"ghn": "x", "text": TEXT, "splits": {"in_distribution": 6}, "steps": (0, 5)}
    return EvaluationConfig.model_validate({**values, **more})


@given(st.floats(-6, 6), st.floats(0.1, 10))
def test_the_search_of_rates_ends_with_the_best_between_two_worse(
    best: float, first: float
) -> None:
    def loss(rate: float) -> float:
        return (math.log2(rate / first) - best) ** 2

    done: dict[float, float] = {}
    while rates := next_rates(done, first, 2.0):
        assert not set(rates) & done.keys()
        done |= {rate: loss(rate) for rate in rates}
    found = best_rate(done)
    assert len(done) <= MOST_RATES
    if abs(best) < 4:
        assert abs(math.log2(found / first) - best) <= 0.5 + 1e-6
        assert min(done) < found < max(done)


@pytest.mark.parametrize("width", [80, 200])
def test_every_figure_of_the_tables_stands_in_a_log(width: int) -> None:
    """Also with many steps, many parts and long names; nothing is cut off, nothing runs over."""
    steps = [str(10**n) for n in range(12)]
    numbers = iter(range(1000, 9000))
    cells: list[str] = []

    def fresh() -> float:
        cells.append(f"{next(numbers) / 1000:.3f}")
        return float(cells[-1])

    def tau() -> dict[str, float]:
        found = {name: next(numbers) / 100 for name in ("value", "low", "high")}
        cells.append(f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]")
        return found

    saved = {"reached": 0.5, "steps": 123_456.0, "seconds": 0.0345, "break_even": 98_765_432.0,
             "strong_reaches_start": 0.97}  # fmt: skip
    inits = {
        name: {"loss": {step: fresh() for step in steps}, "below_unigram": 0.5, "saved": saved}
        for name in ("strong", "a-hypernetwork-with-a-very-long-name-indeed")
    }
    parts = ("overall", "within kinds", "within sizes", "within families", "one more part")
    ranking = {part: {"of": 32, "tau": {"ghn_grad_norm": tau()}} for part in parts}
    split = {"architectures": 3, "inits": inits, "ranking": ranking}
    summary = {"splits": {"wide": split}, "strong": {"rnn": "torch"}, "unigram_entropy": 5.0}
    console = Console(width=width, file=io.StringIO())
    console.print(evaluation_view(summary))
    text = cast(io.StringIO, console.file).getvalue()
    for cell in (*cells, *steps, *parts, "123,456", "0.035", "98,765,432 trainings", "97%",
                 "below unigram", "reached", "steps saved", "overtaken"):  # fmt: skip
        assert cell in text, cell
    assert all(len(line) <= width for line in text.splitlines() if "─" in line)


def context(entropy: float) -> Context:
    """Sizes, an entropy and a cost that are made up."""
    space = [SimpleNamespace(params=100 + 10 * i, name=f"m{i}") for i in range(30)]
    made = SimpleNamespace(
        members=SimpleNamespace(space=SimpleNamespace(whole=space)),
        text=SimpleNamespace(unigram_entropy=entropy),
        cost=lambda name: 120.0,
    )
    return cast(Context, made)


class FakeRuns:
    """Losses that follow a rule, so that the right choices are known."""

    def __init__(self, course: Course, noise: float = 0.0) -> None:
        self.course = course
        self.done: list[Unit] = []
        self.base = {"default": 3.0, "gpt2": 2.5, "ghn": 2.0, "table": 2.8}
        self.rates = {"default": 1e-3, "gpt2": 3e-3, "ghn": 1e-3 / 9, "table": 1e-3}

    def __call__(self, units: Sequence[Unit]) -> None:
        for unit in units:
            assert unit not in self.course.results, "a finished unit is not run again"
            self.done.append(unit)
            off = math.log(unit.lr / self.rates[unit.init]) ** 2 if unit.lr else 0.0
            last = self.base[unit.init] + off + 0.01 * (unit.index % 7)
            losses = {step: last + 2 - 0.4 * step for step in (0, 5, *self.course.config.early)}
            signs = {"grad_norm": 9 - last, "snip": last} if unit.side == "early" else {}
            self.course.results.add(unit, losses, seconds=10.0, **signs)


def course(folder: Path, **more: Any) -> Course:
    made = config(candidates=("default", "gpt2"), others={"table": "t"}, **more)
    groups = [Group("in_distribution", "rnn", (1, 2), (3, 4, 5)),
              Group("in_distribution", "lstm", (11,), (13, 14, 15)),
              Group("wide", "rnn", (21,), (23, 24, 25))]  # fmt: skip
    return Course(made, groups, Results(folder / "units.jsonl"))


def test_the_strong_one_and_its_rate_are_chosen_on_other_architectures(tmp_path: Path) -> None:
    made = course(tmp_path)
    runs = FakeRuns(made)
    made.go(runs)
    assert made.strong == {"rnn": "gpt2", "lstm": "gpt2"}
    assert made.rates["wide", "rnn", "strong"] == pytest.approx(3e-3)
    assert made.rates["in_distribution", "lstm", "ghn"] == pytest.approx(1e-3 / 9)
    measured = {unit.index for unit in runs.done if unit.side == "test"}
    tuned = {unit.index for unit in runs.done if unit.side == "tune"}
    assert measured == {3, 4, 5, 13, 14, 15, 23, 24, 25}
    assert not measured & tuned


def test_an_interrupted_evaluation_goes_on_without_repeating(tmp_path: Path) -> None:
    first = course(tmp_path)
    runs = FakeRuns(first)

    class Stopped(Exception):
        pass

    def stopping(units: Sequence[Unit]) -> None:
        for unit in units:
            if len(runs.done) == 7:
                raise Stopped
            runs([unit])

    with pytest.raises(Stopped):
        first.go(stopping)
    second = course(tmp_path)
    again = FakeRuns(second)
    second.go(again)
    keys = [unit.key for unit in runs.done + again.done]
    assert len(keys) == len(set(keys))
    third = course(tmp_path)
    never = FakeRuns(third)
    third.go(never)
    assert not never.done


def test_a_folder_of_an_older_version_goes_on() -> None:
    now = {"config": config().model_dump(mode="json"), "text": "t", "space": "s", "weights": {}}
    before = {**now, "config": {k: v for k, v in now["config"].items() if k != "early"}}
    assert _differences(before, now) == []
    changed = {**now, "config": {**now["config"], "batch_size": 3}}
    assert _differences(before, changed) == ["batch_size was 16, is 3"]
    other = {**now, "config": {**now["config"], "text": {**TEXT, "test": "2:4"}}, "text": "u"}
    assert _differences(before, other) == ["text.test was 2:3, is 2:4"]
    assert _differences(before, {**now, "text": "u", "space": "t"}) == [
        "text: what the documents say has changed",
        "ghn: its space or split has other architectures",
    ]


def test_a_damaged_line_of_results_is_told(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    Results(path).add(Unit(1, "ghn", 0.1, 0, "test"), {0: 1.0, 5: math.inf})
    assert Results(path)[Unit(1, "ghn", 0.1, 0, "test")] == {0: 1.0, 5: math.inf}
    path.write_text(path.read_text() + '{"unit": {}\n')
    with pytest.raises(RunError, match=r"units\.jsonl:2: is damaged"):
        Results(path)


def test_ranked_architectures_are_trained_once_and_predicted_at_step_0(tmp_path: Path) -> None:
    made = course(tmp_path)
    made.ranks = [(26, "rnn"), (27, "lstm"), (28, "rnn")]
    runs = FakeRuns(made)
    made.go(runs)
    ranked = [unit for unit in runs.done if unit.index in (26, 27, 28)]
    trained = [unit for unit in ranked if unit.lr]
    assert {unit.init for unit in trained} == {"gpt2"}
    assert len(trained) == 3
    assert sorted(unit.init for unit in ranked if not unit.lr) == ["ghn"] * 3 + ["table"] * 3
    found = summarized(made, context(4.1))["splits"]
    assert found["in_distribution"]["ranking"]["overall"]["of"] == 9
    assert found["wide"]["ranking"]["overall"]["of"] == 3


def test_short_trainings_and_signs_of_the_gradient_rank_all_that_are_ranked(tmp_path: Path) -> None:
    made = course(tmp_path, early=(2, 4))
    made.ranks = [(26, "rnn"), (27, "lstm"), (28, "rnn")]
    runs = FakeRuns(made)
    made.go(runs)
    early = [unit for unit in runs.done if unit.side == "early"]
    assert {unit.index for unit in early} == {3, 4, 5, 13, 14, 15, 26, 27, 28}
    assert {unit.init for unit in early} == {"gpt2", "ghn"}
    parts = summarized(made, context(4.1))["splits"]["in_distribution"]["ranking"]
    told = parts["overall"]["tau"]
    names = {f"{init}_{what}" for init in ("strong", "ghn")
             for what in ("2", "4", "grad_norm", "snip")}  # fmt: skip
    assert set(told) == names | {"ghn_0", "table_0", "log_params"}
    assert told["ghn_4"]["value"] == pytest.approx(1.0), "losses of all steps are in one order"
    assert told["strong_grad_norm"]["value"] == pytest.approx(1.0), "more of it is better"
    assert told["strong_snip"]["value"] == pytest.approx(-1.0)
    gap = told["ghn_4"]["above_log_params"]["value"]
    assert gap == pytest.approx(1 - told["log_params"]["value"])
    assert parts["within kinds"]["of"] == 9


def test_a_start_saves_the_steps_that_it_does_not_need(tmp_path: Path) -> None:
    made = course(tmp_path)
    made.go(FakeRuns(made))
    found = summarized(made, context(4.1))["splits"]["in_distribution"]["inits"]
    own = found["ghn"]["saved"]
    # the strong one ends at 2.5 + x, the other runs from 4 + x to 2 + x in five steps
    reached = math.expm1(0.75 * math.log1p(5))
    assert own["steps"] == pytest.approx(5 - reached)
    assert own["seconds"] == pytest.approx((5 - reached) / 5 * 10)
    assert own["break_even"] == pytest.approx(120 / own["seconds"])
    assert (own["reached"], own["strong_reaches_start"]) == (1.0, 1.0)
    assert found["table"]["saved"]["reached"] == 0.0
    assert found["table"]["saved"]["steps"] == 0.0
    assert found["table"]["saved"]["break_even"] is None


def test_the_summary_counts_gains_and_intervals_over_architectures(tmp_path: Path) -> None:
    made = course(tmp_path)
    made.go(FakeRuns(made))
    found = summarized(made, context(4.045))["splits"]["in_distribution"]
    gain = found["inits"]["ghn"]["gain"]["5"]
    assert gain["mean"] == pytest.approx(0.5, abs=1e-6)
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert (gain["wins"], gain["of"]) == (6, 6)
    assert found["inits"]["table"]["ghn_gain_over_it"]["5"]["mean"] == pytest.approx(0.8, abs=1e-6)
    assert found["inits"]["ghn"]["below_unigram"] == pytest.approx(4 / 6)
    assert set(found["kinds"]) == {"rnn", "lstm"}


def test_the_halves_by_size_make_up_the_whole(tmp_path: Path) -> None:
    made = course(tmp_path)
    made.go(FakeRuns(made))
    summary = summarized(made, context(4.1))
    found = summary["splits"]["in_distribution"]
    assert list(found["halves"]) == ["smaller", "larger"]
    for init in ("strong", "table"):
        both = [found["halves"][half][init]["5"] for half in ("smaller", "larger")]
        assert sum(gain["of"] for gain in both) == 6
        whole = found["inits"]["table"]["ghn_gain_over_it"] if init == "table" else None
        if whole is not None:
            mean = sum(gain["mean"] * gain["of"] for gain in both) / 6
            assert mean == pytest.approx(whole["5"]["mean"])
    assert summary["splits"]["wide"]["halves"] == {}  # three architectures
    told = io.StringIO()
    Console(file=told, width=120).print(evaluation_view(summary))
    assert "ghn over table, larger half" in told.getvalue()


def test_runs_that_diverge_are_counted_and_leave_no_number_that_is_none(tmp_path: Path) -> None:
    made = course(tmp_path)
    runs = FakeRuns(made)

    def run(units: Sequence[Unit]) -> None:
        runs([unit for unit in units if unit.side == "tune" or unit.index not in (3, 4)])
        for unit in units:
            if unit.side == "test" and unit.index in (3, 4):
                lost = unit.index == 3 or unit.init == "gpt2"
                made.results.add(unit, {0: 4.0, 5: math.inf if lost else 2.0}, seconds=1.0)

    made.go(run)
    found = summarized(made, context(4.1))
    strict_json(found)
    gain = found["splits"]["in_distribution"]["inits"]["ghn"]["gain"]["5"]
    assert gain["mean"] is None
    assert (gain["wins"], gain["of"]) == (5, 6)
    assert "some diverged" in str(_gain(gain))


def test_ranked_ones_share_no_structure_with_the_measured() -> None:
    space = grown_space()
    given_ = config(splits={"in_distribution": 8}, ranking=30)
    groups = groups_of({"in_distribution": space}, given_)
    ranks = ranks_of({"in_distribution": space}, given_, groups)
    indices = [i for group in groups for i in (*group.tune, *group.measure)]
    indices += [index for index, _ in ranks]
    assert len(ranks) == 30
    assert len({space.whole[i].structure for i in indices}) == len(indices)


def test_groups_hold_different_structures_of_every_kind() -> None:
    space = grown_space()
    groups = groups_of({"in_distribution": space}, config(splits={"in_distribution": 10}))
    assert {group.kind for group in groups} == {"rnn", "lstm", "gru", "gpt_encoder"}
    assert sum(len(group.measure) for group in groups) == 10
    indices = [i for group in groups for i in (*group.tune, *group.measure)]
    assert len({space.whole[i].structure for i in indices}) == len(indices)
    with pytest.raises(UsageError, match=r"40 structures to measure .* there are 9 of rnn"):
        groups_of({"in_distribution": space[:9]}, config(splits={"in_distribution": 40}))


def test_a_kind_with_few_structures_leaves_its_share_to_the_others() -> None:
    space = grown_space()
    few = space.where("family != rnn or (n_layer == 1 and d_model == 16)")
    rnns = len(set(few.where("family == rnn").structures().tolist()))
    assert rnns < 4
    groups = groups_of({"in_distribution": few}, config(splits={"in_distribution": 16}))
    counts = {group.kind: len(group.measure) for group in groups}
    assert sum(counts.values()) == 16
    assert counts["rnn"] == rnns - 2
    assert max(counts.values()) - min(n for k, n in counts.items() if k != "rnn") <= 1


@given(st.integers(0, 30), st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_shares_are_alike_within_their_room(count: int, room: list[int]) -> None:
    found = shares(count, room)
    assert sum(found) == min(count, sum(room))
    assert all(own <= most for own, most in zip(found, room, strict=True))
    free = [own for own, most in zip(found, room, strict=True) if own < most]
    assert all(max(found) - own <= 1 for own in free)


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("index", [0, -1])
def test_every_initialisation_fills_every_parameter(name: str, index: int) -> None:
    architecture = grown_space()[index].architecture
    counts = np.arange(1, 12)
    weights = initial(name, architecture, 0, counts)
    shapes = {n: tuple(p.shape) for n, p in build(architecture).named_parameters()}
    assert {n: tuple(w.shape) for n, w in weights.items()} == shapes
    again = initial(name, architecture, 0, counts)
    assert all(torch.equal(weights[n], again[n]) for n in shapes)


def test_the_torch_initialisation_has_the_spread_of_torch_s_own_layers() -> None:
    """A linear's bias is drawn by its inputs, not by its outputs: of a feed-forward they differ."""
    architecture = member("mini_gpt", d_model=64, ff_ratio=4)
    found = initial("torch", architecture, 0, np.ones(11))
    for part, inputs in (("up", 64), ("down", 256)):
        layer = torch.nn.Linear(inputs, 320 - inputs)
        for name, own in layer.named_parameters():
            value = found[f"layers.0.mlp.{part}.{name}"]
            assert value.shape == own.shape
            assert value.abs().max() <= inputs**-0.5
            assert float(value.std()) == pytest.approx(inputs**-0.5 / 3**0.5, rel=0.25)


@pytest.mark.parametrize("name", ["gpt2", "orthogonal", "torch"])
def test_norms_and_gated_feed_forwards_begin_as_others_do(name: str) -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2}, "mlp": "glu", "placement": "sandwich",
             "repeat": 2}  # fmt: skip
    architecture = written(
        {"d_model": 64, "vocab_size": 11, "layers": [layer], "embedding": {"norm": "layernorm"}}
    )
    found = initial(name, architecture, 0, np.ones(11))
    norms = [value for key, value in found.items() if "norm.weight" in key]
    assert len(norms) == 1 + 2 * 4 + 1
    assert all(bool((value == 1).all()) for value in norms)
    if name != "torch":  # which knows no branches
        ends = found["layers.0.mlp.down.weight"].std() / found["layers.0.mlp.up.weight"].std()
        assert float(ends) == pytest.approx((2 * 2) ** -0.5, rel=0.05)


def test_the_unigram_initialisation_begins_near_the_frequencies() -> None:
    member = next(m for m in grown_space() if m.family == "mini_gpt" and m.values["d_model"] == 24)
    counts = np.array([1000] + [1] * 10)
    tokens = np.zeros(400, dtype=np.int64)
    losses = {}
    for name in ("default", "unigram"):
        model = build(member.architecture)
        model.load_state_dict(initial(name, member.architecture, 0, counts), strict=False)
        losses[name] = mean_loss(model, tokens, 6, 200)
    assert losses["unigram"] < 0.2 < losses["default"]


def of_width(d_model: int) -> Architecture:
    return member("mini_gpt", d_model=d_model, tie_weights=False)


def test_mup_is_the_default_at_its_base_and_scales_beyond() -> None:
    counts = np.arange(1, 12)
    base, wide = of_width(64), of_width(128)
    for name, value in initial("mup", base, 0, counts).items():
        assert torch.equal(value, initial("default", base, 0, counts)[name]), name
    plain, scaled = (initial(name, wide, 0, counts) for name in ("default", "mup"))
    ratio = float(scaled["head.weight"].std() / plain["head.weight"].std())
    assert ratio == pytest.approx(2**-0.5, rel=1e-3)
    inside = "layers.0.mixer.q.weight"
    assert torch.equal(plain[inside], scaled[inside])


def test_mup_scales_rates_and_has_no_rule_for_tied_heads_without_a_norm() -> None:
    wide = of_width(128)
    assert scaling_of("default", wide) is None
    mup = scaling_of("mup", wide)
    assert mup == MupConfig(base_width=64)
    assert scaling_of("mup", member("lstm", d_model=128, tie_weights=True)) is None
    tokens = np.random.default_rng(0).integers(0, 11, 2000)
    weights = initial("mup", wide, 0, np.ones(11))
    rates = {
        "seed": 1, "steps": (1,), "batch_size": 2, "train": tokens, "held": tokens,
        "eval_tokens": 160, "lr": 1e-3,
    }  # fmt: skip
    slow, fast = (train_unit(wide, weights, mup=m, **cast(Any, rates)) for m in (mup, None))
    assert slow.losses != fast.losses


def test_a_unit_is_a_function_of_its_arguments() -> None:
    architecture = grown_space()[0].architecture
    tokens = np.random.default_rng(0).integers(0, 11, 2000)
    given_ = {
        "lr": 1e-2, "seed": 1, "steps": (0, 2, 6), "batch_size": 2, "train": tokens, "held": tokens,
        "eval_tokens": 160,
    }  # fmt: skip
    weights = initial("gpt2", architecture, 0, np.ones(11))
    found = train_unit(architecture, weights, **cast(Any, given_))
    first = found.losses
    assert first == train_unit(architecture, weights, **cast(Any, given_)).losses
    assert set(first) == {0, 2, 6}
    assert 0 < found.more["seconds"] < 60
    model = build(architecture, 1)
    model.load_state_dict(weights, strict=False)
    assert first[0] == pytest.approx(mean_loss(model, tokens, 6, 160))


def test_a_run_without_a_finite_loss_has_an_infinite_one() -> None:
    architecture = grown_space()[0].architecture
    tokens = np.random.default_rng(0).integers(0, 11, 2000)
    found = train_unit(
        architecture, {}, lr=1e12, seed=1, steps=(0, 2, 6), batch_size=2, train=tokens, held=tokens,
        eval_tokens=160,
    )  # fmt: skip
    assert math.isfinite(found.losses[0])
    assert found.losses[6] == math.inf


def test_a_loss_that_is_none_is_the_same_now_and_when_it_is_read_again(tmp_path: Path) -> None:
    unit = Unit(1, "ghn", 0.1, 0, "test")
    results = Results(tmp_path / "units.jsonl")
    results.add(unit, {0: math.nan, 5: 2.0}, seconds=1.0, snip=math.nan)
    again = Results(tmp_path / "units.jsonl")
    assert results[unit] == again[unit] == {0: math.inf, 5: 2.0}
    assert results.more(unit) == again.more(unit) == {"seconds": 1.0}


def test_nothing_is_saved_of_a_training_that_diverged() -> None:
    strong = np.array([[4.0, math.inf], [4.0, 3.0]])
    own = np.array([[math.inf, math.inf], [3.0, 2.0]])
    found = saved(strong, own, [0, 10], np.array([5.0, 5.0]), 100.0)
    assert found["reached"] == 0.5
    assert found["seconds"] == 2.5
    assert found["break_even"] == 40.0
    assert found["strong_reaches_start"] == 0.5
    assert saved(strong, own, [0, 10], None, 100.0)["break_even"] is None


def test_a_sign_that_is_none_ranks_last(tmp_path: Path) -> None:
    made = course(tmp_path, early=(2,))
    runs = FakeRuns(made)

    def run(units: Sequence[Unit]) -> None:
        runs([unit for unit in units if (unit.side, unit.index) != ("early", 3)])
        for unit in units:
            if (unit.side, unit.index) == ("early", 3):
                made.results.add(unit, {0: 3.0, 2: 3.0}, grad_norm=math.nan, seconds=1.0)

    made.go(run)
    guesses, _ = ranked_losses(made)
    assert guesses["ghn_grad_norm"].argmax() == 0
    assert guesses["ghn_grad_norm"][0] == math.inf


def test_sides_that_share_documents_are_refused() -> None:
    _check_disjoint({"the hypernetwork": ":3", "train": "3:5", "test": "5:"})
    with pytest.raises(UsageError, match=r"text\.test: documents 4: are also those of train"):
        _check_disjoint({"the hypernetwork": ":3", "train": "3:5", "test": "4:"})


def test_config_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="rise from 0"):
        config(steps=(10, 5))
    with pytest.raises(ValueError, match="candidates"):
        config(candidates=("kaiming",))
    with pytest.raises(ValueError, match="early"):
        config(early=(0, 10))
    with pytest.raises(ValueError, match="taken"):
        config(others={"strong": "x"})


def test_anatomy_of_a_grown_space_is_wholly_known() -> None:
    assert not any(anatomy_of(member.architecture).unknown for member in grown_space()[::7])
