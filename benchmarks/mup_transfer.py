"""Where the best learning rate is at each width, with and without muP.

    python benchmarks/mup_transfer.py [--widths 32 64 128 256] [--steps 100] [--json FILE]

A two-layer llama (heads of 8, tied) learns the transitions of a random Markov chain over 64 tokens,
16 sequences of 16 at a time, at rates of 2⁻¹⁰ to 2⁻³; the loss is the mean of the last fifth of
the steps. One seed, one thread.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.train.config import TrainConfig
from windtunnel.train.group_config import MupConfig
from windtunnel.train.loop import create_train_state, train_steps
from windtunnel.train.mup import mup_architecture, rescale

VOCAB, LENGTH, BATCH, BASE = 64, 16, 16, 32
POWERS = tuple(range(-10, -2))


@dataclass(frozen=True)
class Rows:
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Chain:
    """Batches of a Markov chain, by their position."""

    batches: Sequence[Rows]

    @classmethod
    def drawn(cls, count: int, seed: int = 3) -> Chain:
        generator = torch.Generator().manual_seed(seed)
        moves = (2 * torch.randn(VOCAB, VOCAB, generator=generator)).softmax(-1)
        rows = []
        for _ in range(count):
            tokens = torch.randint(VOCAB, (BATCH, 1), generator=generator)
            for _ in range(LENGTH):
                following = torch.multinomial(moves[tokens[:, -1]], 1, generator=generator)
                tokens = torch.cat((tokens, following), dim=1)
            rows.append(Rows(tokens[:, :-1], tokens[:, 1:].clone()))
        return cls(rows)

    def at(self, position: int) -> Rows:
        return self.batches[position % len(self.batches)]


def losses(width: int, mup: MupConfig | None, steps: int, powers: Sequence[int]) -> list[float]:
    """The loss at the end for each learning rate 2^power; infinite where it is not a number."""
    layers = ({"repeat": 2, "mixer": {"type": "attention", "head_dim": 8}, "mlp": "glu"},)
    spec = ArchSpec(d_model=width, vocab_size=VOCAB, max_seq_len=LENGTH, layers=layers)
    architecture = resolve(spec)
    chain, found = Chain.drawn(steps), []
    for power in powers:
        model = build(architecture if mup is None else mup_architecture(architecture, mup))
        if mup is not None:
            rescale(model, mup)
        config = TrainConfig(
            steps=steps, batch_size=BATCH, seq_len=LENGTH, lr=2.0**power, device="cpu", mup=mup,
            schedule={"type": "linear", "warmup": 0.1},
        )  # fmt: skip
        seen = [info.loss for info in train_steps(create_train_state(model, chain, config))]
        last = seen[-(steps // 5) :]
        mean = sum(last) / len(last)
        found.append(mean if math.isfinite(mean) else math.inf)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for name, mup in (("standard", None), ("mup", MupConfig(base_width=BASE))):
        for width in arguments.widths:
            row = losses(width, mup, arguments.steps, POWERS)
            best = POWERS[min(range(len(row)), key=row.__getitem__)]
            table.append({"rates": name, "width": width, "best_power": best, "losses": row})
            print(f"{name:<9} {width:>5}  best 2^{best}  {min(row):.3f}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"powers": POWERS, "rows": table}, indent=2))


if __name__ == "__main__":
    main()
