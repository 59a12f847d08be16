"""What tuning tries next, and what it makes of what it has seen."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import WindtunnelError
from windtunnel.study.tune import FACTORS, Knob, Tuning, best_point, parse_knob, point_words

LR = Knob("train.lr", (0.001, 0.002, 0.004))


def tried_out(tuning: Tuning, own: tuple[float, ...], loss) -> dict:  # type: ignore[no-untyped-def, type-arg]
    tried: dict = {}  # type: ignore[type-arg]
    while points := tuning.next_points(own, tried):
        assert not set(points) & set(tried), "no point is trained twice"
        tried |= {point: loss(*point) for point in points}
    return tried


def test_a_knob_without_values_is_a_grid_around_the_files_own() -> None:
    tuning = Tuning((parse_knob("train.lr"),))
    assert tuning.grid((0.003,)) == tuple((round(0.003 * f, 9),) for f in FACTORS)


def test_an_optimum_inside_the_grid_needs_no_more_runs() -> None:
    tried = tried_out(Tuning((LR,)), (9.0,), lambda lr: abs(math.log2(lr / 0.002)))
    assert list(tried) == [(0.001,), (0.002,), (0.004,)]
    assert best_point(tried) == (0.002,)
    assert Tuning((LR,)).beyond(tried) == ()


@pytest.mark.parametrize(
    ("best", "further"), [(0.016, [0.008, 0.016, 0.032]), (0.0003, [0.0005, 0.00025, 0.000125])]
)
def test_an_optimum_at_an_end_extends_the_grid_until_it_lies_inside(
    best: float, further: list[float]
) -> None:
    tuning = Tuning((LR,))
    tried = tried_out(tuning, (9.0,), lambda lr: abs(math.log2(lr / best)))
    assert [point[0] for point in tried][3:] == further
    assert tuning.beyond(tried) == ()


def test_an_optimum_beyond_every_extension_is_known_to_lie_at_the_edge() -> None:
    tuning = Tuning((LR,), extensions=2)
    tried = tried_out(tuning, (9.0,), lambda lr: -lr)
    assert [point[0] for point in tried][3:] == [0.008, 0.016]
    assert tuning.beyond(tried) == ((0.032,),)


def test_two_knobs_are_a_product_and_each_is_extended_by_itself() -> None:
    tuning = Tuning((LR, Knob("train.weight_decay", (0.0, 0.1))))
    tried = tried_out(tuning, (9.0, 9.0), lambda lr, wd: abs(math.log2(lr / 0.008)) - wd)
    assert len(tuning.grid((9.0, 9.0))) == 6
    assert (0.008, 0.1) in tried
    assert all(lr == 0.004 or wd == 0.1 or lr < 0.008 for lr, wd in tried)


def test_zero_and_words_have_no_beyond() -> None:
    zero = Tuning((Knob("train.weight_decay", (0.0, 0.1, 0.2)),))
    assert zero.beyond({(0.0,): 1.0, (0.1,): 2.0, (0.2,): 3.0}) == ()
    words = Tuning((Knob("train.schedule", ("cosine", "linear")),))
    assert words.beyond({("cosine",): 1.0, ("linear",): 2.0}) == ()


def test_points_without_a_loss_are_never_chosen() -> None:
    assert best_point({(1.0,): math.inf, (2.0,): 5.0}) == (2.0,)
    assert best_point({(1.0,): math.inf}) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(1e-5, 1.0), min_size=2, max_size=5, unique=True),
    st.floats(1e-7, 1e2),
    st.integers(0, 4),
)
def test_tuning_ends_and_counts_what_it_spends(
    values: list[float], best: float, extensions: int
) -> None:
    knob = Knob("train.lr", tuple(float(f"{v:.4g}") for v in values))
    if len(set(knob.values or ())) < 2:
        return
    tuning = Tuning((knob,), extensions=extensions)
    tried = tried_out(tuning, (9.0,), lambda lr: abs(math.log2(lr / best)))
    assert len(tried) <= len(values) + extensions
    top = best_point(tried)
    inside = min(p[0] for p in tried) < top[0] < max(p[0] for p in tried)  # type: ignore[index]
    assert inside or len(tuning.beyond(tried)) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.steps=[1, 2]", "decides how much an arm is trained"),
        ("train.batch_size", "decides how much an arm is trained"),
        ("train.lr=0.1", "a list of at least 2 values"),
        ("train.lr=[0.1]", "a list of at least 2 values"),
        ("train.lr=[0.1, 0.1]", "a value stands there twice"),
        ("train..lr", "train..lr"),
        ("train.weight_decay=[1, 1.0]", "a value stands there twice"),
        ("train.weight_decay=[0.1, 0.10000001]", "a value stands there twice"),
        ("train.flag=[true, 1]", "a value stands there twice"),
        ("train.optimizer=[{type: adamw}, {type: lion}]", "train.optimizer.type=[…]"),
        ("train.eval_tokens=[100, 200]", "do not measure the same"),
        ("data.seed=[1, 2]", "do not measure the same"),
        ("train.objective.type=[a, b]", "do not measure the same"),
        ("train=[1, 2]", "train.steps is part of it"),
        ("arch.name=[a, b]", "a name changes nothing"),
        ("arch.type=[decoder, encoder]", "do not measure the same"),
    ],
)
def test_mistakes_in_a_knob_are_told(text: str, said: str) -> None:
    with pytest.raises(WindtunnelError) as told:
        parse_knob(text)
    assert told.value.exit_code == 2
    assert said in str(told.value)


def test_a_knob_is_given_once() -> None:
    with pytest.raises(WindtunnelError, match=r"train\.lr: is given twice"):
        Tuning((LR, parse_knob("train.lr")))


def test_nothing_beyond_what_is_valid_is_tried_and_the_edge_is_still_an_edge() -> None:
    tuning = Tuning((Knob("arch.dropout", (0.3, 0.6)),))
    tried = {(0.3,): 2.0, (0.6,): 1.0}
    assert tuning.next_points((0.0,), tried) == ((1.2,),)
    assert tuning.next_points((0.0,), tried, lambda point: point[0] < 1) == ()
    assert tuning.beyond(tried) == ((1.2,),)


def test_a_grid_cannot_be_made_around_what_is_no_number() -> None:
    with pytest.raises(WindtunnelError, match="not a number above 0"):
        Knob("train.clip").grid(None)


def test_points_are_named_shortly() -> None:
    assert point_words(["train.lr", "train.schedule"], (0.003, "wsd")) == "lr 0.003, schedule wsd"
