"""What is varied: the grammar, labels and names, every mistake at once."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.config import format_path, parse_document, parse_path, parse_value
from windtunnel.errors import ConfigError
from windtunnel.study.vary import edit_text, parse_factors, plain

NAMES = st.sampled_from(["arch", "layers", "mlp", "lr", "qk_norm", "on", "no", "d-ff"])
STEPS = st.one_of(NAMES, st.integers(-9, 99), st.just("*"))
PATHS = st.tuples(NAMES, st.lists(STEPS, max_size=4)).map(lambda p: (p[0], *p[1]))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False), st.text(max_size=12),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("abc_", min_size=1, max_size=4), inner, max_size=3),
    ),
    max_leaves=6,
)


QUIETLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Nested values take long to draw on a busy machine."""


def number_free(value):
    """The value with numbers that are equal written alike: 1 and 1.0 are one value."""
    if isinstance(value, dict):
        return sorted((key, number_free(item)) for key, item in value.items())
    if isinstance(value, list):
        return [number_free(item) for item in value]
    return float(value) + 0.0 if type(value) in (int, float) else value


@QUIETLY
@given(PATHS, VALUES)
def test_an_edit_as_text_is_the_edit(path, value) -> None:
    name, _, text = edit_text(path, value).partition("=")
    assert parse_path(name) == path
    assert plain(parse_value(text)) == plain(value)


@QUIETLY
@given(st.lists(VALUES, min_size=1, max_size=4, unique_by=lambda v: repr(number_free(v))), PATHS)
def test_values_survive_and_labels_tell_them_apart(values, path) -> None:
    written = ", ".join(edit_text(("x",), value).removeprefix("x=") for value in values)
    (factor,) = parse_factors([f"{format_path(path)}=[{written}]"])
    assert [level.value for level in factor.levels] == [plain(value) for value in values]
    labels = [level.label for level in factor.levels]
    assert len(set(labels)) == len(labels)
    assert all(len(label) <= 45 for label in labels)


def test_the_forms() -> None:
    one, several, alone, bundle, sizes = parse_factors(
        [
            "arch.layers[*].mlp.activation=[relu, {type: glu, ratio: 2}]",
            "arch.embedding.dropout, arch.layers[*].dropout=[0, .1]",
            "train.lr=3e-4",
            "gated: {'arch.layers[0].mlp': glu, train.clip: null}",
            "size: [{arch.d_model: 64}, {arch.d_model: 128, train.warmup: 1}]",
        ]
    )
    assert one.name == "activation"
    assert [level.label for level in one.levels] == ["relu", "glu(ratio=2)"]
    assert several.name == "dropout"
    assert [len(level.edits) for level in several.levels] == [2, 2]
    assert (alone.name, alone.levels[0].value) == ("lr", 3e-4)
    assert bundle.name == "gated"
    assert bundle.levels[0].edits == ((("arch", "layers", 0, "mlp"), "glu"),
                                      (("train", "clip"), None))  # fmt: skip
    assert [level.label for level in sizes.levels] == ["d_model=64", "d_model=128, warmup=1"]


def test_names_are_as_short_as_can_be_told_apart() -> None:
    factors = parse_factors(
        ["arch.layers[0].mixer=[gru]", "arch.layers[1].mixer=[gru]", "train.lr=1", "a.b.lr=2"]
    )
    assert [f.name for f in factors] == ["layers[0].mixer", "layers[1].mixer", "train.lr", "b.lr"]


def test_every_mistake_is_told_with_what_was_written() -> None:
    mistakes = {
        "lr": "is not PATH=[value, …]",
        "a=[]": "has no values",
        "b=[1, 1.0]": "has the value 1 twice",
        "c={d: 1": "is not YAML",
        "train.seed=[1, 2]": "use --seeds",
        "train={steps: 5, seed: 1}": "train.seed: seeds are the study's",
        "arch.name=x": "changes nothing",
        "e, e=1": "names a path twice",
        "..f=1": "is not a path",
        "g: 3": "needs {PATH: value, …}",
        "h=2": "is varied twice (also by h=1)",
    }
    with pytest.raises(ConfigError) as caught:
        parse_factors(["h=1", *mistakes])
    lines = str(caught.value).splitlines()
    assert len(lines) == len(mistakes)
    for text, message in mistakes.items():
        assert any(line.startswith(f"--vary {text}: ") and message in line for line in lines)


def test_what_json_has_no_word_for() -> None:
    assert edit_text(("a",), [math.inf, -math.inf, "on"]) == 'a=[.inf, -.inf, "on"]'
    json.dumps(plain({"a": (1, math.nan)}), allow_nan=False)
    assert parse_document("a: .nan").tree["a"] != 0
