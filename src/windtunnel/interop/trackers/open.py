"""The trackers there are, by name; what each needs is imported when it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import Context
from importlib import import_module
from pathlib import Path
from typing import Any

from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.interop.trackers.tracker import Label, Tracker
from windtunnel.runs import RunFolder

PROJECT = "windtunnel"


def open_tracker(
    name: str,
    run: RunFolder,
    *,
    folder: Path | None = None,
    project: str = PROJECT,
    step: int = 0,
    label: Label | None = None,
) -> Tracker:
    """A tracker of that name for a run.

    Args:
        folder: where files go that the tracker writes; ``trackers/NAME`` in the run's folder when
            left out.
        project: what W&B and Trackio group runs by.
        step: the run goes on from this step; numbers of later steps are to be written again.
        label: what it is called as a part of a study; by itself when left out.

    Raises:
        UsageError: there is no such tracker, or what it needs is not installed.
    """
    check_installed(name)
    label = label or Label(name=run.name, id=run.key[:16], config=_config(run))
    return TRACKERS[name](label, folder or run.path / "trackers" / name, project, step)


def check_installed(name: str) -> None:
    """Raises UsageError where there is no such tracker, or what it needs is not installed."""
    if name not in TRACKERS:
        raise UsageError(f"unknown tracker {name!r}{suggestion(name, TRACKERS)}")
    _needed(name)


class _TensorBoard(Tracker):
    """Event files that TensorBoard reads: a run is a folder. The main values of a run of a study
    stand among its HParams."""

    def __init__(self, label: Label, folder: Path, project: str, step: int) -> None:
        module = _needed("tensorboard")
        folder.mkdir(parents=True, exist_ok=True)
        # What stands there of steps that are written again is to be shown no more.
        again = step > 0 or any(folder.glob("events.out.tfevents.*"))
        self._writer: Any = module.SummaryWriter(
            str(folder), purge_step=step + 1 if again else None,
            filename_suffix=f".{label.id[:10]}",
        )  # fmt: skip
        if label.main and not step:
            from torch.utils.tensorboard.summary import hparams

            # Not `add_hparams`, which makes a further run of them.
            of = hparams(dict(label.main), {"eval/loss": 0.0})  # type: ignore[no-untyped-call]
            for summary in of:
                self._writer.file_writer.add_summary(summary)

    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=time)

    def close(self, status: str) -> None:
        self._writer.close()


class _WandB(Tracker):
    """Weights & Biases; offline unless its own settings or ``WANDB_MODE`` say otherwise."""

    def __init__(self, label: Label, folder: Path, project: str, step: int) -> None:
        wandb = _needed("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        # Runs of a study are open side by side; else a second one would be the first.
        beside = {} if label.group is None else {"group": label.group, "reinit": "create_new"}
        self._run: Any = wandb.init(
            project=project, name=label.name, id=label.id[:16], resume="allow", dir=str(folder),
            config={**label.config, **label.main}, mode=os.environ.get("WANDB_MODE", "offline"),
            **beside,
        )  # fmt: skip

    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        self._run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)


class _Trackio(Tracker):
    """Trackio, which keeps its data on this machine; a run is what has its name."""

    def __init__(self, label: Label, folder: Path, project: str, step: int) -> None:
        trackio = _needed("trackio")
        # In a context of its own: opening a run ends the one that is open in the same context.
        self._run: Any = Context().run(
            trackio.init, project=project, name=f"{label.name}-{label.id[:10]}", resume="allow",
            config={**label.config, **label.main},
            **({} if label.group is None else {"group": label.group}),
        )  # fmt: skip

    def log(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        self._run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        self._run.finish()


Opener = Callable[[Label, Path, str, int], Tracker]
TRACKERS: Mapping[str, Opener] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "trackio": _Trackio,
}
_MODULES = {"tensorboard": "torch.utils.tensorboard"}


def _config(run: RunFolder) -> dict[str, Any]:
    import yaml

    loaded = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def _needed(name: str) -> Any:
    try:
        return import_module(_MODULES.get(name, name))
    except ImportError as error:
        raise UsageError(
            f"the tracker {name} is not installed: pip install 'windtunnel[{name}]'"
        ) from error
