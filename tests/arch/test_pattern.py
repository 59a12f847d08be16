"""Patterns of layers, written out before anything is typed."""

import pytest

from windtunnel.arch.pattern import expand_patterns
from windtunnel.config import parse_document
from windtunnel.errors import ConfigError


def test_a_pattern_is_written_out_and_keeps_its_places() -> None:
    document = parse_document(
        "layers:\n  - repeat: 2\n    layers:\n      - {mixer: a}\n      - {mixer: b, repeat: 3}\n"
        "  - {mixer: c}\n",
        "f.yaml",
    )
    expanded = expand_patterns(document, ())
    assert [entry["mixer"] for entry in expanded.tree["layers"]] == ["a", "b", "a", "b", "c"]
    assert expanded.tree["layers"][3]["repeat"] == 3
    assert expanded.place(("layers", 2, "mixer")) == "f.yaml:4:17"
    assert expanded.place(("layers", 4, "mixer")) == "f.yaml:6:13"
    assert expanded.place(("layers", 3, "mixer"), key=True) == "f.yaml:5:10"


def test_patterns_may_hold_patterns() -> None:
    document = parse_document("layers: [{repeat: 2, layers: [{repeat: 2, layers: [{x: 1}]}]}]")
    assert expand_patterns(document, ()).tree["layers"] == ({"x": 1},) * 4


def test_a_document_without_patterns_is_left_as_it_is() -> None:
    document = parse_document("layers: [{mixer: a}]")
    assert expand_patterns(document, ()) is document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers: [{repeat: 2, layers: []}]", "a pattern is"),
        ("layers: [{repeat: 0, layers: [{}]}]", "a pattern is"),
        ("layers: [{repeat: 2, mixer: a, layers: [{}]}]", "'mixer' does not belong there"),
        ("layers: [{repeat: 20000, layers: [{}]}]", "at most 10,000"),
        ("layers: [{repeat: true, layers: [{}]}]", "a pattern is"),
    ],
)
def test_a_bad_pattern_is_a_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand_patterns(parse_document(text, "f.yaml"), ())
    assert message in str(caught.value)
