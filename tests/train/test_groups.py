"""Rules for parameters by name: each in one group, and moved as its group says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from standins import ListBatches, TinyModel, learnable_batches, recipe
from torch import nn

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.config import parse_document
from windtunnel.errors import ConfigError, UsageError
from windtunnel.nn.mixers.attention import Attention
from windtunnel.train.checkpoint import load_newest, save_checkpoint
from windtunnel.train.group_config import GroupConfig
from windtunnel.train.groups import parameter_groups, rule_problems, without_effect
from windtunnel.train.loop import TrainState, create_train_state, train_steps
from windtunnel.train.optimizers.together import parts_of, tagged_names
from windtunnel.train.planned import groups_json, planned_groups, run_memory
from windtunnel.train.run_config import load_run_document

NAMES = ("embedding.weight", "gate", "mix.weight", "mix.bias", "norm.weight", "norm.bias")


def make(model: nn.Module | None = None, **changes: object) -> TrainState:
    config = recipe(**changes)
    return create_train_state(model or TinyModel(), ListBatches(learnable_batches()), config)


def take(state: TrainState, steps: int) -> None:
    for _, _ in zip(range(steps), train_steps(state), strict=False):
        pass


def changed(state: TrainState) -> set[str]:
    before = dict(TinyModel().named_parameters())
    return {n for n, p in state.weights.parameters.items() if not torch.equal(p, before[n])}


patterns = st.sampled_from(["*", "mix.*", "/norm|gate/", "*.weight", "embedding.weight", "gate"])


@settings(max_examples=50, deadline=None)
@given(
    rules=st.lists(
        st.builds(
            lambda match, lr, decay, optimizer: GroupConfig(
                match=match, lr=lr, weight_decay=decay, optimizer=optimizer
            ),
            patterns,
            st.floats(0.1, 10),
            st.none() | st.floats(0, 1),
            st.none() | st.sampled_from(["sgd", "lion", "muon"]),
        ),
        max_size=4,
    )
)
def test_every_parameter_is_in_one_group_and_the_last_rule_counts(
    rules: list[GroupConfig],
) -> None:
    shapes = {name: tuple(p.shape) for name, p in TinyModel().named_parameters()}
    groups = parameter_groups(recipe(groups=tuple(rules)), shapes)
    assert sorted(name for group in groups for name in group.names) == sorted(NAMES)
    for group in groups:
        for name in group.names:
            factors = [rule.lr for rule in rules if rule.matches(name)]
            assert group.treatment.lr == (factors[-1] if factors else 1.0)


def test_a_factor_acts_on_the_learning_rate_of_its_group_alone() -> None:
    plain = make(optimizer={"type": "sgd", "momentum": 0.0}, weight_decay=0.0, clip=None)
    fast = make(
        optimizer={"type": "sgd", "momentum": 0.0},
        weight_decay=0.0,
        clip=None,
        groups=({"match": "mix.*", "lr": 4.0},),
    )
    take(plain, 1)
    take(fast, 1)
    for name, start in TinyModel().named_parameters():
        moved = plain.weights.parameters[name] - start
        factor = 4.0 if name.startswith("mix.") else 1.0
        torch.testing.assert_close(fast.weights.parameters[name] - start, moved * factor)


def test_a_rule_that_says_what_holds_anyway_changes_no_bit() -> None:
    plain, ruled = (
        make(),
        make(
            groups=(
                {"match": "mix.*", "lr": 1.0},
                {"match": "*", "lr": 1.0},
            )
        ),
    )
    take(plain, 10)
    take(ruled, 10)
    for name, parameter in plain.weights.parameters.items():
        assert torch.equal(parameter, ruled.weights.parameters[name])


def test_a_decay_of_a_group_acts_on_vectors_too() -> None:
    shapes = {name: tuple(p.shape) for name, p in TinyModel().named_parameters()}
    rules = ({"match": "norm.*", "weight_decay": 0.5}, {"match": "mix.weight", "weight_decay": 0.0})
    groups = parameter_groups(recipe(groups=rules), shapes)
    decays = {name: group.treatment.weight_decay for group in groups for name in group.names}
    assert decays == dict.fromkeys(NAMES, 0.0) | {"norm.weight": 0.5, "norm.bias": 0.5}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_frozen_has_no_gradient_no_decay_and_no_state(
    precision: str, tmp_path: Path
) -> None:
    rules = ({"match": "mix.*", "freeze": True}, {"match": "/^gate$/", "freeze": True})
    state = make(groups=rules, precision=precision, weight_decay=0.5)
    frozen = {"mix.weight", "mix.bias", "gate"}
    take(state, 5)
    assert changed(state) == set(NAMES) - frozen
    for name in frozen:
        assert not dict(state.model.named_parameters())[name].requires_grad
        assert state.weights.parameters[name] not in state.optimizer.state
    save_checkpoint(tmp_path, state, keep=1)
    other = make(TinyModel(7), groups=rules, precision=precision, weight_decay=0.5)
    assert load_newest(tmp_path, other, pytest.fail) == 5
    assert all(
        torch.equal(p, other.weights.parameters[n]) for n, p in state.weights.parameters.items()
    )


def test_a_later_rule_can_free_what_an_earlier_one_froze() -> None:
    state = make(
        groups=(
            {"match": "*", "freeze": True},
            {"match": "mix.*", "freeze": False},
        )
    )
    take(state, 2)
    assert changed(state) == {"mix.weight", "mix.bias"}


def test_a_group_can_have_an_optimizer_of_its_own() -> None:
    lion = {"type": "lion", "betas": (0.5, 0.9)}
    state = make(groups=({"match": "embedding.*", "optimizer": lion},))
    kinds = [type(part).__name__ for part in parts_of(state.optimizer)]
    assert sorted(kinds) == ["AdamW", "Lion"]
    take(state, 3)
    assert changed(state) == set(NAMES)
    kept = state.optimizer.state
    assert set(kept[state.weights.parameters["embedding.weight"]]) == {"exp_avg"}
    assert set(kept[state.weights.parameters["gate"]]) == {"step", "exp_avg", "exp_avg_sq"}


def tagging() -> TinyModel:
    model = TinyModel()
    model.mix.weight.secondary_optimizer = True  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_parameter_that_asks_for_the_secondary_optimizer_gets_it(precision: str) -> None:
    state = make(tagging(), secondary_optimizer="sgd", precision=precision)
    take(state, 2)
    kept = state.optimizer.state
    assert set(kept[state.weights.parameters["mix.weight"]]) == {"momentum_buffer"}
    assert set(kept[state.weights.parameters["gate"]]) == {"step", "exp_avg", "exp_avg_sq"}
    alone = make(tagging(), precision=precision)
    assert [type(part).__name__ for part in parts_of(alone.optimizer)] == ["AdamW"]


def test_a_group_can_name_the_secondary_optimizer() -> None:
    state = make(secondary_optimizer="sgd", groups=({"match": "gate", "optimizer": "secondary"},))
    by_kind = {type(p).__name__: p.param_groups for p in parts_of(state.optimizer)}
    assert by_kind["SGD"][0]["params"] == [state.weights.parameters["gate"]]
    with pytest.raises(UsageError, match=r"groups\[0\].optimizer: secondary, but there is no"):
        make(groups=({"match": "gate", "optimizer": "secondary"},))


def test_a_built_model_keeps_its_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Attention.__init__

    def tagged(self: Attention, *args: object) -> None:
        init(self, *args)  # type: ignore[arg-type]
        self.q.weight.secondary_optimizer = True  # type: ignore[assignment]

    monkeypatch.setattr(Attention, "__init__", tagged)
    model = build(resolve(ArchSpec(d_model=8, vocab_size=5, layers=({"mixer": "attention"},))))
    assert tagged_names(model) == {"layers.0.mixer.q.weight"}


def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        make(
            groups=(
                {"match": "norm.*", "lr": 2.0},
                {"match": "mixx.weight", "lr": 2.0},
            )
        )
    message = str(caught.value)
    assert message.startswith("train.groups[1].match: no parameter matches 'mixx.weight'")
    assert "the nearest is 'mix.weight'" in message
    with pytest.raises(UsageError, match="every parameter is frozen"):
        make(groups=({"match": "*", "freeze": True},))


RUN = """
arch: {d_model: 16, layers: [{repeat: 2, mixer: {type: attention, num_heads: 2}}]}
data: {source: shakespeare, tokenizer: bytes}
train:
  groups:
    - {match: "layer.0.*", lr: 2}
"""


def test_a_run_file_says_where_the_rule_is() -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_document(parse_document(RUN, "run.yaml"))
    assert "run.yaml:6:" in str(caught.value)
    assert "train.groups[0].match: no parameter matches 'layer.0.*'" in str(caught.value)
    assert "'layers.0" in str(caught.value)


def test_rules_that_freeze_everything_are_told_before_a_run() -> None:
    rules = (GroupConfig(match="*", freeze=True), GroupConfig(match="b*", freeze=False))
    text = "every parameter is frozen; nothing is left to train"
    assert rule_problems(recipe(groups=rules[:1]), ["a", "b"]) == [("groups", text)]
    assert rule_problems(recipe(groups=rules), ["a", "b"]) == []


def test_what_is_planned_is_counted_without_building() -> None:
    text = RUN.replace("layer.0.*", "layers.0.*").replace("lr: 2", "freeze: true")
    loaded = load_run_document(parse_document(text), ["train.optimizer=muon"])
    architecture = resolve(loaded.config.arch, 256)
    groups, shapes = planned_groups(architecture, loaded.config.train)
    rows = groups_json(groups, shapes)
    model = build(architecture)
    assert sum(row["params"] for row in rows) == sum(p.numel() for p in model.parameters())
    assert {row["optimizer"] for row in rows} == {None, "muon", "adamw"}
    frozen = next(row for row in rows if row["optimizer"] is None)
    assert frozen["names"] == [n for n in frozen["names"] if n.startswith("layers.0.")]
    muon = run_memory(architecture, loaded.config.train)
    whole = run_memory(architecture, loaded.config.train.replace(groups=(), optimizer="adamw"))
    assert 0 < muon.optimizer < whole.optimizer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"match": "*"}, "a group changes nothing"),
        ({"match": "/[/", "lr": 2.0}, "no regular expression"),
        ({"match": "*", "lr": 0.0}, "greater than 0"),
        ({"match": "", "lr": 2.0}, "at least 1 character"),
        ({"match": "*", "optimizer": "lionn"}, "did you mean 'lion'"),
        ({"match": "*", "rate": 2.0}, "Extra inputs"),
    ],
)
def test_bad_rules_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(groups=(values,))


def test_settings_that_nothing_reads_are_told() -> None:
    assert without_effect(recipe()) == []
    assert without_effect(recipe(betas=(0.5, 0.5), optimizer="muon")) == []
    told = without_effect(recipe(betas=(0.5, 0.5), optimizer="lion"))
    assert [path for path, _ in told] == ["betas"]
    assert [p for p, _ in without_effect(recipe(optimizer="adam", weight_decay=0.3))] == [
        "weight_decay"
    ]
    assert [p for p, _ in without_effect(recipe(optimizer="schedule_free_adamw"))] == ["schedule"]
