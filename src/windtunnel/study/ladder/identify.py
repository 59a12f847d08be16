"""Whether a fitted law is known well enough to be told, and to be believed further on.

A law is *not identified* where it has fewer than two cells more than parameters; where the interval
of one of its factors spans more than ten powers of ten; or where the backtest failed: more than
half of the arm's losses at the largest size lie outside their 95% intervals. Then neither its
parameters nor its curve are told, and nothing is claimed of larger computes.

It works on the plain JSON of an answer, so that ladders of old are held to the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from windtunnel.study.ladder.claims import CANNOT_SAY

Tree = Mapping[str, Any]
SPARE_CELLS = 2
MOST_POWERS = 10.0
ADVICE = "add sizes and budgets"
PARAMETERS = {"params_tokens": ("E", "A", "alpha", "B", "beta"), "compute": ("E", "k", "gamma")}
CONSTANTS = {
    "params_tokens": "the loss that unlimited parameters and tokens would leave",
    "compute": "E_C: where the cells that nothing cheaper beats level off as compute grows; not "
    "the E of L(N, D), and above it where tokens or sizes were held back",
}
"""What E is in each law."""
_FACTORS = ("A", "B", "k")
_LEVEL = "0.95"


def identified(answer: Tree) -> dict[str, Any]:
    """The answer with every law that is not identified silenced, and no point estimate beside
    ``cannot say``; equal to itself when done again."""
    laws = [_judged_laws(law, answer.get("backtest")) for law in answer["laws"]]
    why = {law["name"]: law["law"]["reason"] for law in laws if law["law"] is not None}
    pairs = [_judged_pair(pair, why) for pair in answer["pairs"]]
    return {**answer, "laws": laws, "pairs": pairs}


def _judged_laws(tree: Tree, backtest: Tree | None) -> dict[str, Any]:
    law = None if tree["law"] is None else _judged(tree["law"], _failed(tree["name"], backtest))
    over = None if tree["compute_law"] is None else _judged(tree["compute_law"], "")
    silent = law is not None and not law["identified"]
    return {
        **tree, "law": law, "compute_law": over, "curve": None if silent else tree["curve"],
    }  # fmt: skip


def _judged(law: Tree, failed: str) -> dict[str, Any]:
    names = PARAMETERS[law["kind"]]
    reason = law.get("reason")
    if reason is None:
        why = _too_few(law, len(names)) or _too_wide(law) or failed
        reason = f"the fit is not identified ({why}): {ADVICE}" if why else ""
    known = {
        **law, "E_is": CONSTANTS[law["kind"]], "parameters": len(names),
        "identified": not reason, "reason": reason,
    }  # fmt: skip
    if reason:
        silent = {"mean": None, "low": None, "high": None}
        known |= {name: {**law[name], **silent} for name in names}
    return known


def _too_few(law: Tree, parameters: int) -> str:
    cells = law["cells"]
    return f"{cells} cells for {parameters} parameters" if cells < parameters + SPARE_CELLS else ""


def _too_wide(law: Tree) -> str:
    for name in _FACTORS:
        ends = law.get(name)
        if ends is None or ends["low"] is None:
            continue
        powers = math.log10(ends["high"] / ends["low"]) if ends["low"] > 0 else math.inf
        if powers > MOST_POWERS:
            return f"the interval of {name} spans {powers:.0f} powers of ten"
    return ""


def _failed(name: str, backtest: Tree | None) -> str:
    cells = [c for c in (backtest or {}).get("cells", ()) if c["arm"] == name]
    missed = sum(not cell["hits"][_LEVEL] for cell in cells)
    if not cells or 2 * missed <= len(cells):
        return ""
    return (
        f"the backtest failed: {missed} of {len(cells)} losses of the largest size lie outside "
        "their 95% intervals"
    )


def _judged_pair(pair: Tree, why: Mapping[str, str]) -> dict[str, Any]:
    at, crossing = dict(pair["at"]), dict(pair["crossing"])
    # Where there is trouble already (few sizes, one seed, lost runs), that is the reason.
    told = at["mean"] is not None or at["low"] is not None
    for name in (pair["first"], pair["other"]):
        if why.get(name) and told:
            reason = why[name].replace("the fit", f"the fit of {name}", 1)
            at |= {"low": None, "high": None, "verdict": CANNOT_SAY, "reason": reason}
            crossing |= {"verdict": CANNOT_SAY, "ahead": None, "reason": reason}
            break
    if at["verdict"] == CANNOT_SAY:
        at["mean"] = None
    if crossing["verdict"] == CANNOT_SAY:
        crossing |= {"flops": None, "low": None, "high": None}
    return {**pair, "at": at, "crossing": crossing}
