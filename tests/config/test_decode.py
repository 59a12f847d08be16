"""Typed decoding: every mistake at once, each with its place."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from windtunnel.config import Choice, Config, Ratio, decode, offer, parse_document
from windtunnel.errors import ConfigError


class Plain(Config):
    type: Literal["plain"] = "plain"
    size: int = Field(1, gt=0)


class Fancy(Config):
    type: Literal["fancy"] = "fancy"
    ratio: Ratio = 2.0


class Shapes:
    def names(self):
        return ("plain", "fancy")

    def config_class(self, name):
        return {"plain": Plain, "fancy": Fancy}.get(name)


offer("test_shape", Shapes())


class Part(Config):
    shape: Annotated[Config, Choice("test_shape", "plain")] = Plain()
    other: Annotated[Config, Choice("test_shape")] = Plain()
    mode: Literal["pre", "post"] = "pre"


class Whole(Config):
    lr: float
    name: str = "x"
    steps: int | Literal["auto"] = "auto"
    parts: tuple[Part, ...] = ()


def problems(text: str, check=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        decode(parse_document(text, "f.yaml"), Whole, check)
    return [str(problem) for problem in caught.value.problems]


def test_a_good_file_becomes_a_typed_value() -> None:
    whole = decode(
        parse_document("lr: 1\nparts: [{shape: {type: fancy, ratio: 8/3}}, {shape: plain}]"), Whole
    )
    assert whole == Whole(lr=1.0, parts=(Part(shape=Fancy(ratio=8 / 3)), Part(shape=Plain())))
    assert hash(whole) == hash(whole.replace())


def test_every_mistake_is_reported_at_once_in_the_order_of_the_file() -> None:
    text = """\
lr: "3"
nam: y
steps: aut
parts:
  - shape: {type: fancy, ratio: -1}
  - shape: fnacy
  - {shape: {type: plain, sise: 2}, mode: prey}
  - 7
"""
    assert problems(text) == [
        "f.yaml:1:5: lr: expected a number, not '3' (without quotes)",
        "f.yaml:2:1: nam: unknown key; did you mean 'name'? (allowed: lr, name, steps, parts)",
        "f.yaml:3:8: steps: expected an integer, not 'aut' or 'aut' is not allowed; "
        "did you mean 'auto'? (allowed: auto)",
        "f.yaml:5:33: parts[0].shape.ratio: must be > 0, not -1",
        "f.yaml:6:12: parts[1].shape: unknown test shape 'fnacy'; did you mean 'fancy'? "
        "(allowed: plain, fancy)",
        "f.yaml:7:27: parts[2].shape.sise: unknown key; did you mean 'size'? (allowed: type, size)",
        "f.yaml:7:43: parts[2].mode: 'prey' is not allowed; did you mean 'pre'? "
        "(allowed: pre, post)",
        "f.yaml:8:5: parts[3]: expected a mapping, not 7",
    ]


def test_what_does_not_fit_together_is_found_beside_wrong_types() -> None:
    def check(whole: Whole) -> list[tuple[tuple[str | int, ...], str]]:
        return [(("parts", 0), "does not fit")] if whole.parts else []

    assert problems("lr: 1\nnam: 2\nparts: [{}]\n", check) == [
        "f.yaml:2:1: nam: unknown key; did you mean 'name'? (allowed: lr, name, steps, parts)",
        "f.yaml:3:9: parts[0]: does not fit",
    ]


def test_a_missing_key_is_named() -> None:
    assert problems("name: x\n") == ["f.yaml:1:1: lr: is required"]


class Dog(Config):
    type: Literal["dog"] = "dog"


class Cat(Config):
    type: Literal["cat"] = "cat"


class Owner(Config):
    pet: Annotated[Dog | Cat, Field(discriminator="type")] = Dog()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pet: {type: dgo}", "pet: 'dgo' is not allowed; did you mean 'dog'? (allowed: dog, cat)"),
        ("pet: {type: 3}", "pet: '3' is not allowed (allowed: dog, cat)"),
        ("pet: {}", "pet: type is missing"),
    ],
)
def test_an_unknown_type_of_a_union_is_told_with_the_nearest(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(parse_document(text, "f.yaml"), Owner)
    assert str(caught.value) == f"f.yaml:1:6: {told}"


@pytest.mark.parametrize("value", ["true", "'1'", "[1]", "{a: 1}", "null"])
def test_nothing_is_converted_silently(value: str) -> None:
    assert len(problems(f"lr: {value}\n")) == 1


@pytest.mark.parametrize("value", ["8/0", "a/b", "-1/2", "0"])
def test_a_bad_ratio_is_an_error(value: str) -> None:
    assert len(problems(f"lr: 1\nparts: [{{shape: {{type: fancy, ratio: {value}}}}}]\n")) == 1


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Plain().size = 2  # type: ignore[misc]


def test_replace_validates() -> None:
    with pytest.raises(ValidationError):
        Plain().replace(size=0)


def test_the_json_schema_lists_every_option() -> None:
    text = str(Whole.model_json_schema())
    assert "plain" in text
    assert "Fancy" in text


def test_a_list_of_wrong_entries_is_not_called_too_short_besides() -> None:
    class Listed(Config):
        parts: tuple[Part, ...] = Field(min_length=1)

    with pytest.raises(ConfigError) as caught:
        decode(parse_document("parts: [{mode: prey}]", "f.yaml"), Listed)
    assert len(caught.value.problems) == 1
    with pytest.raises(ConfigError, match="needs at least 1, not 0"):
        decode(parse_document("parts: []", "f.yaml"), Listed)


def test_a_part_without_a_type_is_of_its_default_type() -> None:
    document = parse_document("lr: 1\nparts: [{shape: {size: 3}}, {}]", "f.yaml")
    edited = decode(document.edit("parts[1].shape.size=4"), Whole)
    assert [part.shape for part in edited.parts] == [Plain(size=3), Plain(size=4)]
    (unknown,) = problems("lr: 1\nparts: [{shape: {ratio: 3}}]")
    assert "unknown key of 'plain', the type where none is written" in unknown
    (missing,) = problems("lr: 1\nparts: [{other: {size: 3}}]")
    assert "`type` is missing" in missing


def test_a_list_of_the_wrong_length_says_how_many_it_needs() -> None:
    class Pair(Config):
        betas: tuple[float, float] = (0.9, 0.95)

    for text, message in (("[0.9]", "needs 2 values, not 1"), ("[]", "needs 2 values, not 0"),
                          ("[1, 2, 3]", "takes at most 2, not 3")):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            decode(parse_document(f"betas: {text}", "f.yaml"), Pair)
        assert [str(p) for p in caught.value.problems] == [f"f.yaml:1:8: betas: {message}"]
