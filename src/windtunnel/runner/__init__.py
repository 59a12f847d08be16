"""Models and runners: any model learns prompt/truth pairs by one training code.

The names and arguments are those of LMPlay's guide; see ``docs/runner.md`` for what differs. A
model says how it is built and what its forward computes; a runner makes it, trains it, saves it
and goes on where it was.
"""

from windtunnel.runner.architecture import ArchitectureLM
from windtunnel.runner.basic import BasicModelRunner
from windtunnel.runner.checkpoint import read_checkpoint
from windtunnel.runner.model import LMBase, MBase
from windtunnel.runner.runner import LMRunnerBase

__all__ = [
    "ArchitectureLM",
    "BasicModelRunner",
    "LMBase",
    "LMRunnerBase",
    "MBase",
    "read_checkpoint",
]
