"""Which weights are looked at: those that are trained, or an average of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from windtunnel.train.loop import TrainState
from windtunnel.train.optimizers.together import use_average


@contextmanager
def result_weights(state: TrainState) -> Iterator[None]:
    """Inside, the model has the weights that the optimizer means as its result.

    Those are the trained ones, or for a schedule-free optimizer their average. Afterwards the
    trained ones are back, to the bit.
    """
    if not use_average(state.optimizer, on=True):
        yield
        return
    state.weights.publish()
    try:
        yield
    finally:
        use_average(state.optimizer, on=False)
        state.weights.publish()


@contextmanager
def ema_weights(state: TrainState) -> Iterator[None]:
    """Inside, the model has the average of its weights that ``train.ema`` asks for."""
    assert state.ema is not None, "the recipe has no ema"
    state.ema.swap(state.weights.parameters)
    state.weights.publish()
    try:
        yield
    finally:
        state.ema.swap(state.weights.parameters)
        state.weights.publish()
