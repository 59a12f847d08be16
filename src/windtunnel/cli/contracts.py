"""What ``windtunnel check --contracts`` says of a file: each component, example by example."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from windtunnel.arch.plugins import load_entry_points, load_plugins
from windtunnel.errors import UsageError
from windtunnel.nn.component import REGISTRIES, Component
from windtunnel.nn.contracts import Case, Contract, contracts_of, place

_Class = type[Component[Any]]


@dataclass(frozen=True)
class Failure:
    """A contract that does not hold."""

    contract: str
    message: str


@dataclass(frozen=True)
class ExampleReport:
    """What the contracts found in one example of one component."""

    kind: str
    name: str
    example: str
    """The knobs that the example sets; empty where it sets none."""
    contracts: int
    passed: int
    failures: tuple[Failure, ...]

    @property
    def label(self) -> str:
        """As it is printed."""
        return f"{self.kind} {self.name}({self.example})"


def check_contracts(file: Path) -> list[ExampleReport]:
    """Every contract on every example of every component that ``file`` registers.

    Raises:
        UsageError: a file that cannot be loaded, or registers nothing.
    """
    load_entry_points()
    before = set(_components())
    load_plugins([str(file)], Path())
    found = [c for c in _components() if c not in before or _is_from(c[2], file)]
    if not found:
        raise UsageError(f'{file}: registers no component (a class below `@register("mixer")`)')
    with redirect_stdout(sys.stderr):  # what a component prints is no part of the answer
        return [report for kind, name, cls in found for report in _check(kind, name, cls)]


def _components() -> list[tuple[str, str, _Class]]:
    return [
        (kind, str(cls.Config.model_fields["type"].default), cls)
        for kind, registry in REGISTRIES.items()
        for cls in registry
    ]


def _is_from(cls: _Class, file: Path) -> bool:
    """Whether ``cls`` was made by ``file``, which may have been loaded before."""
    source = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return source is not None and Path(source).resolve() == file.resolve()


def _check(kind: str, name: str, cls: _Class) -> Iterator[ExampleReport]:
    try:
        configs = cls.examples()
    except (Exception, SystemExit) as error:  # foreign code: all it raises is told as its fault
        yield _no_example(kind, name, _told(error))
        return
    if not configs:
        yield _no_example(kind, name, "there is none, so nothing was checked")
    for config in configs:
        case = Case(kind, config, place(kind))
        contracts = contracts_of(case)
        failures = tuple(f for f in (_failure(case, c) for c in contracts) if f is not None)
        values = config.model_dump(mode="json", exclude={"type"}, exclude_unset=True)
        example = ", ".join(f"{key}={value}" for key, value in values.items())
        passed = len(contracts) - len(failures)
        yield ExampleReport(kind, name, example, len(contracts), passed, failures)


def _no_example(kind: str, name: str, message: str) -> ExampleReport:
    return ExampleReport(kind, name, "", 0, 0, (Failure("examples", message),))


def _failure(case: Case, contract: Contract) -> Failure | None:
    try:
        contract(case)
    except (Exception, SystemExit) as error:  # foreign code: all it raises is told as its fault
        name = getattr(contract, "__name__", repr(contract)).removeprefix("check_")
        return Failure(name, _told(error, case))
    return None


def _told(error: BaseException, case: Case | None = None) -> str:
    """One line: what a contract found, without the case; or what the component raised."""
    text = str(error)
    if isinstance(error, AssertionError):
        text = text.removeprefix(f"{case}: ") or "an assertion does not hold"
    else:
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())


def contracts_json(reports: list[ExampleReport]) -> dict[str, Any]:
    """The same as plain JSON."""
    return {"hold": all_hold(reports), "examples": [asdict(report) for report in reports]}


def all_hold(reports: list[ExampleReport]) -> bool:
    """Whether no contract failed."""
    return not any(report.failures for report in reports)


def print_contracts(reports: list[ExampleReport]) -> None:
    """A line for each example, and one for each fault, told once where several contracts or
    examples of a component find the same."""
    told: set[tuple[str, str, str, str]] = set()
    for report in reports:
        count = f"{report.passed} of {report.contracts}" if report.failures else report.passed
        typer.echo(f"{report.label}: {count} contracts hold")
        for contracts, message in _grouped(report.failures):
            fault = (report.kind, report.name, contracts, message)
            if fault not in told:
                told.add(fault)
                more = sum((contracts, message) in _grouped(r.failures) for r in reports
                           if (r.kind, r.name) == (report.kind, report.name)) - 1  # fmt: skip
                also = f" (and in {more} more example{'s' * (more > 1)})" if more else ""
                typer.echo(f"  {report.label}: {contracts}: {message}{also}")


def _grouped(failures: Sequence[Failure]) -> list[tuple[str, str]]:
    """Each message once, after the contracts that found it."""
    contracts: dict[str, list[str]] = {}
    for failure in failures:
        contracts.setdefault(failure.message, []).append(failure.contract)
    return [(", ".join(names), message) for message, names in contracts.items()]
