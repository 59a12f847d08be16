"""What a study says, as plain values, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["reference", "better", "worse", "equivalent", "undecided"]
UNITS = {"loss": "nats/token", "bits_per_byte": "bits/byte"}


@dataclass(frozen=True, kw_only=True)
class Delta:
    """An arm minus the first one; below zero the arm is better."""

    mean: float
    low: float | None
    high: float | None
    """The interval behind the verdict: without zero exactly where the arm is better or worse,
    within the margin exactly where it is equivalent."""
    confidence: float | None
    """Of that interval, over all looks: 0.95 for one comparison, more where Holm's correction asks
    for more."""
    low_95: float | None
    high_95: float | None
    """The interval of this comparison by itself (all its looks allowed for)."""


@dataclass(frozen=True, kw_only=True)
class ArmVerdict:
    """What is known of one arm; losses in nats per token. None where there is no such number."""

    name: str
    params: int
    tokens: int
    steps: int
    """Of one run; as trained, on average, where a run diverged."""
    flops_per_token: float
    seeds: int
    """Runs of the arm."""
    loss: dict[str, Any]
    bits_per_byte: dict[str, Any]
    """mean, low, high (95%), and values by seed (None for a run without a result). With such a run
    there is no mean either: of those that are left it would be a selection."""
    delta: Delta | None
    delta_bits_per_byte: Delta | None
    p_value: float | None
    p_looks: float | None
    """After allowing for every planned look; None where none are planned."""
    p_holm: float | None
    """After that and Holm's correction."""
    p_equivalence: float | None
    """That the difference reaches the margin: after looks and Holm's correction over the arms'
    equivalences; None without a margin."""
    correlation: float | None
    pairing_gain: float | None
    paired: bool | None
    mde: float | None
    """Minimum detectable effect, in the metric's unit; before any correction."""
    mde_corrected: float | None
    """At the level that looks and Holm's correction left to this arm."""
    verdict: Verdict
    reason: str
    is_open: bool
    """Whether more seeds could still give a verdict."""
    diverged: int
    failed: int
    tokens_per_second: float | None
    """The median of the runs."""
    peak_memory_bytes: int | None
    mismatch: dict[str, float | None]
    """How far tokens, flops, params and seconds are from the first arm's: 0.03 is 3% above."""
    time: dict[str, Any]
    """``seconds`` of one run by the median of its runs, the relative ``spread`` of these, the
    ``difference`` to the first arm (as in ``mismatch``), its ``uncertainty`` (the larger spread of
    the two arms) and whether the two are ``told_apart`` by more than that. None: not known."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """All that a study says."""

    arms: tuple[ArmVerdict, ...]
    match: str
    budget: float
    seeds: tuple[int, ...]
    """All that were used; with looks an arm may have fewer."""
    metric: str
    margin: float | None
    """A difference of less does not matter; in the metric's unit."""
    looks: tuple[int, int] | None
    """Seeds at the first and at the last planned look; None where only one is planned."""
    pairing: str
    """design: runs of one seed are pairs; measured: where their correlation is high enough."""
    note: str
    """What the reader must know, one thing a line."""
    conclusion: str = field(default="")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; no NaN among them."""
        return asdict(self)


def conclusion(verdicts: Verdicts) -> str:
    """The study in a paragraph."""
    first, others = verdicts.arms[0], verdicts.arms[1:]
    in_nats = verdicts.metric == "loss"
    unit = UNITS[verdicts.metric]
    sentences = [_sentence(arm, first.name, in_nats, unit) for arm in others]
    sentences += _missed([arm for arm in others if arm.verdict == "undecided"], unit)
    small = [a.name for a in others if is_small(a.verdict, _deciding(a, in_nats), a.mde_corrected)]
    sentences += overestimated(small)
    return " ".join(sentences)


def _deciding(arm: ArmVerdict, in_nats: bool) -> Delta | None:
    """The difference that the verdict is about."""
    return arm.delta if in_nats else arm.delta_bits_per_byte


def _missed(undecided: Sequence[ArmVerdict], unit: str) -> list[str]:
    """What may still be there in arms of which nothing is decided."""
    seen = [arm for arm in undecided if arm.mde_corrected is not None]
    if not seen:
        return []
    effects = [arm.mde_corrected or 0.0 for arm in seen]
    names = [arm.name for arm in seen]
    return [
        f"With {seeds_span([arm.seeds for arm in seen])}, a true difference below "
        f"{effects_span(effects)} {unit} would probably have been missed in {_listed(names)} "
        "(power under 80%)."
    ]


def overestimated(names: Sequence[str]) -> list[str]:
    """What to say of decided differences that had little chance of being seen: those that are seen
    are on average larger than the true ones (Gelman and Carlin 2014, type M errors)."""
    if not names:
        return []
    several = len(names) > 1
    return [
        f"The difference{'s' * several} of {_listed(names)} {'are' if several else 'is'} smaller "
        "than what so few seeds reliably detect: what is found at such power tends to be "
        "over-estimated."
    ]


def is_small(verdict: str, delta: Delta | None, mde: float | None) -> bool:
    """Whether a test has told a difference that is less than its minimum detectable effect."""
    told = verdict not in ("reference", "equivalent", "additive", "undecided")
    if not told or delta is None or mde is None:
        return False
    return abs(delta.mean) < mde


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``; with semicolons where a name has a comma in it."""
    between = "; " if any("," in name for name in names) else ", "
    return " and ".join(filter(None, (between.join(names[:-1]), names[-1])))


def seeds_span(counts: Sequence[int]) -> str:
    """``3 seeds``, ``3 to 7 seeds``.

    >>> seeds_span([1]), seeds_span([7, 3])
    ('1 seed', '3 to 7 seeds')
    """
    return f"{_span(str(min(counts)), str(max(counts)))} seed{'' if max(counts) == 1 else 's'}"


def effects_span(effects: Sequence[float]) -> str:
    """The smallest and the largest, to two digits; one number where they are equal so.

    >>> effects_span([0.0501, 0.02]), effects_span([0.0501, 0.0502])
    ('0.02 to 0.05', '0.05')
    """
    return _span(f"{min(effects):.2g}", f"{max(effects):.2g}")


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _sentence(arm: ArmVerdict, first: str, in_nats: bool, unit: str) -> str:
    delta = _deciding(arm, in_nats)
    why = f" ({arm.reason})" if arm.reason else ""
    if delta is None:
        return f"{arm.name} against {first}: {arm.verdict}{why}."
    signed = f"{delta.mean:+.4f}"
    if delta.low is not None and delta.high is not None:
        signed += f" [{delta.low:+.4f}, {delta.high:+.4f}]"
    if arm.verdict == "undecided":
        return f"{arm.name} against {first}: undecided, by {signed} {unit}{why}."
    if arm.verdict == "equivalent":
        return f"{arm.name} and {first} are equivalent: {signed} {unit}{why}."
    bounds = sorted(abs(b) for b in (delta.low, delta.high) if b is not None)
    return (
        f"{arm.name} is {arm.verdict} than {first} by {abs(delta.mean):.4f} "
        f"[{bounds[0]:.4f}, {bounds[1]:.4f}] {unit}{why}."
    )
