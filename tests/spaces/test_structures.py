"""Structures of declared spaces: what members are decides, and never what they are called."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from windtunnel.errors import UsageError
from windtunnel.spaces import Axis, Space, full, reasonable, union
from windtunnel.spaces.declared import load_space
from windtunnel.spaces.entries import entries
from windtunnel.spaces.families import family_of
from windtunnel.spaces.families.family import _FAMILIES

WIDTHS = "axes: {arch.d_model: [64, 128, 192, 256]}"


def written(folder: Path, text: str, name: str = "space.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def sides(space: Space) -> dict[int, set[str]]:
    """The sides of a split on which each structure lies, over some seeds."""
    found: dict[int, set[str]] = {}
    for seed in range(8):
        for side, part in space.split({"a": 0.5, "b": 0.5}, seed).items():
            for member in part:
                key = hash((seed, str(member.arch.replace(name="x"))))
                found.setdefault(key, set()).add(side)
    return found


def test_equal_parts_under_two_names_share_their_structures(tmp_path: Path) -> None:
    text = "union:\n" + "".join(
        f"  - {{name: {name}, preset: llama, {WIDTHS}}}\n" for name in ("a", "b")
    )
    space = load_space(written(tmp_path, text))
    structures = space.structures().tolist()
    assert structures[:4] == structures[4:]
    assert len(set(structures)) == 4
    assert all(len(where) == 1 for where in sides(space).values())
    one = load_space(written(tmp_path, f"preset: llama\n{WIDTHS}\n", "one.yaml"))
    other = load_space(written(tmp_path, f"preset: llama\n{WIDTHS}\n", "other.yaml"))
    assert one.structures().tolist() == other.structures().tolist() == structures[:4]
    assert [member.structure for member in one] == structures[:4]


def test_a_value_is_one_structure_whether_an_axis_sets_it_or_the_file(tmp_path: Path) -> None:
    """The structure is of the architecture: through which axes it came does not enter."""
    run = "arch: {preset: llama, d_model: 128, set: {'layers[0].repeat': 3}}\n"
    written(tmp_path, run, "run.yaml")
    base = load_space(written(tmp_path, "base: run.yaml\n"))
    text = """\
preset: llama
axes:
  arch.layers[0].repeat: [2, 3]
  arch.d_model: [64, 128]
  arch.layers[0].mlp.activation: [gelu, silu]
  arch.layers[0].mlp.ratio: [8/3, 3]
  train.lr: [1e-3, 1e-2]
"""
    space = load_space(written(tmp_path, text, "axes.yaml"))
    assert len(np.unique(space.structures())) == len(space) // 2 == 16
    same = [m.values for m in space if m.structure == base[0].structure]
    assert [(v["repeat"], v["d_model"], v["activation"], v["ratio"]) for v in same] == [
        (3, 128, "silu", "8/3")
    ] * 2
    assert {m.structure for m in space[5:9]} == set(space.structures()[5:9].tolist())


@pytest.mark.parametrize(
    ("axes", "count"),
    [
        ("arch.layers[0].mixer: [{type: attention, num_heads: 4, dropout: 0.0}, "
         "{type: attention, num_heads: 4, dropout: 0.1}, {type: attention, num_heads: 2}]", 2),
        ("arch.embedding: [{tie: true}, {tie: true, dropout: 0.2}, {tie: true, init_std: 0.1}]", 1),
        ("arch.layers[*].dropout: [0.0, 0.1, 0.2]", 1),
        ("train.seed: [1, 2, 3]", 1),
        ("arch.layers[0].norm: [rmsnorm, {type: rmsnorm}, layernorm]", 2),
        ("data.tokenizer: [{type: bytes}, {type: bpe, vocab_size: 300}, "
         "{type: bpe, vocab_size: 512}]", 3),
    ],
)  # fmt: skip
def test_what_changes_no_tensor_makes_no_structure(tmp_path: Path, axes: str, count: int) -> None:
    space = load_space(written(tmp_path, f"preset: llama\naxes:\n  {axes}\n"))
    assert len(space) == 3
    assert len(np.unique(space.structures())) == count
    counted = {int(m.structure): m.architecture for m in space}
    assert len(counted) == count
    assert space.blocks[0].num_structures() == count


def test_an_axis_below_another_makes_what_both_say(tmp_path: Path) -> None:
    text = """\
preset: llama
axes:
  arch.layers[0].mixer: [{type: attention, num_heads: 4}, {type: attention, num_heads: 8},
    {type: attention, num_heads: 8, bias: true}]
  arch.layers[0].mixer.num_heads: [2, 4]
"""
    space = load_space(written(tmp_path, text))
    by_tree: dict[str, set[int]] = {}
    for member in space:
        by_tree.setdefault(str(member.arch.replace(name="x")), set()).add(member.structure)
    assert len(space) == 6
    assert len(by_tree) == 4
    assert all(len(structures) == 1 for structures in by_tree.values())
    assert len(set.union(*by_tree.values())) == 4


def test_a_preset_that_is_a_members_equal_has_its_structure(tmp_path: Path) -> None:
    """A family's member, a preset with the same values and a grid with edits are one structure."""
    written(tmp_path, """\
preset: gpt-encoder
axes:
  arch.d_model: [64, 128]
  arch.layers[0].repeat: [2, 4]
  arch.layers[0].mixer.num_heads: [4]
  arch.layers[0].mlp.ratio: [4]
  arch.layers[0].mlp.activation: [gelu, relu]
  arch.embedding.tie: [true]
""".replace("gpt-encoder", "mini_gpt"))  # fmt: skip
    space = load_space(tmp_path / "space.yaml")
    grid = reasonable()
    found = grid.where("d_model in [64, 128] and n_layer in [2, 4] and n_head == 4 and "
                       "ff_ratio == 4 and tie_weights == true and family == mini_gpt")  # fmt: skip
    known = set(found.structures().tolist())
    own = {
        a: set(space.where(f"activation == {a}").structures().tolist()) for a in ("gelu", "relu")
    }
    assert own["gelu"] == known
    assert len(own["relu"]) == 4
    assert not own["relu"] & set(grid.structures().tolist())
    edits = Axis("activation", ("gelu", "relu"), (("arch", "layers", 0, "mlp", "activation"),))
    edited = Space("edited", grid.blocks[3:]).times(edits)
    assert edited.families() == {"gpt_encoder": 15_360, "mini_gpt": 15_360}
    twice = np.repeat(grid.where("family in [gpt_encoder, mini_gpt]").structures(), 2)
    gelu = np.arange(len(edited)) % 2 == 0
    assert (edited.structures()[gelu] == twice[gelu]).all()
    assert not np.isin(edited.structures()[~gelu], twice).any()
    assert len(np.unique(edited.structures())) == 2 * 2560


TIED = {
    "share": (
        "'arch.layers[0].repeat': [2, 3, 6], 'arch.layers[0].share': [1, 3]",
        "'arch.layers[0].repeat': [3, 6], 'arch.layers[0].share': [3, 1]",
        "repeat % share == 0",
        5,
    ),
    "norm": (
        "'arch.layers[0].parallel': [false, true], 'arch.layers[0].shared_norm': [false, true]",
        "'arch.layers[0].parallel': [true], 'arch.layers[0].shared_norm': [true, false]",
        "parallel == true or shared_norm == false",
        3,
    ),
}


@pytest.mark.parametrize("name", TIED)
def test_values_that_are_valid_only_together_have_their_own_structure(
    tmp_path: Path, name: str
) -> None:
    one, two, where, count = TIED[name]
    parts = "".join(
        f"  - {{name: {part}, preset: llama, axes: {{{axes}}}, where: {where}}}\n"
        for part, axes in (("a", one), ("b", two))
    )
    space = load_space(written(tmp_path, f"union:\n{parts}"))
    found = {int(m.structure): m.architecture.replace(name="x").digest() for m in space}
    assert len(found) == len(set(found.values())) == count


def test_a_value_at_its_default_is_no_entry_however_an_axis_is_ordered(tmp_path: Path) -> None:
    written(
        tmp_path,
        "arch: {preset: llama, set: {'layers[0].share': 2, 'layers[0].repeat': 4}}",
        "r.yaml",
    )
    written(tmp_path, "arch: {preset: llama, set: {'layers[0].repeat': 4}}", "plain.yaml")
    found = []
    for base, values in (("r.yaml", [2, 1]), ("r.yaml", [1, 2]), ("plain.yaml", [1, 2])):
        text = f"base: {base}\naxes: {{'arch.layers[0].share': {values}}}"
        space = load_space(written(tmp_path, text))
        found.append({m.values["share"]: int(m.structure) for m in space})
    assert found[0] == found[1] == found[2]


def test_members_too_large_to_count_are_told(tmp_path: Path) -> None:
    text = "preset: gru\naxes: {arch.d_model: [64, 10000000000]}"
    with pytest.raises(UsageError, match=r"2\^62 parameters"):
        _ = load_space(written(tmp_path, text)).params
    text = "preset: llama\naxes: {v: {path: arch.vocab_size, values: [8192, 99999999999999999999]}}"
    with pytest.raises(UsageError, match="too large"):
        load_space(written(tmp_path, text)).where("vocab_size > 3")


def test_structures_of_the_grids_stay() -> None:
    """What they were before declared spaces got theirs, so that no old split changes."""
    import hashlib

    digests = [hashlib.sha256(s.structures().tobytes()).hexdigest()[:16]
               for s in (reasonable(), full())]  # fmt: skip
    assert digests == ["afa5763d137d9f0c", "12bdd6318db6daf2"]


def test_sizes_in_conditions_are_those_of_the_members(tmp_path: Path) -> None:
    text = "preset: llama\naxes:\n  arch.vocab_size: [8192, 16384]\n  arch.d_model: [64]\n"
    space = load_space(written(tmp_path, text))
    assert [m.values["vocab_size"] for m in space.where("vocab_size == 8192")] == [8192]
    assert space.column("vocab_size").tolist() == [8192, 16384]
    assert space[0].params != space[1].params
    aliased = load_space(written(tmp_path, text.replace(
        "arch.vocab_size: [8192, 16384]", "v: {path: arch.vocab_size, values: [8192, 16384]}"
    )))  # fmt: skip
    assert aliased.column("vocab_size").tolist() == [8192, 16384]
    assert len(aliased.where("vocab_size > 10k and params > 0")) == 1
    plain = load_space(written(tmp_path, "preset: llama\naxes: {arch.d_model: [64, 128]}\n"))
    assert plain.column("vocab_size").tolist() == [4096, 4096], "the tokenizer's"
    assert plain.column("max_seq_len").tolist() == [plain[0].arch.max_seq_len] * 2
    assert len(plain.where("vocab_size == 50257")) == 0
    text = "preset: llama\naxes:\n  data.tokenizer.vocab_size: [300, 400]\n"
    tokens = load_space(written(tmp_path, text))
    assert tokens.column("vocab_size").tolist() == [300, 400]
    assert tokens[1].params - tokens[0].params == 2 * 100 * tokens[0].arch.d_model
    family = """\
family: lstm
axes: {d_model: [8], n_layer: [1], p_drop: [0.0], tie_weights: [true], v: {path: arch.vocab_size,
  values: [8192, 16384]}}
where: vocab_size == 16384
"""
    member = load_space(written(tmp_path, family))[0]
    assert (member.config["v"], member.config["vocab_size"]) == (16384, 16384)
    assert member.params == 16384 * 8 + 4 * (2 * 64 + 2 * 8)


def test_counts_tell_vocabularies_apart_that_structures_do_not(tmp_path: Path) -> None:
    text = "preset: mini_gpt\naxes: {arch.vocab_size: [5000, 6000], arch.d_model: [64]}\n"
    space = load_space(written(tmp_path, text))
    assert space.params.tolist() == [m.params for m in space]
    assert space.params[1] - space.params[0] == 1000 * 64
    assert space[0].structure == space[1].structure == space.structures()[0]


def test_many_values_are_hashed_at_once(tmp_path: Path) -> None:
    text = """\
preset: gru
axes:
  arch.d_model: {from: 1, to: 3000}
  arch.layers[0].repeat: {from: 1, to: 300}
"""
    space = load_space(written(tmp_path, text))
    structures = space.structures()
    assert len(np.unique(structures)) == len(space) == 900_000
    picked = space[np.array([5, 70_000, -1])]
    assert [m.structure for m in picked] == picked.structures().tolist()
    assert picked.structures().tolist() == structures[[5, 70_000, -1]].tolist()


def test_a_union_of_overlapping_files_keeps_twins_together(tmp_path: Path) -> None:
    first = load_space(written(tmp_path, f"name: a\npreset: llama\n{WIDTHS}\n"))
    second = load_space(written(tmp_path, f"name: b\npreset: llama\n{WIDTHS}\n"))
    assert len(np.unique(union("both", first, second).structures())) == 4


def test_a_foreign_family_changes_no_structure_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one whose members cannot be made up, nor one that makes those of a built-in one."""
    text = "preset: lstm\naxes: {arch.d_model: [64, 96], 'arch.layers[0].repeat': [2, 3]}\n"
    before = load_space(written(tmp_path, text)).structures().tolist()
    lstm = family_of("lstm")

    class Broken(type(lstm)):  # type: ignore[misc]
        name = "broken_stack"

        def arch(self, values: Any) -> dict[str, Any]:
            raise ZeroDivisionError

    class Same(type(lstm)):  # type: ignore[misc]
        name = "same_stack"

        def arch(self, values: Any) -> dict[str, Any]:
            return {**super().arch(values), "preset": "lstm"}

    for kind in (Broken, Same):
        monkeypatch.setitem(_FAMILIES, kind.name, kind())
    assert load_space(tmp_path / "space.yaml").structures().tolist() == before
    grid = reasonable().where("family == lstm and d_model == 64 and n_layer == 2")
    assert before[0] in grid.structures().tolist()


def test_a_space_can_be_sent_to_another_process(tmp_path: Path) -> None:
    space = load_space(written(tmp_path, f"preset: llama\n{WIDTHS}\n"))
    structures = space.structures().tolist()
    again = copy.deepcopy(space)
    assert again.structures().tolist() == structures
    assert again.blocks == space.blocks


RUN = """\
arch:
  d_model: 32
  vocab_size: 300
  layers:
    - {repeat: 2, mixer: {type: attention, num_heads: 4}, mlp: dense}
    - {mixer: {type: attention, num_heads: 2, bias: true}, mlp: {type: glu, ratio: 2}}
data: {tokenizer: {type: bpe, vocab_size: 300}}
"""
AXES = {
    "arch.d_model": ("32", "64"),
    "arch.vocab_size": ("auto", "300", "320"),
    "data.tokenizer.vocab_size": ("300", "320"),
    "arch.layers[0]": ("{mixer: {num_heads: 4}}", "{mixer: {num_heads: 4, dropout: 0.1}}", "gru"),
    "arch.layers[0].repeat": ("1", "2", "3"),
    "arch.layers[*].mixer.bias": ("true", "false"),
    "arch.layers[-1].mixer": ("attention", "{type: attention, num_heads: 2}", "lstm"),
    "arch.layers[1].mixer.num_heads": ("2", "4"),
    "arch.layers[*].mlp": ("dense", "glu", "{type: dense, dropout: 0.2}"),
    "arch.layers[1].mlp.ratio": ("2", "2.5"),
    "arch.layers[*].norm": ("rmsnorm", "{type: layernorm, placement: post}"),
    "arch.layers[*].placement": ("pre", "post"),
    "arch.layers[*].dropout": ("0.0", "0.5"),
    "arch.embedding": ("{tie: true}", "{tie: true, dropout: 0.3}", "{tie: false}"),
    "arch.embedding.tie": ("true", "false"),
    "train.lr": ("1e-3", "1e-2"),
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(AXES)), min_size=1, max_size=4, unique=True), st.data())
def test_structures_are_those_of_each_members_own_entries(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], data: st.DataObject
) -> None:
    """The sums over axes against the entries of every member, each read on its own."""
    folder = tmp_path_factory.mktemp("space")
    written(folder, RUN, "run.yaml")
    lines = []
    for number, path in enumerate(paths):
        values = data.draw(st.permutations(AXES[path]))
        lines.append(f"  a{number}: {{path: '{path}', values: [{', '.join(values)}]}}")
    text = "base: run.yaml\naxes:\n" + "\n".join(lines) + "\n"
    try:
        space = load_space(written(folder, text))
    except UsageError:  # a path that two axes set, or a first member that is no architecture
        assume(False)
    structures = space.structures().tolist()
    alone: dict[str, int] = {}
    found = []
    for member, structure in zip(space, structures, strict=True):
        try:
            key = str(sorted(entries(member.document, folder).items(), key=str))
        except UsageError:
            continue
        found.append(structure)
        assert alone.setdefault(key, structure) == structure
    assert len(set(found)) == len(alone)
