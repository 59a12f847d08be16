from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.sources import Document
from windtunnel.data.split import MIN_DOCUMENTS, Corpus, hold_out, tail_start, take_inventory
from windtunnel.errors import DataError, UsageError


@dataclass
class Listed:
    texts: list[str]
    notes: tuple[str, ...] = ()

    def documents(self) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            yield Document(f"doc{number}", text)


def sides(texts: list[str], fraction: float = 0.1, seed: int = 0) -> tuple[list[str], list[str]]:
    pieces = list(Corpus(Listed(texts), fraction, seed).pieces())
    return [t for side, t in pieces if side == "train"], [t for s, t in pieces if s == "valid"]


words = st.text(min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(words, min_size=MIN_DOCUMENTS, max_size=40).filter(
        lambda texts: len(set(texts)) >= MIN_DOCUMENTS
    ),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_whole_documents_never_stand_on_both_sides(
    texts: list[str], fraction: float, seed: int
) -> None:
    train, valid = sides(texts, fraction, seed)
    assert train
    assert valid
    assert not set(train) & set(valid)
    assert sorted(train + valid) == sorted(texts)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(words, min_size=1, max_size=MIN_DOCUMENTS - 1), fraction=st.floats(0.01, 0.99)
)
def test_tails_and_heads_make_up_the_documents(texts: list[str], fraction: float) -> None:
    pieces = list(Corpus(Listed(texts), fraction, 0).pieces())
    assert "".join(text for _, text in pieces) == "".join(texts)


def test_identical_documents_stand_on_one_side() -> None:
    texts = [f"text {number % 12}" for number in range(48)]
    train, valid = sides(texts, 0.3)
    assert not set(train) & set(valid)
    assert len(train) + len(valid) == 48


def test_few_distinct_documents_are_cut_even_when_there_are_many() -> None:
    train, valid = sides(["head\ntail\n"] * 20, 0.5)
    assert set(train) == {"head\n"}
    assert set(valid) == {"tail\n"}


def test_the_share_is_of_the_bytes() -> None:
    texts = [f"{number}" * (10 + 7 * number) for number in range(1, 60)]
    train, valid = sides(texts, 0.2)
    held = sum(map(len, valid)) / sum(map(len, texts))
    assert held == pytest.approx(0.2, abs=0.05)
    assert len(train) > len(valid)


def test_the_choice_depends_on_contents_and_seed_alone() -> None:
    texts = [f"text {number}" for number in range(30)]
    assert set(sides(texts)[1]) == set(sides(texts[::-1])[1])
    assert any(set(sides(texts, seed=seed)[1]) != set(sides(texts)[1]) for seed in (1, 2, 3))


def test_one_document_is_always_left_to_train_on() -> None:
    inventory = take_inventory(Listed([str(number) for number in range(12)]))
    assert len(hold_out(inventory, 0.999, 0)) == 11
    assert len(hold_out(inventory, 0.001, 0)) == 1


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab\n", min_size=1, max_size=200), fraction=st.floats(0.01, 0.99))
def test_a_tail_is_near_its_share(text: str, fraction: float) -> None:
    start = tail_start(text, fraction)
    slack = len(text) * min(fraction, 1 - fraction) / 2 + 1
    assert abs(start - len(text) * (1 - fraction)) <= slack


def test_a_tail_begins_with_a_line() -> None:
    text = "".join(f"line {number}\n" for number in range(100))
    for fraction in (0.05, 0.1, 0.33, 0.5, 0.9):
        assert text[tail_start(text, fraction) - 1] == "\n"


def test_text_without_lines_is_cut_at_the_exact_place() -> None:
    assert tail_start("x" * 100, 0.1) == 90
    assert tail_start("\n" + "x" * 99, 0.1) == 90


def test_explicit_validation_is_read_as_it_is() -> None:
    corpus = Corpus(Listed(["a", "b"]), Listed(["c"]), 0)
    assert list(corpus.pieces()) == [("train", "a"), ("train", "b"), ("valid", "c")]
    assert list(corpus.train_texts()) == ["a", "b"]
    assert corpus.text_bytes == 3


def test_explicit_validation_that_overlaps_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="doc1 has the same text as doc2"):
        Corpus(Listed(["a", "b", "c"]), Listed(["d", "c"]), 0)


def test_documents_without_text_are_left_out_and_told() -> None:
    corpus = Corpus(Listed(["a", "", " \n"], ("note",)), Listed(["b", ""]), 0)
    assert corpus.notes == ("note", "documents without text, left out: 3")
    assert [text for _, text in corpus.pieces()] == ["a", "b"]


def test_a_share_that_whole_documents_do_not_meet_is_told() -> None:
    small = [f"text {number}" for number in range(19)]
    uneven = Listed([*small, "large " * 400])
    told = {}
    for seed in range(40):
        corpus = Corpus(uneven, 0.1, seed)
        valid = sum(len(text) for side, text in corpus.pieces() if side == "valid")
        far = not 0.05 <= valid / corpus.text_bytes <= 0.2
        assert bool(corpus.notes) == far
        told[valid > 2000] = corpus.notes
    assert told[True][0].startswith("9")
    assert "% of the text is held out, not 10.0%: whole documents are" in told[True][0]
    assert "held out, not 10.0%" in told[False][0]
    assert Corpus(Listed(small), 0.1, 0).notes == ()
    first, other = (Corpus(uneven, fraction, 0) for fraction in (0.1, 0.11))
    assert first.notes != other.notes
    assert first.identity() != other.identity()


def test_an_empty_source_is_told() -> None:
    with pytest.raises(DataError, match="the source is empty"):
        Corpus(Listed(["", " "]), 0.1, 0)


def test_a_lone_surrogate_is_told_by_name() -> None:
    with pytest.raises(DataError, match="doc1: a lone surrogate at character 2"):
        Corpus(Listed(["a", "ab\ud800"]), 0.1, 0)


@pytest.mark.parametrize("change", ["edit", "grow", "shrink"])
def test_a_source_that_changes_meanwhile_is_told(change: str) -> None:
    reader = Listed(["a", "b"])
    corpus = Corpus(reader, 0.5, 0)
    reader.texts = {"edit": ["a", "c"], "grow": ["a", "b", "c"], "shrink": ["a"]}[change]
    with pytest.raises(DataError, match="while"):
        list(corpus.pieces())


def test_the_identity_tells_contents_and_rules_apart() -> None:
    many = [f"text {number}" for number in range(20)]
    corpora = [
        Corpus(Listed(many), 0.1, 0),
        Corpus(Listed(many), 0.4, 0),
        Corpus(Listed(many[::-1]), 0.1, 0),
        Corpus(Listed(many[:5]), 0.1, 0),
        Corpus(Listed(many[:5]), 0.2, 0),
        Corpus(Listed(many[:5]), Listed(["v"]), 0),
    ]
    assert len({tuple(corpus.identity().values()) for corpus in corpora}) == len(corpora)
    assert Corpus(Listed(many), 0.1, 0).identity() == corpora[0].identity()
