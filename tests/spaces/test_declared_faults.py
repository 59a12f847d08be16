"""Declared spaces: what used to be wrong or a traceback, each fault with what it must be now."""

from pathlib import Path

import numpy as np
import pytest

from windtunnel.cli.spacing import statistics
from windtunnel.errors import UsageError
from windtunnel.spaces.declared import load_space

LSTM = {"d_model": "[64]", "n_layer": "[1]", "p_drop": "[0.0]", "tie_weights": "[true]"}
GPT = {**LSTM, "n_head": "[2]", "ff_ratio": "[4]"}


def written(folder: Path, text: str, name: str = "space.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def of_family(family: str, **axes: str) -> str:
    values = {**(GPT if family == "mini_gpt" else LSTM), **axes}
    lines = "".join(f"  {name}: {value}\n" for name, value in values.items())
    return f"family: {family}\naxes:\n{lines}"


def test_conditions_that_leave_nothing_leave_an_empty_space(tmp_path: Path) -> None:
    text = "preset: llama\naxes: {arch.d_model: [64, 128]}\nwhere: d_model > 1000\n"
    space = load_space(written(tmp_path, text))
    assert len(space) == 0
    assert space.params.tolist() == space.structures().tolist() == []
    assert statistics(space)["count"] == 0
    assert len(space.where("params < 3 or vocab_size == 4096")) == 0
    assert space.blocks[0].num_structures() == 0
    assert {n: len(s) for n, s in space.split({"a": 0.5, "b": 0.5}).items()} == {"a": 0, "b": 0}


def test_a_space_without_axes_has_one_member(tmp_path: Path) -> None:
    space = load_space(written(tmp_path, "preset: llama\n"))
    assert space.params.tolist() == [space[0].params]
    assert len(space.where("params > 0")) == 1


def test_the_part_of_a_condition_about_axes_shapes_the_product(tmp_path: Path) -> None:
    text = """\
preset: llama
axes:
  arch.d_model: [64, 128]
  heads: {path: 'arch.layers[*].mixer.num_heads', values: [6, 4]}
where: d_model % heads == 0 and params < 1B
"""
    space = load_space(written(tmp_path, text))
    assert [(m.values["d_model"], m.values["heads"]) for m in space] == [(64, 4), (128, 4)]
    few = load_space(written(tmp_path, text.replace("1B", "1M")))
    assert [m.values["d_model"] for m in few] == [64]
    assert space.params[0] < 1_000_000 < space.params[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (of_family("lstm", d_model="[abc]"), "3:13: axes.d_model[0]: family lstm: d_model takes"),
        (of_family("lstm", d_model="[8, null]"), "whole numbers from 1 to 2^31 - 1, not None"),
        (of_family("lstm", d_model="[-5]"), "from 1 to 2^31 - 1, not -5"),
        (of_family("lstm", d_model="[0]"), "from 1 to 2^31 - 1, not 0"),
        (of_family("lstm", d_model="{from: 0, to: 3}"), "axes.d_model[0]: family lstm: d_model"),
        (of_family("lstm", tie_weights="[maybe]"), "tie_weights takes true and false, not 'maybe'"),
        (of_family("mini_gpt", n_head="[two]"), "n_head takes whole numbers"),
        (of_family("mini_gpt", n_head="[0, 2]"), "n_head takes whole numbers"),
        (of_family("mini_gpt", n_head="[2.0]"), "n_head takes whole numbers"),
        (of_family("lstm", n_layer="[1.5]"), "n_layer takes whole numbers from 1 to 100,000"),
        (of_family("lstm", p_drop="[2.0]"), "p_drop takes numbers from 0 to below 1, not 2.0"),
        (of_family("lstm", p_drop="[a, b]"), "p_drop takes numbers"),
        (of_family("lstm", **{"train.lrr": "[1.0]"}), "space.yaml:7:14: train.lrr: unknown key"),
        (of_family("lstm", **{"train.lr": "[1e-3, .nan]"}), "the value nan: no finite number"),
        (of_family("lstm", **{"train.lr": "[word]"}), "space.yaml:7:13: train.lr: "),
        (of_family("lstm", **{"arch.d_model": "[32]"}), "7:3: axes.arch.d_model: arch.d_model is a "
         "path set by two axes, d_model and arch.d_model"),
        (of_family("lstm", **{"arch.layers": "[[gru]]"}), "path set by two axes, n_layer and"),
        ("space: reasonable\naxes: {train.lrr: [1.0]}\n", "space.yaml:2:19: train.lrr: unknown"),
        ("space: reasonable\naxes: {arch.d_model: [64]}\n", "path set by two axes, d_model and"),
        ("preset: llama\naxes: {train.lr: [.inf]}\n", "2:8: axes.train.lr: axis train.lr has"),
        ("preset: llama\naxes:\n  a: {path: arch.d_model, values: [64, 128]}\n"
         "  b: {path: arch.d_model, values: [32, 48]}\n", "4:3: axes.b: arch.d_model is a path set "
         "by two axes, a and b"),
        ("preset: llama\naxes:\n  arch.layers[0].mixer.num_heads: [2, 4]\n"
         "  arch.layers[0].mixer: [attention]\n", "4:3: axes.arch.layers[0].mixer: "
         "arch.layers[0].mixer.num_heads is a path set by two axes, num_heads and mixer"),
        ("preset: llama\naxes:\n  arch.layers[*].repeat: [2, 4]\n"
         "  arch.layers[0].repeat: [2]\n", "arch.layers[0].repeat is a path set by two axes"),
        ("preset: llama\naxes: {train.ema: [{decay: .nan}]}\n", "no finite number"),
        ("preset: llama\naxes: {arch.d_model: [64, 64.0]}\n", "has the value 64.0 twice"),
    ],
)  # fmt: skip
def test_a_wrong_axis_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_space(written(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_layer_of_many_may_have_an_axis_of_its_own(tmp_path: Path) -> None:
    run = "arch: {d_model: 32, layers: [{mixer: {num_heads: 4}}, {mixer: {num_heads: 4}}]}\n"
    written(tmp_path, run, "run.yaml")
    text = """\
base: run.yaml
axes:
  all: {path: 'arch.layers[*].mixer.num_heads', values: [2, 4]}
  first: {path: 'arch.layers[0].mixer.num_heads', values: [2, 8]}
"""
    space = load_space(written(tmp_path, text))
    found = [[layer.mixer.num_heads for layer in m.arch.layers] for m in space]  # type: ignore[attr-defined]
    assert found == [[2, 2], [8, 2], [2, 4], [8, 4]]
    assert len(np.unique(space.structures())) == 4


def test_a_vast_space_is_refused_and_a_large_one_sampled(tmp_path: Path) -> None:
    numbers = "{from: 1, to: 90000}"
    vast = of_family("lstm", d_model=numbers, n_layer=numbers, **{
        "train.steps": numbers, "train.seed": numbers
    })  # fmt: skip
    with pytest.raises(UsageError, match=r"65,610,000,000,000,000,000 members; a space may have"):
        load_space(written(tmp_path, vast))
    text = of_family("lstm", d_model=numbers, n_layer="{from: 1, to: 20000}")
    space = load_space(written(tmp_path, text))
    assert len(space) == 1_800_000_000
    found = statistics(space)
    assert (found["count"], found["counted"]) == (1_800_000_000, 100_000)
    sample = space.sample(40, seed=1)
    assert [m.params for m in sample] == sample.params.tolist()
    assert len(sample) == 40
    assert (np.diff(sample.indices()) > 0).all()
    part = space.shuffled(3)[:1000].where("d_model > 45k")
    assert 400 < len(part) < 600
    assert min(m.values["d_model"] for m in part) > 45_000
    for action in (space.indices, space.structures, lambda: space.split({"a": 1.0}),
                   lambda: space.where("d_model > 3")):  # fmt: skip
        with pytest.raises(UsageError, match=r"at most|tried on"):
            action()
    most = load_space(written(tmp_path, text.replace("[true]", "[true]\n  train.seed: [1, 2]")))
    assert most.find(most[2_999_999_999].name).index == 2_999_999_999


def test_parts_of_one_grid_are_joined(tmp_path: Path) -> None:
    text = """\
union:
  - {space: reasonable, where: family == lstm and params < 20M}
  - {space: reasonable, where: 'family in [lstm, gru]'}
"""
    grid = load_space("reasonable")
    space = load_space(written(tmp_path, text))
    assert [m.name for m in space] == [m.name for m in grid.where("family in [lstm, gru]")]
    named = """\
union:
  - {name: mine, space: reasonable, where: family == gru}
  - {space: reasonable, where: 'family in [lstm, gru]'}
"""
    both = load_space(written(tmp_path, named))
    assert len(both) == 3 * 448
    assert both[0].name == f"mine-{grid.where('family == gru')[0].name}"
    assert both[0].structure == both[448 * 2].structure
    assert both.find(both[5].name) == both[5]
    assert len(np.unique(both.structures())) == 2 * 112
    whole = load_space(written(tmp_path, "name: mine\nspace: reasonable\n"))
    assert (whole.name, whole[0].name) == ("mine", "mine-rnn-001-64d-1L-d0.0-tTrue")
    assert whole.structures().tolist() == grid.structures().tolist()


def test_a_second_condition_looks_at_what_the_first_left(tmp_path: Path) -> None:
    text = """\
preset: gpt2
axes:
  arch.d_model: {from: 64, to: 12800, step: 64}
  arch.layers[0].repeat: {from: 1, to: 150}
"""
    space = load_space(written(tmp_path, text))
    with pytest.raises(UsageError, match="at most 20,000"):
        space.where("params < 1M")
    once = space.where("d_model < 256 and repeat < 4 and params < 1M")
    twice = space.where("d_model < 256 and repeat < 4").where("params < 1M")
    assert once.indices().tolist() == twice.indices().tolist()
    assert 0 < len(once) < 9
    turned = space.where("d_model < 256 and repeat < 4").shuffled(1).where("params < 1M")
    assert sorted(turned.indices().tolist()) == once.indices().tolist()


GATED = """
from windtunnel.spaces import Family, register


@register
class Gated(Family):
    name = "gated_area"
    axes = ("d_model", "p_drop")
    parts = {"d_model": "{}d", "p_drop": "d{}"}

    def params(self, values):
        return values["vocab_size"] * values["d_model"]

    def derived(self, values):
        return {"area": values["d_model"] ** 2}

    def arch(self, values):
        return {"preset": "gru", "d_model": values["d_model"]}
"""


def test_what_a_family_derives_may_stand_in_conditions(tmp_path: Path) -> None:
    written(tmp_path, GATED, "gated.py")
    text = """\
plugins: [gated.py]
family: gated_area
axes: {d_model: [64, 128], p_drop: [0.0, 0.1]}
where: area > 5000 and d_model * 2 == 256
"""
    assert [m.values["p_drop"] for m in load_space(written(tmp_path, text))] == [0.0, 0.1]


def test_a_plugin_cannot_take_a_built_in_familys_place(tmp_path: Path) -> None:
    written(tmp_path, GATED.replace("Gated(", "LSTM(").replace("gated_area", "lstm"), "own.py")
    text = f"plugins: [own.py]\n{of_family('lstm')}"
    with pytest.raises(UsageError, match=r"1:11: plugins\[0\].*family named 'lstm' is there"):
        load_space(written(tmp_path, text))
    assert load_space("reasonable").where("family == lstm")[0].params > 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset: llama\naxes: {arch.d_model: [8]}\nwhere: d_modle > 3\n", "3:1: where: condition"),
        ("preset: llama\nwhere: [params > 0, zzz == 1]\n", "2:21: where[1]: condition 'zzz == 1'"),
        (of_family("lstm") + "where: d_modell > 3\n", "7:1: where: condition"),
        ("where: family == lsmt\nspace: reasonable\n", "1:1: where: condition"),
        ("family: lstmm\n", "space.yaml:1:1: family: unknown family 'lstmm'"),
        ("family: lstm\naxes: {d_model: [8]}\n", "space.yaml:1:1: family: family lstm needs"),
        ("preset: llama\naxes:\n  arch..d_model: [64]\n", "3:3: arch..d_model: is not a"),
        ("preset: llama\naxes:\n  'arch.layers[': [64]\n", "3:3: arch.layers[: is not a"),
        ("union:\n- {preset: gru}\n- {preset: gru, axes: {arch.d_model: [64]}}\n", "1:1: union: "
         "two parts name their members gru-"),
        ("union:\n- {space: resonable}\n", "space.yaml:2:4: union[0].space: unknown space"),
        ("name: x\nbase: nope.yaml\n", "space.yaml:2:1: base: "),
        ("preset: llama\nplugins: [nope.py]\n", "space.yaml:2:11: plugins[0]: plugin nope.py: no"),
        ("preset: llama\naxes:\n  'w{0}': {path: arch.d_model, values: [64]}\n", "3:3: axes.w{0}: "
         "is no name for an axis"),
        ("preset: llama\naxes:\n  a-b: {path: arch.d_model, values: [64]}\n", "axes.a-b: is no"),
        ("preset: llama\naxes:\n  not: {path: arch.d_model, values: [64]}\n", "axes.not: is no"),
        ("preset: llama\naxes:\n  params: {path: arch.d_model, values: [64]}\n", "axes.params: "
         "params has a meaning of its own"),
        ("preset: llama\naxes:\n  family: {path: arch.d_model, values: [64]}\n", "of its own"),
        ("preset: llama\naxes:\n  name: {path: arch.d_model, values: [64]}\n", "of its own"),
        ("preset: llama\naxes:\n  vocab_size: {path: arch.d_model, values: [64]}\n", "of its own"),
        (of_family("mini_gpt", d_ff="{path: train.steps, values: [64]}"), "axes.d_ff: d_ff has a"),
        ("space: reasonable\naxes: {d_ff: {path: train.steps, values: [64]}}\n", "axes.d_ff: d_ff"),
    ],
)  # fmt: skip
def test_every_mistake_has_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_space(written(tmp_path, text))
    assert message in str(error.value)
    assert str(tmp_path / "space.yaml") in str(error.value)


def test_an_axis_may_be_called_what_its_path_is(tmp_path: Path) -> None:
    text = "preset: llama\naxes:\n  vocab_size: {path: arch.vocab_size, values: [5000, 6000]}\n"
    assert load_space(written(tmp_path, text)).column("vocab_size").tolist() == [5000, 6000]


def test_a_selection_of_another_space_may_have_more_axes(tmp_path: Path) -> None:
    inner = "preset: llama\naxes: {arch.d_model: [64, 96, 128]}\nwhere: params > 800k\n"
    written(tmp_path, inner, "inner.yaml")
    text = "space: inner.yaml\naxes: {train.lr: [1e-3, 2e-3], train.steps: [5]}\nwhere: lr < 2e-3\n"
    space = load_space(written(tmp_path, text))
    assert [(m.values["d_model"], m.values["lr"]) for m in space] == [(96, 1e-3), (128, 1e-3)]
    text = "space: reasonable\naxes: {train.lr: [1e-3, 2e-3]}\nwhere: family == gru\n"
    written(tmp_path, text, "grus.yaml")
    twice = "space: grus.yaml\naxes: {train.seed: [1, 2, 3]}\n"
    grid = load_space("reasonable").where("family == gru")
    both = load_space(written(tmp_path, twice))
    assert both.params.tolist() == np.repeat(grid.params, 6).tolist()
    assert [m.values["seed"] for m in both[5:8]] == [3, 1, 2]
    assert both.find(both[100].name) == both[100]
    assert both[3].name == "gru-900-64d-1L-d0.0-tTrue-lr=0.002-seed=1"


HEADS = """\
preset: llama
axes:
  arch.d_model: [64, 96]
  heads: {path: 'arch.layers[*].mixer.num_heads', values: [8, 6]}
"""
RUN = """\
arch:
  d_model: 64
  layers:
    - {mixer: {type: attention, num_heads: 4}, mlp: {type: glu}}
    - {mixer: {type: attention, num_heads: 4}, mlp: {type: glu}}
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "preset: llama\naxes: {arch.d_model: [64, [1, 2]]}\n",
            "space.yaml:2:22: arch.d_model: expected an integer, not [1, 2]",
        ),
        (
            "preset: llama\naxes:\n  arch.d_model: {from: 64, to: 256, step: 64}\n"
            "  arch.layers[0].mixer.num_heads: [4, many]\nwhere: d_model > 64\n",
            "space.yaml:4:35: arch.layers[0].mixer.num_heads: expected an integer, not 'many'",
        ),
        (
            HEADS.replace("8, 6", "6, 8"),
            "space.yaml:4:10: arch.layers[0].mixer: num_heads 6 does not divide d_model 64",
        ),
        (
            "preset: gemma3\naxes:\n  arch.layers[0].mixer.num_heads: [4, 8]\n"
            "  arch.layers[1].mixer.num_heads: [7, 4]\n",
            "space.yaml:4:35: arch.layers[1].mixer: num_heads 7 does not divide",
        ),
        (
            "preset: llama\naxes:\n  arch.layers[0].mixer.window: [32, 64]\n"
            "  arch.layers[0].mixer.num_heads: [6, 4]\n",
            "space.yaml:4:35: arch.layers[0].mixer: num_heads 6 does not divide",
        ),
        (
            "base: run.yaml\naxes:\n  arch.d_model: [64]\n"
            "  arch.layers[-1].mixer.num_heads: [7, 4]\n",
            "space.yaml:4:36: arch.layers[1].mixer: num_heads 7 does not divide",
        ),
        (
            "base: run.yaml\naxes:\n  arch.layers[-1].mixer.num_heads: [4, 8, few]\n",
            "space.yaml:3:36: arch.layers[1].mixer.num_heads: expected an integer, not 'few'",
        ),
        (of_family("lstm", d_modl="[32]"), "no axis of the family; did you mean 'd_model'?"),
    ],
)
def test_a_wrong_value_is_told_at_its_axis(tmp_path: Path, text: str, told: str) -> None:
    written(tmp_path, RUN, "run.yaml")
    with pytest.raises(UsageError) as caught:
        load_space(written(tmp_path, text))
    assert told in str(caught.value)


def test_members_that_do_not_fit_together_may_be_left_out_by_any_condition(tmp_path: Path) -> None:
    fits = [(64, 8), (96, 8), (96, 6)]
    one = load_space(written(tmp_path, HEADS + "where: d_model % heads == 0\n"))
    assert [(m.values["d_model"], m.values["heads"]) for m in one] == fits
    whole = load_space(written(tmp_path, HEADS, "inner.yaml"))
    assert len(whole) == 4  # of which one is told when it is asked for
    with pytest.raises(UsageError, match="num_heads 6 does not divide d_model 64"):
        _ = whole[1].architecture
    text = "space: inner.yaml\nwhere: d_model % heads == 0\n"
    assert len(load_space(written(tmp_path, text))) == 3
    part = "".join(f"    {line}\n" for line in HEADS.splitlines()).replace("    p", "  - p", 1)
    text = f"union:\n{part}where: d_model % heads == 0\n"
    assert len(load_space(written(tmp_path, text))) == 3


def test_members_of_one_part_may_stand_on_both_sides_of_another(tmp_path: Path) -> None:
    """A union of selections of the same part keeps the order in which they come."""
    axes = "preset: llama, axes: {arch.d_model: [64, 128, 192]}"
    text = f"""\
union:
  - {{name: a, {axes}, where: d_model * 1 == 64 or params < 1}}
  - {{name: b, preset: gru, axes: {{arch.d_model: [64, 96, 128, 160]}}, where: params > 1}}
  - {{name: a, {axes}, where: d_model * 1 == 192 or params < 1}}
"""
    found = load_space(written(tmp_path, text))
    assert [m.name.split("-")[0] for m in found] == ["a", "b", "b", "b", "b", "a"]


def test_files_that_lead_back_to_themselves_are_told(tmp_path: Path) -> None:
    written(tmp_path, "space: two.yaml\n", "one.yaml")
    written(tmp_path, "space: one.yaml\n", "two.yaml")
    with pytest.raises(UsageError, match=r"one.yaml: is a space of itself"):
        load_space(tmp_path / "one.yaml")
