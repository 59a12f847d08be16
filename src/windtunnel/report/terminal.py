"""A study in the terminal: what may be said, and what each architecture cost.

Everything is readable at 80 columns and without colour: a colour only repeats a word. The text
is ASCII, so it survives any terminal, pipe and log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report.units import (
    Estimate,
    bytes_text,
    count_text,
    fixed,
    level_text,
    p_text,
)
from windtunnel.report.verdicts import BUDGETS, UNITS, Arm, Verdicts, read_verdicts

_NONE = "-"
_NAME_WIDTH = 12
_EXACT = 0.005
"""What is left of a matched budget's mismatch below this is not told."""
_MISMATCH_HEADINGS = {
    "tokens": "d tokens",
    "flops": "d FLOPs",
    "params": "d params",
    "seconds": "d time",
}
STYLES = {
    "better": "bold green",
    "worse": "bold red",
    "equivalent": "bold cyan",
    "undecided": "yellow",
    "reference": "dim",
}


def verdict_table(verdicts: Mapping[str, Any]) -> Table:
    """One row an architecture: final loss, difference to the first with its interval, p, verdict.

    Losses are in nats per token, and below that in bits per byte; p is corrected for the number
    of comparisons (Holm); MDE is the minimum detectable effect. Value and
    interval have the same digits: as many as the interval's width supports.

    Raises StudyError for verdicts of another shape.
    """
    return _verdict_table(read_verdicts(verdicts))


def cost_of_arms_table(verdicts: Mapping[str, Any]) -> Table:
    """One row an architecture: parameters, compute, speed, memory, and the budgets' mismatch.

    Raises StudyError for verdicts of another shape.
    """
    return _cost_table(read_verdicts(verdicts))


def verdict_view(verdicts: Mapping[str, Any]) -> Group:
    """Both tables with the reasons, the note and the conclusion: what `compare` prints at its end.

    Raises StudyError for verdicts of another shape.
    """
    study = read_verdicts(verdicts)
    parts: list[RenderableType] = [_verdict_table(study), _cost_table(study)]
    parts += [
        Text.assemble((arm.name, "bold"), f": {arm.reason}")
        for arm in study.arms
        if arm.reason and arm.verdict != "reference"
    ]
    parts.append(Text(_interval_words(study), style="dim"))
    notes = (
        _plain(study.time_words),
        study.design_words,
        study.pairing_words,
        *study.note.splitlines(),
    )
    parts += [Text(text, style="dim") for text in notes if text]
    if study.conclusion:
        parts.extend((Text(""), Text(study.conclusion, style="bold")))
    return Group(*parts)


def open_table(title: str, columns: Mapping[str, bool]) -> Table:
    """An open table; `columns` maps each heading to "holds numbers"."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for position, (heading, numeric) in enumerate(columns.items()):
        # Only the first column, the name, may be folded onto a second line.
        table.add_column(
            heading,
            justify="right" if numeric else "left",
            no_wrap=position > 0,
            overflow="fold",
            min_width=_NAME_WIDTH if position == 0 else None,
        )
    return table


def _verdict_table(study: Verdicts) -> Table:
    columns = {"architecture": False, "loss": True, "diff.": True, "interval": True}
    columns |= {"p (Holm)": True, "MDE": True, "verdict": False}
    table = open_table(_title(study), columns)
    for arm in study.arms:
        first = arm.is_reference
        nats = arm.delta if study.in_nats else None
        p_value = arm.p_holm if arm.p_holm is not None else arm.p_value
        table.add_row(
            Text(arm.name),
            _lines(arm.loss.mean_text(), arm.bits_per_byte.mean_text()),
            _lines(_difference(nats), _difference(arm.delta_bits_per_byte)),
            _lines(_interval(nats), _interval(arm.delta_bits_per_byte)),
            Text(_NONE if first else p_text(p_value)),
            Text(_NONE if first else fixed(arm.mde, 3)),
            _verdict_words(arm),
        )
    return table


def _interval_words(study: Verdicts) -> str:
    deltas = [study.deciding_delta(arm) for arm in study.arms]
    known = [delta for delta in deltas if delta is not None and delta.interval_text()]
    usual = level_text(None)
    levels = dict.fromkeys(level_text(delta.confidence) for delta in known)
    words = f"interval: the difference with {' or '.join(levels) or usual} confidence"
    if levels.keys() - {usual}:
        words += f", which is {usual} after {study.correction_words}"
    return f"{words}; MDE: the minimum detectable effect {study.mde_words}, {UNITS[study.metric]}"


def _lines(nats: str, bits: str) -> Text:
    return Text.assemble(nats, "\n", (bits, "dim"))


def _difference(estimate: Estimate | None) -> str:
    return _NONE if estimate is None else estimate.mean_text(signed=True)


def _interval(estimate: Estimate | None) -> str:
    return (estimate.interval_text(signed=True) if estimate is not None else "") or _NONE


def _verdict_words(arm: Arm) -> Text:
    """The verdict as a word (with its colour), and what kept seeds from a result."""
    words = Text(arm.verdict, style=STYLES[arm.verdict])
    for trouble in arm.troubles:
        kind, _, count = trouble.partition(" ")  # on two lines: the column is narrow
        words.append(f"\n{kind}\n{count}", style="bold red")
    return words


def _title(study: Verdicts) -> str:
    matched = f"matched by {study.match}" if study.match else "nothing matched"
    if study.match and study.budget is not None:
        matched += f" ({count_text(study.budget)})"
    return (
        f"Validation loss; {matched}; {study.seeds_words}\n"
        "first line: nats per token, second line: bits per byte; lower is better"
    )


def _cost_table(study: Verdicts) -> Table:
    # Measured seconds are matched by a forecast, a diverged run ends early, a step is a whole one.
    inexact = (
        study.match == "seconds"
        or any(arm.diverged for arm in study.arms)
        or any(abs(arm.mismatch.get(study.match) or 0.0) > _EXACT for arm in study.arms)
    )
    others = [b for b in BUDGETS if (b != study.match or inexact) and _known(study, b)]
    columns = {"architecture": False, "params": True, "FLOP/tok": True, "tok/s": True}
    headings = {budget: _MISMATCH_HEADINGS[budget] for budget in others}
    if len(others) == len(BUDGETS):  # four stay within 80 columns on two lines
        headings = {budget: text.replace(" ", "\n") for budget, text in headings.items()}
    columns |= {"memory": True} | dict.fromkeys(headings.values(), True)
    which = "budgets" if study.match in others else "budgets that were not matched"
    table = open_table(f"Cost; d: difference of the {which}", columns)
    for arm in study.arms:
        table.add_row(
            Text(arm.name),
            Text(count_text(arm.params)),
            Text(count_text(arm.flops_per_token)),
            Text(_on_two_lines(arm.speed_text)),
            Text(bytes_text(arm.peak_memory_bytes)),
            *(
                Text(_NONE if arm.is_reference else _on_two_lines(arm.mismatch_text(budget)))
                for budget in others
            ),
        )
    return table


def _on_two_lines(text: str) -> str:
    """What a figure may be off by stands below it: the columns are narrow."""
    return _plain(text.replace(" ±", "\n±"))


def _plain(text: str) -> str:
    """In characters that every terminal has."""
    return text.replace("±", "+-").replace("≈", "~")


def _known(study: Verdicts, budget: str) -> bool:
    return any(budget in arm.mismatch for arm in study.arms)
