"""How a long preparation tells where it stands."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then with the stage's name and how much of it is done, in bytes or steps.

    Stages: ``download``, ``read``, ``train tokenizer``, ``tokenize``. ``total`` is 0 when unknown.
    """

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that says nothing."""
