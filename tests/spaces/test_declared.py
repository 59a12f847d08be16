"""Spaces in YAML: counts against loops, and every mistake with its place."""

from pathlib import Path

import pytest

from windtunnel.arch import resolve
from windtunnel.errors import UsageError
from windtunnel.spaces.declared import load_space

LLAMAS = """\
name: shallow
preset: llama
axes:
  arch.d_model: [64, 96, 128]
  train.lr: [1e-3, 3e-3]
  heads: {path: 'arch.layers[*].mixer.num_heads', values: [2, 4, 6]}
  arch.layers[0].repeat: {from: 1, to: 5, step: 2}
  arch.layers[0].mlp.activation: [silu, gelu]
where: [d_model % heads == 0, repeat * d_model <= 300 or activation == gelu]
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "space.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_counts_are_exact_under_conditions(tmp_path: Path) -> None:
    space = load_space(written(tmp_path, LLAMAS))
    expected = {
        (d, lr, heads, repeat, activation)
        for d in (64, 96, 128) for lr in (1e-3, 3e-3) for heads in (2, 4, 6)
        for repeat in (1, 3, 5) for activation in ("silu", "gelu")
        if d % heads == 0 and (repeat * d <= 300 or activation == "gelu")
    }  # fmt: skip
    names = ("d_model", "lr", "heads", "repeat", "activation")
    found = [tuple(member.values[name] for name in names) for member in space]
    assert len(found) == len(space) == len(expected)
    assert set(found) == expected
    for member in (space[3], space[-1]):
        layer = member.arch.layers[0]
        assert member.arch.d_model == member.values["d_model"]
        assert (layer.repeat, layer.mlp.activation) == (
            member.values["repeat"], member.values["activation"],
        )  # fmt: skip
        assert resolve(member.arch, 100).layers[0].mixer.num_heads == member.values["heads"]
        assert member.document.tree["train"]["lr"] == member.values["lr"]
        assert space.find(member.name) == member
    counted = space.where("params < 700k and heads == 2")
    assert [m.index for m in counted] == [
        m.index for m in space if m.values["heads"] == 2 and m.params < 700_000
    ]
    assert 0 < len(counted) < len(space)


def test_a_union_of_families_and_grids(tmp_path: Path) -> None:
    text = """\
name: both
vocab_size: 500
max_seq_len: 64
where: params < 1M
union:
  - {name: tiny, family: lstm, axes: {d_model: [32, 64], n_layer: {from: 1, to: 3},
     p_drop: [0, 0.1], tie_weights: [true]}}
  - family: mini_gpt
    axes: {n_head: [2, 3, 4, 32], d_model: [32, 48], n_layer: [2], ff_ratio: [4], p_drop: [0.1],
           tie_weights: [true]}
    where: n_layer * d_model <= 96 and n_head < 32
    name: mine
  - {space: reasonable, where: d_model == 64}
"""
    space = load_space(written(tmp_path, text))
    grid = load_space("reasonable", vocab_size=500, max_seq_len=64)
    rest = len(grid.where("d_model == 64 and params < 1M"))
    assert len(space) == 2 * 3 * 2 + 2 + 3 + rest
    assert space[0].name == "tiny-001-32d-1L-d0-tTrue"
    assert [(m.values["d_model"], m.values["n_head"]) for m in space[12:17]] == [
        (32, 2), (32, 4), (48, 2), (48, 3), (48, 4),
    ]  # fmt: skip
    assert space[17].name == grid[0].name
    assert int(space.params.max()) < 1_000_000


def test_a_huge_space_is_never_gone_through(tmp_path: Path) -> None:
    text = """\
preset: gru
axes:
  arch.d_model: {from: 64, to: 2047}
  train.seed: {from: 0, to: 99999}
  arch.layers[0].repeat: {from: 1, to: 200}
where: d_model % repeat == 0
"""
    space = load_space(written(tmp_path, text))
    pairs = sum(d % r == 0 for d in range(64, 2048) for r in range(1, 201))
    assert len(space) == pairs * 100_000
    member = space.shuffled(1)[12345]
    assert member.values["d_model"] % member.values["repeat"] == 0
    assert space.find(member.name) == member
    with pytest.raises(UsageError, match="a condition is tried on at most"):
        space.where("seed == 3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset: lama\n", "space.yaml:1:1: preset: unknown preset 'lama'; did you mean 'llama'?"),
        ("axis: {}\n", "space.yaml:1:1: axis: unknown key; did you mean 'axes'?"),
        ("axes: {}\n", "needs one of preset, base, family or space, not none"),
        ("preset: gru\nfamily: lstm\n", "space.yaml:2:1: family: needs one of"),
        ("arch: {}\n", "is a run file's; a space names one as `base: run.yaml`"),
        ("preset: gru\naxes:\n  d_modl: [1]\n", "space.yaml:3:3: axes.d_modl: is no path such as"),
        ("preset: gru\naxes:\n  arch.d_modl: [1]\n", "space.yaml:3:16: arch.d_modl: unknown key"),
        ("preset: gru\naxes: {arch.d_model: 3}\n", "takes a list of values"),
        ("preset: gru\naxes: {arch.d_model: [3, 3]}\n", "has the value 3 twice"),
        ("preset: gru\naxes: {arch.d_model: {from: 3, to: 1}}\n", "from ≤ to"),
        ("preset: gru\naxes: {w: {path: arch.d_model}}\n", "takes path (or paths) and values"),
        ("preset: gru\naxes: {arch.d_model: [8]}\nwhere: d_mod > 3\n", "did you mean 'd_model'"),
        ("preset: gru\naxes: {arch.d_model: [8]}\nwhere: d_model >\n", "space.yaml:3:1: where: "),
        ("family: lsm\n", "unknown family 'lsm'; did you mean 'lstm'?"),
        ("family: lstm\naxes: {d_model: [8]}\n", "needs values of n_layer, p_drop, tie_weights"),
        ("union: [{space: full}]\npreset: gru\n", "stands beside `union`"),
        ("space: space.yaml\n", "is a space of itself"),
        ("base: missing.yaml\n", "missing.yaml: No such file"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_space(written(tmp_path, text))
    assert message in str(error.value)


def test_a_family_of_ones_own_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        '''"""A family."""
from windtunnel.spaces import Family, register


@register
class Gated(Family):
    name = "gated_stack"
    axes = ("d_model", "p_drop")
    parts = {"d_model": "{}d", "p_drop": "d{}"}

    def params(self, values):
        return values["vocab_size"] * values["d_model"] + 6 * (values["d_model"] ** 2
                                                               + values["d_model"])

    def arch(self, values):
        return {"preset": "gru", "vocab_size": values["vocab_size"],
                "d_model": values["d_model"], "set": {"layers[0].repeat": 1}}
''',
        encoding="utf-8",
    )
    text = "plugins: [mine.py]\nfamily: gated_stack\naxes: {d_model: [8, 16], p_drop: [0.0, 0.1]}\n"
    space = load_space(written(tmp_path, text), vocab_size=300)
    assert [m.name for m in space[:2]] == ["space-001-8d-d0", "space-002-8d-d0.1"]
    from windtunnel.arch import cost

    for member in space:
        assert int(cost(member.architecture).total.params) == member.params
    assert space[0].structure == space[1].structure != space[2].structure
