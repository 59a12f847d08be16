"""The trackers there are, by name; what each needs is imported when it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.interop.trackers.tracker import Tracker
from windtunnel.runs import RunFolder

PROJECT = "windtunnel"


def open_tracker(
    name: str, run: RunFolder, *, folder: Path | None = None, project: str = PROJECT, step: int = 0
) -> Tracker:
    """A tracker of that name for a run.

    Args:
        folder: where files go that the tracker writes; ``trackers/NAME`` in the run's folder when
            left out.
        project: what W&B and Trackio group runs by.
        step: the run goes on from this step; numbers of later steps are to be written again.

    Raises:
        UsageError: there is no such tracker, or what it needs is not installed.
    """
    if name not in TRACKERS:
        raise UsageError(f"unknown tracker {name!r}{suggestion(name, TRACKERS)}")
    return TRACKERS[name](run, folder or run.path / "trackers" / name, project, step)


class _TensorBoard(Tracker):
    """Event files that TensorBoard reads."""

    def __init__(self, run: RunFolder, folder: Path, project: str, step: int) -> None:
        module = _needed("torch.utils.tensorboard", "tensorboard")
        folder.mkdir(parents=True, exist_ok=True)
        self._writer: Any = module.SummaryWriter(
            str(folder), purge_step=step + 1 if step else None, filename_suffix=f".{run.key[:10]}"
        )

    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=time)

    def close(self, status: str) -> None:
        self._writer.close()


class _WandB(Tracker):
    """Weights & Biases; offline unless its own settings or ``WANDB_MODE`` say otherwise."""

    def __init__(self, run: RunFolder, folder: Path, project: str, step: int) -> None:
        wandb = _needed("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=project, name=run.name, id=run.key[:16], resume="allow", dir=str(folder),
            config=_config(run), mode=os.environ.get("WANDB_MODE", "offline"),
        )  # fmt: skip

    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        self._run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)


class _Trackio(Tracker):
    """Trackio, which keeps its data on this machine."""

    def __init__(self, run: RunFolder, folder: Path, project: str, step: int) -> None:
        trackio = _needed("trackio", "trackio")
        self._run: Any = trackio.init(
            project=project, name=f"{run.name}-{run.key[:10]}", config=_config(run), resume="allow"
        )
        self._module = trackio

    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        self._module.log(dict(values), step=step)

    def close(self, status: str) -> None:
        self._module.finish()


Opener = Callable[[RunFolder, Path, str, int], Tracker]
TRACKERS: Mapping[str, Opener] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "trackio": _Trackio,
}


def _config(run: RunFolder) -> dict[str, Any]:
    import yaml

    loaded = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def _needed(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"the tracker {extra} is not installed: pip install 'windtunnel[{extra}]'"
        ) from error
