"""How likely a model finds given texts: log probabilities of continuations after contexts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windtunnel.arch import Architecture
from windtunnel.errors import UsageError
from windtunnel.generate.generate import can_continue
from windtunnel.generate.known_ids import with_known_ids
from windtunnel.generate.sampling import check_finite
from windtunnel.nn.ops.widest import widest

TooLong: TypeAlias = Literal["refuse", "cut"]

_LOGITS_AT_ONCE = 2**24
"""Logits that are held in float64 at once: 128 MB."""


@dataclass(frozen=True)
class Query:
    """What is asked: how likely ``continuation`` is after ``context``, in token ids."""

    context: Sequence[int]
    """What a decoder has read, at least one token; of an encoder_decoder, the beginning of its
    target."""
    continuation: Sequence[int]
    """At least one token."""
    source: Sequence[int] = ()
    """What an encoder reads; nothing for a decoder."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """What a decoder is given: all but the last token."""
        return (*self.context, *self.continuation[:-1])

    def fitted(self, limit: int | None) -> Query:
        """The query within ``limit`` positions: context and source lose their first tokens.

        Raises:
            UsageError: the continuation alone has more tokens.
        """
        if limit is None or max(len(self.inputs), len(self.source)) <= limit:
            return self
        room = limit - len(self.continuation) + 1
        if room < 1:
            raise UsageError(
                f"a continuation of {len(self.continuation)} tokens has no room: the learned "
                f"positions end at {limit}"
            )
        return replace(self, context=tuple(self.context)[-room:], source=self.source[-limit:])


@dataclass(frozen=True)
class Likelihood:
    """The answer to a query, token by token."""

    log_probabilities: NDArray[np.float64]
    """(t,) nats: ln p(token | source, all tokens before it)"""
    most_likely: NDArray[np.bool_]
    """(t,) whether no other token was more likely: what greedy decoding would have written"""

    @property
    def total(self) -> float:
        """ln p(continuation | context), nats."""
        return math.fsum(self.log_probabilities)

    @property
    def greedy(self) -> bool:
        """Whether greedy decoding writes the continuation."""
        return bool(self.most_likely.all())


def windows(begin: Sequence[int], ids: Sequence[int], length: int) -> list[Query]:
    """A whole text as queries of ``length`` inputs at most, one behind the other: each token is
    scored once. All but the last have one token of context, the last as much as fits.

    Args:
        begin: what stands before the text, one token or more.

    >>> [(q.context, q.continuation) for q in windows([9], [0, 1, 2, 3, 4], 3)]
    [((9,), (0, 1, 2)), ((1, 2), (3, 4))]
    """
    whole = (*begin, *ids)
    queries, reached = list[Query](), len(begin)
    while reached < len(whole):
        end = min(len(whole), max(length + 1, reached + length))
        context = whole[max(0, end - length - 1) : reached]
        queries.append(Query(context, whole[reached:end]))
        reached = end
    return queries


@torch.no_grad()
def log_likelihoods(
    model: Any,
    queries: Sequence[Query],
    *,
    batch_size: int = 16,
    too_long: TooLong = "refuse",
    vocab_size: int | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[Likelihood]:
    """The likelihood of every query, in their order.

    Queries whose inputs are the same (such as choices of one token) are read once; rows of like
    length are read together, padded on the right. A row of a batch gives what it gives alone, up to
    rounding. The logarithm of the softmax is taken in float64. The model is put in eval mode.

    Args:
        model: a decoder (``Model``), or an ``EncoderDecoder``, for which each query has a source.
        batch_size: rows at once.
        too_long: what is done where learned positions end: an error, or the context and the source
            lose their first tokens.
        vocab_size: how many ids stand for text; those of a padded vocabulary get no probability.
        on_done: told how many queries are answered.

    Raises:
        UsageError: a model that gives no next token, a query without context or continuation, ids
            outside of the vocabulary, learned positions that end, or (NotFiniteError) logits that
            are not finite.
    """
    known = with_known_ids(model, vocab_size or model.architecture.vocab_size)
    limit = model.max_positions if too_long == "cut" else None
    queries = [query.fitted(limit) for query in queries]
    _check(model, queries, vocab_size or model.architecture.vocab_size)
    model.eval()
    asked: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for number, query in enumerate(queries):
        asked.setdefault((tuple(query.source), query.inputs), []).append(number)
    # The longest first: what does not fit into memory is known at once.
    rows = sorted(asked, key=lambda row: (len(row[0]), len(row[1])), reverse=True)
    found: dict[int, Likelihood] = {}
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        hidden = _hidden(known, batch)
        numbers = [(place, n) for place, row in enumerate(batch) for n in asked[row]]
        found.update(_read(known, hidden, [(place, n, queries[n]) for place, n in numbers]))
        if on_done is not None:
            on_done(len(found))
    return [found[number] for number in range(len(queries))]


def _hidden(model: Any, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Tensor:
    """What the head reads, b t d."""
    device = next(model.parameters()).device
    tokens, real = _right_padded([inputs for _, inputs in rows], device)
    if model.architecture.type != "encoder_decoder":
        hidden: Tensor = model.hidden(tokens, real)
        return hidden
    source, source_real = _right_padded([source for source, _ in rows], device)
    memory = model.encode(source, source_real)
    read: Tensor = model.hidden(tokens, real, memory, source_real)
    return read


def _right_padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The rows as one batch (b, t), and which tokens are real (b, t); None where all are."""
    t = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (t - len(row))] for row in rows], device=device)
    if min(map(len, rows)) == t:
        return tokens, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return tokens, torch.arange(t, device=device) < lengths[:, None]


def _read(
    model: Any, hidden: Tensor, asked: Sequence[tuple[int, int, Query]]
) -> Iterator[tuple[int, Likelihood]]:
    """The likelihoods of (row of ``hidden``, number, query), by number."""
    rows, places, targets = list[int](), list[int](), list[int]()
    for row, _, query in asked:
        n = len(query.continuation)
        rows += [row] * n
        places += range(len(query.context) - 1, len(query.context) - 1 + n)
        targets += query.continuation
    # Only what is asked for goes through the head: a vocabulary is wide, a context is long.
    chosen = hidden[torch.tensor(rows), torch.tensor(places)]
    step = max(1, _LOGITS_AT_ONCE // model.architecture.vocab_size)
    values, hits = list[NDArray[np.float64]](), list[NDArray[np.bool_]]()
    for first in range(0, len(targets), step):
        logits = model.logits(chosen[None, first : first + step])[0]
        check_finite(logits)
        wanted = torch.tensor(targets[first : first + step], device=logits.device)[:, None]
        spread = widest(logits).log_softmax(-1)
        values.append(spread.gather(1, wanted)[:, 0].cpu().double().numpy())
        hits.append((logits.argmax(-1) == wanted[:, 0]).cpu().numpy())
    all_values, all_hits, reached = np.concatenate(values), np.concatenate(hits), 0
    for _, number, query in asked:
        part = slice(reached, reached + len(query.continuation))
        yield number, Likelihood(all_values[part], all_hits[part])
        reached = part.stop


def _check(model: Any, queries: Sequence[Query], vocab_size: int) -> None:
    architecture: Architecture = model.architecture
    pairs = architecture.type == "encoder_decoder" and architecture.head.type == "vocabulary"
    if architecture.input != "tokens" or not (pairs or can_continue(architecture)):
        raise UsageError(
            f"{architecture.name} gives no next token: that takes a decoder or an encoder_decoder "
            "from tokens to a vocabulary"
        )
    encoder = architecture.encoder
    read = (encoder.vocab_size if encoder else None) or architecture.vocab_size
    limit = model.max_positions
    for number, query in enumerate(queries, 1):
        if not query.context or not query.continuation:
            raise UsageError(f"query {number} needs a token of context and one to follow it")
        if pairs != bool(query.source):
            what = "needs a source: the model" if pairs else "has a source, and the model"
            raise UsageError(f"query {number} {what} is of type {architecture.type}")
        for ids, size in ((query.inputs, vocab_size), (query.continuation[-1:], vocab_size),
                          (query.source, read)):  # fmt: skip
            if ids and not 0 <= min(ids) <= max(ids) < size:
                raise UsageError(f"query {number} has token ids outside of 0 to {size - 1}")
        longest = max(len(query.inputs), len(query.source))
        if limit is not None and longest > limit:
            raise UsageError(
                f"query {number} takes {longest} positions, but the learned positions end at "
                f"{limit}"
            )
