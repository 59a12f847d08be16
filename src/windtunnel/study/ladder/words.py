"""A ladder's answer in a paragraph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.study.ladder.claims import CANNOT_SAY


def conclusion(tree: Mapping[str, Any]) -> str:
    """What the laws, the claims and the backtest say, and what they do not."""
    sentences = [_pair(pair, tree["at"]) for pair in tree["pairs"]]
    if not tree["pairs"]:
        sentences += [_alone(law) for law in tree["laws"]]
    told = tree["backtest"]
    if told and told["cells"]:
        sentences.append(_backtest(told))
    elif told and told["reason"]:
        sentences.append(f"No backtest: {told['reason']}.")
    return " ".join(sentences)


def _pair(pair: Mapping[str, Any], at: Mapping[str, Any]) -> str:
    first, other, found = pair["first"], pair["other"], pair["at"]
    where = f"at {found['flops']:.2g} FLOPs"
    if at["beyond_largest"] > 1:
        where += f" ({at['beyond_largest']:.3g} times the largest run)"
    if found["verdict"] == CANNOT_SAY:
        shown = f"{other} against {first} {where}: {CANNOT_SAY}"
        if found["mean"] is None:
            return f"{shown}, since {found['reason']}."
        shown += f", by {found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] nats/token"
        return f"{shown}. {_crossing(pair)}"
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
