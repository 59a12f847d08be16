"""What several processes train, under torchrun: ``several.py FOLDER``. The test compares with one.

All scenarios share one start, since importing torch takes longer than all of them.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from standins import Lengths, ListBatches, Rows, recipe

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.config import Document, decode
from windtunnel.errors import WindtunnelError
from windtunnel.runs import RunFolder
from windtunnel.train.distributed.world import ALONE, World, joined
from windtunnel.train.loop import StepInfo
from windtunnel.train.runner import RunParts, train_run

V, T, B = 23, 10, 4

MOE = {"type": "moe", "num_experts": 3, "top_k": 1, "expert": "dense"}
ATTENTION = {"type": "attention", "num_heads": 2}
ARCH: dict[str, Any] = {
    "name": "several", "vocab_size": V, "d_model": 16, "max_seq_len": T,
    "embedding": {"dropout": 0.1},
    "layers": [
        {"mixer": ATTENTION | {"dropout": 0.2}, "mlp": MOE | {"balance": "loss"}, "dropout": 0.1},
        {"mixer": "gla", "mlp": MOE | {"balance": "loss_free"}, "dropout": 0.1},
    ],
}  # fmt: skip

ON_THE_SPHERE: dict[str, Any] = ARCH | {
    "unit_weights": True,
    "layers": [{"norm": "none", "mixer": ATTENTION, "mlp": "glu", "dropout": 0.1, "repeat": 2}],
}
FLAT = {"type": "flat"}
PLAN = (
    {"name": "first", "data": "a", "steps": 2, "schedule": FLAT},
    {"name": "second", "data": "b", "rows": 14, "batch_size": 4, "lr": 0.01},
)

RECIPES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {},
    "ddp in pieces": {"micro_batch_size": 2},
    "ddp bfloat16": {"precision": "bfloat16"},
    "fsdp bfloat16": {"precision": "bfloat16"},
    "fsdp small": {"activation_checkpointing": True, "loss_chunk": 7, "micro_batch_size": 2},
    "ddp muon": {"optimizer": {"type": "muon"}, "ema": 0.9},
    "ddp watched": {"watch_every": 2},
    "fsdp watched": {"watch_every": 2},
    "fsdp ema": {"ema": 0.9},
    "fsdp stages": {"stages": PLAN},
    "fsdp unit weights": {},
    "fsdp all of these": {"watch_every": 2, "ema": 0.9, "stages": PLAN},
    "ddp all of these": {"watch_every": 2, "ema": 0.9, "stages": PLAN},
}


def batches(count: int, seed: int) -> list[Rows]:
    """Rows with very different numbers of targets."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        tokens = torch.randint(V, (B, T + 1), generator=g)
        targets = tokens[:, 1:].clone()
        targets[torch.rand(B, T, generator=g) < torch.arange(B)[:, None] / B] = -100
        found.append(Rows(tokens[:, :-1], targets))
    return found


def parts_of(name: str, world: World, **changes: Any) -> RunParts:
    """A run of a scenario; the same but for ``distributed`` in one process and in several."""
    kind = name.split()[0]
    values = {"steps": 6, "batch_size": B, "seq_len": T, "eval_every": 3, "checkpoint_every": 2}
    config = recipe(**(values | RECIPES[name] | {"distributed": kind} | changes))
    arch = ON_THE_SPHERE if name.endswith(("unit weights", "all of these")) else ARCH
    model = build(resolve(decode(Document(arch), ArchSpec)), seed=0)
    return RunParts(
        model=model,
        batches=ListBatches(batches(5, 1)),
        valid=batches(3, 2),
        tokenizer=Lengths(torch.arange(V, dtype=torch.int32).numpy()),
        train=config,
        identity={"recipe": name},
        samples=lambda model: [{"text": str(model(batches(1, 3)[0].inputs).argmax(-1).tolist())}],
        world=world,
    )


def begun(path: Path, world: World) -> RunFolder:
    """A run's folder, made by the first process."""
    if world.first and not path.exists():
        RunFolder.create(path, key="k" * 64, name=path.name, config={"train": {}})
    world.wait()
    return RunFolder.open(path)


def train(out: Path, name: str, world: World, **more: Any) -> dict[str, Any]:
    changes = more.pop("changes", {})
    folder = begun(out / more.pop("folder", name).replace(" ", "-"), world)
    return train_run(parts_of(name, world, **changes), folder, **more)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with joined("ddp", "cpu") as world:
        for name in RECIPES:
            train(out, name, world)
        # Begun by one process, and gone on with here.
        train(out, "fsdp all of these", world, folder="one-then-two", resume=True)
        train(out, "ddp", world, folder="two-then-one", on_step=signalled(world))
    raise AssertionError("the run was not interrupted")


def signalled(world: World) -> Any:
    """A signal for one process, after its third step."""

    def on_step(info: StepInfo) -> None:
        if info.step == 3 and world.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


def fail(out: Path) -> None:
    """The second process fails in its third step."""
    with joined("ddp", "cpu") as world:

        def on_step(info: StepInfo) -> None:
            if info.step == 3 and world.rank == 1:
                raise OSError("the cable was pulled")

        train(out, "ddp", world, folder="failed", on_step=on_step)


if __name__ == "__main__":
    path, what = Path(sys.argv[1]), sys.argv[2]
    try:
        main(path) if what == "train" else fail(path)
    except (WindtunnelError, OSError) as error:
        code = getattr(error, "exit_code", 1)
        told = {"error": str(error), "code": code}
        (path / f"{what}-{os.environ['RANK']}.json").write_text(json.dumps(told))
        sys.exit(code)

__all__ = ["ALONE", "RECIPES", "begun", "parts_of", "train"]
