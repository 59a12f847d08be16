"""Recipe, loop, evaluation, checkpoints, runner."""

from windtunnel.train.run_config import LoadedRun, RunConfig, load_run

__all__ = ["LoadedRun", "RunConfig", "load_run"]
