"""Fits find the law that the losses were made by; the optimum is the optimum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.study.ladder.laws import LAW, made

from windtunnel.study.ladder.fits import HUBER_DELTA, fit_law, huber_delta
from windtunnel.study.ladder.resample import envelope, make_draws, measure_noise, resample


@settings(max_examples=15, deadline=None)
@given(
    E=st.floats(0.5, 2.5), alpha=st.floats(0.2, 0.8), beta=st.floats(0.2, 0.8),
    at_size=st.floats(0.2, 2.0), at_tokens=st.floats(0.2, 2.0),
)  # fmt: skip
def test_a_law_without_noise_is_found(
    E: float, alpha: float, beta: float, at_size: float, at_tokens: float
) -> None:
    n, d = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(1e5, 5e6, 5), np.geomspace(1e6, 1e8, 4))
    )
    y = E + at_size * (n / 1e6) ** -alpha + at_tokens * (d / 1e7) ** -beta
    law = fit_law(np.stack([n, d], 1), y[None])
    np.testing.assert_allclose(law(n, d)[0], y, rtol=2e-4)
    far = law(np.array([2e7]), np.array([4e8]))[0, 0]
    true = E + at_size * 20**-alpha + at_tokens * 40**-beta
    assert far == pytest.approx(true, rel=5e-3)


def test_the_numbers_of_a_law_are_found() -> None:
    measured = made(noise=0.0, seeds=2)
    law = fit_law(measured.columns(), measured.losses[..., 0].reshape(1, -1))
    found = (
        law.constant[0],
        law.factors[0, 0],
        law.exponents[0, 0],
        law.factors[0, 1],
        law.exponents[0, 1],
    )
    assert found == pytest.approx(tuple(LAW.values()), rel=1e-3)


def test_a_law_of_compute_is_found() -> None:
    flops = np.geomspace(1e12, 1e15, 6)[:, None]
    law = fit_law(flops, (1.8 + 400 * flops**-0.2).T)
    found = (law.constant[0], law.factors[0, 0], law.exponents[0, 0])
    assert found == pytest.approx((1.8, 400, 0.2), rel=1e-3)


def test_the_fit_is_as_good_as_that_of_a_general_optimizer() -> None:
    """Hoffmann's own way: L-BFGS on the Huber loss of log residuals, from many starts."""
    measured = made(noise=0.004)
    x, y = np.log(measured.columns()), measured.means.reshape(-1)
    delta = 0.003

    def loss(p: np.ndarray) -> float:
        terms = np.stack([np.full(len(y), p[0]), p[1] - p[2] * x[:, 0], p[3] - p[4] * x[:, 1]])
        r = np.abs(np.logaddexp.reduce(terms) - y)
        return 1e4 * float(np.where(r <= delta, r**2 / 2, delta * (r - delta / 2)).sum())

    starts = [(e, a, 0.4, b, 0.4) for e in (-0.5, 0.5) for a in (2.0, 5.0) for b in (3.0, 6.0)]
    best = min(minimize(loss, s, method="L-BFGS-B", options={"maxiter": 5000}).fun for s in starts)
    found = fit_law(measured.columns(), np.exp(y)[None], delta=delta).objective[0] * 1e4
    assert found <= best * (1 + 1e-4)


def test_an_outlier_moves_a_fit_by_little() -> None:
    clean = made(noise=0.0, seeds=1)
    spoiled = clean.losses.copy()
    spoiled[1, 1, 0] *= 1.2
    far = [np.array([1e7]), np.array([2e8])]
    laws = [fit_law(clean.columns(), y[..., 0].reshape(1, -1)) for y in (clean.losses, spoiled)]
    assert laws[1](*far)[0, 0] == pytest.approx(laws[0](*far)[0, 0], rel=0.01)


def test_delta_is_hoffmanns_or_as_large_as_the_noise_asks_for() -> None:
    assert huber_delta(None) == huber_delta(1e-5) == HUBER_DELTA
    assert huber_delta(0.01) == pytest.approx(0.01345)


def test_rows_of_one_call_do_not_know_each_other() -> None:
    measured = made(noise=0.01)
    rows = measured.losses.transpose(2, 0, 1).reshape(3, -1)
    together = fit_law(measured.columns(), rows)
    alone = [fit_law(measured.columns(), row[None]) for row in rows]
    np.testing.assert_allclose(together.objective, [one.objective[0] for one in alone], rtol=1e-4)


def test_weights_leave_cells_out() -> None:
    measured = made(noise=0.0, seeds=1)
    rows = measured.losses[..., 0].reshape(1, -1)
    spoiled = rows.copy()
    spoiled[0, 3] *= 2
    weights = np.ones_like(rows)
    weights[0, 3] = 0
    law = fit_law(measured.columns(), spoiled, weights=weights)
    assert law.exponents[0, 0] == pytest.approx(LAW["alpha"], rel=1e-3)


def test_the_envelope_is_what_nothing_cheaper_beats() -> None:
    flops = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    rows = np.array([[3.0, 3.5, 2.0, 2.5, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    found = envelope(flops, rows, np.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    assert found.tolist() == [[1, 0, 1, 0, 0], [1, 1, 1, 1, 0]]


def test_noise_of_seeds_and_of_cells_are_told_apart() -> None:
    measured = made(noise=0.01, seeds=200)
    zero = np.zeros(measured.means.shape)
    noise = measure_noise(measured, zero, zero + 1, 5)
    assert noise.seeds == pytest.approx(0.01, rel=0.1)
    assert (noise.cells, noise.df) == (0.0, 4 * 199)
    residuals = np.random.default_rng(0).standard_normal(zero.shape) * 0.02
    misfit = measure_noise(measured, residuals, zero + 1, 5)
    assert misfit.cells == pytest.approx(((residuals**2).sum() / 7) ** 0.5, rel=0.05)
    assert misfit.df == 4 * 199 + 7


def test_resampling_is_seeded() -> None:
    measured = made()
    laws = [resample(measured, make_draws(seed, 20, 4, 3)).laws for seed in (1, 1, 2)]
    assert (laws[0].constant == laws[1].constant).all()
    assert (laws[0].constant != laws[2].constant).any()
