"""Where two architectures differ: as any two configs do."""

from windtunnel.config.diff import Difference, diff

__all__ = ["Difference", "diff"]
