"""A ladder's answer in a paragraph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.study.ladder.claims import CANNOT_SAY


def conclusion(tree: Mapping[str, Any]) -> str:
    """What was measured, then what laws, claims and the backtest say, and what they do not."""
    sentences = []
    trends = {one["arm"]: one for one in tree["trends"]}
    for pair in tree["pairs"]:
        sentences += [_measured(pair["other"], tree["differences"]), trends[pair["other"]]["words"]]
    sentences += [_pair(pair, tree["at"]) for pair in tree["pairs"]]
    if not tree["pairs"]:
        sentences += [_alone(law) for law in tree["laws"]]
    told = tree["backtest"]
    if told and told["cells"]:
        sentences.append(_backtest(told))
    elif told and told["reason"]:
        sentences.append(f"No backtest: {told['reason']}.")
    return " ".join(text for text in sentences if text)


def _measured(name: str, differences: Sequence[Mapping[str, Any]]) -> str:
    """How many cells are decided, and between what their differences lie."""
    own = [row for row in differences if row["arm"] == name]
    means = [row["mean"] for row in own if row["mean"] is not None]
    if not own:
        return ""
    counts = Counter(row["verdict"] for row in own)
    kinds = ", ".join(f"{kind} in {counts[kind]}" for kind in _KINDS if counts[kind])
    text = f"{name} against {own[0]['against']}, as measured in {_cells(len(own))}: {kinds}"
    if means:
        text += f"; differences from {min(means):+.4f} to {max(means):+.4f} nats/token"
    return text + "."


_KINDS = ("better", "worse", "undecided")


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"


def trend_words(trend: Mapping[str, Any]) -> str:
    """A trend in sentences: who leads over all cells, and what size and tokens do to that."""
    name, first, ahead = trend["arm"], trend["against"], trend["lead"]
    if ahead["mean"] is None:
        return f"No trend of {name} against {first}: {ahead['reason']}."
    over = f"over all {_cells(trend['cells'])}"
    if ahead["verdict"] == "undecided":
        by = f"by {_interval(ahead)}" if ahead["low"] is not None else ahead["reason"]
        text = f"Mean difference {over}: undecided, {by}."
    else:
        low, high = sorted(abs(ahead[side]) for side in ("low", "high"))
        text = (
            f"The mean {over}: {name} is {ahead['verdict']} by {abs(ahead['mean']):.4f} "
            f"[{low:.4f}, {high:.4f}] nats/token."
        )
    size, tokens = trend["size"], trend["tokens"]
    return " ".join(
        [
            text,
            _change(trend, size, "size", f"tenfold parameters {size['held']}"),
            _change(trend, tokens, "training", "tenfold training tokens at one size"),
        ]
    )


def _change(trend: Mapping[str, Any], slope: Mapping[str, Any], what: str, per: str) -> str:
    """``The lead of b holds with size: change per tenfold parameters x [lo, hi].``"""
    name, first, verdict = trend["arm"], trend["against"], slope["verdict"]
    leads = {"better": name, "worse": first}.get(trend["lead"]["verdict"])
    asked = f"the lead of {leads} changes" if leads else "the difference changes"
    if slope["low"] is None:
        return f"Whether {asked} with {what}: undecided, since {slope['reason']}."
    change = f"change of the difference per {per} {_interval(slope)}"
    if slope.get("bent"):
        change += "; the sizes do not lie on a straight line, which the interval allows for"
    if slope["reason"]:
        change += f"; {slope['reason']}"
    if verdict == "undecided":
        return f"Whether {asked} with {what}: undecided ({change})."
    if verdict in ("gains", "loses"):
        on = "on" if verdict == "gains" else "to"
        return f"{name} {verdict} {on} {first} with {what} ({change})."
    return f"The lead of {leads} {verdict} with {what} ({change})."


def _interval(tree: Mapping[str, Any]) -> str:
    return f"{tree['mean']:+.4f} [{tree['low']:+.4f}, {tree['high']:+.4f}] nats/token"


def _pair(pair: Mapping[str, Any], at: Mapping[str, Any]) -> str:
    first, other, found = pair["first"], pair["other"], pair["at"]
    where = f"at {found['flops']:.2g} FLOPs"
    if at["beyond_largest"] > 1:
        where += f" ({at['beyond_largest']:.3g} times the largest run)"
    if found["verdict"] == CANNOT_SAY:
        shown = f"Extrapolated, {other} against {first} {where}: {CANNOT_SAY}"
        if found["low"] is None:  # nor is anything known of a crossing
            return f"{shown}, since {found['reason']}."
        ends = f"[{found['low']:+.4f}, {found['high']:+.4f}] nats/token"
        return f"{shown}: the interval {ends} holds zero. {_crossing(pair)}"
    low, high = sorted(abs(found[side]) for side in ("low", "high"))
    return (
        f"{other} is predicted to be {found['verdict']} than {first} {where} by "
        f"{abs(found['mean']):.4f} [{low:.4f}, {high:.4f}] nats/token. {_crossing(pair)}"
    )


def _crossing(pair: Mapping[str, Any]) -> str:
    found = pair["crossing"]
    low, high = found["range"]
    span = f"between {low:.2g} and {high:.2g} FLOPs"
    if found["verdict"] == "none in range":
        return f"Their curves do not cross {span}."
    if found["verdict"] == "crosses":
        return (
            f"Their curves cross at {found['flops']:.2g} [{found['low']:.2g}, "
            f"{found['high']:.2g}] FLOPs."
        )
    return f"Whether their curves cross {span}: {CANNOT_SAY} ({found['reason']})."


def _alone(law: Mapping[str, Any]) -> str:
    if law["law"] is None or law["trouble"]:
        return f"{law['name']}: {law['trouble'] or CANNOT_SAY}."
    if law["curve"] is None:
        return f"{law['name']}: {CANNOT_SAY}, since {law['law']['reason']}."
    end = law["curve"]
    return (
        f"{law['name']} is predicted to reach {end['loss'][-1]:.4f} [{end['low'][-1]:.4f}, "
        f"{end['high'][-1]:.4f}] nats/token at {end['flops'][-1]:.2g} FLOPs."
    )


def _backtest(told: Mapping[str, Any]) -> str:
    hits = ", ".join(
        f"{count} of {told['count']} inside the {float(level):.0%} interval"
        for level, count in told["hits"].items()
    )
    ranks = told["ranks"]
    text = f"Backtest, the largest size predicted from the smaller ones: {hits}"
    text += f"; mean absolute error {told['mean_absolute_error']:.4f} nats/token"
    if ranks["pairs"]:
        text += f"; {ranks['right']} of {ranks['pairs']} pairs of arms in the measured order"
    return text + "."
