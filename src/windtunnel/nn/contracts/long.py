"""What holds for a few tokens holds for many, where code works in chunks."""

from __future__ import annotations

import torch

from windtunnel.nn.component import Span
from windtunnel.nn.contracts.behaviour import check_cuts, check_padded
from windtunnel.nn.contracts.case import Case, build, close, make_input, run

_TOKENS = 199
"""A prime, so that no length of chunks divides it, and above the usual ones: 32, 64, 128."""
_EDITS = (1, 8, 16, 32, 64, 99, 128, 192, 198)
_CUTS = (1, 2, 66)
"""One token at a time, a chunk of 64, and one of 133, which is longer than the usual."""


def check_long(case: Case) -> None:
    """Causality, ``forward`` against ``extend`` and padding once more, at 199 tokens."""
    if case.scope.causal:
        _check_causality(case)
        if case.kind == "mixer":
            with torch.no_grad():
                check_cuts(case, build(case), make_input(case, 1, _TOKENS), _CUTS)
    real = torch.ones(2, _TOKENS, dtype=torch.bool)
    real[1, :3] = False
    real[1, [20, 63, 64, 100]] = False
    real[1, 190:] = False
    check_padded(case, real)


@torch.no_grad()
def _check_causality(case: Case) -> None:
    """Each row of one batch is edited from another token on: one pass in place of many."""
    one = make_input(case, 1, _TOKENS)
    x = one.expand(1 + len(_EDITS), *one.shape[1:]).clone()
    for row, cut in enumerate(_EDITS, start=1):
        x[row, cut:] += 1e4
    y = run(build(case), x, Span.of(_TOKENS))
    for row, cut in enumerate(_EDITS, start=1):
        close(y[row, :cut], y[0, :cut], case, f"editing token {cut} of {_TOKENS} on")
