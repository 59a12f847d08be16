"""One thread: the tests are tiny, and the machine is shared. And the figures of tests on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_figures import FIGURES, Figures


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def figures() -> Figures:
    return FIGURES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in FIGURES.lines():
        terminalreporter.write_line(line)
