"""Memory layers in whole models: one store for a stack, feed-forwards that look up, patterns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from windtunnel.arch import (
    Architecture,
    ArchSpec,
    Model,
    build,
    cost,
    expand_preset,
    fold,
    resolve,
    without_effect,
)
from windtunnel.config import Document, decode, parse_document
from windtunnel.errors import ConfigError
from windtunnel.nn.component import Span
from windtunnel.train.tensors import read_tensors, write_tensors

V, D, T = 20, 16, 9
ATTENTION = {"type": "attention", "num_heads": 2}
OWN = {"type": "memory", "num_slots": 6, "num_heads": 2}
FACTS = {**OWN, "store": "facts"}
SLOTS = 2 * 6 * D
"""Numbers in the keys and values of one store."""


def architecture(*layers: dict[str, Any], **values: Any) -> Architecture:
    return resolve(ArchSpec.model_validate({"d_model": D, "layers": layers, **values}), V)


def built(*layers: dict[str, Any], **values: Any) -> Model:
    return build(architecture(*layers, **values)).double().eval()


def tokens() -> Tensor:
    return torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))


def slot_names(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if name.endswith((".keys", ".values"))]


MIXED = ({"mixer": ATTENTION, "mlp": FACTS}, {"mixer": FACTS, "mlp": "none"})
"""Attention whose feed-forward reads the store, and a block that only reads it."""
STACKS: dict[str, tuple[dict[str, Any], ...]] = {
    "mixers": ({"mixer": FACTS}, {"mixer": ATTENTION}, {"mixer": FACTS}),
    "mlps": ({"mixer": ATTENTION, "mlp": FACTS, "repeat": 3},),
    "linear": ({"mixer": "lstm", "mlp": {**FACTS, "lookup": "linear"}, "repeat": 2},),
    "both": ({"mixer": FACTS, "mlp": FACTS, "repeat": 2}, {"mixer": "gru"}),
    "alternating": MIXED * 2,
    "parallel": ({"mixer": ATTENTION, "mlp": FACTS, "parallel": True, "repeat": 2},),
    "shared layers": ({"mixer": ATTENTION, "mlp": FACTS, "repeat": 4, "share": 2},),
    "depths": ({"mixer": ATTENTION, "mlp": FACTS, "depth": {"capacity": 0.6}, "repeat": 2},),
    "streams": tuple({**layer, "residual": "hyper"} for layer in MIXED * 2),
}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_a_stack_holds_one_store_and_its_contracts_hold(layers: Any) -> None:
    model = built(*layers)
    assert len(slot_names(model)) == 2
    counted = cost(model.architecture)
    assert counted.total.params == sum(p.numel() for p in model.parameters())
    assert {p.name: p.cost.params for p in counted.parts if "store" in p.name} == {
        "stores.facts": SLOTS
    }
    whole, state, pieces = model(tokens()), model.initial_state(2), []
    for start, end in ((0, 1), (1, 5), (5, T)):
        piece, state = model.extend(tokens()[:, start:end], state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    ids, real = torch.zeros(2, T + 4, dtype=torch.long), torch.zeros(2, T + 4, dtype=torch.bool)
    ids[:, 3:-1], real[:, 3:-1] = tokens(), True
    torch.testing.assert_close(model(ids, real)[:, 3:-1], whole)
    later = tokens()
    later[:, 5] = (later[:, 5] + 1) % V
    torch.testing.assert_close(model(later)[:, :5], whole[:, :5])
    assert resolve(model.architecture.to_spec()) == model.architecture
    assert list(without_effect(model.architecture.to_spec())) == []


def test_a_store_is_own_slots_that_are_equal_and_its_gradient_their_sum() -> None:
    model = built(*STACKS["alternating"])
    own = [{k: OWN if v is FACTS else v for k, v in layer.items()} for layer in MIXED * 2]
    apart = built(*own)
    assert len(slot_names(apart)) == 8
    weights = model.state_dict()
    apart.load_state_dict({k.replace(".slots.", "."): v for k, v in weights.items()})
    torch.testing.assert_close(apart(tokens()), model(tokens()))
    for each in (model, apart):
        with torch.enable_grad():
            torch.autograd.backward(each(tokens()).square().sum())
    for kind in ("keys", "values"):
        (shared,) = (model.get_parameter(n).grad for n in slot_names(model) if n.endswith(kind))
        grads = [apart.get_parameter(n).grad for n in slot_names(apart) if n.endswith(kind)]
        assert shared is not None
        torch.testing.assert_close(shared, sum(grad for grad in grads if grad is not None))


def test_other_names_are_other_stores_and_each_layer_asks_in_its_own_way() -> None:
    model = built({"mixer": FACTS, "repeat": 2}, {"mixer": {**FACTS, "store": "rules"}})
    assert slot_names(model) == [
        "layers.0.mixer.slots.keys", "layers.0.mixer.slots.values",
        "layers.2.mixer.slots.keys", "layers.2.mixer.slots.values",
    ]  # fmt: skip
    layers: Any = model.layers
    assert layers[0].mixer.slots is layers[1].mixer.slots
    assert not torch.equal(layers[0].mixer.q.weight, layers[1].mixer.q.weight)


def test_both_stacks_of_an_encoder_decoder_have_their_own_store() -> None:
    layer = {"repeat": 2, "mixer": ATTENTION, "mlp": FACTS}
    stacks = {"encoder": {"layers": (layer,)}, "decoder": {"layers": (layer,)}}
    spec = ArchSpec.model_validate({"type": "encoder_decoder", "d_model": D, **stacks})
    model = build(resolve(spec, V)).double()
    assert [name.split(".layers")[0] for name in slot_names(model)] == [
        "layers.0.mlp.slots.keys", "layers.0.mlp.slots.values", "encoder", "encoder",
    ]  # fmt: skip
    parts = cost(model.architecture).parts
    assert {p.name for p in parts if "store" in p.name} == {"encoder.stores.facts", "stores.facts"}
    assert cost(model.architecture).total.params == sum(p.numel() for p in model.parameters())


def test_a_store_stays_one_when_copied_saved_loaded_cast_and_folded(tmp_path: Path) -> None:
    model = built(*MIXED, embedding={"tie": False, "unified": {"factor": 2.0}})
    plain = fold(model)
    torch.testing.assert_close(plain(tokens()), model(tokens()))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    write_tensors(tmp_path / "weights.safetensors", weights)
    other = build(model.architecture, seed=9).double().eval()
    other.load_state_dict(read_tensors(tmp_path / "weights.safetensors"), strict=False)
    torch.testing.assert_close(other(tokens()), model(tokens()))
    for one in (plain, copy.deepcopy(model), other.to(torch.bfloat16), other.float()):
        assert len(slot_names(one)) == 2
        layers: Any = one.layers
        assert layers[0].mlp.slots is layers[1].mixer.slots


def test_a_block_in_a_pattern_may_only_read_a_memory() -> None:
    text = f"""
d_model: {D}
layers:
  - repeat: 2
    layers:
      - {{mixer: {{type: attention, num_heads: 2}}}}
      - {{repeat: 2, mlp: none, mixer: {{type: memory, num_heads: 2, num_slots: 6, store: facts}}}}
"""
    tree = expand_preset(parse_document(text, "f.yaml"), ()).tree
    model = build(resolve(decode(Document(tree), ArchSpec), V)).double()
    mixers = [layer.mixer.type for layer in model.architecture.layers]
    assert mixers == ["attention", "memory", "memory"] * 2
    assert len(slot_names(model)) == 2
    block: Any = model.layers[1]
    x = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([block.mixer.looked_up(block.mixer_join.norm(row[None])) for row in x])
    torch.testing.assert_close(block(x, Span.of(T)), x + alone)


def test_a_linear_look_up_is_a_linear_map_and_a_softmax_is_none() -> None:
    x, y = torch.randn(2, 1, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for lookup, linear in (("linear", True), ("softmax", False)):
        model: Any = built({"mixer": "lstm", "mlp": {**OWN, "lookup": lookup}})
        mlp = model.layers[0].mlp
        difference = (mlp(2 * x - 3 * y) - 2 * mlp(x) + 3 * mlp(y)).abs().max()
        assert (float(difference) < 1e-12) == linear


def test_the_scale_of_a_look_up_keeps_its_size() -> None:
    """Linear look-ups of many slots give values as large as those of few."""
    sizes = []
    for slots in (4, 400):
        mlp = {"type": "memory", "num_slots": slots, "num_heads": 2, "lookup": "linear"}
        model: Any = built({"mixer": "lstm", "mlp": mlp}, d_model=64)
        x = torch.randn(1, 99, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        sizes.append(float(model.layers[0].mlp(x).std()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"num_slots": 7}, "2 heads with 7 slots of 8, but store 'facts' begins with 2 heads with"),
        ({"num_heads": 4}, "4 heads with 6 slots of 4, but store 'facts' begins with 2 heads with"),
    ],
)
def test_a_store_has_one_shape(second: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        architecture({"mixer": FACTS}, {"mixer": "lstm", "mlp": {**FACTS, **second}})
    assert f"arch.layers[1].mlp: {message}" in str(caught.value)


def test_readers_of_a_store_may_differ_in_how_they_look_up() -> None:
    model = built({"mixer": FACTS, "mlp": {**FACTS, "lookup": "linear", "bias": True}})
    assert len(slot_names(model)) == 2
    assert model(tokens()).isfinite().all()


@pytest.mark.parametrize("name", ["expert", "dense"])
def test_an_expert_reads_no_store(name: str) -> None:
    with pytest.raises(ValueError, match="not by an expert"):
        architecture({"mixer": "lstm", "mlp": {"type": "moe", name: FACTS}})
    experts = built({"mixer": "lstm", "mlp": {"type": "moe", "num_experts": 2, name: OWN}})
    found = cost(experts.architecture).total.params
    assert found == sum(p.numel() for p in experts.parameters())


def test_a_store_that_one_part_reads_is_told() -> None:
    def told(*layers: Any) -> list[str]:
        spec = ArchSpec.model_validate({"d_model": D, "layers": layers})
        return [path for path, _ in without_effect(spec)]

    assert told({"mixer": "lstm", "mlp": FACTS}) == ["layers[0].mlp.store"]
    assert told({"mixer": "lstm"}, {"mixer": FACTS, "repeat": 2, "share": 2}) == [
        "layers[1].mixer.store"
    ]
    assert told({"mixer": FACTS, "repeat": 2}) == []


def test_own_slots_keep_their_digest_and_their_names() -> None:
    """As they were before stores and look-ups."""
    old = architecture({"mixer": {"type": "memory", "num_slots": 5, "num_heads": 2}, "repeat": 2})
    assert old.digest() == "730c108b390b1c904b3f95676d53776349fdcd5ccefa67576212376c455a7cb2"
    names = slot_names(build(old, device="meta"))
    assert names[:2] == ["layers.0.mixer.keys", "layers.0.mixer.values"]
