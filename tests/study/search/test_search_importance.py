"""What matters, and the front: on functions of which the answer is known."""

import random

from hypothesis import given
from hypothesis import strategies as st

from windtunnel.study.search.importance import importance
from windtunnel.study.search.knob import KnobConfig, Params
from windtunnel.study.search.pareto import pareto_front

SPACE = {
    "rate": KnobConfig(log=(1e-4, 1e-1)),
    "kind": KnobConfig(choice=("a", "b", {"type": "c"})),
    "idle": KnobConfig(range=(0, 1)),
}


def trials(count: int, seed: int = 0) -> list[tuple[Params, float]]:
    """The loss is the rate's alone."""
    draw = random.Random(seed)
    found: list[tuple[Params, float]] = []
    for _ in range(count):
        rate = 10 ** draw.uniform(-4, -1)
        kinds = SPACE["kind"].choice or ()
        params = {"rate": rate, "kind": draw.choice(kinds), "idle": draw.random()}
        found.append((params, abs(rate - 1e-3)))
    return found


def test_what_matters_comes_first_with_an_interval() -> None:
    found = importance(SPACE, trials(60))
    assert found is not None
    assert found["reliable"]
    assert next(iter(found["knobs"])) == "rate"
    assert sum(knob["share"] for knob in found["knobs"].values()) > 0.999
    top = found["knobs"]["rate"]
    assert top["low"] > 0.5
    assert top["low"] <= top["share"] <= top["high"] + 1e-9
    assert importance(SPACE, trials(60)) == found


def test_few_trials_are_called_unreliable_and_very_few_say_nothing() -> None:
    few = importance(SPACE, trials(8))
    assert few is not None
    assert not few["reliable"]
    assert importance(SPACE, trials(4)) is None
    assert importance(SPACE, [(params, 1.0) for params, _ in trials(20)]) is None


def test_a_knob_that_is_not_always_there_has_its_share_too() -> None:
    space = {**SPACE, "size": KnobConfig(int=(1, 9), when={"kind": "b"})}
    found = [
        ({**params, "size": 1 + i % 9} if params["kind"] == "b" else params, loss)
        for i, (params, loss) in enumerate(trials(40))
    ]
    shares = importance(space, found)
    assert shares is not None
    assert set(shares["knobs"]) == set(space)


VALUES = st.dictionaries(
    st.integers(0, 30), st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1
)


@given(VALUES)
def test_the_front_is_what_nothing_beats(values: dict[int, tuple[int, int]]) -> None:
    front = pareto_front(values)

    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    assert front
    for key in values:
        beaten = any(beats(other, values[key]) for other in values.values())
        assert (key in front) == (not beaten)
        if beaten:
            assert any(beats(values[best], values[key]) for best in front)
    assert [values[key][0] for key in front] == sorted(values[key][0] for key in front)
