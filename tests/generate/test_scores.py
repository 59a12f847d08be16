"""Scores of texts against independent definitions."""

import sys
from functools import lru_cache

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import UsageError
from windtunnel.generate.scores import SCORES, exact_match, score, word_accuracy, word_distance

WORDS = st.lists(st.sampled_from("abc"), max_size=7)


@given(WORDS, WORDS)
def test_the_distance_is_levenshteins(a: list[str], b: list[str]) -> None:
    @lru_cache(None)
    def naive(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = naive(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(naive(i - 1, j) + 1, naive(i, j - 1) + 1, replaced)

    assert word_distance(a, b) == naive(len(a), len(b)) == word_distance(b, a)


def test_shares_and_accuracies() -> None:
    assert exact_match(["a b ", "c"], ["a b", "d"]) == 0.5
    assert word_accuracy(["", "x"], ["", "x y"]) == 0.75


def test_bleu_and_chrf_are_sacrebleus_with_a_brevity_penalty() -> None:
    written = ["the cat sat on the mat", "a dog barks loudly today"]
    truths = ["the cat sat on the mat yesterday evening", "a dog barked loudly today"]
    found = score(["bleu", "chrf"], written, truths)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(written, [truths]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(written, [truths]).score)
    short = score(["bleu"], [t.rsplit(" ", 2)[0] for t in truths], truths)["bleu"]
    assert short < 75, "a text that stops early is not as good as the whole"


def test_what_is_unknown_or_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'blue'.*bleu"):
        score(["blue"], ["a"], ["a"])
    with pytest.raises(UsageError, match="no text"):
        score(list(SCORES), [], [])
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UsageError, match=r"pip install 'windtunnel\[metrics\]'"):
        score(["bleu"], ["a"], ["a"])
