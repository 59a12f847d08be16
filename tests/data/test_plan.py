"""Batches of several sources: exact shares, every row once an epoch, nothing but the position."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.order import KeyedPermutation
from windtunnel.data.plan import Mix, PlannedBatches, PlannedStage

WEIGHTS = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 7), min_size=1)


class Stream:
    """Rows named (source, epoch, row), in a keyed order of each epoch."""

    def __init__(self, name: str, rows: int) -> None:
        self.name, self.rows = name, rows

    def __len__(self) -> int:
        return self.rows

    def take(self, numbers: np.ndarray) -> list[tuple[str, int, int]]:
        found = []
        for number in numbers.tolist():
            epoch, place = divmod(number, self.rows)
            row = KeyedPermutation(self.rows, epoch)(np.array([place]))[0]
            found.append((self.name, epoch, int(row)))
        return found


def planned(sizes: dict[str, int], *stages: PlannedStage) -> PlannedBatches:
    sources = {name: Stream(name, size) for name, size in sizes.items()}
    return PlannedBatches(sources, stages, collate=list)


def rows_of(batches: PlannedBatches, stop: int, start: int = 0) -> list[tuple[str, int, int]]:
    return [row for position in range(start, stop) for row in batches.at(position)]


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, key=st.integers(0, 5), rows=st.integers(1, 200))
def test_a_mix_meets_its_weights_in_every_cycle_and_counts_what_it_gives(
    weights: dict[str, int], key: int, rows: int
) -> None:
    mix = Mix(weights, key)
    sources, numbers = mix.between(0, rows)
    counts = Counter(mix.names[source] for source in sources)
    assert {name: mix.count(name, rows) for name in weights} == {n: counts[n] for n in weights}
    for source in range(len(mix.names)):  # each source's rows come in order, none left out
        mine = numbers[sources == source]
        assert mine.tolist() == list(range(len(mine)))
    whole = rows // mix.size * mix.size
    total = sum(weights.values())
    for name, weight in weights.items():
        assert mix.count(name, whole) * total == weight * whole
    later, _ = mix.between(rows, rows + 13)
    assert np.array_equal(later, mix.between(0, rows + 13)[0][rows:])


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, wanted=st.integers(1, 60))
def test_a_mix_says_when_a_source_has_given_so_many(weights: dict[str, int], wanted: int) -> None:
    mix = Mix(weights, 1)
    for name in weights:
        rows = mix.rows_until(name, wanted)
        assert mix.count(name, rows) == wanted
        assert mix.count(name, rows - 1) == wanted - 1


STAGES = st.lists(st.tuples(WEIGHTS, st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(stages=STAGES, sizes=st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_each_source_is_one_stream_over_all_stages(stages: list, sizes: list[int]) -> None:
    lengths = dict(zip("abcd", sizes, strict=True))
    batches = planned(lengths, *(PlannedStage(w, b, r) for w, b, r in stages))
    steps = sum(stage.steps for stage in batches.stages)
    rows = rows_of(batches, steps)
    assert len(rows) == sum(r for _, _, r in stages)  # last batches of stages are short, no more
    for name, size in lengths.items():
        mine = [row for source, _, row in rows if source == name]
        epochs = [mine[first : first + size] for first in range(0, len(mine), size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs if len(epoch) == size)
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert batches.seen(steps)[name] == len(mine)
    for position in range(steps + 3):  # by random access, in any order, as in turn
        assert batches.at(position) == planned(lengths, *batches.stages).at(position)


def test_after_its_end_the_last_stage_goes_on() -> None:
    batches = planned({"a": 50}, PlannedStage({"a": 1}, 4, 10))
    assert [len(batches.at(position)) for position in range(5)] == [4, 4, 2, 4, 4]
    stream = [row for _, _, row in rows_of(batches, 5)]
    assert len(set(stream)) == 18


@settings(max_examples=40, deadline=None)
@given(before=st.integers(1, 6), after=st.integers(1, 6), step=st.integers(0, 8))
def test_a_shifted_plan_goes_on_where_another_one_stood(before: int, after: int, step: int) -> None:
    first = planned({"a": 1000}, PlannedStage({"a": 1}, before, 100 * before))
    second = planned({"a": 1000}, PlannedStage({"a": 1}, after, 100 * after))
    shift = first.seen(step)["a"] - second.seen(step)["a"]
    shifted = second.shifted({"a": shift})
    assert shifted.seen(step) == first.seen(step)
    rows = rows_of(first, step) + rows_of(shifted, step + 5, step)
    expected = rows_of(planned({"a": 1000}, PlannedStage({"a": 1}, 1, 1000)), len(rows))
    assert rows == expected
