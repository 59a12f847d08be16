"""Which points an ablation has, and every way in which it has none."""

import json
from collections.abc import Callable, Sequence

import pytest

from windtunnel.config import parse_document
from windtunnel.errors import ConfigError, UsageError
from windtunnel.study.design import Design, Kind, Source, make_design
from windtunnel.study.families import FAMILIES, SIZES, family_grid, family_run, preset_set
from windtunnel.study.vary import parse_factors
from windtunnel.train.run_config import objective_config

ACTIVATION = "arch.layers[*].mlp.activation"
HEADS = "arch.layers[*].mixer.num_heads"
Make = Callable[..., Design]


@pytest.fixture
def make() -> Make:
    """A design over GPT-2's block; its own activation is gelu_tanh, its rate 1e-3."""

    def made(kind: Kind, *vary: str, skip_invalid: bool = False, edits: Sequence[str] = ()):
        tree = {
            "arch": {"preset": "gpt2", "d_model": 32},
            "train": {"steps": 50, "batch_size": 4, "seq_len": 32},
        }
        source = Source(parse_document(json.dumps(tree), "run.yaml"), tuple(edits))
        return make_design(source, parse_factors(vary), kind, skip_invalid=skip_invalid)

    return made


def names(design: Design) -> list[str]:
    return [run.name for run in design.runs]


def test_one_at_a_time_begins_with_the_file_itself(make: Make) -> None:
    design = make("one", f"{ACTIVATION}=[relu, gelu_tanh, silu]", "train.lr=3e-3")
    assert names(design) == ["gpt2", "activation=relu", "activation=silu", "lr=0.003"]
    assert [level.label for level in design.factors[0].levels] == ["gelu_tanh", "relu", "silu"]
    layers = [run.config.arch.layers[0].mlp.activation for run in design.runs]
    assert layers == ["gelu_tanh", "relu", "silu", "gelu_tanh"]
    assert [run.config.train.lr for run in design.runs] == [1e-3, 1e-3, 1e-3, 3e-3]
    assert design.params(design.points[0]) == {"activation": "gelu_tanh", "lr": 1e-3}


def test_a_grid_has_exactly_the_values_given(make: Make) -> None:
    design = make("grid", f"{ACTIVATION}=[relu, gelu_tanh, silu]", "train.lr=[1e-4, 3e-3]")
    assert len(design.points) == 6
    assert design.baseline == (1, 0)  # the file's activation; its rate is not among those given
    assert names(design)[0] == "activation=gelu_tanh, lr=0.0001"
    assert len(set(names(design))) == 6


def test_a_single_value_of_a_grid_stands_beside_the_files_own(make: Make) -> None:
    design = make("grid", f"{ACTIVATION}=relu", "train.lr=3e-3")
    assert len(design.points) == 4
    assert design.baseline == (0, 0)
    assert design.params((0, 1)) == {"activation": "gelu_tanh", "lr": 3e-3}


def test_both_directions(make: Make) -> None:
    vary = (f"{ACTIVATION}=relu", "train.lr=3e-3", "arch.layers[*].norm=rmsnorm")
    design = make("both", *vary)
    assert names(design) == [
        "gpt2", "activation=relu", "lr=0.003", "norm=rmsnorm", "all changes",
        "all but activation", "all but lr", "all but norm",
    ]  # fmt: skip
    full, without = design.runs[4].config, design.runs[6].config
    assert (full.train.lr, full.arch.layers[0].norm.type) == (3e-3, "rmsnorm")
    assert (without.train.lr, without.arch.layers[0].norm.type) == (1e-3, "rmsnorm")
    assert names(make("leave_one_out", *vary)) == names(design)[4:]
    assert names(make("both", *vary[:2])) == ["gpt2", "activation=relu", "lr=0.003", "all changes"]


def test_parts_are_replaced_before_something_in_them_is_changed(make: Make) -> None:
    design = make("grid", "arch.layers[*].mlp.ratio=[2, 3]", "arch.layers[*].mlp=[glu, dense]")
    found = [(run.config.arch.layers[0].mlp.type, run.config.arch.layers[0].mlp.ratio)
             for run in design.runs]  # fmt: skip
    assert sorted((kind, float(ratio)) for kind, ratio in found) == [
        ("dense", 2), ("dense", 3), ("glu", 2), ("glu", 3)
    ]  # fmt: skip


def test_edits_come_first_and_make_the_files_own_value(make: Make) -> None:
    design = make("one", "train.lr=[1e-3, 3e-3]", edits=["train.lr=3e-3"])
    assert names(design) == ["gpt2", "lr=0.001"]


def test_layers_that_differ_have_no_single_own_value(make: Make) -> None:
    edits = ["arch.layers=[{mixer: gru}, {mixer: lstm}]"]
    design = make("one", "arch.layers[*].mixer=[rnn]", edits=edits)
    assert [level.label for level in design.factors[0].levels] == ["own", "rnn"]
    assert [layer.mixer.type for layer in design.runs[0].config.arch.layers] == ["gru", "lstm"]


def test_every_mistake_of_every_level_at_once(make: Make) -> None:
    with pytest.raises(ConfigError) as caught:
        make(
            "one", f"{ACTIVATION}=[relu, geglu]", "train.lr=fast", f"{HEADS}=[3]",
            "train.log_evry=3", "arch.layrs[*].norm=rmsnorm",
        )  # fmt: skip
    lines = str(caught.value).splitlines()
    expected = [
        "--vary activation=geglu: arch.layers[0].mlp.activation: 'geglu' is not allowed; did you ",
        "--vary lr=fast: train.lr: expected a number, not 'fast'",
        "--vary num_heads=3: arch.layers[0].mixer: num_heads 3 does not divide d_model 32",
        "--vary log_evry=3: train.log_evry: unknown key; did you mean 'log_every'?",
        "--vary norm=rmsnorm: arch.layrs: is not a list",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("kind", "vary", "message"),
    [
        ("one", ["train.lr=1e-3"], "the only value, 0.001, is the file's own"),
        ("one", ["arch.layers[*].mixer.window=1000"], "has no effect up to max_seq_len"),
        ("one", ["arch.layers[*].mixer.num_kv_heads=[2, 4]",
                 "arch.layers[*].mixer.window=[8, 8.0]"], "has the value 8 twice"),
        ("one", ["arch.layers[*].mlp=[glu, {type: glu}]"], "glu and glu #2 give the same run"),
        ("one", ["train.betas=[[0.5, 0.9]]", "train.optimizer=[lion]",
                 "train.eps=1e-7"], ""),
        ("both", [f"{ACTIVATION}=[relu, silu]", "train.lr=1"], "needs one changed value; these"),
        ("leave_one_out", ["train.lr=1"], "needs at least 2"),
        ("grid", [f"train.lr=[{', '.join(f'1e-{i}' for i in range(1, 9))}]",
                  f"train.eps=[{', '.join(f'1e-{i}' for i in range(1, 30))}]",
                  f"train.clip=[{', '.join(map(str, range(1, 30)))}]"], "6,728 points"),
        ("one", [], "nothing is varied"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_ablation(make: Make, kind: Kind, vary: list[str], message: str) -> None:
    if not message:
        make(kind, *vary)
        return
    with pytest.raises(UsageError) as caught:
        make(kind, *vary)
    assert message in str(caught.value)


def test_invalid_points_are_an_error_or_left_out(make: Make) -> None:
    grid = ("grid", f"{HEADS}=[2, 3, 4]", "arch.d_model=[32, 48]")
    with pytest.raises(
        ConfigError, match=r"num_heads=3, d_model=32: .*num_heads 3 does not divide"
    ):
        make(*grid)
    design = make(*grid, skip_invalid=True)
    assert len(design.points) == 5
    assert [design.shown(s.point) for s in design.skipped] == ["num_heads=3, d_model=32"]
    assert "does not divide d_model 32" in design.skipped[0].reason
    with pytest.raises(ConfigError, match="unknown key"):  # a typo is never left out
        make("grid", "train.stepz=[1, 2]", "arch.d_model=[32, 48]", skip_invalid=True)
    with pytest.raises(ConfigError, match=r"\(so at 2 points\)\n--skip-invalid leaves such"):
        make("grid", f"{HEADS}=[2, 5]", "train.lr=[1e-3, 1e-2]")
    with pytest.raises(ConfigError, match="the reference, num_heads=5, d_model=32, is not valid"):
        make("grid", f"{HEADS}=[5, 6]", "arch.d_model=[32, 60]", skip_invalid=True)


def test_long_names_become_numbers(make: Make) -> None:
    long = [f"k{i}: {{train.lr: 0.{i}{'1' * 30}, train.{key}: 0.{i}}}" for i, key in
            enumerate(("clip", "weight_decay", "eps"), start=1)]  # fmt: skip
    with pytest.raises(ConfigError, match=r"train\.lr: is varied twice"):
        make("grid", *long)
    design = make("grid", *(f"train.{key}=[0.{'1' * 38}, 0.5]" for key in ("clip", "eps", "lr")))
    assert all(len(name) <= 100 for name in names(design))
    assert len(set(names(design))) == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_the_grids_of_the_families_have_their_size(family: str) -> None:
    design = make_design(Source(family_run(family, "small")), family_grid(family), "grid")
    total = {"gpt": 243, "transformer": 243, "rnn": 81, "lstm": 162}[family]
    assert len(design.points) + len(design.skipped) == total
    assert len(design.skipped) == (81 if family == "lstm" else 0)
    for skipped in design.skipped:
        assert design.settings(skipped.point)["bidirectional"].value is True
        assert "would see the token" in skipped.reason
    params = [design.params(point) for point in design.points]
    assert len({json.dumps(p) for p in params}) == len(design.points)
    assert {p["lr"] for p in params} == {1e-4, 3e-4, 1e-3}
    assert {p["dropout"] for p in params} == {0.1, 0.2, 0.3}


def test_a_grid_varies_all_that_a_familys_word_means() -> None:
    design = make_design(
        Source(family_run("transformer", "default")), family_grid("transformer"), "grid"
    )
    for point, run in zip(design.points[::40], design.runs[::40], strict=True):
        wanted, arch = design.params(point), run.config.arch
        assert run.config.train.lr == wanted["lr"]
        assert arch.d_model == wanted["d_model"]
        for _, layers in arch.stacks:
            assert [layer.repeat for layer in layers] == [wanted["num_layers"]]
            assert layers[0].mixer.num_heads == wanted["num_heads"]
            assert layers[0].dropout == arch.embedding.dropout == wanted["dropout"]
        assert arch.decoder is not None
        assert arch.decoder.layers[0].cross.num_heads == wanted["num_heads"]


@pytest.mark.parametrize("size", SIZES)
def test_the_recipe_of_the_families(size: str) -> None:
    for run in preset_set(FAMILIES, size):
        train = run.config.train
        assert (train.lr, train.weight_decay, train.clip) == (3e-4, 0.01, 1.0)
        assert (train.schedule.type, train.schedule.warmup) == ("flat", 1000)
        assert (train.seq_len, train.batch_size) == SIZES[size]
        assert train.optimizer.type == "adamw"


def test_unknown_families_and_sizes() -> None:
    with pytest.raises(UsageError, match="did you mean 'lstm'"):
        family_grid("lstn")
    with pytest.raises(UsageError, match=r"no preset 'gtp-small': 'gtp'; did you mean 'gpt'"):
        preset_set(["gtp"], "small")
    with pytest.raises(UsageError, match="did you mean 'small'"):
        family_run("gpt", "smal")
    with pytest.raises(UsageError, match="twice"):
        preset_set(["gpt", "gpt"], "small")


def test_an_encoder_decoder_among_decoders_makes_all_count_what_it_writes() -> None:
    runs = preset_set(["gpt", "transformer", "lstm"], "small", ["data.tokenizer=bytes"])
    objectives = [objective_config(run.config) for run in runs]
    assert [o.type for o in objectives] == ["next_token", "seq2seq", "next_token"]
    assert [getattr(o, "source", None) for o in objectives] == [0.5, 0.5, 0.5]
    plain = preset_set(["gpt", "lstm"], "small")
    assert all(run.config.train.objective.type == "auto" for run in plain)
