"""Spaces: indexing, names, columns, conditions, shuffles, samples, splits, unions, products."""

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.order import KeyedPermutation
from windtunnel.errors import UsageError
from windtunnel.spaces import (
    Axis,
    Family,
    ModelConfigGenerator,
    Naming,
    Space,
    family_block,
    full,
    reasonable,
    register,
    union,
)
from windtunnel.spaces.axis import Product, digits_of
from windtunnel.spaces.declared import load_space
from windtunnel.spaces.sample import _strata
from windtunnel.spaces.split import protocol

SMALL = reasonable(vocab_size=64, max_seq_len=16)
FULL = full()


def best(action: Callable[[], Any], turns: int = 5) -> float:
    """The least seconds of some turns: what the machine's other work adds is left out."""
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def test_the_full_space_is_there_at_once_and_small() -> None:
    tracemalloc.start()
    space = full()
    for index in range(0, len(space), 100_003):
        assert space[index].params > 0
    assert len(list(space.shuffled(1)[:50])) == 50
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 5e6
    assert best(full) < 0.010
    places = np.random.default_rng(0).integers(len(space), size=500).tolist()
    assert best(lambda: [space[i].values for i in places]) / 500 < 50e-6
    # An idle core takes 0.1 s; the bound leaves room for a busy one.
    assert best(lambda: space.where("params < 30M and family in [lstm, gru]"), 3) < 1.0
    assert best(lambda: space.where("p_drop > 0.1 or head_dim == 64"), 3) < 1.0
    assert len(space.where("params * params < 0")) == 0, "whole numbers do not overflow"


def test_conditions_pick_what_a_loop_would() -> None:
    text = "params < 300k and family in [lstm, mini_gpt] and d_model >= 2 * n_layer"
    found = [m.index for m in SMALL.where(text)]
    assert found == [
        m.index
        for m in SMALL
        if m.params < 300_000
        and m.family in ("lstm", "mini_gpt")
        and m.values["d_model"] >= 2 * m.values["n_layer"]
    ]
    assert found
    again = SMALL.shuffled(3).where(text)
    assert sorted(m.index for m in again) == found
    assert [m.index for m in again] != found
    assert [m.index for m in SMALL.where("family == lstm").where("params < 300k")] == [
        m.index for m in SMALL.where("params < 300k and family == lstm")
    ]
    assert len(SMALL.where("params < 0").where("params > 0")) == 0


def test_columns_are_what_members_say() -> None:
    for space in (SMALL, SMALL.shuffled(1)[100:3000:7], SMALL[np.array([5, 9000, -1])]):
        for name in ("d_model", "p_drop", "params", "n_head", "d_ff", "family", "tie_weights"):
            column = space.column(name)
            assert len(column) == len(space)
            for member, value in zip(space[:40], column, strict=False):
                expected = {**member.config, **member.values, "params": member.params,
                            "family": member.family}  # fmt: skip
                lacks = name not in expected
                assert np.isnan(value) if lacks else value == expected[name]
    assert SMALL.column("params").dtype == np.int64
    with pytest.raises(UsageError, match="did you mean 'd_model'"):
        SMALL.column("d_modle")


def test_a_shuffle_has_every_member_once_and_hangs_on_its_seed() -> None:
    orders = [SMALL.shuffled(seed).indices() for seed in (0, 0, 1)]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).mean() > 0.99
    assert (np.sort(orders[0]) == np.arange(len(SMALL))).all()
    order = np.sort(FULL.shuffled(7).indices())
    assert (order == np.arange(len(FULL))).all()
    shuffled = SMALL.shuffled(0)
    assert [m.index for m in shuffled[10:50:3]] == orders[0][10:50:3].tolist()
    assert [shuffled[i].index for i in (-1, 5)] == orders[0][[-1, 5]].tolist()
    assert [m.index for m in shuffled.shuffled(4)] != orders[0].tolist()
    # The mean distance of neighbours is that of a random order: a third of the size.
    apart = np.abs(np.diff(orders[0])).mean() / len(SMALL)
    assert abs(apart - 1 / 3) < 0.01


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 9))
def test_one_index_is_permuted_as_many_are(size: int, key: int) -> None:
    permutation = KeyedPermutation(size, key)
    places = np.arange(size)[:: max(1, size // 50)]
    assert permutation(places).tolist() == [permutation.at(int(p)) for p in places]


def test_a_slice_is_a_space() -> None:
    part = SMALL[100:200:3]
    assert len(part) == 34
    assert [m.index for m in part] == list(range(100, 200, 3))
    assert part[5:][0].index == 115
    assert SMALL[100].name in part
    assert SMALL[101] not in part
    assert part.find(SMALL[103].name) == SMALL[103]
    with pytest.raises(UsageError, match="not among the 34 selected"):
        part.find(SMALL[101].name)
    with pytest.raises(IndexError, match="none at 34"):
        part[34]
    mask = np.zeros(len(SMALL), dtype=bool)
    mask[[3, 8]] = True
    assert [m.index for m in SMALL[mask]] == [3, 8]


def test_every_name_finds_its_member() -> None:
    for space in (SMALL, FULL):
        for member in space.sample(200, seed=2):
            assert space.find(member.name) == member


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("lstm-045-512d-8L-d0.2-tFalse", "lstm-750-512d-8L-d0.2-tFalse"),
        ("ltsm-1-500d-3L-d0.2-tTrue", "lstm-725-512d-3L-d0.2-tTrue"),
        ("mini_gpt-9-768d-12L-16h-ff6-d0.2-tFalse", "mini-gpt-15378-768d-12L-16h-ff6-d0.2-tFalse"),
        ("gpt-encoder-4001-256d-16L-2h-ff4-d0.2-tFalse",
         "gpt-encoder-4002-256d-16L-2h-ff4-d0.2-tFalse"),
        ("rnn", "rnn-001-64d-1L-d0.0-tTrue"),
    ],
)  # fmt: skip
def test_a_wrong_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"has no member {name!r}; did you mean {near!r}"):
        reasonable().find(name)
    assert near in reasonable()


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(UsageError, match=r"has no member 'zzz'$"):
        SMALL.find("zzz")


def test_a_sample_is_spread_over_families_and_sizes() -> None:
    space = reasonable()
    sample = space.sample(400, seed=5)
    assert sample.families() == dict.fromkeys(space.families(), 80)
    indices = sample.indices()
    assert (np.diff(indices) > 0).all()
    assert (space.sample(400, seed=5).indices() == indices).all()
    assert (space.sample(400, seed=6).indices() != indices).any()
    logs = np.log(sample.where("family == mini_gpt").params)
    edges = np.linspace(*np.log(space.where("family == mini_gpt").params[[0, -1]]), 9)
    counts, _ = np.histogram(logs, edges)
    assert counts.min() >= 8, "every step of log parameters has its share"
    assert (space.sample(len(space)).indices() == np.arange(len(space))).all()
    assert len(space.sample(0)) == 0
    assert len(space.sample(3)) == 3
    with pytest.raises(UsageError, match="cannot be drawn"):
        space.sample(len(space) + 1)


def test_a_split_never_parts_a_structure() -> None:
    space = reasonable()
    parts = space.split({"train": 0.8, "valid": 0.1, "test": 0.1}, seed=3)
    assert sum(map(len, parts.values())) == len(space)
    assert abs(len(parts["train"]) / len(space) - 0.8) < 0.03

    def keys(part: Space) -> set[Any]:
        drop = {"p_drop"}
        found = set()
        for member in part:
            kind = "gpt" if member.family in ("gpt_encoder", "mini_gpt") else member.family
            sizes = tuple((k, v) for k, v in member.values.items() if k not in drop)
            found.add((kind, sizes))
        return found

    found = [keys(part) for part in parts.values()]
    assert sum(map(len, found)) == len(set().union(*found)) == 336 + 2560
    # The same seed puts a structure on the same side of another space too.
    elsewhere = FULL.where("params < 4M").split({"train": 0.8, "valid": 0.1, "test": 0.1}, seed=3)
    for one in parts:
        for other in parts:
            if one != other:
                assert not keys(parts[one]) & keys(elsewhere[other])
    with pytest.raises(UsageError, match="sum to 1"):
        space.split({"a": 0.5, "b": 0.6})


def test_the_protocols_parts_are_apart_and_as_they_say() -> None:
    space = reasonable()
    parts = protocol(space, d_model=256, n_layer=4, left_out=["gru"], n_head=8, ff_ratio=4, seed=1)
    assert list(parts) == ["train", "in_distribution", "wide", "deep", "left_out", "large"]
    sets = [set(part.structures().tolist()) for part in parts.values()]
    assert all(sets)
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert parts["wide"].column("d_model").min() == 512
    assert parts["wide"].column("n_layer").max() == 4
    assert parts["deep"].column("n_layer").min() == 8
    assert parts["deep"].column("d_model").max() == 256
    assert parts["left_out"].families().keys() == {"gru"}
    assert "gru" not in parts["train"].families()
    assert {"rnn", "lstm", "mini_gpt"} < parts["train"].families().keys()
    large = parts["large"]
    assert ((large.column("n_head") > 8) | (large.column("ff_ratio") > 4)).all()
    for name in ("train", "wide", "deep"):
        assert not (parts[name].column("n_head") > 8).any()
    with pytest.raises(UsageError, match="same tensors as mini_gpt: leave out both"):
        protocol(space, d_model=256, n_layer=4, left_out=["gpt_encoder"])
    with pytest.raises(UsageError, match="has no family"):
        protocol(space, d_model=256, n_layer=4, left_out=["mamba"])


def test_what_is_left_out_is_trained_on_under_no_other_name(tmp_path: Path) -> None:
    """A part that edits a preset has the structures of the family that the preset is of."""
    text = (
        "name: mixed\nvocab_size: 11\nmax_seq_len: 6\nunion:\n"
        "  - family: mini_gpt\n"
        "    axes: {d_model: [8, 16], n_layer: [1, 2], n_head: [2], ff_ratio: [4], p_drop: [0.0],"
        " tie_weights: [false, true]}\n"
        "  - preset: mini_gpt\n    name: edited\n    axes:\n"
        "      d_model: {path: arch.d_model, values: [8, 16]}\n"
        "      n_layer: {path: 'arch.layers[0].repeat', values: [1, 2]}\n"
        "      heads: {path: 'arch.layers[0].mixer.num_heads', values: [2]}\n"
        "      act: {path: 'arch.layers[0].mlp.activation', values: [ACTS]}\n"
    )
    (tmp_path / "s.yaml").write_text(text.replace("ACTS", "gelu, relu"), encoding="utf-8")
    mixed = load_space(tmp_path / "s.yaml")
    with pytest.raises(
        UsageError, match=r"left_out: 4 members that are trained on .* mini_gpt too"
    ):
        protocol(mixed, d_model=16, n_layer=2, left_out=["edited"])
    (tmp_path / "s.yaml").write_text(text.replace("ACTS", "relu"), encoding="utf-8")
    parts = protocol(load_space(tmp_path / "s.yaml"), d_model=16, n_layer=2, left_out=["edited"])
    assert len(parts["left_out"]) == 4


def test_a_union_has_all_members() -> None:
    small, large = SMALL.where("params < 100k"), SMALL.where("params > 90k and params < 200k")
    both = union("both", small, large)
    assert both.indices().tolist() == SMALL.where("params < 200k").indices().tolist()
    values = {"d_model": [64, 96], "n_layer": [2], "p_drop": [0.0], "tie_weights": [True]}
    own = Space("own", [family_block("gru", values, Naming("mine"))])
    joined = union("joined", own, small)
    assert len(joined) == 2 + len(small)
    assert joined[1].name == "mine-002-96d-2L-d0-tTrue"
    assert joined[2].name == small[0].name
    assert joined.find(small[0].name).params == small[0].params
    with pytest.raises(UsageError, match="name their members gpt-encoder-"):
        union("twice", SMALL, reasonable(vocab_size=99))


def test_a_product_adds_axes() -> None:
    values = {"d_model": [64, 96], "n_layer": [2, 3], "p_drop": [0.0], "tie_weights": [True]}
    space = Space("own", [family_block("gru", values, Naming("gru"), vocab_size=300)])
    eps = Axis("lr", (1e-3, 1e-2), (("train", "lr"),), structural=False)
    bias = Axis("bias", (True, False), (("arch", "layers", 0, "mixer", "bias"),))
    both = space.times(eps, bias)
    assert len(both) == 16
    member = both[5]
    assert member.values == {"d_model": 64, "n_layer": 3, "p_drop": 0.0, "tie_weights": True,
                             "lr": 1e-3, "bias": False}  # fmt: skip
    assert member.document.tree["train"]["lr"] == 1e-3
    assert member.params == space[1].params - 3 * 2 * 3 * 64
    assert both.params[4] - both.params[5] == 3 * 2 * 3 * 64
    assert len(np.unique(both.structures())) == 8
    assert both.find(member.name) == member


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True), min_size=2,
             max_size=4),
    st.data(),
)  # fmt: skip
def test_mixed_radix_is_the_loop(values: list[list[int]], data: st.DataObject) -> None:
    axes = [Axis(f"a{i}", tuple(v)) for i, v in enumerate(values)]
    first, last = sorted(data.draw(st.permutations(range(len(axes))))[:2])
    names = f"a{first}", f"a{last}"
    product = Product(digits_of(axes, names, lambda c: c[names[0]] % c[names[1]] == 0))
    expected: list[tuple[int, ...]] = [()]
    for each in values:
        expected = [(*done, value) for done in expected for value in each]
    expected = [row for row in expected if row[first] % row[last] == 0]
    assert product.size == len(expected)
    assert [tuple(product.values(i).values()) for i in range(product.size)] == expected
    for place, axis in enumerate(axes):
        grid = np.broadcast_to(product.grid(axis.name), product.shape).reshape(-1)
        assert grid.tolist() == [row[place] for row in expected]


def test_a_sixth_family_is_one_class() -> None:
    @register
    class Stack(Family):
        """A transformer of minimal recurrences."""

        name = "min_lstm_stack"
        axes = ("d_model", "n_layer", "p_drop")
        parts: ClassVar[dict[str, str]] = {"d_model": "{}d", "n_layer": "{}L", "p_drop": "d{}"}

        def params(self, values: Any) -> Any:
            return values["vocab_size"] * values["d_model"]

        def arch(self, values: Any) -> dict[str, Any]:
            return {"preset": "min-lstm", "d_model": values["d_model"]}

    block = family_block("min_lstm_stack", {"d_model": [8, 16], "n_layer": [1], "p_drop": [0.0]},
                         Naming("stack"), vocab_size=10)  # fmt: skip
    space = union("six", SMALL, Space("own", [block]))
    assert len(space) == 16_706
    assert space.where("family == min_lstm_stack and d_model > 8")[0].params == 160
    assert space[-1].arch.d_model == 16
    with pytest.raises(UsageError, match="has no axis 'n_head'"):
        family_block("min_lstm_stack", {"n_head": [1]}, Naming("x"))
    with pytest.raises(UsageError, match="needs values of n_layer"):
        family_block("min_lstm_stack", {"d_model": [1]}, Naming("x"))


def test_spaces_need_no_torch() -> None:
    code = (
        "import sys; from windtunnel.spaces import full; s = full().where('params < 9M');"
        "s.sample(9)[0].metadata; s.split({'a': .5, 'b': .5}); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_selection_without_members_splits_into_empty_parts() -> None:
    nothing = reasonable().where("d_model == 1")
    assert {name: len(part) for name, part in nothing.split({"a": 0.5, "b": 0.5}).items()} == {
        "a": 0,
        "b": 0,
    }


def test_an_index_is_a_whole_number() -> None:
    configs = ModelConfigGenerator(64, 16).generate_reasonable_configs()
    for wrong in ("3", 1.9, None):
        with pytest.raises(TypeError):
            SMALL[wrong]  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            configs[wrong]  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="positions are whole numbers"):
        SMALL[np.array([0.5])]
    assert SMALL[np.int32(5)] == SMALL[5]
    assert [c["name"] for c in configs[np.array([1, -1])]] == [configs[1]["name"],
                                                              configs[-1]["name"]]  # fmt: skip
    assert len(configs[np.zeros(0, dtype=int)]) == 0


def test_values_may_come_from_numpy() -> None:
    generator = ModelConfigGenerator(64, 16)
    widths, rates = np.array([64, 128]), np.linspace(0, 0.4, 3)
    configs = generator.generate_rnn_configs(widths, [1], rates, np.array([True]))
    assert list(configs) == list(
        generator.generate_rnn_configs([64, 128], [1], [0.0, 0.2, 0.4], [True])
    )
    assert type(configs[0]["d_model"]) is int


def test_equal_blocks_are_one_in_a_union() -> None:
    again = reasonable(vocab_size=64, max_seq_len=16)
    assert again.blocks == SMALL.blocks
    assert again[5] == SMALL[5]
    assert hash(again[5]) == hash(SMALL[5])
    parts = SMALL.where("family == gru"), again.where("family in [gru, rnn]")
    both = union("u", *parts)
    assert both.indices().tolist() == SMALL.where("family in [gru, rnn]").indices().tolist()
    values = {"d_model": [64], "n_layer": [2], "p_drop": [0.0], "tie_weights": [True]}
    own = Space("own", [family_block("gru", values, Naming("mine"))])
    three = union("u", again[5:0:-1], union("v", own, SMALL[3:8]))
    assert [m.name for m in three] == [
        *(SMALL[i].name for i in (5, 4, 3, 2, 1)), own[0].name, SMALL[6].name, SMALL[7].name,
    ]  # fmt: skip
    with pytest.raises(UsageError, match="union u: needs a space at least"):
        union("u")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: reasonable(0, -5), "vocab_size must be a whole number, at least 1, not 0"),
        (lambda: full(10, -5), "max_seq_len must be a whole number, at least 1, not -5"),
        (lambda: SMALL.sample(9, bins=0), "bins must be a whole number from 1 to 100,000, not 0"),
        (lambda: SMALL.split({"a": float("nan")}), "shares must be positive and sum to 1"),
        (lambda: SMALL.split({"a": 0.5, "b": float("nan")}), "shares must be positive"),
        (lambda: family_block("rnn", {"d_model": [0], "n_layer": [1], "p_drop": [0.0],
                                      "tie_weights": [True]}, Naming("x")), "not 0"),
        (lambda: Axis("lr", (float("nan"),)), "no finite number"),
    ],
)  # fmt: skip
def test_a_wrong_number_is_told(action: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        action()


def test_a_sample_of_many_strata_is_spread_too() -> None:
    space = SMALL.where("family == lstm")
    sample = space.sample(50, bins=20_000)
    assert len(np.unique(sample.params)) == 50, "no two of one stratum where there are more"
    strata = _strata(SMALL, 20_000)
    assert len(np.unique(strata)) > 500
    assert len(np.unique(strata[SMALL.sample(500, bins=20_000).indices()])) == 500


def test_parameters_that_cannot_be_counted_are_told() -> None:
    values = {"d_model": [2**31 - 1], "n_layer": [100_000], "p_drop": [0.0], "tie_weights": [True]}
    space = Space("own", [family_block("rnn", values, Naming("large"))])
    with pytest.raises(UsageError, match=r"2\^62 parameters"):
        len(space.params)
