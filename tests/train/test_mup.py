"""muP: what a step changes is as large in a wide model as in a narrow one."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from standins import ListBatches, Rows, TinyModel, learnable_batches, recipe

from windtunnel.arch import Architecture, ArchSpec, build, resolve
from windtunnel.config import parse_document
from windtunnel.errors import ConfigError, UsageError
from windtunnel.nn.memory_slots import SlotReader
from windtunnel.train.group_config import MupConfig
from windtunnel.train.loop import create_train_state, train_steps
from windtunnel.train.mup import mup_architecture, rescale, width_scale
from windtunnel.train.planned import groups_json, planned_groups
from windtunnel.train.run_config import load_run_document

TRANSFER = Path(__file__).parents[2] / "benchmarks" / "mup_transfer.py"
BASE, WIDTHS, VOCAB = 32, (128, 256, 512), 64
STEPS = 4

KINDS: dict[str, dict[str, Any]] = {
    "tied": {"embedding": {"tie": True}},
    "untied": {"embedding": {"tie": False}},
    "scaled": {
        "embedding": {"tie": True, "scale": True},
        "head": {"norm": {"type": "rmsnorm", "unit_offset": True}},
    },
    "learned positions": {"embedding": {"tie": True, "position": "learned"}},
}
LOOKED_AT = (
    "embedding", "layers.0.mixer", "layers.1.mixer", "layers.1.mlp", "layers.0.mixer.q",
    "layers.1.mixer.q",
)  # fmt: skip
MIXERS: dict[str, dict[str, Any]] = {
    "attention": {"head_dim": 8},
    "rg_lru": {},  # blocks of 256 at the most
    "memory": {"num_heads": 1},
    "memory without a softmax": {"num_heads": 1, "lookup": "linear"},
    "token_mlp": {},
}
"""Below, a name may say more behind the type."""


def architecture(width: int, kind: str, mixing: str = "attention", **changes: Any) -> Architecture:
    mixer = {"type": mixing.split()[0], **MIXERS[mixing], **changes}
    layers = ({"repeat": 2, "mixer": mixer, "mlp": {"type": "glu", "ratio": 2.0}},)
    spec = ArchSpec(d_model=width, vocab_size=VOCAB, max_seq_len=16, layers=layers, **KINDS[kind])
    return resolve(spec)


def started(arch: Architecture, mup: MupConfig | None, seed: int = 0) -> torch.nn.Module:
    model = build(arch if mup is None else mup_architecture(arch, mup), seed)
    if mup is not None:
        rescale(model, mup)
    return model


def batches() -> ListBatches:
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCAB, (8, 17), generator=generator)
    return ListBatches([Rows(tokens[:, :-1], tokens[:, 1:])])


@cache
def moved(
    width: int, kind: str, optimizer: str, base: int | None, mixing: str = "attention"
) -> dict[str, float]:
    """How far each place's activations are moved by a few steps: root mean squares."""
    mup = None if base is None else MupConfig(base_width=base)
    config = recipe(
        steps=STEPS, batch_size=8, seq_len=16, lr=0.01, schedule="flat", clip=None,
        optimizer=optimizer, mup=mup,
    )  # fmt: skip
    model = started(architecture(width, kind, mixing), mup)
    state = create_train_state(model, batches(), config)
    tokens = batches().at(0).inputs

    def places() -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}

        def look(name: str) -> Any:
            return lambda _, __, out: seen.__setitem__(name, out.detach().clone())

        hooks = [
            module.register_forward_hook(look(name))
            for name, module in state.model.named_modules()
            if name in LOOKED_AT or name.endswith(("decay_gate", "input_gate"))
        ]
        with torch.no_grad():
            seen["logits"] = state.model(tokens)
            for name, module in state.model.named_modules():
                if isinstance(module, SlotReader):
                    seen[f"{name} reads"] = module.config.scale * (
                        seen[f"{name}.q"] @ module.keys[0].T
                    )
        for hook in hooks:
            hook.remove()
        return seen

    before = places()
    list(train_steps(state))
    after = places()
    return {n: (after[n] - before[n]).square().mean().sqrt().item() for n in before}


def slopes(
    kind: str, optimizer: str, base: int | None, mixing: str = "attention"
) -> dict[str, float]:
    """d log(moved) / d log(width) at each place."""
    widths = (64, 128, 256) if optimizer == "muon" else WIDTHS
    rows = [moved(width, kind, optimizer, base, mixing) for width in widths]
    x = np.log(widths)
    return {
        place: float(np.polyfit(x, np.log([r[place] for r in rows]), 1)[0]) for place in rows[0]
    }


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("tied", "adamw"), ("untied", "adamw"), ("scaled", "adamw"), ("tied", "lion"),
     ("tied", "muon")],
)  # fmt: skip
def test_a_step_moves_a_wide_model_as_far_as_a_narrow_one(kind: str, optimizer: str) -> None:
    """The coordinate check: flat in the width under muP, growing without it."""
    flat = slopes(kind, optimizer, BASE)
    assert all(abs(slope) < 0.25 for slope in flat.values()), flat
    growing = slopes(kind, optimizer, None)
    assert growing["logits"] > 0.4
    assert max(growing[f"layers.1.{part}"] for part in ("mixer", "mlp")) > 0.25


@pytest.mark.parametrize("mixing", [m for m in MIXERS if m != "attention"])
def test_maps_that_are_no_plain_matrices_move_as_far_in_a_wide_model(mixing: str) -> None:
    flat = slopes("tied", "adamw", BASE, mixing)
    assert all(abs(slope) < 0.25 for slope in flat.values()), flat
    growing = slopes("tied", "adamw", None, mixing)
    assert growing["layers.1.mixer"] > 0.5
    inner = [place for place in flat if place.endswith(("gate", "reads"))]
    assert bool(inner) == (mixing != "token_mlp")
    assert all(growing[place] > 0.3 for place in inner)


def test_rates_of_blocks_keys_and_positions() -> None:
    mup = MupConfig(base_width=BASE)

    def rates(mixing: str, width: int, name: str, mup: MupConfig = mup, **mixer: Any) -> float:
        arch = architecture(width, "tied", mixing, **mixer)
        rows = groups_json(*planned_groups(arch, recipe(mup=mup)))
        (found,) = [row["lr"] for row in rows if f"layers.0.mixer.{name}" in row["names"]]
        return float(found)

    assert rates("rg_lru", 128, "input_gate.weight") == 1 / 4
    assert rates("rg_lru", 512, "input_gate.weight") == 1 / 8, "blocks of 256, and of 32"
    assert rates("rg_lru", 1024, "decay_gate.weight") == 1 / 8
    assert rates("rg_lru", 512, "decay_gate.weight", num_heads=1) == 1 / 16
    assert rates("rg_lru", 512, "conv.weight") == 1
    assert rates("rg_lru", BASE, "decay_gate.weight", num_heads=4) == 1
    for name, value in {"keys": 0.5, "values": 1, "q.weight": 0.25}.items():
        assert rates("memory", 128, name) == value
    assert rates("memory", 512, "keys", num_heads=8) == 1
    heads = MupConfig(base_width=BASE, base_head_dim=BASE)
    assert rates("memory", 128, "keys", heads) == 1
    assert rates("memory", 128, "q.weight", heads) == 0.125
    assert rates("token_mlp", 128, "weight") == 1


def test_attention_logits_do_not_grow_with_wider_heads() -> None:
    """Heads of width k: after steps their logits would grow as √k; with the factor they do not."""
    growth = {}
    for base_head_dim in (None, 8):
        sizes = []
        for head_dim in (8, 128):
            arch = architecture(256, "tied", head_dim=head_dim, num_heads=2, position="none")
            mup = MupConfig(base_width=BASE, base_head_dim=base_head_dim)
            model = started(arch, mup)
            attention = model.get_submodule("layers.0.mixer")
            x = torch.randn(4, 16, 256, generator=torch.Generator().manual_seed(1))
            scale = width_scale(model, mup).factors.get("layers.0.mixer.q.weight", 1.0)
            with torch.no_grad():  # one step of sign descent that aligns queries with keys
                row = x.mean((0, 1)) / 256
                attention.q.weight.add_(row.sign(), alpha=0.1 * scale)
                attention.k.weight.add_(row.sign(), alpha=0.1)
                q, k = (m(x).unflatten(2, (2, -1))[:, :, 0] for m in (attention.q, attention.k))
            sizes.append((q @ k.mT).mean().abs().item() * head_dim**-0.5)
        growth[base_head_dim] = sizes[1] / sizes[0]
    assert growth[None] == pytest.approx(4.0, rel=0.2)
    assert growth[8] == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_base_width_nothing_changes(kind: str) -> None:
    arch = architecture(BASE, kind)
    trained = []
    for mup in (None, MupConfig(base_width=BASE, base_head_dim=8)):
        config = recipe(steps=3, batch_size=8, seq_len=16, mup=mup)
        state = create_train_state(started(arch, mup), batches(), config)
        list(train_steps(state))
        trained.append(state.weights.parameters)
    assert all(torch.equal(p, trained[1][name]) for name, p in trained[0].items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_as_wide_at_every_width(kind: str) -> None:
    """Embeddings as at the base, logits no larger; the forward is that of the architecture."""
    sizes = {}
    for width in (BASE, 16 * BASE):
        arch = architecture(width, kind)
        model = started(arch, MupConfig(base_width=BASE))
        tokens = batches().at(0).inputs
        with torch.no_grad():
            logits = model(tokens)
            stream = model.embedding.looked_up(tokens)
            plain = build(arch, 7)
            plain.load_state_dict(model.state_dict())
            assert torch.equal(plain(tokens), logits)
        sizes[width] = stream.std().item(), logits.std().item()
    assert sizes[16 * BASE][0] == pytest.approx(sizes[BASE][0], rel=0.1)
    assert sizes[16 * BASE][1] < sizes[BASE][1]
    if kind == "untied":
        assert sizes[16 * BASE][1] == pytest.approx(sizes[BASE][1] / 4, rel=0.2)


def test_rates_and_decays_by_group() -> None:
    arch = architecture(4 * BASE, "untied", num_heads=16)
    config = recipe(mup=MupConfig(base_width=BASE), weight_decay=0.1)
    rows = groups_json(*planned_groups(arch, config))
    slow = {name for row in rows if row["lr"] == 0.25 for name in row["names"]}
    assert {row["weight_decay"] for row in rows if row["lr"] == 0.25} == {0.4}
    assert "head.weight" in slow
    assert {name.rpartition(".")[2] for name in slow} == {"weight"}
    rest = {name for row in rows if row["lr"] == 1 for name in row["names"]}
    assert "embedding.weight" in rest
    assert all("norm" in name or "embedding" in name for name in rest)
    assert len(slow) + len(rest) == len(dict(build(arch, device="meta").named_parameters()))


def test_the_decay_of_a_step_is_the_same_for_queries_of_wider_heads() -> None:
    arch = architecture(4 * BASE, "untied", num_heads=4, head_dim=BASE)
    config = recipe(mup=MupConfig(base_width=BASE, base_head_dim=BASE // 4), weight_decay=0.1)
    rows = groups_json(*planned_groups(arch, config))
    rates = {row["lr"] for row in rows if any(".q." in name for name in row["names"])}
    assert rates == {0.125}
    matrices = [row for row in rows if row["weight_decay"]]
    assert len(matrices) == 2
    assert all(row["lr"] * row["weight_decay"] == pytest.approx(0.1) for row in matrices)


def test_what_mup_has_no_rule_for_is_refused() -> None:
    mup = MupConfig(base_width=BASE)
    for optimizer in ("sgd", "adafactor", "soap", "adagrad", "rmsprop"):
        with pytest.raises(UsageError, match=f"train.mup: there is no rule for {optimizer}"):
            planned_groups(architecture(64, "tied"), recipe(optimizer=optimizer, mup=mup))
    with pytest.raises(UsageError, match=r"train\.mup: the model does not say"):
        create_train_state(TinyModel(), ListBatches(learnable_batches()), recipe(mup=mup))
    bare = ArchSpec(
        d_model=64, vocab_size=9, layers=({"mixer": "lstm"},), head={"norm": {"type": "none"}}
    )
    with pytest.raises(UsageError, match="the last norm must have a weight"):
        mup_architecture(resolve(bare), mup)
    blocks = architecture(64, "tied", "rg_lru", num_heads=4)
    with pytest.raises(UsageError, match="number of blocks that an rg_lru has"):
        mup_architecture(blocks, mup)
    assert mup_architecture(blocks, MupConfig(base_width=64)) == blocks


def test_a_run_file_names_what_does_not_fit() -> None:
    text = """
arch: {d_model: 64, layers: [{mixer: lstm}], head: {norm: none}}
data: {source: shakespeare, tokenizer: bytes}
train: {mup: {base_width: 32}}
"""
    with pytest.raises(ConfigError, match=r"train\.mup: with a tied head the last norm"):
        load_run_document(parse_document(text, "run.yaml"))
    sgd = text.replace(", head: {norm: none}", "").replace("32}", "32}, optimizer: sgd")
    with pytest.raises(ConfigError, match=r"train\.mup: there is no rule for sgd"):
        load_run_document(parse_document(sgd, "run.yaml"))


@pytest.mark.slow
def test_a_rate_found_at_the_base_serves_a_wider_model() -> None:
    """What the best rate at width 32 costs at width 128, over the best one there, in nats."""
    spec = importlib.util.spec_from_file_location("mup_transfer", TRANSFER)
    assert spec is not None
    assert spec.loader is not None
    transfer = importlib.util.module_from_spec(spec)
    sys.modules["mup_transfer"] = transfer
    spec.loader.exec_module(transfer)
    powers = range(-9, -3)
    cost = {}
    for name, mup in (("standard", None), ("mup", MupConfig(base_width=32))):
        narrow, wide = (transfer.losses(width, mup, 60, powers) for width in (32, 128))
        cost[name] = wide[narrow.index(min(narrow))] - min(wide)
    assert cost["standard"] > 0.05
    assert cost["mup"] < cost["standard"] / 3
