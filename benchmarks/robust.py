"""Statistics for a few runs on several cells (Agarwal et al. 2021, arXiv 2108.13264).

A sample is a list of arrays, one a cell, each with the runs of that cell. Cells may have different numbers of
runs; every cell counts the same. Lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Cells = Sequence[np.ndarray]
RESAMPLES = 2000
LEVEL = 0.95


def iqm(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Interquartile mean over the last axis: the mean of the middle half of the weight.

    A value that lies across a quartile counts with the part inside, so any number of values will do.
    """
    weights = np.ones(values.shape[-1]) if weights is None else weights
    order = np.argsort(values, axis=-1)
    values, weights = np.take_along_axis(values, order, -1), weights[order]
    upper = np.cumsum(weights, axis=-1) / weights.sum(-1, keepdims=True)
    lower = np.concatenate([np.zeros_like(upper[..., :1]), upper[..., :-1]], axis=-1)
    inside = np.clip(np.minimum(upper, 0.75) - np.maximum(lower, 0.25), 0, None)
    inside[inside < 1e-12] = 0  # rounding must not let an infinite value in
    return (np.where(inside > 0, values, 0) * inside).sum(-1) / inside.sum(-1)


def cells_iqm(cells: Cells) -> float:
    """Interquartile mean over cells and runs."""
    return float(iqm(np.concatenate(cells), _weights(cells)))


def iqm_interval(cells: Cells, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float] | None:
    """Its bootstrap interval, resampling the runs within each cell; None if no cell has a second run."""
    if all(len(runs) == 1 for runs in cells):
        return None
    rng = np.random.default_rng(seed)
    drawn = [runs[rng.integers(len(runs), size=(resamples, len(runs)))] for runs in cells]
    return _percentiles(iqm(np.concatenate(drawn, axis=1), _weights(cells)))


def improvement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How probable it is that a run of ours is lower than one of theirs; a tie is half."""
    return float(_wins(ours, theirs).mean())


def mean_improvement(ours: Cells, theirs: Cells) -> float:
    """Mean of ``improvement`` over cells."""
    return float(np.mean([improvement(x, y) for x, y in zip(ours, theirs, strict=True)]))


def improvement_interval(
    ours: Cells, theirs: Cells, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Bootstrap interval of the mean, both sides resampled within each cell; None as in ``iqm_interval``."""
    if all(len(runs) == 1 for runs in (*ours, *theirs)):
        return None
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for x, y in zip(ours, theirs, strict=True):
        # How often each run is drawn is all that the mean over pairs needs.
        counts = [rng.multinomial(len(v), np.full(len(v), 1 / len(v)), size=resamples) for v in (x, y)]
        total += np.einsum("bi,ij,bj->b", counts[0], _wins(x, y), counts[1]) / (len(x) * len(y))
    return _percentiles(total / len(ours))


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    x, y = ours[:, None], theirs[None, :]
    return (x < y) + 0.5 * (x == y)


def _weights(cells: Cells) -> np.ndarray:
    return np.concatenate([np.full(len(runs), 1 / len(runs)) for runs in cells])


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    # No interpolation: between two infinite values it is not a number.
    low, high = np.percentile(values, [tail, 100 - tail], method="nearest")
    return float(low), float(high)
