"""How good a method is over the cells of the leaderboard, from a few runs in each, and where the search is not best.

python -m benchmarks.report
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.records import ORACLE, OURS, Cell, Leaderboard

# Beginnings of the names of problems with exact denoisers.
ANALYTIC = ("gaussian", "mixture")
# A median ratio above the bar is a miss: up to so many steps, and beyond.
FEW_STEPS, FEW_STEPS_BAR, MANY_STEPS_BAR = 7, 1.05, 1.15
LEAST_IMPROVEMENT, IMPROVEMENT_STEPS = 0.9, 10
# Medians within 1% are a tie.
TIE = 1.01
RESAMPLES = 2000
LEVEL = 0.95
# One array a cell, with the ratios of its runs. Cells may have different numbers of runs, every cell counts the same.
Cells = Sequence[np.ndarray]
Interval = tuple[float, float] | None


# A few runs on several cells (Agarwal et al. 2021, arXiv 2108.13264); lower is better.


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


def iqm_interval(cells: Cells, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Bootstrap interval of ``cells_iqm``: runs are drawn within each cell; None if no cell has a second run."""
    if all(len(runs) == 1 for runs in cells):
        return None
    rng = np.random.default_rng(seed)
    drawn = [runs[rng.integers(len(runs), size=(resamples, len(runs)))] for runs in cells]
    return _percentiles(iqm(np.concatenate(drawn, axis=1), _weights(cells)))


def improvement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Probability that a run of ours is lower than one of theirs; a tie is half."""
    return float(_wins(ours, theirs).mean())


def mean_improvement(ours: Cells, theirs: Cells) -> float:
    """Mean of ``improvement`` over cells."""
    return float(np.mean([improvement(x, y) for x, y in zip(ours, theirs, strict=True)]))


def improvement_interval(ours: Cells, theirs: Cells, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Bootstrap interval of ``mean_improvement``, drawn as in ``iqm_interval``."""
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


# The leaderboard


@dataclass(frozen=True)
class Summary:
    """A method over all its cells.

    ``iqm`` and ``median`` are those of its ratio, ``ours`` the interquartile mean of the search in the same cells,
    ``improvement`` the probability that the search is better; evaluations and seconds are medians over cells.
    """

    method: str
    cells: int
    runs: int
    iqm: float
    interval: Interval
    median: float
    ours: float
    improvement: float
    improvement_interval: Interval
    evaluations: float
    seconds: float


def summarize(board: Leaderboard) -> list[Summary]:
    """Summarize every method; the lowest ratio comes first."""
    found = []
    for method in board.methods:
        cells = board.cells_of(method)
        ratios = [board.ratios(c, method) for c in cells]
        both = board.cells_of(method, OURS)
        ours, theirs = ([board.ratios(c, m) for c in both] for m in (OURS, method))
        rival = bool(both) and method != OURS
        records = board.records(method)
        found.append(
            Summary(
                method,
                len(cells),
                len(records),
                cells_iqm(ratios),
                iqm_interval(ratios),
                # The median of each cell first, so that every cell counts the same.
                float(np.median([np.median(g) for g in ratios])),
                cells_iqm(ours) if rival else math.nan,
                mean_improvement(ours, theirs) if rival else math.nan,
                improvement_interval(ours, theirs) if rival else None,
                over_cells(board, method, "evaluations"),
                over_cells(board, method, "seconds"),
            )
        )
    return sorted(found, key=lambda s: s.iqm)


def over_cells(board: Leaderboard, method: str, attribute: str) -> float:
    """Median over cells of the median of an attribute over runs."""
    return median(
        median(getattr(r, attribute) for r in board.runs[c, method]) for c in board.cells_of(method)
    )


def median(values: Iterable[float]) -> float:
    """Median of the values that are known; NaN if none is."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.median(known)) if known else math.nan


def bar(cell: Cell) -> float:
    """The largest median ratio in a cell that is no miss."""
    return FEW_STEPS_BAR if cell.num_steps <= FEW_STEPS else MANY_STEPS_BAR


class Doubt(NamedTuple):
    """A rival that the search does not surely beat in a cell."""

    cell: Cell
    method: str
    improvement: float
    ours: float
    theirs: float


def high_ratios(board: Leaderboard, method: str) -> list[tuple[Cell, float]]:
    """Cells where the median ratio of a method is above the bar."""
    medians = [(cell, float(np.median(board.ratios(cell, method)))) for cell in board.cells_of(method)]
    return [(cell, ratio) for cell, ratio in medians if ratio > bar(cell)]


def doubts(board: Leaderboard) -> list[Doubt]:
    """Rivals, up to K = 10, that the search is better than with a probability below 0.9."""
    found = []
    for cell in board.cells_of(OURS):
        if cell.num_steps > IMPROVEMENT_STEPS:
            continue
        ours = board.ratios(cell, OURS)
        for method in board.methods:
            theirs = board.ratios(cell, method)
            if method in (OURS, ORACLE) or not len(theirs):
                continue
            chance = improvement(ours, theirs)
            if chance < LEAST_IMPROVEMENT:
                found.append(Doubt(cell, method, chance, float(np.median(ours)), float(np.median(theirs))))
    return found


def beaten(found: Iterable[Doubt]) -> list[Doubt]:
    """The rival with the lowest median of each cell, where the search's is above it by more than a tie."""
    best: dict[Cell, Doubt] = {}
    for doubt in found:
        if doubt.cell not in best or doubt.theirs < best[doubt.cell].theirs:
            best[doubt.cell] = doubt
    return [d for d in best.values() if d.ours > TIE * d.theirs]


def is_search(board: Leaderboard, method: str) -> bool:
    """Whether a method learns or searches with a seed, so that its seconds are worth a table."""
    several = any(len(board.runs[c, method]) > 1 for c in board.cells_of(method))
    return several or any(r.env_steps > 0 for r in board.records(method))
