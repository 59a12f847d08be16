"""The learning rate: a pure function of config and step. No torch."""

from __future__ import annotations

import bisect
import math

from windtunnel.train.config import TrainConfig
from windtunnel.train.schedule_config import ScheduleConfig

BARS = "▁▂▃▄▅▆▇█"


def lr_at(config: TrainConfig, step: int) -> float:
    """The learning rate of the update number ``step``, counted from 0.

    With w warm-up steps of n, L = ``lr`` and m = ``min_ratio``:

    * warm-up, step < w:  L · (step + 1) / (w + 1): never 0, and L is reached at step w;
    * after it, with the progress p = (step − w) / (n − w):
      cosine L · (m + (1 − m) · (1 + cos πp) / 2) (arXiv 1608.03983, equation 5, one period),
      linear L · (1 − (1 − m) · p), flat L;
    * cosine with c ``cycles``: p runs from 0 to 1 in each of them anew (the same equation's warm
      restarts), each ``cycle_factor`` times as long as the one before, in whole steps;
    * ``tail``: p = 1 in the last steps, and has run to 1 before them;
    * step: L · ``factor`` once for each of the ``milestones`` that is reached;
    * inverse_sqrt: L · √(v / (v + step − w)) with v = max(w, 1) (arXiv 1706.03762, equation 3);
    * wsd: L until the last k steps (``decay``), then linear with p = (step − n + k) / k
      (arXiv 2404.06395, section 4, with a linear fall).

    A stage with a schedule of its own has L, n and the step of the stage; the others go through
    the recipe's schedule over the whole run, with the stage's L.

    L · m would be reached at step n, which is never taken: the last update is a little above, so
    that it still moves the weights where m is 0.

    Raises:
        ValueError: the step is not one of the run's.

    >>> run = TrainConfig(steps=10, lr=1.0, schedule={"type": "linear", "warmup": 1})
    >>> [round(lr_at(run, step), 3) for step in (0, 1, 9)]
    [0.5, 1.0, 0.2]
    """
    if not 0 <= step < config.steps:
        raise ValueError(f"step {step} is not one of 0 … {config.steps - 1}")
    if config.stages:
        return _lr_in_stage(config, step)
    return _lr(config.schedule, config.lr, config.steps, step)


def _lr(schedule: ScheduleConfig, lr: float, steps: int, step: int) -> float:
    """The learning rate of a schedule over ``steps`` whose highest is ``lr``."""
    warmup = schedule.steps_of(schedule.warmup, steps)
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    if schedule.type == "step":
        fallen = sum(step >= drop for drop in schedule.drops(steps))
        return lr * float(schedule.factor or 1.0) ** fallen
    if schedule.type == "inverse_sqrt":
        reach = max(warmup, 1)
        return lr * math.sqrt(reach / (reach + step - warmup))
    start, end = _cycle(schedule, steps, step)
    progress = min(1.0, max(0, step - start) / (end - start))
    return lr * _part(schedule.type, schedule.min_ratio or 0.0, progress)


def _lr_in_stage(config: TrainConfig, step: int) -> float:
    """The learning rate in the stage that a step is in."""
    found = config.stage_at(step)
    assert found is not None
    stage, first = found
    lr = stage.lr or config.lr
    if stage.schedule is None:
        return _lr(config.schedule, lr, config.steps, step)
    steps = stage.known_steps(config.batch_size)
    assert steps is not None, "an unsettled plan has no learning rates"
    return _lr(stage.schedule, lr, steps, step - first)


def preview(config: TrainConfig, width: int = 60) -> str:
    """The schedule as two lines of text: bars over the steps, then its numbers.

    >>> run = TrainConfig(steps=8, schedule={"type": "linear", "warmup": 0, "min_ratio": 0.0})
    >>> print(preview(run))
    █▇▆▅▄▃▂▁
    linear: 0.001 at step 0, peak 0.001 at step 0, 0.000125 at step 7
    """
    last = config.steps - 1
    columns = min(width, config.steps)
    steps = [round(column * last / max(1, columns - 1)) for column in range(columns)]
    highest = max([stage.lr or config.lr for stage in config.stages] or [config.lr])
    bars = "".join(_bar(lr_at(config, step) / highest) for step in steps)
    if config.stages:
        return f"{bars}\n{_stages_in_words(config)}"
    peak = min(config.warmup_steps, last)
    moments = ((0, ""), (peak, "peak "), (last, ""))
    texts = [f"{word}{lr_at(config, step):.3g} at step {step}" for step, word in moments]
    return f"{bars}\n{config.schedule.type}: {', '.join(texts)}"


def _stages_in_words(config: TrainConfig) -> str:
    """The learning rate at both ends of each stage."""
    texts, first = [], 0
    for stage, end in zip(config.stages, config.borders, strict=True):
        kind = (stage.schedule or config.schedule).type
        rates = f"{lr_at(config, first):.3g} to {lr_at(config, end - 1):.3g}"
        texts.append(f"{stage.name} ({kind}): {rates} at steps {first} to {end - 1}")
        first = end
    return "; ".join(texts)


def _cycle(schedule: ScheduleConfig, steps: int, step: int) -> tuple[int, int]:
    """Where the fall that a step is in begins, and where it ends."""
    if schedule.type == "wsd":
        return steps - schedule.decay_steps(steps), steps
    bounds = schedule.restarts(steps)
    index = bisect.bisect_right(bounds, step, hi=len(bounds) - 1) - 1
    return bounds[index], bounds[index + 1]


def _part(kind: str, floor: float, progress: float) -> float:
    """The part of the highest rate that is left at this progress through the decay."""
    if kind == "flat":
        return 1.0
    if kind == "cosine":
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    return 1 - (1 - floor) * progress


def _bar(part: float) -> str:
    return BARS[max(0, math.ceil(part * len(BARS)) - 1)]
