"""The contracts of components, as functions that raise AssertionError with what was found.

They hold for every registered component, the package's and a plugin's: :func:`check_component` runs
all that apply to one. Values are checked in float64, so a difference is a fault and not rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from windtunnel.nn.component import REGISTRIES
from windtunnel.nn.contracts.behaviour import (
    check_bfloat16,
    check_causality,
    check_chunks,
    check_dropout,
    check_padding,
    check_reorder,
    check_round_trip,
    check_seed,
    check_shape,
)
from windtunnel.nn.contracts.case import Case, place
from windtunnel.nn.contracts.cost import check_cost, check_cost_of_arrays, check_kept
from windtunnel.nn.contracts.long import check_long
from windtunnel.nn.contracts.meta import check_meta
from windtunnel.nn.contracts.training import check_saved, check_training

Contract = Callable[[Case], None]

__all__ = ["Case", "Contract", "check_component", "contracts_of", "examples", "place"]

_OF_ALL: tuple[Contract, ...] = (
    check_shape,
    check_padding,
    check_round_trip,
    check_seed,
    check_dropout,
    check_bfloat16,
    check_cost,
    check_cost_of_arrays,
    check_kept,
    check_meta,
    check_training,
    check_saved,
    check_long,
)
_OF_MIXERS: tuple[Contract, ...] = (check_chunks, check_reorder)


def contracts_of(case: Case) -> tuple[Contract, ...]:
    """The contracts that apply to a case."""
    contracts = _OF_ALL
    if case.scope.causal:
        contracts += (check_causality,)
        if case.kind == "mixer":
            contracts += _OF_MIXERS
    return contracts


def examples(kind: str, name: str) -> Iterator[Case]:
    """The cases that a component offers of itself."""
    for cls in REGISTRIES[kind]:
        for config in cls.examples():
            if config.type == name:
                yield Case(kind, config, place(kind))


def check_component(kind: str, name: str) -> int:
    """Every contract on every example of a component; the number of checks.

    Raises:
        AssertionError: the first contract that does not hold.
        KeyError: no such kind.
    """
    count = 0
    for case in examples(kind, name):
        for contract in contracts_of(case):
            contract(case)
            count += 1
    return count
