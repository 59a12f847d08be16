from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from windtunnel.data.loader import NO_LOSS, Batch, Batches, evaluation_batches
from windtunnel.errors import UsageError


def numbered(count: int) -> np.ndarray:
    """Token i is the number i, so that a batch shows which pairs it holds."""
    return np.arange(count, dtype=np.uint16)


def pairs_of(batch: Batch) -> list[tuple[int, int]]:
    real = batch.targets != NO_LOSS
    return list(zip(batch.inputs[real].tolist(), batch.targets[real].tolist(), strict=True))


def rows_of(batches: Batches, first: int, last: int) -> list[Batch]:
    """Windows ``first`` to ``last`` of the stream, one a batch."""
    single = Batches(batches._tokens, seq_len=batches.seq_len, batch_size=1, seed=batches.seed)
    return [single.at(position) for position in range(first, last)]


sizes = {
    "count": st.integers(2, 400),
    "seq_len": st.integers(1, 50),
    "batch_size": st.integers(1, 9),
    "seed": st.integers(0, 2**32),
}


@settings(max_examples=40, deadline=None)
@given(**sizes)
def test_an_epoch_holds_every_target_exactly_once(
    count: int, seq_len: int, batch_size: int, seed: int
) -> None:
    assume(count - 1 >= seq_len * batch_size)
    batches = Batches(numbered(count), seq_len=seq_len, batch_size=batch_size, seed=seed)
    w = batches.windows_per_epoch
    assert w == -(-(count - 1) // seq_len)
    for epoch in range(2):
        epoch_rows = rows_of(batches, epoch * w, (epoch + 1) * w)
        pairs = Counter(pair for row in epoch_rows for pair in pairs_of(row))
        assert pairs == Counter((i, i + 1) for i in range(count - 1))
        assert sum(row.tokens for row in epoch_rows) == batches.tokens_per_epoch


@settings(max_examples=25, deadline=None)
@given(**sizes)
def test_batches_are_the_stream_of_windows_cut_evenly(
    count: int, seq_len: int, batch_size: int, seed: int
) -> None:
    assume(count - 1 >= seq_len * batch_size)
    batches = Batches(numbered(count), seq_len=seq_len, batch_size=batch_size, seed=seed)
    number = 2 * batches.windows_per_epoch // batch_size + 1  # over the end of an epoch
    rows = rows_of(batches, 0, number * batch_size)
    for position in range(number):
        batch = batches.at(position)
        expected = rows[position * batch_size : (position + 1) * batch_size]
        assert torch.equal(batch.inputs, torch.cat([row.inputs for row in expected]))
        assert torch.equal(batch.targets, torch.cat([row.targets for row in expected]))
        assert batch.tokens == sum(row.tokens for row in expected)


def test_the_state_is_one_integer() -> None:
    tokens = numbered(1000)
    straight = Batches(tokens, seq_len=7, batch_size=4, seed=3)
    walked = [straight.at(position) for position in range(100)]
    resumed = Batches(tokens, seq_len=7, batch_size=4, seed=3)
    for position in (99, 36, 35, 0, 71):  # 143 windows an epoch: batch 35 lies across its end
        assert torch.equal(resumed.at(position).inputs, walked[position].inputs)
        assert torch.equal(resumed.at(position).targets, walked[position].targets)
        assert resumed.at(position).epoch == walked[position].epoch


def test_a_batch_has_the_promised_form() -> None:
    tokens = numbered(51)
    batches = Batches(tokens, seq_len=7, batch_size=3, seed=0)
    seen_short = False
    for position in range(8):
        batch = batches.at(position)
        assert batch.inputs.shape == batch.targets.shape == (3, 7)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.tokens == int((batch.targets != NO_LOSS).sum())
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            length = int((targets != NO_LOSS).sum())
            assert length in (7, 50 % 7)
            assert (targets[:length] != NO_LOSS).all()
            assert (inputs[length:] == 0).all()
            seen_short |= length < 7
    assert seen_short


def test_a_window_is_a_run_of_text_but_at_the_seam() -> None:
    batches = Batches(numbered(101), seq_len=10, batch_size=5, seed=1)
    breaks = 0
    for position in range(2):  # one epoch
        for row in batches.at(position).inputs.tolist():
            steps = [(b - a) % 100 for a, b in itertools.pairwise(row)]
            assert set(steps) == {1}
            breaks += any(b < a for a, b in itertools.pairwise(row))
    assert breaks <= 1


def test_orders_and_borders_move_from_epoch_to_epoch() -> None:
    batches = Batches(numbered(1001), seq_len=10, batch_size=10, seed=0)
    first_tokens = [
        [row[0] for position in range(e * 10, e * 10 + 10) for row in batches.at(position).inputs]
        for e in range(4)
    ]
    borders = {int(tokens[0]) % 10 for tokens in first_tokens}
    assert len(borders) > 1
    assert len({tuple(int(t) for t in tokens) for tokens in first_tokens}) == 4


def test_seeds_give_different_orders() -> None:
    tokens = numbered(500)
    first, second = (
        Batches(tokens, seq_len=8, batch_size=4, seed=seed).at(0).inputs for seed in (0, 1)
    )
    assert not torch.equal(first, second)


def test_epochs_count_the_passes_when_a_batch_is_done() -> None:
    batches = Batches(numbered(81), seq_len=8, batch_size=5, seed=0)
    assert [batches.at(position).epoch for position in range(4)] == [0.5, 1.0, 1.5, 2.0]


def test_the_first_batch_is_the_same_on_every_machine() -> None:
    """Golden: a change here changes every run ever made."""
    batch = Batches(numbered(30), seq_len=4, batch_size=2, seed=0).at(0)
    assert batch.inputs.tolist() == GOLDEN


GOLDEN = [[28, 0, 1, 2], [11, 12, 13, 14]]


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_ids_keep_their_values(dtype: str) -> None:
    tokens = np.array([65535, 0, 65535, 1, 65535], dtype=dtype)
    batch = Batches(tokens, seq_len=4, batch_size=1, seed=0).at(0)
    assert sorted(batch.targets[0].tolist()) == [0, 1, 65535, 65535]


def test_a_text_shorter_than_a_batch_is_refused_with_the_numbers() -> None:
    Batches(numbered(33), seq_len=8, batch_size=4, seed=0)
    with pytest.raises(UsageError, match=r"32 tokens, but batch_size 4 × seq_len 8 \+ 1 = 33"):
        Batches(numbered(32), seq_len=8, batch_size=4, seed=0)


@pytest.mark.parametrize(("seq_len", "batch_size"), [(0, 1), (1, 0), (-3, 1)])
def test_sizes_below_one_are_refused(seq_len: int, batch_size: int) -> None:
    with pytest.raises(UsageError, match="must be 1 or more"):
        Batches(numbered(9), seq_len=seq_len, batch_size=batch_size, seed=0)
    with pytest.raises(UsageError, match="must be 1 or more"):
        evaluation_batches(numbered(9), seq_len=seq_len, batch_size=batch_size)


evaluation_sizes = {name: sizes[name] for name in ("count", "seq_len", "batch_size")}


@settings(max_examples=80, deadline=None)
@given(**evaluation_sizes)
def test_evaluation_gives_every_target_once_in_order(
    count: int, seq_len: int, batch_size: int
) -> None:
    found = list(evaluation_batches(numbered(count), seq_len=seq_len, batch_size=batch_size))
    pairs = [pair for batch in found for pair in pairs_of(batch)]
    assert pairs == [(i, i + 1) for i in range(count - 1)]
    assert sum(batch.tokens for batch in found) == count - 1
    assert found[-1].epoch == 1.0
    assert all(batch.inputs.shape[0] == batch_size for batch in found[:-1])


@settings(max_examples=120, deadline=None)
@given(**evaluation_sizes, max_tokens=st.integers(1, 450))
def test_bounded_evaluation_gives_exactly_so_many_targets(
    count: int, seq_len: int, batch_size: int, max_tokens: int
) -> None:
    found = list(
        evaluation_batches(
            numbered(count), seq_len=seq_len, batch_size=batch_size, max_tokens=max_tokens
        )
    )
    pairs = [pair for batch in found for pair in pairs_of(batch)]
    assert len(pairs) == min(max_tokens, count - 1)
    assert pairs == sorted(set(pairs))
    assert all(b == a + 1 for a, b in pairs)
    assert len(pairs) == sum(batch.tokens for batch in found)


def test_bounded_evaluation_is_spread_over_the_whole_file() -> None:
    found = evaluation_batches(numbered(1001), seq_len=10, batch_size=3, max_tokens=50)
    starts = [int(row[0]) for batch in found for row in batch.inputs]
    assert starts == [0, 200, 400, 600, 800]


def test_evaluation_of_almost_nothing_is_refused_at_the_call() -> None:
    with pytest.raises(UsageError, match="has 1 tokens; 2 are needed"):
        evaluation_batches(numbered(1), seq_len=4, batch_size=1)
    with pytest.raises(UsageError, match="cannot evaluate on 0 tokens"):
        evaluation_batches(numbered(9), seq_len=4, batch_size=1, max_tokens=0)
