"""Runs parts of the program on a stand-in for a GPU and on the CPU; prints what they came to.

    python on_standin.py cuda|mps PART        (a process of its own: torch gets a device for good)

Each case is a list of numbers and texts, once for each device; a failure is its traceback.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from autocast_rules import install_rules
from device_cases import THERE, open_noted, outcomes
from standin_device import DEVICE, NAME, StandIn, install

from windtunnel.cli import generating
from windtunnel.hyper import launch as hyper_launch
from windtunnel.nn.ops import widest
from windtunnel.runner import runner as runner_module
from windtunnel.train import launch, loop
from windtunnel.train.optimizers import torch_own


def place(name: str, place: str = "") -> torch.device:
    """In place of ``resolve_device``."""
    return torch.device("cpu" if name in ("cpu", "auto") else DEVICE)


def main_here(kind: str, part: str) -> None:
    THERE.name, THERE.device, THERE.cpu_numbers = NAME, DEVICE, True
    install(float64=kind != "mps")
    if kind == "mps":
        widest.WITHOUT_FLOAT64.add(NAME)
    install_rules(kind)
    torch_own.FUSED += (NAME,)  # type: ignore[assignment]
    loop.check_precision = lambda *_: None
    modules: list[Any] = [loop, launch, hyper_launch, generating, runner_module]
    for module in modules:
        module.resolve_device = place
    generating.open_trained = open_noted
    print(outcomes(part, StandIn))


if __name__ == "__main__":
    main_here(sys.argv[1], sys.argv[2])
