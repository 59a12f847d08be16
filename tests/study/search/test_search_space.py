"""The file of a search: its knobs, its mistakes, and how it lies over a run's file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.config import parse_document
from windtunnel.errors import ConfigError
from windtunnel.study.search.config import RandomConfig, SearchConfig
from windtunnel.study.search.knob import KnobConfig, rounded
from windtunnel.study.search.sampling import Asker, internal
from windtunnel.study.search.space import (
    Search,
    applied,
    check_paths,
    grid_points,
    read_search,
)
from windtunnel.train.run_config import LoadedRun, load_run_document

SPACE = """\
sampler: tpe
trials: 12
space:
  train.lr: {log: [1e-4, 1e-2]}
  arch.layers[*].mixer: {choice: [attention, gru, {type: short_conv}]}
  arch.layers[*].mixer.kernel_size: {int: [2, 4], when: {'arch.layers[*].mixer': short_conv}}
"""


def read(text: str) -> Search:
    return read_search(parse_document(text, "search.yaml"))


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def run() -> LoadedRun:
    tree = {
        "arch": {"d_model": 16, "layers": [{"mixer": {"type": "attention", "num_heads": 2}}]},
        "data": {"tokenizer": "bytes"},
        "train": {"steps": 50},
    }
    return load_run_document(parse_document(json.dumps(tree), "run.yaml"))


def test_a_file_is_read_whole() -> None:
    search = read(SPACE)
    assert search.config.sampler.type == "tpe"
    assert search.config.pruning.type == "none"
    assert list(search.space) == [
        "train.lr", "arch.layers[*].mixer", "arch.layers[*].mixer.kernel_size",
    ]  # fmt: skip
    assert search.place("train.lr") == "search.yaml:4:3"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sampler: tpee", "unknown sampler 'tpee'; did you mean 'tpe'?"),
        ("sampler: {type: tpe, startup: 3}", "sampler.startup: unknown key; did you mean 'startup"),
        ("pruning: {type: halvin}", "unknown pruning 'halvin'; did you mean 'halving'?"),
        ("pruning: {type: halving, rungs: [5, 3]}", "rungs must rise, not [5, 3]"),
        ("trails: 3", "trails: unknown key; did you mean 'trials'?"),
        ("objectives: [los]", "'los' is not allowed; did you mean 'loss'?"),
        ("objectives: [flops]", "objectives: loss must be among them"),
        ("objectives: [loss, params]\npruning: median", "a trial cannot be judged by its loss"),
        ("sampler: cma-es", "cma-es needs two numbers that are always there; the space has 1"),
        ("confirm: {best: 2, seeds: 1}", "confirm.seeds: must be ≥ 2, not 1"),
    ],
)
def test_a_mistake_has_its_place_and_a_way_out(line: str, said: str) -> None:
    text = line + "\nspace:\n  train.lr: {log: [1e-4, 1e-2]}\n"
    assert any(said in mistake for mistake in mistakes(text)), mistakes(text)


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ("{}", "needs exactly one of choice, range, log, int"),
        ("{log: [1, 2], int: [1, 2]}", "needs exactly one of choice, range, log, int, not log and"),
        ("{log: [0, 1]}", "a logarithm needs numbers above 0, not 0"),
        ("{range: [2, 1]}", "range: 2 is above 1"),
        ("{int: [1.5, 2]}", "expected an integer, not 1.5"),
        ("{choice: []}", "needs at least 1, not 0"),
        ("{choice: [1, 1]}", "a value stands in it twice"),
        ("{log: [1, 2], step: 1}", "step is for range and int, not for log"),
        ("{lag: [1, 2]}", "unknown key; did you mean 'log'?"),
        ("{int: [1, 9], points: 3}", "points is for range and log, not for int"),
        ("{int: [1, 9], when: {arch.d_modl: 3}}", "is no knob before this one; did you mean"),
    ],
)
def test_a_knob_that_cannot_be_is_told(knob: str, said: str) -> None:
    found = mistakes(f"space:\n  arch.d_model: {{int: [1, 2]}}\n  train.lr: {knob}\n")
    assert any(said in mistake and "search.yaml:3" in mistake for mistake in found), found


@pytest.mark.parametrize(
    "path", ["data.source", "train.seed", "train.eval_tokens", "arch.name", "train", "data"]
)
def test_what_would_make_losses_incomparable_is_refused(path: str) -> None:
    (found,) = mistakes(f"space:\n  {path}: {{choice: [1, 2]}}\n")
    assert "cannot be searched" in found


def test_a_grid_needs_values_that_can_be_counted() -> None:
    (found,) = mistakes("sampler: grid\nspace:\n  train.lr: {log: [1e-4, 1e-2]}\n")
    assert found.endswith("a grid needs `points` or a step here")


def test_a_grid_has_conditional_knobs_only_where_they_are() -> None:
    search = read(SPACE.replace("[1e-4, 1e-2]", "[1e-4, 1e-2], points: 2").replace("tpe", "grid"))
    points = grid_points(search.space)
    assert len(points) == 2 * (1 + 1 + 3)
    kernels = [p.get("arch.layers[*].mixer.kernel_size") for p in points[:5]]
    assert kernels == [None, None, 2, 3, 4]


def test_a_choice_is_laid_over_the_run(run: LoadedRun) -> None:
    made = applied(run, {"arch.layers[*].mixer": {"type": "short_conv"}, "train.lr": 0.002})
    assert made.config.arch.layers[0].mixer.type == "short_conv"
    assert made.config.train.lr == 0.002
    with pytest.raises(ConfigError, match="num_heads 3 does not divide"):
        applied(run, {"arch.layers[*].mixer.num_heads": 3})


@pytest.mark.parametrize(
    ("path", "values", "said"),
    [
        ("train.lrr", "[0.1]", "search.yaml:2:3: space.train.lrr: unknown key; did you mean 'lr'?"),
        ("arch.layers[*].mixer", "[atention]", "unknown mixer 'atention'; did you mean"),
        ("arch.layers[7].mixer", "[gru]", "arch.layers: has 1 entries, none at 7"),
        ("train.steps", "[many]", "space.train.steps: expected an integer, not 'many'"),
        ("arch.layers.mixer", "[gru]", "space.arch.layers.mixer: arch.layers is a list: write [0]"),
        ("arch.d_model.foo", "[1]", "arch.d_model is one value, and nothing stands below it"),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error(
    run: LoadedRun, path: str, values: str, said: str
) -> None:
    search = read(f"space:\n  {path}: {{choice: {values}}}\n")
    with pytest.raises(ConfigError) as caught:
        check_paths(search, run)
    assert said in str(caught.value)


LOG = "unknown key; did you mean 'log'? (allowed: choice, range, log, int, step, scale, points, w"
LR = "space.train.lrr: unknown key; did you mean 'lr'? (allowed: "
WHEN = "when: {'arch.layers[*].mixer': gru}"


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (["train.lrr: {lgo: [5e-4, 1e-2]}"],
         [f"search.yaml:2:3: {LR}", f"search.yaml:2:15: space.train.lrr.lgo: {LOG}"]),
        (["train.lrr: {choice: [1.0]}", "arch.d_model: {lgo: [1, 2]}"],
         [f"search.yaml:2:3: {LR}", f"search.yaml:3:18: space.arch.d_model.lgo: {LOG}"]),
        (["train.lrr: {}"],
         [f"search.yaml:2:3: {LR}",
          "search.yaml:2:14: space.train.lrr: needs exactly one of choice, range, log, int"]),
        (["train.lr: {lgo: [5e-4, 1e-2]}"], [f"search.yaml:2:14: space.train.lr.lgo: {LOG}"]),
        (["data.source: {lgo: [1]}"],
         ["search.yaml:2:3: space.data.source: cannot be searched: ",
          f"search.yaml:2:17: space.data.source.lgo: {LOG}"]),
        # What hangs on a knob that cannot be read is not judged, nor what has no readable `when`.
        (["arch.layers[*].mixer: {choise: [gru]}",
          f"arch.layers[*].mixer.d_hidden: {{int: [1, 4], {WHEN}}}"],
         ["search.yaml:2:26: space.arch.layers[*].mixer.choise: unknown key; did you mean"]),
        (["arch.layers[*].mixer: {choice: [gru]}",
          f"arch.layers[*].mixer.d_hidden: {{int: [1, 4], {WHEN.replace('when', 'whn')}}}",
          f"arch.layers[*].mixer.d_hiden: {{int: [1, 4], {WHEN}}}"],
         ["search.yaml:3:48: space.arch.layers[*].mixer.d_hidden.whn: unknown key; did you mean",
          "search.yaml:4:3: space.arch.layers[*].mixer.d_hiden: unknown key; did you mean 'd_hid"]),
        (["arch.layers[*].mixer: {choice: [gru]}",
          f"arch.layers[*].mixer.d_hiden: {{nit: [1, 4], {WHEN}}}"],
         ["search.yaml:3:3: space.arch.layers[*].mixer.d_hiden: unknown key; did you mean 'd_hid",
          "search.yaml:3:34: space.arch.layers[*].mixer.d_hiden.nit: unknown key; did you mean"]),
    ],
)  # fmt: skip
def test_mistakes_of_values_and_of_paths_are_told_at_once(
    run: LoadedRun, knobs: list[str], said: list[str]
) -> None:
    text = "space:\n" + "".join(f"  {knob}\n" for knob in knobs)
    with pytest.raises(ConfigError) as caught:
        read_search(parse_document(text, "search.yaml"), run)
    found = [str(problem) for problem in caught.value.problems]
    assert len(found) == len(said), found
    for one, start in zip(found, said, strict=True):
        assert one.startswith(start)


def test_what_counts_knobs_does_not_count_before_all_can_be_read() -> None:
    (found,) = mistakes(
        "sampler: cma-es\nspace:\n  train.lr: {log: [1, 2]}\n  arch.d_model: {nit: [1, 2]}\n"
    )
    assert "space.arch.d_model.nit: unknown key" in found
    for text in ("space: {}\n", "space: {}\ntrials: 3\n"):
        (found,) = mistakes(text)
        assert found == "search.yaml:1:8: space: is empty: name at least one path and its values"


def test_values_that_only_other_knobs_make_invalid_are_no_mistake(run: LoadedRun) -> None:
    text = "space:\n  arch.d_model: {choice: [16, 24]}\n"
    check_paths(read(text + "  'arch.layers[*].mixer.num_heads': {choice: [2, 3]}\n"), run)
    check_paths(read(SPACE), run)


@given(st.floats(1e-6, 1.0), st.floats(1.0, 1e3), st.integers(2, 9))
def test_points_of_a_range_lie_inside_and_rise(low: float, ratio: float, points: int) -> None:
    for form in ("range", "log"):
        knob = KnobConfig.model_validate({form: (low, low * ratio), "points": points})
        values = knob.values()
        assert values is not None
        assert len(values) == points
        assert list(values) == sorted(values)
        assert all(low <= value <= low * ratio for value in values)
        assert values[0] == pytest.approx(low, rel=1e-3)
        if rounded(low) >= low and len({rounded(value) for value in values}) == points:
            assert values[0] == rounded(low)


def test_points_and_steps_are_apart_however_close_they_lie() -> None:
    assert KnobConfig(range=(0.99, 0.99999), points=3).values() == (0.99, 0.995, 0.99999)
    assert KnobConfig(log=(0.99990, 0.99998), points=2).values() == (0.9999, 0.99998)
    assert KnobConfig(range=(10_000, 10_001), step=0.5).values() == (10_000, 10_000.5, 10_001)
    knob = KnobConfig(range=(0.99990, 0.99998), step=0.00004)
    assert knob.values() == (0.9999, 0.99994, 0.99998)
    asker = Asker(SearchConfig(space={"train.ema.decay": knob}, sampler=RandomConfig()))
    asked = [params["train.ema.decay"] for params in asker.ask(30)]
    assert set(asked) == set(knob.values() or ())


@given(st.integers(-50, 50), st.integers(0, 100), st.integers(1, 20))
def test_whole_numbers_by_steps(low: int, span: int, step: int) -> None:
    values = KnobConfig(int=(low, low + span), step=step).values()
    assert values == tuple(range(low, low + span + 1, step))


def test_a_choice_is_known_by_its_place() -> None:
    knob = KnobConfig(choice=("a", {"type": "b", "n": 1}, (1, 2), None, 1.0))
    assert [internal(knob, value) for value in knob.choice or ()] == [0, 1, 2, 3, 4]


def test_a_search_is_plain_data() -> None:
    search = read(SPACE).config
    again = SearchConfig.model_validate_json(search.model_dump_json())
    assert again.model_dump(mode="json") == search.model_dump(mode="json")
