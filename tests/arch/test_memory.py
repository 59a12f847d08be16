"""Predicted memory: what is kept for the backward against what autograd is seen to keep, and the
moments of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from windtunnel.arch import ArchSpec, Step, build, cost, resolve, train_memory
from windtunnel.arch.memory import _kernels, kept_bytes
from windtunnel.nn.component import REGISTRIES, Scope, Span
from windtunnel.nn.contracts.case import Case, make_input, run
from windtunnel.nn.contracts.case import build as build_case

KINDS = ("norm", "mlp", "mixer", "residual")
CASES = [
    Case(kind, config, Scope(d_model=64, max_seq_len=256, num_layers=2))
    for kind in KINDS
    for cls in REGISTRIES[kind]
    if cls.__module__.startswith("windtunnel.")
    for config in cls.examples()
    if config.type != "none"
]

STACKS: dict[str, dict[str, Any]] = {
    "llama": {"layers": ({"repeat": 3},)},
    "hybrid": {
        "layers": (
            {"mixer": "mamba", "mlp": "none"},
            {"mixer": {"type": "attention", "window": 8}, "mlp": {"type": "dense", "dropout": 0.1}},
            {"mixer": "gla", "mlp": "memory", "norm": "cosine"},
        )
    },
    "streams": {"layers": ({"repeat": 2, "residual": "manifold_hyper", "placement": "sandwich"},)},
    "experts": {"layers": ({"repeat": 2, "mlp": {"type": "moe", "num_experts": 2}},)},
    "unified": {"layers": ({"repeat": 2, "linear": "unified"},)},
    "biased": {"layers": ({"mixer": {"type": "attention", "position": "relative"}},)},
}


def kept(call: Any, besides: set[int]) -> int:
    """Bytes of all storages that a forward keeps for its backward, but those of ``besides``."""
    found: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in besides:
            found[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        call()
    return sum(value.untyped_storage().nbytes() for value in found.values())


def weights_of(module: torch.nn.Module) -> set[int]:
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_part_keeps_in_bfloat16_is_what_autograd_keeps(case: Case) -> None:
    module, t = build_case(case, dtype=torch.bfloat16).train(), 96
    found = []
    for batch in (2, 4):  # what all sequences share falls out of the difference
        x = make_input(case, batch, t).bfloat16().requires_grad_()
        found.append(kept(lambda x=x: run(module, x, Span.of(t)), weights_of(module)))
    predicted = kept_bytes(case.resolved.cost(case.scope, t), t, 2)
    shared = kept_bytes(case.resolved.cost(case.scope, t), 0, 2)
    measured = (found[1] - found[0]) / 2
    assert predicted - shared == pytest.approx(measured, rel=0.1, abs=8 * t)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", STACKS)
def test_what_a_model_keeps_is_what_autograd_keeps(name: str, precision: str) -> None:
    spec = ArchSpec.model_validate(
        {"d_model": 64, "vocab_size": 100, "max_seq_len": 96, **STACKS[name]}
    )
    architecture = resolve(spec)
    model = build(architecture).to(getattr(torch, precision)).train()
    tokens = torch.randint(100, (4, 96), generator=torch.Generator().manual_seed(0))
    measured = kept(lambda: model(tokens), weights_of(model))
    memory = train_memory(architecture, seq_len=96, batch_size=4, step=Step(precision=precision))
    assert float(memory.activations) == pytest.approx(measured, rel=0.12)


def memory_of(**told: Any) -> Any:
    spec = {"d_model": 64, "vocab_size": 5000, "max_seq_len": 64, "layers": ({"repeat": 4},)}
    sizes = {name: told.pop(name) for name in ("seq_len", "batch_size") if name in told}
    architecture = resolve(ArchSpec.model_validate(spec))
    return train_memory(
        architecture, **{"seq_len": 64, "batch_size": 8, **sizes}, step=Step(**told)
    )


def moment(memory: Any, name: str) -> float:
    return max(float(m.total) for m in memory.moments if m.name == name)


def test_the_terms_of_the_fullest_moment_make_the_peak() -> None:
    memory = memory_of()
    assert sum(memory.terms().values()) == int(memory.total)
    assert memory.peak.name == "loss"  # a wide vocabulary
    assert memory.peak.gradients == 0
    params = cost(resolve(ArchSpec.model_validate(
        {"d_model": 64, "vocab_size": 5000, "max_seq_len": 64, "layers": ({"repeat": 4},)}
    ))).total.params  # fmt: skip
    assert memory.weights == 4 * params
    assert memory.optimizer == 8 * params
    assert memory_of(batch_size=1, seq_len=2).peak.name in ("update", "backward")


def test_chunks_of_the_loss_and_recomputed_layers_take_less() -> None:
    plain = memory_of()
    assert moment(memory_of(loss_rows=32), "loss") < moment(plain, "loss")
    assert memory_of(loss_rows=32).activations == plain.activations
    again = memory_of(checkpointing=True)
    assert again.activations < plain.activations / 3
    assert again.total < plain.total


def test_pieces_keep_the_gradients_through_the_next_forward() -> None:
    more = moment(memory_of(in_pieces=True), "loss") - moment(memory_of(), "loss")
    assert more == memory_of().gradients


def test_in_bfloat16_the_masters_count_as_the_optimizers() -> None:
    wide, narrow = memory_of(), memory_of(precision="bfloat16")
    assert narrow.weights * 2 == wide.weights
    assert narrow.optimizer - wide.optimizer == wide.weights
    assert narrow.activations < wide.activations


def test_short_rows_keep_the_square_in_bfloat16_alone() -> None:
    """256 keys are the last that plain products are used for (see ``nn/ops/attention.py``)."""
    attention = next(c for c in CASES if c.config.type == "attention")
    short, long = (attention.resolved.cost(attention.scope, t) for t in (256, 257))
    heads = attention.resolved.num_heads  # type: ignore[attr-defined]
    assert short.activation_values == pytest.approx(long.activation_values)
    assert short.wide_values - long.wide_values == heads * (256 - 2)


def test_blocks_that_go_back_to_the_system_leave_nothing_in_the_heap() -> None:
    """Of 32 MiB and more: here those that an update of a wide vocabulary works with."""
    small = moment(memory_of(update_values=2**20), "update")
    mapped = moment(memory_of(update_values=2**20, update_in_heap=0), "update")
    assert small - mapped == pytest.approx(0.7 * 4 * 2**20)


def test_only_experts_that_are_chosen_among_have_products_of_many_sizes() -> None:
    def kernels(top_k: int) -> int:
        layer = {"mlp": {"type": "moe", "num_experts": 2, "top_k": top_k, "expert": "dense"}}
        spec = {"d_model": 16, "vocab_size": 100, "layers": (layer,)}
        return _kernels(resolve(ArchSpec.model_validate(spec)), Step("bfloat16", updates=3))

    assert kernels(2) == 0
    assert kernels(1) == pytest.approx(3 * 3 * 4 * 0.4 * 2**20, rel=0.01)


def test_a_tied_table_has_two_gradients_and_their_sum() -> None:
    """As measured: 3 V·d where it is tied, 2 V·d where there are two tables."""
    spec = {"d_model": 16, "vocab_size": 50_000, "max_seq_len": 8, "layers": ({},)}

    def gradients(tie: bool) -> float:
        architecture = resolve(ArchSpec.model_validate(spec | {"embedding": {"tie": tie}}))
        memory = train_memory(architecture, seq_len=1, batch_size=1)
        at = max((m for m in memory.moments if m.name == "backward"), key=lambda m: m.total)
        held = 0.9 * sum(4 * 50_000 * 16 for _ in range(2))  # what the heap keeps of them
        return float(at.gradients + at.activations - held) / (4 * 50_000 * 16)

    assert gradients(True) == pytest.approx(3, abs=0.1)
    assert gradients(False) == pytest.approx(2, abs=0.1)
