"""The verdicts of a study as the report reads them: plain JSON in, checked values out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from windtunnel.errors import StudyError
from windtunnel.report.units import (
    Estimate,
    count_text,
    percent_text,
    spread_text,
    uncertain_text,
)

VERDICTS = ("reference", "better", "worse", "equivalent", "undecided")
UNITS = {"loss": "nats per token", "bits_per_byte": "bits per byte"}
"""The metrics a verdict can be about, with their units."""
BUDGETS = ("tokens", "flops", "params", "seconds")


@dataclass(frozen=True)
class Arm:
    """One architecture of a study and what the statistics say of it.

    Losses are in nats per token; differences are this arm minus the first one, so below zero
    is better. `mismatch` is relative: 0.03 says three per cent above the first arm.
    """

    name: str
    verdict: str
    reason: str
    loss: Estimate
    values: tuple[float | None, ...]
    bits_per_byte: Estimate
    delta: Estimate | None
    delta_bits_per_byte: Estimate | None
    p_value: float | None
    p_holm: float | None
    correlation: float | None
    paired: bool | None
    mde: float | None
    """Minimum detectable effect, after the corrections (before them in studies of old)."""
    diverged: int
    failed: int
    params: float | None
    tokens: float | None
    flops_per_token: float | None
    tokens_per_second: float | None
    peak_memory_bytes: float | None
    mismatch: Mapping[str, float | None] = field(default_factory=dict)
    time: Mapping[str, Any] | None = None
    """What its seconds are worth; None in studies of old."""

    @property
    def is_reference(self) -> bool:
        return self.verdict == "reference"

    def mismatch_text(self, budget: str) -> str:
        """How far a budget is from the first arm's; of seconds no more than the clock can tell."""
        found = self.mismatch.get(budget)
        if budget != "seconds" or self.time is None or found == 0.0:
            return percent_text(found)
        return uncertain_text(found, self.time.get("uncertainty"))

    @property
    def speed_text(self) -> str:
        """Tokens a second, and how far apart the arm's runs lie where that is known."""
        text, spread = count_text(self.tokens_per_second), (self.time or {}).get("spread")
        return text if spread is None else f"{text} {spread_text(spread)}"

    @property
    def troubles(self) -> tuple[str, ...]:
        """What kept runs from a result, in words: ``diverged 1 of 2``."""
        of = f" of {len(self.values)}" if self.values else ""
        kinds = (("diverged", self.diverged), ("failed", self.failed))
        return tuple(f"{kind} {runs}{of}" for kind, runs in kinds if runs)


@dataclass(frozen=True)
class Verdicts:
    """All arms, the first being the reference, and what was held equal.

    `metric` is what the verdicts, p-values and minimum detectable effects are about.
    """

    arms: tuple[Arm, ...]
    match: str
    budget: float | None
    seeds: tuple[int, ...]
    metric: str
    note: str
    conclusion: str
    margin: float | None = None
    """A difference of less does not matter; in the metric's unit."""
    looks: tuple[int, int] | None = None
    """Seeds at the first and at the last planned look, where there are several."""
    mde_is_corrected: bool = False
    pairing: str = "design"

    @property
    def pairing_words(self) -> str:
        """How runs of one seed were compared, and how much they agree; empty where unknown."""
        known = [arm for arm in self.arms if arm.correlation is not None]
        if not known:
            return ""
        first = self.arms[0].name
        if self.pairing == "measured":
            tests = ", ".join(
                f"{arm.name} {arm.correlation:+.2f} ({'paired' if arm.paired else 'Welch'})"
                for arm in known
            )
            return (
                f"the measured correlation with runs of {first} chose the test, and all levels "
                f"allow for it: {tests}"
            )
        shown = ", ".join(f"{arm.name} {arm.correlation:+.2f}" for arm in known)
        how = "paired" if all(arm.paired for arm in known) else "not all paired"
        return f"runs of one seed are {how}; correlation with those of {first}: {shown}"

    @property
    def design_words(self) -> str:
        """What was planned besides a fixed number of seeds: looks, a margin; else empty."""
        words = []
        if self.looks is not None:
            first, last = self.looks
            words.append(
                f"seeds until decided: looks from {first} to {last} seeds, all of them allowed for"
            )
        if self.margin is not None:
            words.append(f"equivalent: within a margin of {self.margin:g} {UNITS[self.metric]}")
        return "; ".join(words)

    @property
    def seeds_words(self) -> str:
        """How many seeds the arms have: ``3 seeds each``, ``3 to 7 seeds``."""
        counts = {len(arm.values) for arm in self.arms if arm.values} or {len(self.seeds)}
        if len(counts) > 1:
            return f"{min(counts)} to {max(counts)} seeds"
        (count,) = counts
        return f"{count} seed{'' if count == 1 else 's'} each"

    @property
    def correction_words(self) -> str:
        """What intervals and p-values are corrected for."""
        return "Holm's correction" + (" and all looks" if self.looks is not None else "")

    @property
    def mde_words(self) -> str:
        """Whether minimum detectable effects are those after the correction."""
        if self.mde_is_corrected:
            return f"after {self.correction_words}"
        return "before Holm's correction"

    @property
    def time_words(self) -> str:
        """How times are to be read; empty where there are none to compare."""
        if not any(arm.time for arm in self.arms if not arm.is_reference):
            return ""
        return (
            "time and tokens/s: the median of an arm's runs; ±: from its fastest run to its "
            "slowest (of the two arms the larger); ≈: no difference beyond that"
        )

    @property
    def in_nats(self) -> bool:
        """Whether a token is the same thing in every arm, so that nats per token compare."""
        return self.metric == "loss"

    def deciding_delta(self, arm: Arm) -> Estimate | None:
        """The difference that the arm's verdict is about."""
        return arm.delta if self.in_nats else arm.delta_bits_per_byte


def read_verdicts(tree: Mapping[str, Any]) -> Verdicts:
    """The verdicts in a plain tree, as `study` writes them.

    Raises StudyError, with the place, for a key that is missing or of another type.
    """
    arms = _entry(tree, "arms", "verdicts")
    if not isinstance(arms, list | tuple) or not arms:
        raise StudyError("verdicts.arms: a list of at least one architecture is needed")
    seeds, looks = tree.get("seeds") or (), tree.get("looks")
    return Verdicts(
        arms=tuple(_read_arm(arm, f"verdicts.arms[{i}]") for i, arm in enumerate(arms)),
        match=str(tree.get("match") or ""),
        budget=_number(tree.get("budget"), "verdicts.budget"),
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        metric=_metric(tree.get("metric")),
        note=_joined(tree.get("note"), "\n"),
        conclusion=_joined(tree.get("conclusion")),
        margin=_number(tree.get("margin"), "verdicts.margin"),
        looks=(int(looks[0]), int(looks[1])) if looks else None,
        mde_is_corrected=any("mde_corrected" in arm for arm in arms),
        pairing=str(tree.get("pairing") or "design"),
    )


def _metric(name: object) -> str:
    metric = "loss" if name is None else name
    if metric not in UNITS:
        raise StudyError(f"verdicts.metric: unknown {name!r}; allowed: {', '.join(UNITS)}")
    return str(metric)


def _joined(text: object, between: str = " ") -> str:
    """A note may be one string or several."""
    if isinstance(text, list | tuple):
        return between.join(str(part) for part in text)
    return "" if text is None else str(text)


def _entry(tree: object, key: str, where: str) -> Any:
    if not isinstance(tree, Mapping):
        raise StudyError(f"{where}: a mapping is needed, not {type(tree).__name__}")
    if key not in tree:
        raise StudyError(f"{where}: '{key}' is missing")
    return tree[key]


def _number(value: object, where: str) -> float | None:
    """A number or None; NaN counts as None, an infinity stays."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StudyError(f"{where}: a number or null is needed, not {value!r}")
    return None if math.isnan(value) else value


def _estimate(tree: Any, where: str) -> Estimate:
    mean, low, high = (
        _number(_entry(tree, key, where), f"{where}.{key}") for key in ("mean", "low", "high")
    )
    return Estimate(mean, low, high, _number(tree.get("confidence"), f"{where}.confidence"))


def _difference(tree: object, where: str) -> Estimate | None:
    return None if tree is None else _estimate(tree, where)


def _read_arm(tree: object, where: str) -> Arm:
    name, verdict = str(_entry(tree, "name", where)), _entry(tree, "verdict", where)
    assert isinstance(tree, Mapping)  # _entry has raised otherwise
    if verdict not in VERDICTS:
        allowed = ", ".join(VERDICTS)
        raise StudyError(f"{where}.verdict: unknown {verdict!r}; allowed: {allowed}")

    def number(key: str) -> float | None:
        return _number(tree.get(key), f"{where}.{key}")

    mismatch = tree.get("mismatch") or {}
    loss = _entry(tree, "loss", where)
    return Arm(
        name=name,
        verdict=verdict,
        reason=str(tree.get("reason") or ""),
        loss=_estimate(loss, f"{where}.loss"),
        values=tuple(_number(v, f"{where}.loss.values") for v in loss.get("values") or ()),
        bits_per_byte=_estimate(_entry(tree, "bits_per_byte", where), f"{where}.bits_per_byte"),
        delta=_difference(_entry(tree, "delta", where), f"{where}.delta"),
        delta_bits_per_byte=_difference(
            tree.get("delta_bits_per_byte"), f"{where}.delta_bits_per_byte"
        ),
        p_value=number("p_value"),
        p_holm=number("p_holm"),
        correlation=number("correlation"),
        paired=tree.get("paired"),
        mde=number("mde_corrected" if "mde_corrected" in tree else "mde"),
        diverged=int(tree.get("diverged") or 0),
        failed=int(tree.get("failed") or 0),
        params=number("params"),
        tokens=number("tokens"),
        flops_per_token=number("flops_per_token"),
        tokens_per_second=number("tokens_per_second"),
        peak_memory_bytes=number("peak_memory_bytes"),
        mismatch={key: _number(mismatch[key], f"{where}.mismatch.{key}") for key in mismatch},
        time=tree.get("time"),
    )
