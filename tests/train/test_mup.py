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
from torch.nn import functional as F

from windtunnel.arch import Architecture, ArchSpec, build, resolve
from windtunnel.config import parse_document
from windtunnel.errors import ConfigError, UsageError
from windtunnel.nn.component import REGISTRIES
from windtunnel.nn.depth import DepthRouter
from windtunnel.nn.memory_slots import SlotReader
from windtunnel.nn.mlps.moe import MoE
from windtunnel.train import mup as mup_module
from windtunnel.train.group_config import MupConfig
from windtunnel.train.loop import create_train_state, train_steps
from windtunnel.train.mup import WITHOUT_LOGITS, mup_architecture, rescale, width_scale
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
    "layers.1.mixer.q", "layers.0.mixer.k", "layers.0.mixer.v", "layers.0.mixer.dt_proj",
    "layers.0.mixer_join.residual.out", "layers.0.mixer_join.residual.stream",
)  # fmt: skip
MIXERS: dict[str, dict[str, Any]] = {
    "attention": {"head_dim": 8},
    "rg_lru": {},  # blocks of 256 at the most
    "memory": {"num_heads": 1},
    "memory without a softmax": {"num_heads": 1, "lookup": "linear"},
    "token_mlp": {},
    "mamba": {},
    "latent_attention": {"num_heads": 4},
    "delta_net": {},
    "gla": {"num_heads": 4},
    "mamba2": {},
    "retnet": {"num_heads": 4},
    "rwkv": {"head_dim": 16},
}
"""Below, a name may say more behind the type."""
LAYERS: dict[str, dict[str, Any]] = {
    "experts": {"mlp": {"type": "moe", "num_experts": 4, "top_k": 2}},
    "a mixture of depths": {"depth": {"capacity": 0.5}},
    "mixed by a network": {"residual": {"type": "mixed", "kind": "mlp"}},
    "mixed by a map": {"residual": {"type": "mixed", "kind": "linear"}},
    "streams": {"residual": "hyper"},
    "streams on a manifold": {"residual": "manifold_hyper"},
    "unified weights": {"linear": "unified"},
    "unified weights, predicted": {"linear": {"type": "unified", "kind": "predicted"}},
}
"""What a layer of attention has besides."""


def architecture(width: int, kind: str, mixing: str = "attention", **changes: Any) -> Architecture:
    besides = LAYERS.get(mixing, {})
    mixing = "attention" if besides else mixing
    mixer = {"type": mixing.split()[0], **MIXERS[mixing], **changes}
    layers = ({"repeat": 2, "mixer": mixer, "mlp": {"type": "glu", "ratio": 2.0}, **besides},)
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
            def keep(module: torch.nn.Module, args: Any, out: torch.Tensor) -> None:
                seen[name] = out.detach().clone()
                if isinstance(module, MoE):
                    assert module.router is not None
                    seen[f"{name} router"] = (args[0] @ module.router.T).detach()

            return keep

        thinned = "depth" in LAYERS.get(
            mixing, {}
        )  # then a layer reads now these tokens, now those
        hooks = [
            module.register_forward_hook(look(name))
            for name, module in state.model.named_modules()
            if (name == "embedding" if thinned else name in LOOKED_AT)
            or name.endswith(("decay_gate", "input_gate"))
        ]
        with torch.no_grad():
            seen["logits"] = state.model(tokens)
            for name, module in state.model.named_modules():
                if isinstance(module, SlotReader):
                    seen[f"{name} reads"] = module.config.scale * (
                        seen[f"{name}.q"] @ module.keys[0].T
                    )
                elif isinstance(module, DepthRouter) and name == "layers.0.depth":
                    normed = F.rms_norm(seen["embedding"], seen["embedding"].shape[-1:])
                    seen[f"{name} router"] = normed @ module.weight + module.bias
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


ODD = ("rg_lru", "memory", "memory without a softmax", "token_mlp", "mamba", "latent_attention")
PLAIN = (
    "delta_net", "gla", "mamba2", "retnet", "rwkv", "streams", "streams on a manifold",
    "unified weights", "unified weights, predicted",
)  # fmt: skip


@pytest.mark.parametrize("mixing", PLAIN)
def test_what_is_told_by_its_size_moves_as_far_in_a_wide_model(mixing: str) -> None:
    flat = slopes("tied", "adamw", BASE, mixing)
    assert all(abs(slope) < 0.25 for slope in flat.values()), flat


@pytest.mark.parametrize("mixing", ODD)
def test_maps_that_are_no_plain_matrices_move_as_far_in_a_wide_model(mixing: str) -> None:
    flat = slopes("tied", "adamw", BASE, mixing)
    assert all(abs(slope) < 0.25 for slope in flat.values()), flat
    growing = slopes("tied", "adamw", None, mixing)
    assert growing["layers.1.mixer"] > 0.5
    places = {"rg_lru": ("gate",), "mamba": ("dt_proj",), "latent_attention": (".k", ".v")}
    inner = [p for p in flat if p.endswith(places.get(mixing, (" reads",)))]
    assert bool(inner) == (mixing != "token_mlp")
    assert all(growing[place] > 0.3 for place in inner)


@pytest.mark.parametrize(
    ("layer", "outputs", "least"),
    [("experts", ("layers.1.mlp router",), 0.5),
     ("a mixture of depths", ("layers.0.depth router",), 0.5),
     ("mixed by a network", ("layers.0.mixer_join.residual.out",), 0.5),
     ("mixed by a map", ("layers.0.mixer_join.residual.stream",), 0.3)],
)  # fmt: skip
def test_maps_to_a_fixed_number_do_not_move_farther_in_a_wide_model(
    layer: str, outputs: tuple[str, ...], least: float
) -> None:
    """Less far, if anything: their start shrinks as that of a head does."""
    flat, growing = slopes("tied", "adamw", BASE, layer), slopes("tied", "adamw", None, layer)
    assert all(-0.5 < flat[place] < 0.25 for place in outputs), flat
    assert all(growing[place] > least for place in outputs)
    assert all(abs(slope) < 0.25 for place, slope in flat.items() if place not in outputs), flat


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


def rates_of(arch: Architecture, mup: MupConfig, optimizer: Any = "adamw") -> dict[str, float]:
    rows = groups_json(*planned_groups(arch, recipe(mup=mup, optimizer=optimizer)))
    return {name: row["lr"] for row in rows for name in row["names"]}


def shapes_of(arch: Architecture) -> dict[str, tuple[int, ...]]:
    return {n: tuple(p.shape) for n, p in build(arch, device="meta").named_parameters()}


def layered(width: int, **layer: Any) -> Architecture:
    spec = ArchSpec(d_model=width, vocab_size=VOCAB, max_seq_len=16, layers=(layer,))
    return resolve(spec)


EVERY: list[dict[str, Any]] = [
    *({"mixer": name} for name in REGISTRIES["mixer"].names()),
    *({"mixer": "lstm", "mlp": name} for name in REGISTRIES["mlp"].names()),
    *({"mixer": "lstm", "residual": name} for name in REGISTRIES["residual"].names()),
    *({"mixer": "lstm", "residual": {"type": "mixed", "kind": k}} for k in ("linear", "mlp")),
    {"mixer": "lstm", "depth": {"capacity": 0.5}},
    {"mixer": {"type": "mamba", "dt_rank": 5}},
    {"mixer": "lstm", "residual": {"type": "mixed", "kind": "mlp", "d_hidden": 8}},
    {"mixer": {"type": "latent_attention", "kv_rank": 24}},
    {"mixer": {"type": "latent_attention", "num_heads": 4}},
]  # fmt: skip


@pytest.mark.parametrize("layer", EVERY, ids=str)
def test_a_map_is_as_much_slower_as_what_it_reads_has_grown(layer: dict[str, Any]) -> None:
    """Every part of the registries, at its defaults; a new one cannot be forgotten."""
    base, width = 64, 512
    narrow, wide = layered(base, **layer), layered(width, **layer)
    before, after = shapes_of(narrow), shapes_of(wide)
    assert before.keys() == after.keys()
    rates = rates_of(wide, MupConfig(base_width=base))
    for name, shape in after.items():
        if not name.startswith("layers.") or len(shape) < 2:
            continue
        growth = shape[-1] / before[name][-1]
        expected = 1.0 if name.endswith(".keys") else 1 / growth  # as wide as a head
        assert rates[name] == pytest.approx(expected, rel=0.003), name  # a third is rounded


def test_a_vector_that_is_a_map_is_slower_and_other_vectors_are_not() -> None:
    arch = layered(128, mixer="mamba", depth={"capacity": 0.5})
    rates = rates_of(arch, MupConfig(base_width=BASE))
    vectors = {name: rates[name] for name, shape in shapes_of(arch).items() if len(shape) < 2}
    assert {n for n, rate in vectors.items() if rate != 1} == {
        "layers.0.depth.weight",
        "head.norm.weight",
    }
    assert rates["layers.0.depth.weight"] == 0.25


def test_rates_of_ranks_by_optimizer_and_width() -> None:
    mup = MupConfig(base_width=BASE)
    name = "layers.0.mixer.dt_proj.weight"
    arch = layered(4 * BASE, mixer="mamba")
    assert rates_of(arch, mup)[name] == 1 / 4
    assert rates_of(arch, mup, "muon")[name] == 1 / 2, "as any matrix that muon moves"
    assert rates_of(arch, mup, {"type": "muon", "adjust": "original"})[name] == 1
    latent = layered(4 * BASE, mixer={"type": "latent_attention", "head_dim": 8})
    grown = rates_of(latent, mup)
    assert grown["layers.0.mixer.k.weight"] == 1 / 2, "a rank of 32, and of 16 at the base"
    assert grown["layers.0.mixer.v.weight"] == 1 / 2
    wider = layered(4 * BASE, mixer={"type": "latent_attention", "num_heads": 4})
    with_heads = rates_of(wider, MupConfig(base_width=BASE, base_head_dim=8))
    assert with_heads["layers.0.mixer.v.weight"] == 1 / 4, "a rank of 64, and of 16 at the base"
    assert with_heads["layers.0.mixer.q.weight"] == 1 / 8
    at_base = layered(BASE, mixer={"type": "latent_attention", "num_heads": 4})
    assert set(rates_of(at_base, mup).values()) == {1}


@pytest.mark.parametrize("layer", [name for name in LAYERS if name not in PLAIN])
def test_maps_to_a_fixed_number_start_as_output_weights(layer: str) -> None:
    arch = architecture(16 * BASE, "untied", layer)
    plain, scaled = started(arch, None), started(arch, MupConfig(base_width=BASE))
    changed = {
        name: (scaled.get_parameter(name) / p).mean().item()
        for name, p in plain.named_parameters()
        if not torch.equal(scaled.get_parameter(name), p) and name.startswith("layers.0.")
    }
    assert {name.removeprefix("layers.0.") for name in changed} == {
        "experts": {"mlp.router"},
        "a mixture of depths": {"depth.weight"},
        "mixed by a network": {f"{b}_join.residual.out.weight" for b in ("mixer", "mlp")},
        "mixed by a map": {
            f"{b}_join.residual.{side}.weight"
            for b in ("mixer", "mlp") for side in ("stream", "branch")
        },
    }[layer]  # fmt: skip
    assert all(factor == pytest.approx(0.25) for factor in changed.values())


@pytest.mark.parametrize("name", ["attention", "favor", "latent_attention"])
def test_attention_logits_do_not_grow_with_wider_heads(name: str) -> None:
    """Heads of width k: after steps their logits would grow as √k; with the factor they do not."""
    besides = {"favor": {"nb_features": 8}, "latent_attention": {"kv_rank": 256}}
    growth = {}
    for base_head_dim in (None, 8):
        sizes = []
        for head_dim in (8, 128):
            mixer = {"type": name, "head_dim": head_dim, "num_heads": 2, **besides.get(name, {})}
            arch = layered(256, mixer={**mixer, "position": "none"})
            mup = MupConfig(base_width=BASE, base_head_dim=base_head_dim)
            model = started(arch, mup)
            attention = model.get_submodule("layers.0.mixer")
            x = torch.randn(4, 16, 256, generator=torch.Generator().manual_seed(1))
            read = x if name != "latent_attention" else attention.down(x)[..., :256]
            scale = width_scale(model, mup).factors.get("layers.0.mixer.q.weight", 1.0)
            with torch.no_grad():  # one step of sign descent that aligns queries with keys
                for part, seen, rate in ((attention.q, x, scale), (attention.k, read, 1.0)):
                    part.weight.add_((seen.mean((0, 1)) / 256).sign(), alpha=0.1 * rate)
                q = attention.q(x).unflatten(2, (2, -1))[:, :, 0, :head_dim]
                k = attention.k(read).unflatten(2, (2, -1))[:, :, 0]
            sizes.append((q @ k.mT).mean().abs().item() * head_dim**-0.5)
        growth[base_head_dim] = sizes[1] / sizes[0]
    assert growth[None] == pytest.approx(4.0, rel=0.2)
    assert growth[8] == pytest.approx(1.0, rel=0.2)


BESIDES: dict[str, tuple[dict[str, Any], ...]] = {
    "favor": ({"nb_features": 64},), "memory": ({}, {"lookup": "linear"}),
    "latent_attention": ({}, {"rope_dim": 4}, {"q_rank": 24}),
}  # fmt: skip
"""Variants of the mixers, beside heads of some width."""


def with_heads(head_dim: int, name: str, **mixer: Any) -> Architecture:
    return layered(64, mixer={"type": name, "num_heads": 2, "head_dim": head_dim, **mixer})


HEADED = [
    (name, besides)
    for name in REGISTRIES["mixer"].names()
    for besides in BESIDES.get(name, ({},))
    if "head_dim" in REGISTRIES["mixer"].config_class(name).model_fields and name != "mamba2"
]


@pytest.mark.parametrize(("name", "besides"), HEADED, ids=str)
def test_every_mixer_with_heads_has_an_answer_to_wider_ones(
    name: str, besides: dict[str, Any]
) -> None:
    """Queries start and move by √(k₀/k), or the mixer is known to need nothing."""
    mup = MupConfig(base_width=64, base_head_dim=8)
    arch = with_heads(128, name, **besides)
    changed = dict(started(arch, mup).named_parameters())
    plain = dict(started(arch, None).named_parameters())
    ratios = {
        n: (p / plain[n]).mean().item() for n, p in changed.items() if not torch.equal(p, plain[n])
    }
    if name in WITHOUT_LOGITS:
        assert ratios == {}
        return
    assert set(ratios) == {"layers.0.mixer.q.weight"}
    k, base = {"rope_dim": (132, 12), "q_rank": (192, 12)}.get(next(iter(besides), ""), (128, 8))
    if name == "latent_attention" and not besides:
        k, base = 128 + 64, 8 + 4
    assert ratios["layers.0.mixer.q.weight"] == pytest.approx((base / k) ** 0.5)
    rates = rates_of(arch, mup)
    assert rates["layers.0.mixer.q.weight"] == pytest.approx((base / k) ** 0.5)
    slower = {n.removeprefix("layers.0.mixer."): rate for n, rate in rates.items() if rate != 1}
    ranks = {"k.weight", "v.weight"} if name == "latent_attention" else set()
    lambdas = {"lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"}
    lambdas = lambdas if name == "differential_attention" else set()
    assert slower.keys() == {"q.weight"} | ranks | lambdas
    assert all(slower[vector] == 8 / 128 for vector in lambdas)


def test_wider_heads_that_read_a_memory_beside_the_stream() -> None:
    arch = layered(64, mixer="lstm", cross={"num_heads": 2, "head_dim": 32})
    mup = MupConfig(base_width=64, base_head_dim=8)
    plain, changed = started(arch, None), started(arch, mup)
    name = "layers.0.cross.q.weight"
    assert torch.equal(changed.get_parameter(name), plain.get_parameter(name) / 2)
    assert rates_of(arch, mup)[name] == 1 / 2


def test_heads_of_the_base_width_are_as_they_were() -> None:
    for name, besides in HEADED:
        arch = with_heads(8, name, **besides)
        mup = MupConfig(base_width=64, base_head_dim=8)
        plain = started(arch, None).state_dict()
        assert all(torch.equal(p, plain[n]) for n, p in started(arch, mup).state_dict().items())
        assert set(rates_of(arch, mup).values()) == {1}


def test_wider_heads_that_nobody_knows_to_scale_are_refused() -> None:
    mup = MupConfig(base_width=64, base_head_dim=8)
    refused = {
        "favor with kernel generalized": {"mixer": {"type": "favor", "kernel": "generalized"}},
        "attention with a qk_norm that has no weight": {
            "mixer": {"type": "attention", "qk_norm": {"type": "rmsnorm", "affine": False}}
        },
        "maps with unified vectors": {"mixer": {"type": "attention"}, "linear": "unified"},
    }
    for what, layer in refused.items():
        sized = {**layer, "mixer": {**layer["mixer"], "num_heads": 4}}
        text = f"train.mup: base_head_dim: muP is not worked out for wider heads of {what}"
        with pytest.raises(UsageError, match=text):
            mup_architecture(layered(64, **sized), mup)
        arch = layered(64, **{**sized, "mixer": {**sized["mixer"], "num_heads": 8}})
        assert mup_architecture(arch, mup) == arch


def test_a_mixer_that_nobody_has_looked_at_is_refused_with_wider_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mup_module, "WITHOUT_LOGITS", frozenset())
    arch = layered(64, mixer={"type": "gla", "num_heads": 4, "head_dim": 16})
    with pytest.raises(UsageError, match="wider heads of gla"):
        mup_architecture(arch, MupConfig(base_width=64, base_head_dim=8))


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
    expanded = layered(64, mixer="attention", linear={"type": "unified", "kind": "expanded"})
    with pytest.raises(UsageError, match="unified weights of kind expanded"):
        mup_architecture(expanded, mup)
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
