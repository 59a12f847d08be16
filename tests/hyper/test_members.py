"""Draws: the architectures of a step hang on its position alone, and every kind comes as often."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hyper.tiny import config, space

from windtunnel.errors import UsageError
from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.launch import space_digest
from windtunnel.hyper.members import HyperBatches, Members, with_members
from windtunnel.hyper.network import HyperBatch
from windtunnel.spaces.declared import load_space

TINY = space()


def members(**changes: object) -> Members:
    return Members.of(config(**changes), TINY)


def kind_of(index: int) -> str:
    family = TINY[index].family
    return "transformer" if family in ("gpt_encoder", "mini_gpt") else family


MEMBERS = members()
TRAIN = {int(i) for i in MEMBERS.parts["train"].indices()}


@settings(deadline=None)
@given(st.integers(0, 2**40))
def test_a_step_draws_the_same_from_anywhere(position: int) -> None:
    first = MEMBERS.draws.at(position)
    assert members().draws.at(position) == first
    MEMBERS.draws.at(position + 7)
    assert MEMBERS.draws.at(position) == first
    assert set(first) <= TRAIN


def test_every_kind_comes_as_often_and_all_members_come() -> None:
    drawn = [index for position in range(2000) for index in MEMBERS.draws.at(position)]
    kinds = Counter(kind_of(index) for index in drawn)
    assert kinds == dict.fromkeys(("rnn", "lstm", "gru", "transformer"), 2000)
    assert set(drawn) == TRAIN


def test_bins_of_log_parameters_come_as_often() -> None:
    """Though most members are small: the larger ones come oftener than one by one."""
    uneven = space(d_model=(4, 5, 6, 7, 32), n_head=(1,))
    split = {"d_model": 32, "n_layer": 3, "held_out": 0.2}
    chosen = Members.of(config(bins=3, split=split), uneven)
    params = {
        m.index: float(m.params)
        for m in chosen.parts["train"]
        if m.family in ("mini_gpt", "gpt_encoder")
    }
    low, high = np.log(min(params.values())), np.log(max(params.values()))

    def bin_of(index: int) -> int:
        return min(2, int(3 * (np.log(params[index]) - low) / (high - low)))

    sizes = Counter(bin_of(index) for index in params)
    assert len(sizes) == 3
    assert sizes[0] > 2 * sizes[2], "the bins must differ, or the test shows nothing"
    drawn = [index for position in range(3000) for index in chosen.draws.at(position)]
    counts = Counter(bin_of(index) for index in drawn if index in params)
    assert counts.total() == 3000
    assert all(abs(counts[number] - 1000) < 5 * (3000 * 2 / 9) ** 0.5 for number in range(3))


def test_another_seed_draws_others() -> None:
    other = members(train={"batch_size": 4, "steps": 10, "seq_len": 6, "seed": 1})
    assert [MEMBERS.draws.at(p) for p in range(20)] != [other.draws.at(p) for p in range(20)]


def test_the_largest_come_first_where_it_is_told() -> None:
    chosen = members(largest_first=5)
    for position in range(5):
        for index in chosen.draws.at(position):
            values = TINY[index].values
            assert (values["d_model"], values["n_layer"]) == _largest(kind_of(index))
    later = {index for position in range(5, 50) for index in chosen.draws.at(position)}
    assert len({TINY[i].values["n_layer"] for i in later}) > 1


def _largest(kind: str) -> tuple[int, int]:
    own = [TINY[i].values for i in TRAIN if kind_of(i) == kind]
    return max((v["d_model"], v["n_layer"]) for v in own)


def test_rows_go_to_the_members_in_turn() -> None:
    text = HyperBatch(torch.zeros(6, 2), torch.ones(6, 2), torch.zeros(6))
    assert with_members(text, [5, 3, 9, 1]).members.tolist() == [5, 3, 9, 1, 5, 3]

    class Text:
        def at(self, position: int) -> HyperBatch:
            return HyperBatch(text.inputs + position, text.targets, text.members)

    batch = HyperBatches(Text(), MEMBERS.draws).at(3)
    assert batch.inputs[0, 0] == 3
    assert batch.members.tolist()[:4] == MEMBERS.draws.at(3)


def test_the_held_out_are_not_trained_on() -> None:
    held = MEMBERS.held_out()
    assert held == members().held_out()
    assert 0 < len(held) <= 8
    assert not TRAIN & set(held)
    structures = {TINY[i].structure for i in TRAIN}
    assert not structures & {TINY[i].structure for i in held}


def test_limits_hold_all_that_is_trained_on() -> None:
    roles = {role.name for role in MEMBERS.limits.roles}
    for index in sorted(TRAIN):
        anatomy = anatomy_of(TINY[index].architecture)
        assert MEMBERS.limits.fits(anatomy)
        assert {slot.role for slot in anatomy.slots} <= roles


def test_a_table_alone_has_limits_of_tables() -> None:
    roles = {role.name for role in members(predicts="table").limits.roles}
    assert roles == {"embedding", "head", "position"}


def test_a_split_without_members_is_told() -> None:
    with pytest.raises(UsageError, match="no architecture for"):
        members(split={"d_model": 2, "n_layer": 1})


DECLARED = """\
name: mixed
vocab_size: 11
max_seq_len: 6
union:
  - family: rnn
    axes: {d_model: [4, 8], n_layer: [1, 2], p_drop: [0.0], tie_weights: [true, false]}
  - preset: mini_gpt
    name: edited
    axes:
      d_model: {path: arch.d_model, values: [8, 16]}
      n_layer: {path: 'arch.layers[0].repeat', values: [1, 2]}
      mlp: {path: 'arch.layers[0].mlp', values: [dense, glu]}
      norm: {path: 'arch.layers[0].norm', values: [layernorm, rmsnorm]}
"""


def test_axes_of_run_files_bring_their_roles(tmp_path: Path) -> None:
    """Beside a family with axes that these members lack."""
    (tmp_path / "space.yaml").write_text(DECLARED, encoding="utf-8")
    mixed = load_space(tmp_path / "space.yaml")
    given = config(split={"d_model": 16, "n_layer": 2, "held_out": 0.1})
    found = Members.of(given, mixed)
    known = {role.name for role in found.limits.roles}
    assert {"glu_gate_weight", "down_weight", "rnn_weight_hh"} <= known
    for index in found.parts["train"].indices():
        anatomy = anatomy_of(mixed[int(index)].architecture)
        assert {slot.role for slot in anatomy.slots} <= known
        assert found.limits.fits(anatomy)
        assert found.limits.strange(anatomy) == ()
    assert {index for p in range(100) for index in found.draws.at(p)} <= {
        int(i) for i in found.parts["train"].indices()
    }


def test_another_combination_of_the_same_values_is_another_space(tmp_path: Path) -> None:
    """The members of these two have equal numbers, values and sides but for one, which differs."""
    sizes = "{d_model: [4, 8], n_layer: [1, 2, 3], p_drop: [0.0], tie_weights: [true]}"
    found = []
    for layers in (2, 3):
        (tmp_path / "space.yaml").write_text(
            f"name: s\nfamily: lstm\naxes: {sizes}\nvocab_size: 11\nmax_seq_len: 6\n"
            f"where: not (d_model == 8 and n_layer == {layers})\n",
            encoding="utf-8",
        )
        given = config(split={"d_model": 8, "n_layer": 3, "held_out": 0.2, "seed": 1})
        found.append(Members.of(given, load_space(tmp_path / "space.yaml")))
    one, other = found
    assert one.parts["train"].indices().tolist() == other.parts["train"].indices().tolist()
    assert [m.name for m in one.space] != [m.name for m in other.space]
    assert space_digest(one) != space_digest(other)
