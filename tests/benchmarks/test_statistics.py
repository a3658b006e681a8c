"""The statistics of the leaderboard, against known values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from benchmarks import statistics


def test_iqm_is_the_trimmed_mean_when_quarters_are_whole():
    values = np.random.default_rng(0).normal(size=(3, 40))
    np.testing.assert_allclose(statistics.iqm(values), trim_mean(values, 0.25, axis=1))
    assert statistics.iqm(np.array([9.0, 1.0, 2.0, 100.0])) == 5.5


def test_iqm_counts_values_on_a_quartile_in_part():
    # Middle half of [0, 3] is [0.75, 2.25]: a quarter of the first, the second, a quarter of the third.
    assert statistics.iqm(np.array([4.0, 10.0, 40.0])) == pytest.approx((0.25 * 4 + 10 + 0.25 * 40) / 1.5)
    assert statistics.iqm(np.array([7.0])) == 7.0


def test_iqm_of_outliers_and_infinities():
    assert statistics.iqm(np.array([1.0, 1.0, 1.0, 1e9])) == 1.0
    assert statistics.iqm(np.array([1.0, 2.0, 3.0, np.inf])) == 2.5
    assert statistics.iqm(np.array([1.0, np.inf, np.inf, np.inf])) == np.inf


def test_every_cell_counts_the_same():
    # Without weights the ten runs of the first cell would be all there is between the quartiles.
    cells = [np.full(10, 1.0), np.array([3.0]), np.array([5.0]), np.array([7.0])]
    assert statistics.cells_iqm(cells) == 4.0


def test_improvement():
    low, high = np.arange(10.0), np.arange(10.0) + 10
    assert statistics.improvement(low, high) == 1.0
    assert statistics.improvement(high, low) == 0.0
    assert statistics.improvement(low, low) == 0.5
    assert statistics.improvement(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0])) == (1 + 0.5) / 4
    # Of 100 pairs 6 + 5 + 4 + 3 + 2 + 1 = 21 are lost and 7 tied.
    assert statistics.improvement(low, low + 3) == (100 - 21 - 3.5) / 100
    assert statistics.mean_improvement([low, high], [high, low]) == 0.5


def test_single_runs_have_no_interval():
    single = [np.array([1.0]), np.array([2.0])]
    several = [np.array([1.0, 3.0]), np.array([2.0])]
    assert statistics.iqm_interval(single) is None
    assert statistics.improvement_interval(single, single) is None
    assert statistics.iqm_interval(several) is not None
    assert statistics.improvement_interval(several, single) is not None


def test_resampling_stays_within_a_cell():
    # Far apart between cells, equal within: nothing moves. Runs drawn from all cells at once would.
    cells = [np.full(5, value) for value in (1.0, 10.0, 100.0, 1000.0)]
    assert statistics.iqm_interval(cells) == pytest.approx((55.0, 55.0))
    rival = [np.full(1, value) for value in (2.0, 5.0, 200.0, 500.0)]
    assert statistics.improvement_interval(cells, rival) == pytest.approx((0.5, 0.5))


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        cells = [rng.normal(size=20) for _ in range(8)]  # symmetric: the interquartile mean is 0
        low, high = statistics.iqm_interval(cells, seed=trial, resamples=300)
        inside += low <= 0 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_the_interval_of_improvement_covers_the_truth():
    rng = np.random.default_rng(4)
    inside = 0
    for trial in range(200):
        ours, theirs = ([rng.normal(size=15) + shift for _ in range(6)] for shift in (0.0, 0.5))
        low, high = statistics.improvement_interval(ours, theirs, seed=trial, resamples=300)
        inside += low <= 0.63816 <= high  # P(X < Y) = Phi(0.5 / sqrt(2))
    assert 0.87 <= inside / 200 <= 0.99
