"""How often intervals over seeds and items hold the truth, and how often verdicts of tasks err:
``python -m windtunnel.study.calibrate_crossed``.

Differences of two arms are drawn as seed + item + rest, normal ones and those of right and wrong
answers. Beside the rule stand the intervals over seeds alone and over items alone, which leave one
kind of chance out. Verdicts are those of whole studies without a true difference in any task.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from windtunnel.study.calibrate_looks import looks_words
from windtunnel.study.contrast_tests import plain_p_value
from windtunnel.study.crossed import crossed_mean
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import ALPHA, Floats, mean_interval
from windtunnel.study.task_verdicts import Asked, judge_answers

SEEDS = (2, 3, 5, 10)
ITEMS = (20, 300)
SPREADS = ((0.0, 0.0), (0.0, 1.0), (0.1, 0.3), (0.3, 0.0), (0.3, 1.0))
"""Of seeds and of items, where that of the rest is 1."""
STRICT = 0.002
"""A level that Holm's correction leaves where two dozen comparisons are made."""

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


def coverage(
    draw: Draw, trials: int, seed: int = 0, alpha: float = ALPHA
) -> tuple[float, float, float]:
    """The shares of trials whose interval holds zero: the rule, over seeds, over items."""
    generator = np.random.default_rng(seed)
    held = np.zeros(3)
    for _ in range(trials):
        values = draw(generator)
        over = (mean_interval(list(values.mean(axis)), alpha) for axis in (1, 0))
        ends = [(one.low, one.high) for one in (crossed_mean(values).interval(alpha), *over)]
        held += [low is not None and high is not None and low <= 0 <= high for low, high in ends]
    rule, over_seeds, over_items = held / trials
    return float(rule), float(over_seeds), float(over_items)


def any_false(
    looks: Looks, trials: int, *, allowed: bool = True, gap: float = 2.0, seed: int = 0
) -> float:
    """The share of studies with a false verdict of any of two arms in any of three tasks.

    Seeds are added until the loss is decided, whose true difference is ``gap`` standard deviations
    and whose chance is that of the tasks: the seeds that do well in the loss do well in all tasks.

    Args:
        allowed: whether the verdicts allow for the looks.
    """
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(trials):
        luck = generator.standard_normal((2, looks.last))
        asked = []
        for arm in luck:
            seeds = _until_decided(arm + gap, looks)
            for _ in range(3):
                items = 0.3 * generator.standard_normal((1, 50))
                rest = generator.standard_normal((seeds, 50))
                asked.append(Asked(
                    difference=crossed_mean(0.5 * arm[:seeds, None] + items + rest),
                    higher_is_better=True,
                    looks=(looks,) if allowed and looks.first < looks.last else (),
                ))  # fmt: skip
        hits += any(one.verdict != "undecided" for one in judge_answers(asked))
    return hits / trials


def _until_decided(losses: Floats, looks: Looks) -> int:
    """Seeds at which differences of that mean are decided, or the last."""
    for n in range(looks.first, looks.last):
        p = plain_p_value([0.0] * n, list(losses[:n]))
        if p is not None and looks.adjusted(p, n) < ALPHA:
            return n
    return looks.last


def rows(trials: int) -> Iterator[str]:
    for name, kind in (("normal", normal), ("answers", answers)):
        for seeds in SEEDS:
            for items in ITEMS:
                for spread in SPREADS:
                    told = coverage(kind(seeds, items, spread), trials)
                    strict, *_ = coverage(kind(seeds, items, spread), trials, alpha=STRICT)
                    shown = " | ".join(f"{100 * share:.1f}" for share in (*told, strict))
                    asked = f"{seeds} | {items} | {spread[0]:g} | {spread[1]:g}"
                    yield f"| {name} | {asked} | {shown} |"


def verdict_rows(trials: int) -> Iterator[str]:
    for first, last in ((2, 2), (3, 3), (5, 5), (3, 10)):
        looks = Looks(first, last)
        for gap in (0.0, 1.0, 3.0) if first < last else (0.0,):
            shares = [
                any_false(looks, trials, allowed=allowed, gap=gap) for allowed in (True, False)
            ]
            shown = " | ".join(f"{100 * share:.1f}" for share in shares)
            yield f"| {looks_words(looks)} | {gap:g} | {shown} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    trials = parser.parse_args(argv).trials
    print("| differences | seeds | items | σ seeds | σ items | rule | seeds alone | items alone "
          f"| rule at {100 * (1 - STRICT):g}% |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows(trials):
        print(row, flush=True)
    print(
        "\n| seeds | true difference of the loss, σ | any false verdict | looks not allowed for |"
    )
    print("|---|---|---|---|")
    for row in verdict_rows(trials):
        print(row, flush=True)


if __name__ == "__main__":
    main()
