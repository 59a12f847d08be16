"""Every decoder preset, made small: it learns real structure, resumes to the bit, and generates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.arch.test_arch import DECODERS, tiny
from tests.conftest import corpus_text

from windtunnel.arch import build, resolve
from windtunnel.data.loader import Batches
from windtunnel.generate import SamplingConfig, generate
from windtunnel.train.checkpoint import load_newest, save_checkpoint
from windtunnel.train.config import TrainConfig
from windtunnel.train.loop import TrainState, create_train_state, train_steps

STEPS, SAVED_AT, VOCABULARY = 50, 44, 128
SIZES = ("-small", "-large", "-default")
FAMILIES = [name for name in DECODERS if not name.endswith(SIZES)]
TOKENS = np.frombuffer(corpus_text(4000).encode(), dtype=np.uint8)
RECIPE = TrainConfig(
    steps=STEPS, batch_size=8, seq_len=24, lr=1e-2, threads=1,
    schedule={"type": "linear", "warmup": 5},
)  # fmt: skip


def state_of(name: str) -> TrainState:
    architecture = resolve(tiny(name).replace(vocab_size=VOCABULARY))
    batches = Batches(TOKENS, seq_len=RECIPE.seq_len, batch_size=RECIPE.batch_size, seed=0)
    return create_train_state(build(architecture, seed=0), batches, RECIPE)


def weights(state: TrainState) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_preset_learns_resumes_and_generates(name: str, tmp_path: Path) -> None:
    whole = state_of(name)
    losses = []
    for info in train_steps(whole):
        losses.append(info.loss)
        if info.step == SAVED_AT:
            save_checkpoint(tmp_path, whole, keep=1, validation_loss=None)
    assert losses[0] == pytest.approx(np.log(VOCABULARY), rel=0.1)
    assert np.mean(losses[-5:]) < losses[0] - 1.0

    resumed = state_of(name)
    assert load_newest(tmp_path, resumed, pytest.fail) == SAVED_AT
    list(train_steps(resumed))
    expected = weights(whole)
    for key, tensor in weights(resumed).items():
        assert torch.equal(tensor, expected[key]), key

    greedy = SamplingConfig(temperature=0.0)
    model: Any = whole.model
    prompts = [[104, 105], [97]]
    texts = generate(model, prompts, max_new_tokens=6, sampling=greedy)
    alone = [generate(model, [p], max_new_tokens=6, sampling=greedy)[0] for p in prompts]
    assert texts == alone
