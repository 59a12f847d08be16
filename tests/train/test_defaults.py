"""A recipe that does not name a part trains as before the part existed, to the bit."""

from __future__ import annotations

import hashlib
import platform
from typing import Any

import pytest
import torch
from standins import ListBatches, TinyModel, learnable_batches, recipe

from windtunnel.runs import run_key
from windtunnel.train.config import TrainConfig
from windtunnel.train.identity import run_identity
from windtunnel.train.loop import create_train_state, train_steps

BEFORE: dict[str, tuple[dict[str, Any], str, str, float]] = {
    "plain": ({}, "e57df229113bffbb", "f794caafc32f2d80", 2.099638),
    "bfloat16 in pieces": (
        {"precision": "bfloat16", "micro_batch_size": 3},
        "e784eeb5025b3782",
        "408f6d7a35d1bf67",
        2.122671,
    ),
    "every key of AdamW": (
        {"schedule": "wsd", "weight_decay": 0.3, "betas": (0.8, 0.9), "eps": 1e-6, "clip": None},
        "3b0651d353d5b7b0",
        "b15b6b6270c68be4",
        1.857592,
    ),
}
"""What the recipe was when AdamW was the only optimizer: changes of it, the start of the SHA-256 of
the weights after 20 steps, of the run's key, and the last loss."""

MACHINE = (platform.machine(), torch.backends.cpu.get_cpu_capability())
GOLDEN_MACHINE = ("x86_64", "AVX512")


def trained(config: TrainConfig) -> tuple[str, float]:
    state = create_train_state(TinyModel(), ListBatches(learnable_batches()), config)
    losses = [info.loss for info in train_steps(state)]
    digest = hashlib.sha256()
    for name, parameter in sorted(state.weights.parameters.items()):
        digest.update(name.encode())
        digest.update(parameter.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16], losses[-1]


def key_of(config: TrainConfig) -> str:
    identity = run_identity(
        arch={"a": 1}, data="d", train=config, code="c", torch_version="t", device_type="cpu"
    )
    return run_key(identity)[:16]


@pytest.mark.parametrize("name", BEFORE)
def test_old_recipes_keep_their_key_and_their_loss(name: str) -> None:
    changes, _, key, loss = BEFORE[name]
    config = recipe(steps=20, **changes)
    assert key_of(config) == key
    assert trained(config)[1] == pytest.approx(loss, rel=1e-4)


@pytest.mark.skipif(
    MACHINE != GOLDEN_MACHINE, reason=f"the bits are those of {GOLDEN_MACHINE}, this is {MACHINE}"
)
@pytest.mark.parametrize("name", BEFORE)
def test_old_recipes_train_to_the_same_bits(name: str) -> None:
    changes, digest, _, _ = BEFORE[name]
    assert trained(recipe(steps=20, **changes))[0] == digest


@pytest.fixture(scope="module")
def plain() -> tuple[str, float]:
    return trained(recipe(steps=5))


@pytest.mark.parametrize("key", TrainConfig.model_fields)
def test_a_key_written_at_its_default_changes_no_bit_and_no_key(
    key: str, plain: tuple[str, float]
) -> None:
    short = recipe(steps=5)
    value = getattr(short, key)
    as_text = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    config = TrainConfig(**(short.model_dump(exclude_unset=True) | {key: as_text}))
    assert key_of(config) == key_of(short)
    assert trained(config) == plain
