"""Numbers as people read them: rounded by their uncertainty, with units of a fitting size."""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSING = "n/a"
"""What stands where there is no number (a diverged run, a test that was not made)."""

_DECIMALS_WITHOUT_INTERVAL = 4
_MOST_DECIMALS = 8
_SMALLEST_P = 0.001
_USUAL_CONFIDENCE = 0.95


def amount(count: int, what: str) -> str:
    """A count with its noun.

    >>> amount(1, "task"), amount(1200, "task")
    ('1 task', '1,200 tasks')
    """
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def is_number(value: float | None) -> bool:
    """True for a finite number; False for None, NaN and the infinities."""
    return value is not None and math.isfinite(value)


def decimals_for(half_width: float | None) -> int:
    """Decimals that show an uncertainty with two significant digits, and no more.

    >>> decimals_for(0.0123), decimals_for(0.5), decimals_for(37.0)
    (3, 2, 0)

    Without an uncertainty (None, zero or not finite): four.
    """
    if half_width is None or not math.isfinite(half_width) or half_width <= 0.0:
        return _DECIMALS_WITHOUT_INTERVAL
    return min(_MOST_DECIMALS, max(0, 1 - math.floor(math.log10(half_width))))


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval of some confidence (0.95); a part that is not known is None."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None

    @property
    def decimals(self) -> int:
        """Decimals for the mean and both ends, by the half width of the interval."""
        if self.low is None or self.high is None:
            return decimals_for(None)
        return decimals_for((self.high - self.low) / 2)

    def mean_text(self, *, signed: bool = False) -> str:
        """The mean, rounded by the interval: ``2.314``, or with its sign ``-0.012``."""
        return fixed(self.mean, self.decimals, signed=signed)

    def interval_text(self, *, signed: bool = False) -> str:
        """The interval with the digits of the mean: ``[-0.020, -0.004]``; empty without one."""
        if self.low is None or self.high is None:
            return ""
        low = fixed(self.low, self.decimals, signed=signed)
        high = fixed(self.high, self.decimals, signed=signed)
        return f"[{low}, {high}]"


def level_text(confidence: float | None) -> str:
    """A level of confidence: ``95%``, ``98.3%``; 95% where nothing else is said.

    >>> level_text(1 - 0.05 / 3), level_text(None)
    ('98.3%', '95%')
    """
    return f"{100 * (_USUAL_CONFIDENCE if confidence is None else confidence):.3g}%"


def fixed(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """A number with that many decimals; never ``-0.00``; `MISSING` without a finite number.

    >>> fixed(-0.00001, 2), fixed(0.5, 1, signed=True), fixed(None, 3)
    ('0.00', '+0.5', 'n/a')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    is_zero = not any(digit in text for digit in "123456789")
    return text.lstrip("+-") if is_zero else text


def p_text(value: float | None) -> str:
    """A p-value: three decimals, ``<0.001`` below that.

    >>> p_text(0.0321), p_text(0.00004), p_text(None)
    ('0.032', '<0.001', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return f"<{_SMALLEST_P}" if value < _SMALLEST_P else f"{value:.3f}"


def percent_text(fraction: float | None) -> str:
    """A relative difference in per cent with its sign; exactly zero is ``0%``.

    >>> percent_text(0.0312), percent_text(0.0), percent_text(-0.00002)
    ('+3.1%', '0%', '-0.002%')
    """
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    if fraction == 0.0:
        return "0%"
    percent = 100 * fraction
    if abs(percent) >= 100:
        return f"{percent:+.0f}%"
    if abs(percent) >= 0.05:
        return f"{percent:+.1f}%"
    return f"{percent:+.1g}%" if abs(percent) >= 0.001 else f"{percent:+.0e}%"


def spread_text(fraction: float | None) -> str:
    """How far apart relative figures lie: ``±12%``; ``±?`` where that is not known.

    >>> spread_text(0.123), spread_text(0.0123), spread_text(None)
    ('±12%', '±1.2%', '±?')
    """
    if fraction is None or not math.isfinite(fraction):
        return "±?"
    return f"±{100 * fraction:.{0 if fraction >= 0.0995 else 1}f}%"


def uncertain_text(fraction: float | None, uncertainty: float | None) -> str:
    """A relative difference with what it may be off by; ``≈`` where that is as large as itself.

    >>> uncertain_text(0.385, 0.12), uncertain_text(-0.385, 0.5), uncertain_text(0.385, None)
    ('+38% ±12%', '≈ ±50%', '+38% ±?')
    """
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    if uncertainty is not None and abs(fraction) <= uncertainty:
        return f"≈ {spread_text(uncertainty)}"
    whole = uncertainty is None or uncertainty >= 0.0995
    return f"{fixed(100 * fraction, 0 if whole else 1, signed=True)}% {spread_text(uncertainty)}"


def _scaled(value: float, base: float, units: tuple[str, ...]) -> tuple[str, str]:
    """The value over the largest power of `base` that leaves three digits, and its unit."""
    size, power = abs(value), 0
    while size >= base and power < len(units) - 1:
        size, power = size / base, power + 1
    # 999.7 would be written as 1000: it belongs to the next unit.
    if power < len(units) - 1 and round(size) >= base:
        size, power = size / base, power + 1
    whole = power == 0 and float(value).is_integer()
    digits = 0 if whole or size >= 99.95 else 1 if size >= 9.995 else 2
    text = f"{size:.{digits}f}"
    if "." in text and power > 0:
        text = text.rstrip("0").rstrip(".")
    return ("-" if value < 0 else "") + text, units[power]


def count_text(value: float | None) -> str:
    """A count: ``512``, ``1.2k``, ``1.23M``, ``70B``, ``3.1T``; powers of a thousand."""
    if value is None or not math.isfinite(value):
        return MISSING
    number, unit = _scaled(value, 1000, ("", "k", "M", "B", "T", "Q"))
    return number + unit


def flops_text(value: float | None) -> str:
    """Floating-point operations: ``3.4 GFLOP``; powers of a thousand."""
    if value is None or not math.isfinite(value):
        return MISSING
    units = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP")
    return " ".join(_scaled(value, 1000, units))


def bytes_text(value: float | None) -> str:
    """Bytes: ``512 B``, ``1.5 KB``, ``512 MB``; powers of 1024, as operating systems count."""
    if value is None or not math.isfinite(value):
        return MISSING
    return " ".join(_scaled(value, 1024, ("B", "KB", "MB", "GB", "TB", "PB")))


def duration_text(seconds: float | None) -> str:
    """A duration for people: ``850 ms``, ``42 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 04 h``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 1:
        return _small_duration(seconds)
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = whole // 60
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02d} h"


def _small_duration(seconds: float) -> str:
    if seconds <= 0:
        return "0 s"
    number, unit = _scaled(seconds * 1e9, 1000, ("ns", "µs", "ms", "s"))
    return f"{number} {unit}"
