"""Training single models with the computing time that a hypernetwork had, and keeping them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from windtunnel.errors import UsageError
from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.launch import ReadyGhn, load_ghn, ready_ghn, text_feed
from windtunnel.hyper.release import WEIGHTS
from windtunnel.hyper.singles import Singles, source_key, train_single
from windtunnel.hyper.stored import NETWORK, singles_facts
from windtunnel.runs import RunFolder
from windtunnel.train.config import TrainConfig
from windtunnel.train.launch import TOKENIZER
from windtunnel.train.schedule_config import ScheduleConfig

Tell = Callable[[str, int, float], None]


def train_rival(
    ghn: Path,
    out: Path,
    *,
    lr: float = 2e-3,
    batch_size: int = 16,
    seconds: float | None = None,
    tell: Tell = lambda key, step, loss: None,
) -> dict[str, Any]:
    """One model of each kind, tied and untied, of the largest size that a hypernetwork was trained
    on, on its text, for as long as it was trained, all together; what it took.

    ``out`` then is a folder that :func:`windtunnel.hyper.stored.open_stored` opens.

    Args:
        ghn: the folder of the hypernetwork's finished run.
        seconds: of computing in all; None: as many as the hypernetwork's record tells.

    Raises:
        UsageError: the run has not ended, or the folder is there.
    """
    if out.exists():
        raise UsageError(f"{out}: already exists; choose another folder")
    record = RunFolder.open(ghn).read_record()
    if record is None:
        raise UsageError(f"{ghn}: this run has not ended, so its cost is not known")
    ready = ready_ghn(load_ghn(ghn / "config.yaml"))
    total = float(record["train_seconds"]) if seconds is None else seconds
    singles = _untrained(ready)
    train = _recipe(ready, lr, batch_size)
    took: dict[str, Any] = {}
    for key, architecture in singles.sources.items():
        feed = text_feed(
            ready.config.replace(train=train, meta_batch=1), ready.dataset, architecture
        )
        took[key] = train_single(
            singles.models[key], feed.batches, train, seconds=total / len(singles.sources),
            tell=lambda step, loss, key=key: tell(key, step, loss),  # type: ignore[misc]
        )  # fmt: skip
    split = ready.config.split
    facts = singles_facts("singles", singles, {"d_model": split.d_model, "n_layer": split.n_layer})
    out.mkdir(parents=True)
    shutil.copytree(ghn / TOKENIZER, out / TOKENIZER)
    values = {name: value.detach().contiguous() for name, value in singles.named_parameters()}
    save_file(values, str(out / WEIGHTS))
    text = json.dumps({**facts, "training": took}, indent=1)
    (out / NETWORK).write_text(text + "\n", encoding="utf-8")
    return took


def _untrained(ready: ReadyGhn) -> Singles:
    """The largest architectures, which the hypernetwork's first steps see alone."""
    space = ready.members.space.whole
    found = {}
    for index in ready.members.draws.examples():
        architecture = space[index].architecture
        found[source_key(anatomy_of(architecture))] = architecture
    return Singles(found)


def _recipe(ready: ReadyGhn, lr: float, batch_size: int) -> TrainConfig:
    given = ready.config.train
    return TrainConfig(
        batch_size=batch_size, seq_len=given.seq_len, lr=lr, seed=given.seed, device=given.device,
        threads=given.threads, schedule=ScheduleConfig(type="cosine", warmup=0.05), steps=100,
    )  # fmt: skip
