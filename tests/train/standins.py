"""A tiny model, learnable data and a tokenizer: all that the trainer needs to know of others."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from windtunnel.runs import RunFolder
from windtunnel.train.config import TrainConfig
from windtunnel.train.runner import RunParts

VOCAB, WIDTH, SEQ_LEN, BATCH = 11, 8, 6, 4


class TinyModel(nn.Module):
    """Embedding, a causal mean, a norm, dropout, a gate of one number, a tied head."""

    def __init__(self, seed: int = 0, *, width: int = WIDTH, dropout: float = 0.1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) / math.sqrt(shape[-1]))

        self.embedding = nn.Embedding(VOCAB, width)
        self.embedding.weight = drawn(VOCAB, width)
        self.mix = nn.Linear(width, width)
        self.mix.weight, self.mix.bias = drawn(width, width), drawn(width)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, VOCAB, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(width))

    def forward(self, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        steps = torch.arange(1, tokens.shape[1] + 1, dtype=x.dtype, device=x.device)
        mean = x.cumsum(1) / steps[:, None]
        x = x + self.gate * self.dropout(torch.tanh(self.mix(mean)))
        return self.head(self.norm(x) * self.scale.to(x.dtype))


@dataclass(frozen=True)
class Rows:
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class ListBatches:
    """A list of batches, gone through again and again; ``pause`` slows each step down."""

    batches: Sequence[Rows]
    pause: float = 0.0

    def at(self, position: int) -> Rows:
        time.sleep(self.pause)
        return self.batches[position % len(self.batches)]


@dataclass(frozen=True)
class Lengths:
    """Token i stands for i bytes; token 0 is a special one."""

    token_bytes: np.ndarray


def learnable_batches(count: int = 7, seed: int = 1) -> list[Rows]:
    """Sequences in which a token is followed by three times itself plus one, mostly."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        tokens = torch.zeros(BATCH, SEQ_LEN + 1, dtype=torch.long)
        tokens[:, 0] = torch.randint(VOCAB, (BATCH,), generator=generator)
        for t in range(SEQ_LEN):
            noise = torch.rand(BATCH, generator=generator) < 0.1
            tokens[:, t + 1] = (3 * tokens[:, t] + 1 + noise) % VOCAB
        rows.append(Rows(tokens[:, :-1], tokens[:, 1:].clone()))
    rows[-1].targets[0, 2:] = -100
    return rows


def tokenizer() -> Lengths:
    return Lengths(np.arange(VOCAB, dtype=np.int32))


def recipe(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "steps": 40,
        "batch_size": BATCH,
        "seq_len": SEQ_LEN,
        "lr": 0.02,
        "eval_every": 10,
        "checkpoint_every": 7,
        "log_every": 1,
        "device": "cpu",
        "threads": 1,
    }
    return TrainConfig(**(values | changes))


def parts(config: TrainConfig | None = None, *, pause: float = 0.0, **changes: object) -> RunParts:
    config = config or recipe()
    values: dict[str, object] = {
        "model": TinyModel(config.seed),
        "batches": ListBatches(learnable_batches(), pause),
        "valid": learnable_batches(3, seed=2),
        "tokenizer": tokenizer(),
        "train": config,
        "identity": {
            "train": config.model_dump(mode="json", exclude={"device"}),
            "device": config.device,
        },
        "flops_per_token": 100.0,
        "facts": {"arch_digest": "a" * 64, "data_fingerprint": "d" * 64},
    }
    return RunParts(**(values | changes))  # type: ignore[arg-type]


def new_folder(path: Path) -> RunFolder:
    return RunFolder.create(path, key="k" * 64, name="tiny", config={"train": {}})


def final_weights(folder: RunFolder) -> bytes:
    newest = max(folder.checkpoints.glob("step-*"))
    return (newest / "model.safetensors").read_bytes()
