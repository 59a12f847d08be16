"""How often a rule errs and how much it sees: ``python -m windtunnel.study.calibrate``.

Losses of both arms are drawn from a bivariate normal of known correlation and spread. A mean
difference is independent of the sample's variances, so for each draw the chance of a verdict is
known exactly given those; averaging that is far less noisy than counting verdicts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np

from windtunnel.study import calibrate_looks
from windtunnel.study.statistics import (
    ALPHA,
    Difference,
    Floats,
    critical_t,
    paired_difference,
    welch_difference,
)

SEEDS = (2, 3, 5, 10)
CORRELATIONS = (0.0, 0.5, 0.9)
RATIOS = (1.0, 3.0)
"""Of the arm's standard deviation to the base's."""
WORST = tuple((r, ratio) for r in (0.0, 0.3, 0.6, 0.9) for ratio in (1.0, 2.0, 5.0, 10.0, 30.0))
PAIRED_POWER = 0.6

Rule = Callable[[Difference, Difference, float], Floats]
"""Of the paired and the unpaired estimate and a level: the smallest difference it calls real."""


def paired(pairs: Difference, apart: Difference, alpha: float) -> Floats:
    """The rule in use."""
    return np.asarray(critical_t(pairs.df, alpha) * pairs.std_error)


def unpaired(pairs: Difference, apart: Difference, alpha: float) -> Floats:
    """Welch's test, as if the seeds were not shared."""
    return np.asarray(critical_t(apart.df, alpha) * apart.std_error)


def narrower(pairs: Difference, apart: Difference, alpha: float) -> Floats:
    """Whichever of the two gives the narrower interval: a choice made by looking."""
    return np.minimum(paired(pairs, apart, alpha), unpaired(pairs, apart, alpha))


RULES: dict[str, Rule] = {"paired": paired, "Welch": unpaired, "narrower": narrower}
OTHERS = ("Welch", "narrower")


def draw_losses(
    trials: int, n: int, r: float, ratio: float, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Losses of base and arm, both (trials, n), with equal means, correlated within a seed."""
    base = generator.standard_normal((trials, n))
    own = generator.standard_normal((trials, n))
    return base, ratio * (r * base + math.sqrt(1 - r * r) * own)


def verdict_rate(bounds: Floats, spread: float, effect: float = 0.0) -> float:
    """The chance of a verdict when the true difference is ``effect`` and its error ``spread``."""
    from scipy.special import ndtr

    seen = ndtr((effect - bounds) / spread) + ndtr((-effect - bounds) / spread)
    return float(np.mean(seen))


class Case:
    """Simulated studies of n seeds at one correlation and ratio of spreads."""

    def __init__(
        self, trials: int, n: int, r: float, ratio: float, generator: np.random.Generator
    ) -> None:
        base, arm = draw_losses(trials, n, r, ratio, generator)
        self.pairs = paired_difference(base, arm)
        self.apart = welch_difference(base, arm)
        self.spread = math.sqrt((1 + ratio**2 - 2 * r * ratio) / n)

    def rate(self, rule: Rule, alpha: float = ALPHA, effect: float = 0.0) -> float:
        return verdict_rate(rule(self.pairs, self.apart, alpha), self.spread, effect)

    def effect_at(self, power: float) -> float:
        """The true difference that the paired rule sees with this power."""
        from scipy.optimize import brentq

        bounds = paired(self.pairs, self.apart, ALPHA)
        high = 100 * float(np.quantile(bounds, 0.99))
        found = brentq(lambda e: verdict_rate(bounds, self.spread, e) - power, 0.0, high)
        return float(found)


def honest_level(rule: Rule, n: int, trials: int, generator: np.random.Generator) -> float:
    """The level at which a rule must run so that its worst false-verdict rate is ALPHA."""
    cases = [Case(trials, n, r, ratio, generator) for r, ratio in WORST]
    low, high = ALPHA / 4, ALPHA
    if max(case.rate(rule, high) for case in cases) <= ALPHA * 1.01:
        return high
    for _ in range(12):
        middle = (low + high) / 2
        if max(case.rate(rule, middle) for case in cases) > ALPHA:
            high = middle
        else:
            low = middle
    return low


def tables(trials: int, seed: int) -> list[str]:
    """The tables of single looks in ``docs/design/statistics.md``, as lines of Markdown."""
    generator = np.random.default_rng(seed)
    errors = ["| n | r | spreads | " + " | ".join(RULES) + " |", "|---" * (3 + len(RULES)) + "|"]
    honest = " | ".join(f"{name}, made honest" for name in OTHERS)
    sight = [f"| n | r | {' | '.join(RULES)} | {honest} |", "|---" * (4 + len(RULES)) + "|"]
    for n in SEEDS:
        levels = {name: honest_level(RULES[name], n, trials // 4, generator) for name in OTHERS}
        for r in CORRELATIONS:
            for ratio in RATIOS:
                case = Case(trials, n, r, ratio, generator)
                rates = " | ".join(f"{100 * case.rate(rule):.1f}%" for rule in RULES.values())
                errors.append(f"| {n} | {r:g} | 1 : {ratio:g} | {rates} |")
                if ratio == 1:
                    effect = case.effect_at(PAIRED_POWER)
                    plain = [case.rate(rule, ALPHA, effect) for rule in RULES.values()]
                    fair = [case.rate(RULES[name], levels[name], effect) for name in OTHERS]
                    cells = " | ".join(f"{100 * power:.0f}%" for power in (*plain, *fair))
                    sight.append(f"| {n} | {r:g} | {cells} |")
    return [
        "False verdicts where the arms are equal:", "", *errors, "",
        f"Verdicts at an effect that the paired rule sees {PAIRED_POWER:.0%} of the time:",
        "", *sight,
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m windtunnel.study.calibrate", description=__doc__
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("rules", "looks", "levels"),
        default="rules",
        help="paired, Welch or either (rules); seeds until decided, and equivalence (looks); the "
        "table of pairing.py (levels)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        help="simulated studies a row [100,000; 20,000 for looks; 200,000 for levels]",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.what == "looks":
        print("\n".join(calibrate_looks.tables(options.trials or 20_000, options.seed)))
    elif options.what == "levels":
        from windtunnel.study import calibrate_pairing  # which imports this module

        trials = options.trials or 200_000
        print("\n".join(calibrate_pairing.table(trials, options.seed)))
        for made in (calibrate_pairing.power_table, calibrate_pairing.negative_table):
            print("\n" + "\n".join(made(trials // 4, options.seed)))
    else:
        print("\n".join(tables(options.trials or 100_000, options.seed)))


if __name__ == "__main__":
    main()
