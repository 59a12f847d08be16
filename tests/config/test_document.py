"""YAML to a plain tree with places; edits by dotted path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.config import (
    annotated_yaml,
    canonical_json,
    digest,
    format_path,
    load_document,
    nearest,
    parse_document,
    parse_path,
    parse_value,
)
from windtunnel.errors import ConfigError, UsageError

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=12,
)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1", -1),
        ("1_000", 1000),
        ("on", "on"),
        ("no", "no"),
        ("none", "none"),
        ("true", True),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("8/3", "8/3"),
        ("0x10", "0x10"),
        ('"3"', "3"),
        ("[1, {a: 2}]", (1, {"a": 2})),
        (".inf", float("inf")),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_what_is_written_wins_over_what_is_merged() -> None:
    text = "a: &a {x: 1, y: {z: 2}}\nb: {<<: *a, x: 3}\nc:\n  y: 4\n  <<: [{x: 5}, *a]\n"
    document = parse_document(text, "f.yaml")
    assert document.tree["b"] == {"x": 3, "y": {"z": 2}}
    assert document.tree["c"] == {"x": 5, "y": 4}
    assert document.place(("b", "x")) == "f.yaml:2:16"
    assert document.place(("b", "y", "z")) == "f.yaml:1:21"
    with pytest.raises(ConfigError, match="written twice"):
        parse_document("a: &a {x: 1}\nb: {<<: *a, x: 2, x: 3}", "f.yaml")
    with pytest.raises(ConfigError, match="<< takes a mapping"):
        parse_document("b: {<<: 3}", "f.yaml")


def test_every_value_knows_its_place() -> None:
    document = parse_document("a: 1\nb:\n  - x: 2\n  - 3\n", "f.yaml")
    assert document.place(("a",)) == "f.yaml:1:4"
    assert document.place(("b", 0, "x")) == "f.yaml:3:8"
    assert document.place(("b", 1)) == "f.yaml:4:5"
    assert document.place(("b", 0, "x"), key=True) == "f.yaml:3:5"
    assert document.place(("b", 0, "missing")) == document.place(("b", 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "f.yaml:2:1: a: written twice (first at f.yaml:1:1)"),
        ("a: [1\n", "not YAML"),
        ("", "the file is empty"),
        ("- 1\n", "expected a mapping"),
        ("a: !!python/object:os.system x\n", "has no meaning here"),
        ("a: &x [*x]\n", "refers to itself"),
        ("? [1]\n: 2\n", "a key must be a name"),
        ("a: \t- 1\n", "not YAML"),
    ],
)
def test_a_malformed_file_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "f.yaml")
    assert message in str(caught.value)


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="too many values"):
        parse_document("\n".join(lines))


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_an_unreadable_file_is_a_usage_error(tmp_path, content) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"run\.yaml"):
        load_document(path)
    with pytest.raises(UsageError, match="is a folder"):
        load_document(tmp_path)


def test_edit_sets_one_value_and_leaves_the_first_document_as_it_was() -> None:
    document = parse_document("train: {lr: 1}\n")
    edited = document.edit("train.lr=3e-4")
    assert edited.tree == {"train": {"lr": 3e-4}}
    assert document.tree == {"train": {"lr": 1}}
    assert edited.place(("train", "lr")) == "--set"


def test_what_an_edit_creates_on_its_way_is_of_the_edit() -> None:
    """So that a misspelt key is blamed on the command line, and not on the file."""
    document = parse_document("train: {lr: 1}\nlayers: [{}]\n", "f.yaml")
    edited = document.edit("trian.deep.steps=3").edit("layers[0].mlp.type=glu")
    for path in (("trian",), ("trian", "deep"), ("trian", "deep", "steps"), ("layers", 0, "mlp")):
        assert edited.place(path, key=True) == "--set"
    assert edited.place(("train",)) == "f.yaml:1:8"
    assert edited.place(("layers", 0)) == "f.yaml:2:10"
    assert edited.edit("train.new=1").place(("train",)) == "f.yaml:1:8"


def test_edit_reaches_every_entry_of_a_list_and_creates_what_is_missing() -> None:
    document = parse_document("layers: [{mlp: glu}, {mlp: {type: dense}}, {}]\n")
    edited = document.edit("layers[*].mlp.activation=silu").edit("layers[-1].repeat=2")
    assert edited.tree["layers"] == [
        {"mlp": {"type": "glu", "activation": "silu"}},
        {"mlp": {"type": "dense", "activation": "silu"}},
        {"mlp": {"activation": "silu"}, "repeat": 2},
    ]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("lr", "is not an edit"),
        ("layers[7].x=1", "has 1 entries, none at 7"),
        ("layers.mlp=glu", "is a list"),
        ("lr[0]=1", "is not a list"),
        ("a..b=1", "is not a path"),
        ("=1", "the path is empty"),
        ("lr={", "is not YAML"),
    ],
)
def test_an_edit_that_fits_nothing_is_an_error(edit: str, message: str) -> None:
    document = parse_document("layers: [{mlp: glu}]\nlr: 1\n")
    with pytest.raises(ConfigError) as caught:
        document.edit(edit)
    assert message in str(caught.value)


@given(
    st.lists(names | st.integers(0, 99), min_size=1, max_size=5).filter(
        lambda p: isinstance(p[0], str)
    )
)
def test_paths_round_trip(path: list[str | int]) -> None:
    assert parse_path(format_path(tuple(path))) == tuple(path)


@given(st.dictionaries(names, plain, min_size=1, max_size=4))
def test_annotated_yaml_reads_back_as_the_same_values(tree: dict[str, object]) -> None:
    assert canonical_json(parse_document(annotated_yaml(tree)).tree) == canonical_json(tree)


@given(st.dictionaries(names, plain, max_size=4))
def test_the_digest_does_not_depend_on_the_order_of_keys(tree: dict[str, object]) -> None:
    assert digest(tree) == digest(dict(reversed(tree.items())))


def test_the_digest_refuses_what_has_no_json() -> None:
    with pytest.raises(ValueError):
        digest({"a": float("nan")})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("atention", "attention"), ("Attention", "attention"), ("lst", "lstm"), ("zzz", None)],
)
def test_nearest(name: str, expected: str | None) -> None:
    assert nearest(name, ["attention", "lstm", "gru"]) == expected
