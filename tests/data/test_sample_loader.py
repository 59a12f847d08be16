"""How samples become batches: what is read, what counts, what is cut, and in which order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.forms import Encoded, Form, form_of
from windtunnel.data.packing import Counts, TokenFile
from windtunnel.data.sample_loader import (
    PackedBatches,
    SampleBatches,
    Samples,
    evaluation_samples,
    pack,
)
from windtunnel.data.samples import Marks
from windtunnel.errors import UsageError

B, E = 1, 2
FORMS = ("next_token", "seq2seq", "classification", "diffusion")


def form(name: str, seq_len: int, **more: Any) -> Form[Any]:
    return form_of(name, Marks(B, E), seq_len=seq_len, **more)


def sample(p: int, q: int, base: int = 10) -> Encoded:
    return Encoded(np.arange(base, base + p), np.arange(base + p, base + p + q), 0)


def file_of(lengths: list[tuple[int, int]]) -> TokenFile:
    """Sample i's tokens are 1000·(i + 1), 1000·(i + 1) + 1, …; its label is i."""
    tokens, ends = [], []
    for number, (p, q) in enumerate(lengths):
        start = len(tokens)
        tokens += range(1000 * (number + 1), 1000 * (number + 1) + p + q)
        ends.append((start + p, start + p + q, number))
    counts = Counts(**dict.fromkeys(Counts.__dataclass_fields__, 0))
    return TokenFile(Path(), np.array(tokens, dtype=np.uint32), counts, np.array(ends))


def who(batch: Any) -> list[int]:
    """The numbers of the samples in a batch of rows."""
    firsts = [{v // 1000 - 1 for v in row.tolist() if v >= 1000} for row in batch.inputs]
    return [number for row in firsts for number in sorted(row)]


def test_a_decoder_reads_begin_prompt_truth_and_learns_the_truth_and_its_end() -> None:
    batch = form("next_token", 9).batch([sample(2, 3), sample(1, 1, 20)])
    assert batch.inputs.tolist() == [[B, 10, 11, 12, 13, 14], [B, 20, 21, 0, 0, 0]]
    assert batch.targets.tolist() == [[-100, -100, 12, 13, 14, E], [-100, 21, E] + [-100] * 3]
    assert batch.real.sum(1).tolist() == [6, 3]
    assert batch.documents is None
    left = form("next_token", 9, padding="left", loss_on_all=True).batch(
        [sample(2, 3), sample(1, 1)]
    )
    assert left.inputs[1].tolist() == [0, 0, 0, B, 10, 11]
    assert left.targets[1].tolist() == [-100, -100, -100, 10, 11, E]
    assert left.real[1].tolist() == [False] * 3 + [True] * 3


def test_other_forms() -> None:
    pairs = form("seq2seq", 9).batch([sample(2, 3), sample(1, 1, 20)])
    assert pairs.source.tolist() == [[10, 11, E], [20, E, 0]]
    assert pairs.source_real.tolist() == [[True] * 3, [True, True, False]]
    assert pairs.inputs.tolist() == [[B, 12, 13, 14], [B, 21, 0, 0]]
    assert pairs.targets.tolist() == [[12, 13, 14, E], [21, E, -100, -100]]
    labelled = form("classification", 4).batch(
        [sample(5, 0), Encoded(np.array([7]), np.array([]), 3)]
    )
    assert labelled.inputs.tolist() == [[B, 10, 11, E], [B, 7, E, 0]]
    assert labelled.targets.tolist() == [0, 3]
    whole = form("diffusion", 8).batch([sample(2, 2)])
    assert whole.inputs.tolist() == [[B, 10, 11, E, 12, 13, E, E]]
    assert whole.targets.tolist() == [[-100] * 4 + [12, 13, E, E]]


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=6),
    seq_len=st.integers(1, 16),
    padding=st.sampled_from(["left", "right"]),
    everything=st.booleans(),
)
def test_a_form_s_counts_are_those_of_its_batches(
    name: str, lengths: list[tuple[int, int]], seq_len: int, padding: Any, everything: bool
) -> None:
    made = form(name, seq_len, padding=padding, loss_on_all=everything)
    p, q = (np.array(side) for side in zip(*lengths, strict=True))
    targets, whole = made.targets(p, q), made.whole(p, q)
    for index, (a, b) in enumerate(lengths):
        if not targets[index]:
            assert not whole[index] or seq_len < 3
            continue
        batch = made.batch([sample(a, b)])
        assert int((batch.targets != -100).sum()) == targets[index]
        assert batch.inputs.shape[1] <= seq_len
        tokens = set(batch.inputs.flatten().tolist()) | set(batch.targets.flatten().tolist())
        tokens |= set(batch.source.flatten().tolist()) if name == "seq2seq" else set()
        wanted = set(range(10, 10 + a + (b if name != "classification" else 0)))
        assert (wanted <= tokens) == whole[index]
        if name != "classification":  # the end mark is never lost, and some truth is left
            learned = batch.targets[batch.targets != -100].tolist()
            assert learned[-1] == E
            assert 10 + a in learned


def test_samples_without_room_are_left_out_counted_and_told() -> None:
    samples = Samples(file_of([(3, 2), (9, 1), (2, 9), (7, 1)]), form("next_token", 8))
    assert samples.kept.tolist() == [0, 2]
    assert samples.targets.tolist() == [3, 6]
    assert (samples.skipped, samples.cut) == (2, 1)
    note = samples.note("train")
    assert note == (
        "train: of 4 samples at 8 tokens 2 left out, their prompts leave no token to learn; 1 cut"
    )
    assert Samples(file_of([(3, 2)]), form("next_token", 8)).note("train") is None
    with pytest.raises(UsageError, match=r"none of the 1 samples leaves .* shortest prompt has 9"):
        Samples(file_of([(9, 2)]), form("next_token", 8))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 30), batch_size=st.integers(1, 6), seed=st.integers(0, 99))
def test_an_epoch_holds_every_sample_once_and_batches_need_no_history(
    count: int, batch_size: int, seed: int
) -> None:
    samples = Samples(file_of([(1 + n % 3, 2) for n in range(count)]), form("next_token", 9))
    if count < batch_size:
        with pytest.raises(UsageError, match=f"has {count} samples, but train.batch_size"):
            SampleBatches(samples, batch_size=batch_size, seed=seed)
        return
    batches = SampleBatches(samples, batch_size=batch_size, seed=seed)
    stream = [n for position in range(3 * count) for n in who(batches.at(position))]
    for epoch in range(3):
        assert Counter(stream[epoch * count : (epoch + 1) * count]) == Counter(range(count))
    fresh = SampleBatches(samples, batch_size=batch_size, seed=seed)
    assert torch.equal(fresh.at(2).inputs, batches.at(2).inputs)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60), seed=st.integers(0, 9))
def test_packing_holds_every_sample_once_within_its_room(lengths: list[int], seed: int) -> None:
    rows = pack(np.array(lengths), 20, seed)
    assert sorted(i for row in rows for i in row.tolist()) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in row.tolist()) for row in rows]
    assert max(sizes) <= 20
    # Best fit decreasing: at most one row is half empty, else two of them would be one.
    assert sum(size <= 10 for size in sizes) <= 1


def test_packed_rows_say_which_sample_a_token_belongs_to() -> None:
    samples = Samples(file_of([(1, 2), (2, 1), (3, 4), (1, 1)]), form("next_token", 8))
    batches = PackedBatches(samples, batch_size=1, seed=3)
    epoch = [batches.at(position) for position in range(len(batches.rows))]
    assert sorted(n for batch in epoch for n in who(batch)) == [0, 1, 2, 3]
    assert max(batch.inputs.shape[1] for batch in epoch) <= 8
    for batch in epoch:
        starts = (batch.inputs[0] == B).long().cumsum(0) - 1
        assert torch.equal(batch.documents[0], starts)
    first = PackedBatches(samples, batch_size=1, seed=3)._form.packed(
        [samples.encoded(batches.rows[0])]
    )
    alone = [samples.form.batch(samples.encoded(np.array([n]))) for n in batches.rows[0]]
    assert torch.equal(first.inputs, torch.cat([batch.inputs for batch in alone], 1))
    assert torch.equal(first.targets, torch.cat([batch.targets for batch in alone], 1))


def test_evaluation_is_fixed_in_order_and_of_about_the_tokens_asked_for() -> None:
    samples = Samples(file_of([(2, 3)] * 20), form("next_token", 9))
    everything = list(evaluation_samples(samples, batch_size=8))
    assert [n for batch in everything for n in who(batch)] == list(range(20))
    some = list(evaluation_samples(samples, batch_size=8, max_tokens=17))
    assert [n for batch in some for n in who(batch)] == [0, 4, 8, 12, 16]
