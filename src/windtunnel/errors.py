"""What can go wrong, in two kinds: the user's mistake (exit code 2) and a failure (exit code 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class WindtunnelError(Exception):
    """A failure that is told in one line, without a traceback."""

    exit_code = 1


class UsageError(WindtunnelError):
    """A mistake in what the user asked for; nothing was written."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a config: where it stands, what it is, what would be allowed."""

    path: str
    message: str
    place: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        what = f"{self.path}: {self.message}" if self.path else self.message
        return where + what


class ConfigError(UsageError):
    """Every mistake of a config at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(WindtunnelError):
    """A corpus that cannot be had or read, is damaged, or changed under the reading."""


class SourceError(DataError, UsageError):
    """Data that the user named and that is not what it was named as: missing, empty, of another
    kind or form. Nothing was written."""


class NotFiniteError(UsageError):
    """A model whose logits are not finite was asked to write."""


class RunError(WindtunnelError):
    """A run that cannot start, continue or be read."""


class CheckpointError(RunError):
    """No checkpoint is whole, or one does not fit the model."""


class StudyError(WindtunnelError):
    """A study that cannot be planned or finished."""
