"""The forest plot: each architecture's difference to the first, with its interval and zero.

Drawn with plain HTML boxes placed in per cent of the track, so it follows the width of the page,
prints, and needs no script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Protocol

from windtunnel.report.units import Estimate, decimals_for, fixed, is_number, level_text

_WANTED_TICKS = 5
_MARGIN = 0.06
LOSS_ENDS = ("lower loss: better", "worse")


class Judged(Protocol):
    """What a row is about: an architecture, an effect."""

    @property
    def name(self) -> str: ...

    @property
    def verdict(self) -> str: ...

    @property
    def mde(self) -> float | None: ...


def nice_ticks(low: float, high: float, wanted: int = _WANTED_TICKS) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) inside a range, zero among them.

    >>> nice_ticks(-0.05, 0.02)
    [-0.04, -0.02, 0.0, 0.02]
    """
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def forest(
    rows: Sequence[tuple[Judged, Estimate]],
    unit: str,
    *,
    shade_mde: bool,
    margin: float | None = None,
    ends: tuple[str, str] = LOSS_ENDS,
) -> str:
    """The plot of (architecture or effect, difference) pairs as HTML; `unit` labels the axis.

    With `shade_mde` each track shows where a true difference would be too small to be detected.
    Dashed lines stand at ±margin, between which arms are equivalent, where they are in reach.
    A difference that is not finite has no mark and says so. ``ends`` says what lies on the left and
    on the right.
    """
    known = [value for _, d in rows for value in (d.mean, d.low, d.high) if is_number(value)]
    finite = [0.0, *(value for value in known if value is not None)]
    if shade_mde:
        widest = max(abs(value) for value in finite)
        reach = [arm.mde for arm, _ in rows if arm.mde is not None and arm.mde <= 2 * widest]
        finite += [sign * value for value in reach for sign in (-1.0, 1.0)]
    bounds = [] if margin is None else [-margin, margin]
    if margin is not None and margin <= 2 * max(abs(value) for value in finite):
        finite += bounds
    scale = _Scale.over(finite)
    lines = "".join(
        f'<i class="margin" style="left:{scale.place(end):.3f}%"></i>'
        for end in bounds
        if scale.low < end < scale.high
    )
    body = "".join(_row(arm, difference, scale, shade_mde, lines) for arm, difference in rows)
    return f'<div class="forest">{body}{_axis(scale, unit, ends)}</div>'


class _Scale:
    """From a value to its place on the track, in per cent."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    @classmethod
    def over(cls, values: Sequence[float]) -> _Scale:
        low, high = min(values), max(values)
        if low == high:
            low, high = low - 1e-3, high + 1e-3
        margin = _MARGIN * (high - low)
        return cls(low - margin, high + margin)

    def place(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return 100 * (inside - self.low) / (self.high - self.low)

    def box(self, low: float, high: float) -> str:
        left, right = self.place(low), self.place(high)
        return f"left:{left:.3f}%;width:{right - left:.3f}%"


def _row(arm: Judged, difference: Estimate, scale: _Scale, shade_mde: bool, lines: str) -> str:
    mean, low, high = difference.mean, difference.low, difference.high
    words = f"{difference.mean_text(signed=True)} {difference.interval_text(signed=True)}".strip()
    if difference.confidence is not None:
        words += f" {level_text(difference.confidence)}"
    marks = [f'<i class="zero" style="left:{scale.place(0.0):.3f}%"></i>']
    if shade_mde and arm.mde is not None and math.isfinite(arm.mde):
        marks.insert(0, f'<i class="mde" style="{scale.box(-arm.mde, arm.mde)}"></i>')
    if low is not None and high is not None and is_number(low) and is_number(high):
        marks.append(f'<i class="interval" style="{scale.box(low, high)}"></i>')
    if mean is not None and is_number(mean):
        marks.append(f'<i class="mean" style="left:{scale.place(mean):.3f}%"></i>')
    label = escape(f"{arm.name}: {words}, {arm.verdict}")
    return (
        f'<div class="row {arm.verdict}" role="img" aria-label="{label}">'
        f'<span class="name">{escape(arm.name)}</span>'
        f'<span class="track">{"".join(marks)}{lines}</span>'
        f'<span class="number">{escape(words.replace("-", "−"))}</span></div>'
    )


def _axis(scale: _Scale, unit: str, ends: tuple[str, str]) -> str:
    ticks = nice_ticks(scale.low, scale.high)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else scale.high - scale.low
    # Decimals that show one step exactly: ticks are round numbers.
    decimals = max(0, decimals_for(step * 1.001) - 1)
    marks = "".join(
        f'<i style="left:{scale.place(tick):.3f}%">'
        f"{fixed(tick, decimals, signed=True).replace('-', '−')}</i>"
        for tick in ticks
    )
    return (
        '<div class="row axis" aria-hidden="true"><span class="name"></span>'
        f'<span class="track">{marks}</span><span class="number"></span></div>'
        '<div class="row axis-words"><span class="name"></span><span class="track">'
        f"<b>← {escape(ends[0])}</b><b>{escape(ends[1])} →</b></span>"
        f'<span class="number">{escape(unit)}</span></div>'
    )
