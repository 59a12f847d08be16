"""The weights of a hypernetwork in a file of a few megabytes, with its card."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from windtunnel.config import load_document
from windtunnel.runs import RunFolder
from windtunnel.train.checkpoint import load_weights
from windtunnel.train.restore import copy_into, kept_tensors

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"


def load_network_weights(path: Path, network: nn.Module) -> None:
    """Puts the weights of a release, or those of a run's newest checkpoint, into a network.

    Raises:
        CheckpointError: no checkpoint is whole, or they do not fit.
    """
    if (path / WEIGHTS).is_file():
        copy_into(kept_tensors(network), [path / WEIGHTS])
        return
    folder = RunFolder.open(path)
    document = load_document(folder.config_path)
    averaged = document.get(("train", "ema"), None) is not None
    load_weights(folder.checkpoints, network, logger.warning, ema=averaged)
