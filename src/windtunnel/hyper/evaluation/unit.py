"""One training: an architecture, the parameters it begins with, a rate, a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from windtunnel.arch import Architecture, Model, build
from windtunnel.data.loader import Batches
from windtunnel.hyper.evaluation.units import Outcome
from windtunnel.train.config import TrainConfig
from windtunnel.train.evaluation import evaluation_mode
from windtunnel.train.group_config import MupConfig
from windtunnel.train.loop import create_train_state, train_steps
from windtunnel.train.schedule_config import ScheduleConfig

_ROWS = 32
_SIGN_ROWS = 64


def train_unit(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    *,
    lr: float,
    seed: int,
    steps: Sequence[int],
    batch_size: int,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    eval_tokens: int,
    mup: MupConfig | None = None,
) -> Outcome:
    """Trains from given weights; the loss on ``held`` at each of ``steps``, in nats a token, and
    the ``seconds`` of the processor that the steps themselves took.

    AdamW, a short warm-up, a flat rate, and a fall over the last fifth. What ``weights`` lacks is
    drawn as usual from the seed. ``mup`` scales the rates. A run that diverges has an infinite loss
    from then on.
    """
    torch.set_num_threads(1)
    t = architecture.max_seq_len
    model = _begun(architecture, weights, seed)
    found = {0: mean_loss(model, held, t, eval_tokens)} if 0 in steps else {}
    if steps[-1] == 0:
        return Outcome(found)
    config = TrainConfig(
        steps=steps[-1], batch_size=batch_size, seq_len=t, lr=lr, seed=seed, device="cpu", mup=mup,
        schedule=ScheduleConfig(type="wsd", warmup=min(20, steps[-1] // 4)),
    )  # fmt: skip
    batches = Batches(train, seq_len=t, batch_size=batch_size, seed=seed)
    state = create_train_state(model, batches, config)
    for info in train_steps(state):
        if info.step in steps:
            found[info.step] = mean_loss(model, held, t, eval_tokens)
    return Outcome(
        {step: found.get(step, math.inf) for step in steps},
        {"seconds": state.progress.cpu_seconds or 0.0},
    )


def first_gradient(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    *,
    seed: int,
    train: NDArray[np.int64],
) -> dict[str, float]:
    """What the gradient of one batch tells before any step: its norm, and Σ |w · ∂L/∂w|, the
    connection sensitivity of SNIP (Lee et al. 2019); signs that architectures are ranked by without
    training (Abdelfattah et al. 2021)."""
    model = _begun(architecture, weights, seed)
    batches = Batches(train, seq_len=architecture.max_seq_len, batch_size=_SIGN_ROWS, seed=seed)
    batch = batches.at(0)
    with evaluation_mode(model):  # the gradient, without dropout
        logits = model(batch.inputs).float()
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        named = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, named, allow_unused=True)
    pairs = [(w, g) for w, g in zip(named, grads, strict=True) if g is not None]
    return {
        "grad_norm": float(torch.stack([g.square().sum() for _, g in pairs]).sum().sqrt()),
        "snip": float(torch.stack([(w * g).abs().sum() for w, g in pairs]).sum()),
    }


@torch.no_grad()
def _begun(architecture: Architecture, weights: Mapping[str, Tensor], seed: int) -> Model:
    """The model with given weights; what they lack is drawn as usual."""
    model = build(architecture, seed)
    for name, value in model.named_parameters():
        if name in weights:
            value.copy_(weights[name])
    return model


@torch.no_grad()
def mean_loss(model: torch.nn.Module, tokens: NDArray[np.int64], t: int, most: int) -> float:
    """The mean loss of a model on evenly spaced rows of a text; infinite where it is none."""
    rows = max(1, min(most // t, (len(tokens) - 1) // t))
    starts = np.linspace(0, len(tokens) - 1 - t, rows).astype(np.int64)
    total = 0.0
    with evaluation_mode(model):
        for some in np.array_split(starts, -(-rows // _ROWS)):
            window = torch.from_numpy(tokens[some[:, None] + np.arange(t + 1)])
            logits = model(window[:, :-1]).float()
            nats = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten(), reduction="sum")
            total += float(nats)
    return total / (rows * t) if math.isfinite(total) else math.inf
