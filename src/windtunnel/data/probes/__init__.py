"""Synthetic tasks, one file each: a new file is all that a new task takes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from windtunnel.data.probe import ProbeSource, registered_probes

for _name in sorted(info.name for info in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_name}")


def probe_classes() -> Mapping[str, type[ProbeSource]]:
    """Every task by type: those of this folder, and those that plugins have registered."""
    return registered_probes()
