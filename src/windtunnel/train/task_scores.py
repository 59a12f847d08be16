"""How a run answers a task: its items laid out as its training was, scored, and measured.

What is shared and what is scored, and what each measure is: ``docs/design/tasks.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from windtunnel.data.samples import Marks, prompt_text
from windtunnel.data.tasks import Item, Task, TaskKind
from windtunnel.data.tokenizers import Tokenizer
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.generate.generate import can_continue
from windtunnel.generate.likelihood import Likelihood, Query, log_likelihoods
from windtunnel.train.run_config import RunConfig, objective_config

Measure: TypeAlias = Literal[
    "accuracy", "accuracy_per_byte", "right_probability", "bits_per_byte"
]  # fmt: skip
MEASURES: dict[TaskKind, tuple[Measure, ...]] = {
    "choice": ("accuracy", "accuracy_per_byte", "right_probability", "bits_per_byte"),
    "pair": ("accuracy",),
    "cloze": ("accuracy", "bits_per_byte"),
}
DECIDING: dict[TaskKind, Measure] = {
    "choice": "right_probability", "pair": "accuracy", "cloze": "bits_per_byte",
}  # fmt: skip
"""The measure that verdicts are about, where none is named: the one that tells most apart."""
HIGHER_IS_BETTER: frozenset[Measure] = frozenset(
    {"accuracy", "accuracy_per_byte", "right_probability"}
)
BOUNDS: dict[Measure, tuple[float, float]] = {
    "accuracy": (0.0, 1.0),
    "accuracy_per_byte": (0.0, 1.0),
    "right_probability": (0.0, 1.0),
    "bits_per_byte": (0.0, math.inf),
}
"""The lowest and the highest value that a measure can have."""
_AT_ONCE = 256
"""Items between two reports of progress."""


@dataclass(frozen=True)
class LaidOut:
    """An item in a run's tokens: a query for each choice, all scored from the same place."""

    queries: tuple[Query, ...]
    cut: bool = False
    """Whether the prompt lost its first tokens."""
    long: bool = False
    """Whether it has more tokens than a row of the training."""
    early: bool = False
    """Whether the scored tokens begin within the prompt, since a token reaches over its end."""
    unknown: bool = False
    """Whether it has characters that the tokenizer does not know."""


@dataclass(frozen=True)
class Answered:
    """What a run says of one item."""

    log_probabilities: tuple[float, ...]
    """ln p of each choice, nats."""
    tokens: tuple[int, ...]
    """How many tokens of each choice were scored."""
    greedy: tuple[bool, ...]
    """Whether greedy decoding would have written the choice."""
    measures: dict[Measure, float]


@dataclass(frozen=True)
class Answers:
    """A run's answers to a task. Where an item could not be asked there is none, but a reason."""

    items: tuple[Answered | None, ...]
    left_out: dict[int, str]
    """By the item's number from 0: why it could not be asked."""
    cut: int
    """Items whose prompt lost its first tokens, since learned positions end."""
    long: int
    """Items of more tokens than a row of the training."""
    early: int
    """Items that are scored from within the prompt; see :class:`LaidOut`."""
    unknown: int
    """Items with characters that the tokenizer does not know."""

    def mean(self, measure: Measure) -> float:
        """Over the items that were asked."""
        values = [one.measures[measure] for one in self.items if one is not None]
        return math.fsum(values) / len(values)

    def words(self, seq_len: int) -> list[str]:
        """What is to be known of the answers, in words."""
        reasons = dict.fromkeys(self.left_out.values())
        counts = {reason: list(self.left_out.values()).count(reason) for reason in reasons}
        told = [f"{count} left out: {reason}" for reason, count in counts.items()]
        for count, what in (
            (self.cut, "lost the first tokens of their prompt: the learned positions end"),
            (self.long, f"have more tokens than a row of the training (seq_len {seq_len})"),
            (self.early, "are scored from before the prompt's end, where a token reaches over it"),
            (
                self.unknown,
                "have characters that the tokenizer does not know and reads as one sign",
            ),
        ):
            if count:
                told.append(f"{count} of {len(self.items)} items {what}")
        return told


class CannotAsk(Exception):
    """An item that a run cannot be asked; the message says why."""


@dataclass(frozen=True)
class Layout:
    """How a run reads texts: with which marks, and in how many positions.

    Raises:
        UsageError: the run gives no probabilities of texts.
    """

    model: Any
    tokenizer: Tokenizer
    config: RunConfig

    def __post_init__(self) -> None:
        check_trained_for(self.config)
        if not self.is_seq2seq and not can_continue(self.model.architecture):
            name = self.config.arch.name
            raise UsageError(f"{name} does not continue text, so it cannot answer a task")

    @property
    def is_seq2seq(self) -> bool:
        return objective_config(self.config).type == "seq2seq"

    @property
    def on_pairs(self) -> bool:
        return self.config.data.kind == "pairs"

    @property
    def begin(self) -> tuple[int, ...]:
        """What stands before a text: what the tokenizer's own file puts there, else the mark that
        begins a document, else the one that ends the document before; nothing without any."""
        own = self.tokenizer.encode_prompt("")
        marks = (self.tokenizer.bos, self.tokenizer.eos)
        return tuple(own or [mark for mark in marks if mark is not None][:1])

    def lay_out(self, item: Item) -> LaidOut:
        """The item in tokens, each choice with the same context.

        Raises:
            CannotAsk: it leaves nothing to score, or nothing to begin with.
            DataError: what is no text.
        """
        return self._pairs(item) if self.on_pairs else self._text(item)

    def _text(self, item: Item) -> LaidOut:
        prompt = self.tokenizer.encode(item.prompt)
        wholes = [self.tokenizer.encode(item.prompt + choice) for choice in item.choices]
        shared = common_start([prompt, *wholes])
        # Nothing has a probability without context. Where there is none, the first tokens are given
        # if they are the same in all choices: one to a decoder, one each to encoder and decoder.
        needed = 2 if self.is_seq2seq else 1
        if len(self.begin) + shared < needed:
            shared = min(common_start(wholes), needed - len(self.begin))
        if len(self.begin) + shared < needed:
            raise CannotAsk("its choices differ before there is anything to read them after")
        context = (*self.begin, *wholes[0][:shared])
        rests = [tuple(whole[shared:]) for whole in wholes]
        room = self._room(rests, needed)
        kept = context if room is None else context[-room:]
        source, start = (kept[:-1], kept[-1:]) if self.is_seq2seq else ((), kept)
        return LaidOut(
            tuple(Query(start, rest, source) for rest in rests),
            cut=kept != context,
            long=len(context) + max(map(len, rests)) - 1 > self.config.train.seq_len,
            early=shared < len(prompt),
            unknown=self._has_unknown(prompt, *wholes),
        )

    def _pairs(self, item: Item) -> LaidOut:
        if not item.prompt.strip():
            raise CannotAsk("the run is trained on pairs, and there is no prompt")
        marks, encode = Marks.of(self.tokenizer), self.tokenizer.encode
        prompt = tuple(encode(prompt_text(self.config.data.first_source, item.prompt)))
        truths = [(*encode(choice), marks.end) for choice in item.choices]
        longest, seq_len = max(map(len, truths)), self.config.train.seq_len
        room = self._room(truths, 2)
        if self.is_seq2seq:
            read = (*prompt, marks.end)
            kept = read if room is None else read[1 - room :]
            queries = [Query((marks.begin,), truth, kept) for truth in truths]
            cut, long = kept != read, max(len(read), longest) > seq_len
        else:
            kept = prompt if room is None else prompt[1 - room :]
            queries = [Query((marks.begin, *kept), truth) for truth in truths]
            cut, long = kept != prompt, len(prompt) + longest > seq_len
        unknown = self._has_unknown(prompt, *truths)
        return LaidOut(tuple(queries), cut=cut, long=long, unknown=unknown)

    def _room(self, rests: Sequence[Sequence[int]], least: int) -> int | None:
        """How many tokens may stand before the longest of the rests; None: any number. An encoder
        and the decoder's beginning share them out.

        Raises:
            CannotAsk: fewer than ``least``, or a rest is empty.
        """
        if not all(rests):
            raise CannotAsk("one of its choices has no token of its own")
        limit: int | None = self.model.max_positions
        if limit is None:
            return None
        longest = max(map(len, rests))
        room = limit + 1 - (longest if not self.is_seq2seq or longest > limit else 0)
        if room < least:
            raise CannotAsk(f"one of its choices is too long for the {limit} learned positions")
        return room

    def _has_unknown(self, *rows: Sequence[int]) -> bool:
        count = self.tokenizer.count_unknown
        return any(count(np.array(row, dtype=np.int64)) for row in rows)


def check_trained_for(config: RunConfig, *kinds: TaskKind) -> None:
    """Raises UsageError for a run that gives no probabilities of texts, or none of those of these
    kinds of tasks; what can be said by its config alone."""
    name, trained_on = config.arch.name, config.data.kind
    objective = objective_config(config).type
    if objective not in ("next_token", "seq2seq"):
        raise UsageError(
            f"{name} is trained by {objective}, which gives no probability of a text; a task "
            "needs a run trained by next_token or seq2seq"
        )
    if trained_on not in ("text", "pairs"):
        raise UsageError(
            f"{name} is trained on a synthetic task and knows its symbols alone; a task needs "
            "a run trained on a text or on pairs"
        )
    if trained_on == "pairs" and "pair" in kinds:
        raise UsageError(
            f"{name} is trained on pairs: it writes an answer to a prompt, "
            "and the items of this task have none; write them as choices"
        )


def as_trained(config: RunConfig, *, imported: bool) -> RunConfig:
    """The config of a run with the length of the rows that it was trained on: an imported one was
    trained elsewhere, and its own ``seq_len`` says nothing of that."""
    if not imported:
        return config
    return config.replace(train=config.train.replace(seq_len=config.arch.max_seq_len))


def common_start(rows: Sequence[Sequence[int]]) -> int:
    """With how many equal tokens all rows begin.

    >>> common_start([[1, 2, 3], [1, 2], [1, 2, 4]])
    2
    """
    shortest = min(map(len, rows))
    return next(
        (i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest
    )  # fmt: skip


def answer_task(
    model: Any,
    tokenizer: Tokenizer,
    config: RunConfig,
    task: Task,
    *,
    batch_size: int = 16,
    on_done: Callable[[int], None] | None = None,
) -> Answers:
    """What a run says of every item of a task.

    Args:
        config: the run's, which says how its texts begin and end.
        batch_size: texts that are read at once.
        on_done: told how many items are done.

    Raises:
        UsageError: the run gives no probabilities of such texts, or no item can be asked; or
            (NotFiniteError) its logits are not finite.
    """
    check_trained_for(config, task.kind)
    layout = Layout(model, tokenizer, config)
    laid, left_out = dict[int, LaidOut](), dict[int, str]()
    for number, item in enumerate(task.items):
        try:
            laid[number] = layout.lay_out(item)
        except CannotAsk as reason:
            left_out[number] = str(reason)
    if not laid:
        raise UsageError(
            f"{task.path}: {config.arch.name} can be asked no item: {next(iter(left_out.values()))}"
        )
    found, numbers = list[Answered | None]([None] * len(task.items)), list(laid)
    for first in range(0, len(numbers), _AT_ONCE):
        part = numbers[first : first + _AT_ONCE]
        queries = [query for number in part for query in laid[number].queries]
        answers = iter(
            log_likelihoods(model, queries, batch_size=batch_size, vocab_size=tokenizer.vocab_size)
        )
        for number in part:
            own = [next(answers) for _ in laid[number].queries]
            found[number] = answered(task.kind, task.items[number], own)
        if on_done is not None:
            on_done(first + len(part))
    every = list(laid.values())
    return Answers(
        tuple(found),
        left_out,
        cut=sum(one.cut for one in every),
        long=sum(one.long for one in every),
        early=sum(one.early for one in every),
        unknown=sum(one.unknown for one in every),
    )


def answered(kind: TaskKind, item: Item, found: Sequence[Likelihood]) -> Answered:
    """The measures of one item, from the likelihood of each choice.

    Raises:
        NotFiniteError: a choice has probability 0.
    """
    totals = tuple(one.total for one in found)
    if not all(map(math.isfinite, totals)):
        raise NotFiniteError(
            f"{item.name}: the model gives a choice the probability 0, so it cannot be measured"
        )
    sizes = [len(choice.encode()) for choice in item.choices]
    rates = [total / size for total, size in zip(totals, sizes, strict=True)]
    measures: dict[Measure, float] = {
        "accuracy": float(found[0].greedy)
        if kind == "cloze"
        else share_of_best(totals, item.answer),
        "accuracy_per_byte": share_of_best(rates, item.answer),
        "right_probability": math.exp(rates[item.answer] - _log_sum(rates)),
        "bits_per_byte": -rates[item.answer] / math.log(2),
    }
    return Answered(
        totals,
        tuple(len(one.log_probabilities) for one in found),
        tuple(one.greedy for one in found),
        {name: measures[name] for name in MEASURES[kind]},
    )


def share_of_best(values: Sequence[float], right: int) -> float:
    """1 where the right value is above all others; of several that are the best, its share.

    >>> share_of_best([-1.0, -2.0], 0), share_of_best([-1.0, -1.0, -2.0], 1)
    (1.0, 0.5)
    """
    best = max(values)
    return 1 / list(values).count(best) if values[right] == best else 0.0


def _log_sum(values: Sequence[float]) -> float:
    """ln Σ exp(value)."""
    best = max(values)
    return best + math.log(math.fsum(math.exp(value - best) for value in values))
