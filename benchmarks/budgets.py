"""One search for all numbers of steps: the table of runs that an earlier search by evolution has left.

python -m benchmarks.report

That search could look for schedules of several K at once, and today's cannot: results/budgets.csv is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from art_env.evaluation.results import read_csv
from benchmarks.records import RESULTS, CellLine, number
from benchmarks.tables import EXPERIMENTS_PAGE, Pages, markdown

FILE = "budgets.csv"
ONE, EACH, RESAMPLED = "one search for all K", "a search for each K", "K = 10 resampled"


@dataclass(frozen=True)
class Line(CellLine):
    """One schedule."""

    method: str
    seed: int
    rmse: float
    ratio: float


def table(lines: Sequence[Line]) -> str:
    """Median (largest) ratio, a row a number of steps; those with a search of their own first."""
    ratios: dict[tuple[int, str], list[float]] = {}
    for line in lines:
        ratios.setdefault((line.num_steps, line.method), []).append(line.ratio)
    searched = sorted({K for K, method in ratios if method == EACH})
    others = sorted({K for K, _ in ratios} - set(searched))
    rows = [
        (
            str(K) if K in searched else f"{K}, not searched",
            *(_spread(ratios.get((K, m))) for m in (ONE, EACH, RESAMPLED)),
        )
        for K in (*searched, *others)
    ]
    return markdown(("K", ONE, EACH, RESAMPLED), rows)


def _spread(ratios: Sequence[float] | None) -> str:
    return f"{number(float(np.median(ratios)))} ({number(max(ratios))})" if ratios else ""


def page_tables(results: Path = RESULTS) -> Pages:
    """The table of docs/experiments.md."""
    return {EXPERIMENTS_PAGE: {"one-search": table(read_csv(results / FILE, Line))}}
