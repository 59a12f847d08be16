"""How near written texts are to what should have been written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from windtunnel.config import suggestion
from windtunnel.errors import UsageError

Score = Callable[[Sequence[str], Sequence[str]], float]


def exact_match(written: Sequence[str], truths: Sequence[str]) -> float:
    """The share of texts that are the truth, but for space around them: 0 to 1."""
    same = [a.strip() == b.strip() for a, b in zip(written, truths, strict=True)]
    return sum(same) / len(same)


def word_accuracy(written: Sequence[str], truths: Sequence[str]) -> float:
    """1 − edits / words, with the words of the longer side, as a mean over texts: 0 to 1.

    Edits are insertions, deletions and replacements of whole words (Levenshtein 1966).

    >>> word_accuracy(["the cat sat"], ["the dog sat down"])
    0.5
    """
    found = [_accuracy(a.split(), b.split()) for a, b in zip(written, truths, strict=True)]
    return sum(found) / len(found)


def bleu(written: Sequence[str], truths: Sequence[str]) -> float:
    """BLEU of the corpus, with its brevity penalty (Papineni et al. 2002), by sacrebleu: to 100."""
    found: float = _sacrebleu().corpus_bleu(list(written), [list(truths)]).score
    return found


def chrf(written: Sequence[str], truths: Sequence[str]) -> float:
    """chrF2 of the corpus (Popović 2015), by sacrebleu: to 100."""
    found: float = _sacrebleu().corpus_chrf(list(written), [list(truths)]).score
    return found


SCORES: Mapping[str, Score] = {
    "exact_match": exact_match,
    "word_accuracy": word_accuracy,
    "bleu": bleu,
    "chrf": chrf,
}


def score(names: Sequence[str], written: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """Each of the scores by name.

    Raises:
        UsageError: there is no such score, no text, or what it needs is not installed.
    """
    for name in names:
        if name not in SCORES:
            raise UsageError(f"unknown score {name!r}{suggestion(name, SCORES)}")
    if not truths:
        raise UsageError("there is no text to score")
    return {name: SCORES[name](written, truths) for name in names}


def _accuracy(written: list[str], truth: list[str]) -> float:
    longest = max(len(written), len(truth))
    return 1.0 if not longest else 1.0 - word_distance(written, truth) / longest


def word_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest words to insert, delete or replace that turn one text into the other."""
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def _sacrebleu() -> Any:
    try:
        return import_module("sacrebleu")
    except ImportError as error:
        raise UsageError(
            "BLEU and chrF need sacrebleu: pip install 'windtunnel[metrics]'"
        ) from error
