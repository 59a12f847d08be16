"""Components of a test alone: what plugins register is gone again afterwards."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from windtunnel.nn.component import REGISTRIES


@contextmanager
def components_apart() -> Iterator[None]:
    """Within, plugins may be loaded; afterwards the registries are as they were."""
    before = {kind: dict(registry._classes) for kind, registry in REGISTRIES.items()}
    try:
        yield
    finally:
        forget_plugins()
        for kind, registry in REGISTRIES.items():
            registry._classes.clear()
            registry._classes.update(before[kind])


def forget_plugins() -> None:
    """As in a new process: a plugin's file is read again when it is next named."""
    for name in [name for name in sys.modules if name.startswith("windtunnel_plugin_")]:
        del sys.modules[name]
