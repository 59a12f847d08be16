"""Where workers run: on this machine, or on a Ray cluster. What runs is ``study/execute.py``'s."""

from windtunnel.study.engines.engine import Capacity, Ended, Engine, Handle, Task
from windtunnel.study.engines.local import LocalEngine
from windtunnel.study.engines.opening import open_engine

__all__ = ["Capacity", "Ended", "Engine", "Handle", "LocalEngine", "Task", "open_engine"]
