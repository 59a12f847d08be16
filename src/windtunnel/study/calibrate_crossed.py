"""How often intervals over seeds and items hold the truth: ``python -m
windtunnel.study.calibrate_crossed``.

Differences of two arms are drawn as seed + item + rest, normal ones and those of right and wrong
answers. Beside the rule stand the intervals over seeds alone and over items alone, which leave one
kind of chance out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from windtunnel.study.crossed import crossed_mean
from windtunnel.study.statistics import Floats, mean_interval

SEEDS = (2, 3, 5, 10)
ITEMS = (20, 300)
SPREADS = ((0.0, 0.0), (0.0, 1.0), (0.1, 0.3), (0.3, 0.0), (0.3, 1.0))
"""Of seeds and of items, where that of the rest is 1."""

Draw = Callable[[np.random.Generator], Floats]


def normal(seeds: int, items: int, spread: tuple[float, float]) -> Draw:
    """Differences whose parts are all normal; their true mean is zero."""

    def draw(generator: np.random.Generator) -> Floats:
        of_seeds = spread[0] * generator.standard_normal((seeds, 1))
        of_items = spread[1] * generator.standard_normal((1, items))
        return of_seeds + of_items + generator.standard_normal((seeds, items))

    return draw


def answers(seeds: int, items: int, spread: tuple[float, float]) -> Draw:
    """Right or wrong of one arm minus right or wrong of another, equally good one."""

    def right(generator: np.random.Generator) -> Floats:
        of_seeds = 0.2 * spread[0] * generator.standard_normal((seeds, 1))
        of_items = 0.2 * spread[1] * generator.standard_normal((1, items))
        chance = np.clip(0.6 + of_seeds + of_items, 0.02, 0.98)
        return (generator.random((seeds, items)) < chance).astype(np.float64)

    return lambda generator: right(generator) - right(generator)


def coverage(draw: Draw, trials: int, seed: int = 0) -> tuple[float, float, float]:
    """The shares of trials whose interval holds zero: the rule, over seeds, over items."""
    generator = np.random.default_rng(seed)
    held = np.zeros(3)
    for _ in range(trials):
        values = draw(generator)
        found = crossed_mean(values)
        ends = [(found.low, found.high)]
        ends += [(i.low, i.high) for i in (mean_interval(list(values.mean(a))) for a in (1, 0))]
        held += [low is not None and high is not None and low <= 0 <= high for low, high in ends]
    rule, over_seeds, over_items = held / trials
    return float(rule), float(over_seeds), float(over_items)


def rows(trials: int) -> Iterator[str]:
    for name, kind in (("normal", normal), ("answers", answers)):
        for seeds in SEEDS:
            for items in ITEMS:
                for spread in SPREADS:
                    told = coverage(kind(seeds, items, spread), trials)
                    shown = " | ".join(f"{100 * share:.1f}" for share in told)
                    asked = f"{seeds} | {items} | {spread[0]:g} | {spread[1]:g}"
                    yield f"| {name} | {asked} | {shown} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    print("| differences | seeds | items | σ seeds | σ items | rule | seeds alone | items alone |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows(parser.parse_args(argv).trials):
        print(row, flush=True)


if __name__ == "__main__":
    main()
