"""Conditions: what they mean, and every mistake with its message."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import UsageError
from windtunnel.spaces import Expression, reasonable

COLUMNS = {"a": np.arange(-3, 4), "b": np.array([0, 1, 2, 3, 2, 1, 0]), "x": np.linspace(0, 1, 7)}


def held(text: str) -> list[bool]:
    found = Expression(text)(COLUMNS.get, set(COLUMNS) | {"lacking"})
    return [bool(v) for v in np.broadcast_to(found, (7,))]


@pytest.mark.parametrize(
    "text",
    [
        "a < 2", "a<=2 and b>1", "a == 1 or not b == 2", "not (a > 0 or b > 1)", "a + b * 2 > 3",
        "-a - -b < 1.5", "(a + b) * 2 > 3", "a % 2 == 1 and a // 2 >= 0", "0 <= a < 2 < b + 2",
        "a in [1, 2, -3]", "a not in [1, b]", "x > .5 and x != 1.0", "a * 1_000 < 1e3",
        "not not a > 1", "a < 1 or b < 1 and x < 0", "x / 2 >= 0.25", "true == true",
    ],
)  # fmt: skip
def test_a_condition_means_what_python_would_say(text: str) -> None:
    python = text.replace("true", "True")
    columns = zip(*(column.tolist() for column in COLUMNS.values()), strict=True)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in columns]
    assert held(text) == [bool(eval(python, {}, row)) for row in rows]


NUMBERS = st.recursive(
    st.sampled_from(["a", "b", "1", "2", "3"]),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=5,
)
CONDITIONS = st.recursive(
    st.tuples(NUMBERS, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), NUMBERS).map(" ".join),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(CONDITIONS)
def test_any_condition_means_what_python_would_say(text: str) -> None:
    rows = [{"a": int(COLUMNS["a"][i]), "b": int(COLUMNS["b"][i])} for i in range(7)]
    assert held(text) == [eval(text, {}, row) for row in rows]


def test_units_stand_for_their_numbers() -> None:
    column = {"n": np.array([999, 1000, 2_500_000, 30_000_000, 10**9])}
    assert Expression("n < 1k")(column.get).tolist() == [True, False, False, False, False]
    assert Expression("n >= 2.5M")(column.get).tolist() == [False, False, True, True, True]
    assert Expression("n == 1B or n == 30M")(column.get).tolist() == [False] * 3 + [True] * 2


def test_what_a_family_lacks_compares_with_nothing() -> None:
    assert not any(held("lacking > 0 or lacking < 0 or lacking == 0 or lacking != 0"))
    assert not any(held("lacking in [0, 1] or a * lacking != 3 or lacking == word"))
    assert all(held("not lacking > 0"))
    space = reasonable()
    heads = space.where("n_head >= 2")
    assert len(heads) == 2 * 7680
    assert len(space.where("not n_head >= 2")) == 3 * 448


def test_division_by_zero_compares_with_nothing() -> None:
    assert held("1 / b > 0") == [False, True, True, True, True, True, False]
    assert not any(held("a % 0 == 0 or a // 0 != 1 or a / 0 < 1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a name or a number at the end"),
        ("params <", "expected a name or a number at the end"),
        ("params < 30M and", "at the end"),
        ("params ~ 3", "cannot read '~ 3'"),
        ("parms < 3", "unknown name 'parms'; did you mean 'params'?"),
        ("family == lsmt", "did you mean 'lstm'?"),
        ("family < lstm", "words have no order"),
        ("family == 3", "family is a word and 3 is none"),
        ("params", "params is no condition"),
        ("params + 1", "the result of '+' is no condition"),
        ("family + 1 == 2", "family is no number"),
        ("params < 3 4", "nothing was expected at '4'"),
        ("(params < 3", "expected ')' at the end"),
        ("family in lstm", "expected '['"),
        ("family not lstm", "expected 'in'"),
        ("params < 3 and 5", "5 is no condition"),
        ("__import__('os')", "nothing was expected"),
        ("params.real < 3", "unknown name 'params.real'"),
        ("(" * 60 + "params" + ")" * 60, "nested deeper than 50"),
        (" and ".join(["params < 3"] * 300), "at most 400"),
    ],
)
def test_a_mistake_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        reasonable().where(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_long_condition_is_no_trouble() -> None:
    text: Any = " or ".join(["d_model == 64"] * 100)
    assert len(reasonable().where(text)) == len(reasonable().where("d_model == 64"))


def test_whole_numbers_do_not_overflow() -> None:
    columns = {"n": np.array([3, 2**40, 2**61, -(2**61)]), "x": np.array([0.5, 1, 2, 3])}
    rows = [{name: column[i].item() for name, column in columns.items()} for i in range(4)]
    for text in (
        "n * n < 0", "n * n * n > 0", "n + n + n < 0", "n - 0 - n - n - n < n", "n * n == n",
        "n * n // n == n", "n * n % 7 == 2", "n * n / n <= x", "-(n * n) < 0 and n * n != n",
        "n * n > 4_611_686_018_427_387_904", "n < 99_999_999_999_999_999_999",
        "n * n in [9, 1_208_925_819_614_629_174_706_176]", "n * n * x > 100",
    ):  # fmt: skip
        found = Expression(text)(columns.get, set(columns))
        assert np.broadcast_to(found, 4).tolist() == [eval(text, {}, row) for row in rows], text
    assert len(reasonable().where("params * params < 0")) == 0
    assert len(reasonable().where("params * params * params > 1e20")) > 0
    big = {"n": np.full(5_000_000, 2**40)}
    with pytest.raises(UsageError, match=r"can be 2\^62 or more for 5,000,000 members"):
        Expression("n * n > 3")(big.get)
    assert Expression("n * 3 > 3")(big.get).all()
    with pytest.raises(UsageError, match="more than 300 digits"):
        Expression("n < " + "9" * 400)


def test_a_text_that_is_no_value_is_told() -> None:
    with pytest.raises(UsageError, match="no value is the text 'lsmt'; did you mean 'lstm'"):
        reasonable().where("family == 'lsmt'")
    assert len(reasonable().where("family == 'lstm'")) == 448


def test_not_in_is_a_comparison_too() -> None:
    assert not any(held("lacking not in [1, 2]"))
    assert all(held("not lacking in [1, 2]"))
    space = reasonable()
    assert space.where("n_head not in [2]").families().keys() == {"gpt_encoder", "mini_gpt"}
    assert space.where("family not in [lstm, gru]").families().keys() == {
        "rnn", "gpt_encoder", "mini_gpt",
    }  # fmt: skip


def test_the_negative_of_a_large_number_is_one() -> None:
    assert len(reasonable().where("params > -5000000T")) == 16_704
    assert len(reasonable().where("params < -(2T * 3M)")) == 0
