"""How much each knob matters for the loss: PED-ANOVA over the complete trials, with an interval.

Watanabe et al. 2023 (arXiv 2304.10255): a knob matters as far as its distribution among the best
trials differs from that among all. It is what Optuna offers without a forest of trees, and it knows
conditional knobs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from windtunnel.study.search.knob import KnobConfig, Params
from windtunnel.study.search.sampling import distribution, internal, quiet

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEAST = 5
"""Complete trials below which nothing is said."""
ENOUGH = 10
"""Complete trials for each knob below which it is said to be unreliable."""
BEST_SHARE = 0.25
"""Of the trials count as good ones. Optuna's own 0.1 would leave one or two of a small search."""
RESAMPLES = 60
_LEVEL = 0.9


def importance(
    space: Mapping[str, KnobConfig], trials: Sequence[tuple[Params, float]], *, seed: int = 0
) -> dict[str, Any] | None:
    """Each knob's share of all importance, the most important first, with an interval of 90% over
    trials drawn anew with replacement; None for fewer than 5 trials, or where all have one loss.

    Args:
        trials: parameters and loss of the complete ones.
    """
    if len(trials) < LEAST or len({loss for _, loss in trials}) == 1:
        return None
    with quiet():
        frozen = [_frozen(space, params, loss) for params, loss in trials]
        shares = _shares(frozen)
        draw = random.Random(seed)
        again = [_shares(draw.choices(frozen, k=len(frozen))) for _ in range(RESAMPLES)]
    knobs = {}
    for path in sorted(shares, key=lambda path: (-shares[path], path)):
        drawn = sorted(one.get(path, 0.0) for one in again)
        cut = round((1 - _LEVEL) / 2 * (len(drawn) - 1))
        knobs[path] = {"share": shares[path], "low": drawn[cut], "high": drawn[-1 - cut]}
    return {
        "method": "PED-ANOVA",
        "trials": len(trials),
        "confidence": _LEVEL,
        "reliable": len(trials) >= ENOUGH * len(shares),
        "knobs": knobs,
    }


def _frozen(space: Mapping[str, KnobConfig], params: Params, loss: float) -> FrozenTrial:
    from optuna.trial import create_trial

    return create_trial(
        value=loss,
        params={path: internal(space[path], value) for path, value in params.items()},
        distributions={path: distribution(space[path]) for path in params},
    )


def _shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.add_trials(list(trials))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    found = get_param_importances(study, evaluator=evaluator)
    return {path: float(share) for path, share in found.items()}
