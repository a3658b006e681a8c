"""The records of the leaderboard: reading them, and what a method has over its cells."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import robust

OURS, LIMIT = "art", "limit"
# A median gap above the bar of its problem is a miss: problems with exact denoisers, and all others.
ANALYTIC = ("gaussian", "mixture")
ANALYTIC_BAR, NETWORK_BAR = 1.05, 1.10
LEAST_IMPROVEMENT, IMPROVEMENT_STEPS = 0.9, 10
# Medians within 1% are a tie.
TIE = 1.01
TITLES = {
    "uniform": "uniform",
    "log_snr": "log-SNR",
    "cosine": "cosine",
    "arctan": "arctan",
    "edm": "EDM (rho = 7)",
    "edm_tuned": "EDM, rho tuned",
    "closed_form": "closed form",
    "gits": "GITS",
    "gits:coefficient=1.15": "GITS (1.15)",
    "sdm": "SDM",
    "dmn": "DMN",
    "dp": "dynamic programming",
    "cma": "CMA-ES",
    "direct": "gradients (training noises)",
    "art": "ART-RL",
    "ppo": "PPO",
    "sac": "SAC",
    "limit": "limit",
}


class Cell(NamedTuple):
    """What a gap is relative to."""

    problem: str
    solver: str
    num_steps: int

    def __str__(self) -> str:
        return f"{self.problem}, {self.solver}, {self.num_steps}"


@dataclass(frozen=True)
class Record:
    """One schedule found by one run of one method."""

    cell: Cell
    nfe: int
    method: str
    seed: int
    error: float
    gap: float
    evaluations: float
    seconds: float
    env_steps: float
    curve: np.ndarray  # [n, 3]: env steps, evaluations, gap


@dataclass
class Board:
    """All records, by cell and method."""

    runs: dict[tuple[Cell, str], list[Record]]
    headers: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cells = sorted({cell for cell, _ in self.runs})
        found = {method for _, method in self.runs}
        self.methods = [m for m in TITLES if m in found] + sorted(found - set(TITLES))
        self.problems = list(dict.fromkeys(cell.problem for cell in self.cells))

    def cells_of(self, method: str, also: str | None = None) -> list[Cell]:
        """The cells that a method has a run in, or two methods have."""
        return [
            c for c in self.cells if (c, method) in self.runs and (also is None or (c, also) in self.runs)
        ]

    def gaps(self, cell: Cell, method: str) -> np.ndarray:
        """The gap of every run; empty if there is none."""
        return np.array([r.gap for r in self.runs.get((cell, method), [])])

    def records(self, method: str) -> list[Record]:
        """All records of a method."""
        return [r for c in self.cells for r in self.runs.get((c, method), [])]


# Reading


def read(path: Path) -> Board:
    """The records of a file.

    Raises:
        ValueError: a line that is not a record, with its number, or no record at all.
    """
    latest: dict[tuple[Cell, str, int], Record] = {}
    headers = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if isinstance(entry, dict) and "header" in entry:
                    headers.append(dict(entry["header"]))
                    continue
                record = parse(entry)
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            latest[record.cell, record.method, record.seed] = record
    if not latest:
        raise ValueError(f"{path} has no records")
    runs: dict[tuple[Cell, str], list[Record]] = {}
    for key in sorted(latest):
        runs.setdefault(key[:2], []).append(latest[key])
    return Board(runs, headers)


def parse(entry: Any) -> Record:
    """A record from a line's JSON.

    Raises:
        ValueError, TypeError: a field is missing or is no number in range.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"a record is an object, not {entry!r}")
    needed = ("problem", "solver", "num_steps", "nfe", "method", "error", "gap")
    missing = [key for key in needed if entry.get(key) is None]
    if missing:
        raise ValueError(f"a record without {', '.join(missing)}")
    numbers = {
        key: math.nan if entry.get(key) is None else float(entry[key])
        for key in ("error", "gap", "evaluations", "seconds", "env_steps")
    }
    if not numbers["gap"] > 0:
        raise ValueError(f"gap = {entry['gap']} must be a positive number")
    curve = np.array(
        [[math.nan if v is None else float(v) for v in point] for point in entry.get("curve") or []]
    )
    if curve.size and curve.shape[1:] != (3,):
        raise ValueError("curve must be a list of [env_steps, evaluations, gap]")
    return Record(
        cell=Cell(str(entry["problem"]), str(entry["solver"]), int(entry["num_steps"])),
        nfe=int(entry["nfe"]),
        method=str(entry["method"]),
        seed=int(entry.get("seed") or 0),
        curve=curve.reshape(-1, 3),
        **numbers,
    )


class Fresh(NamedTuple):
    """ART-RL's error over the limit's on noises that neither has seen: on all of them, and on single sets."""

    ratio: float
    low: float
    high: float


def read_fresh(path: Path) -> dict[Cell, Fresh]:
    """What ``fresh_noises.py`` has measured."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            Cell(row["problem"], row["solver"], int(row["num_steps"])): Fresh(
                float(row["fresh"]), float(row["low"]), float(row["high"])
            )
            for row in csv.DictReader(file)
        }


# Statistics

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Summary:
    """A method over all its cells; ``ours`` is the interquartile mean of ART-RL in the same cells."""

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


def summarize(board: Board) -> list[Summary]:
    """Every method, the lowest gap first."""
    found = []
    for method in board.methods:
        cells = board.cells_of(method)
        gaps = [board.gaps(c, method) for c in cells]
        both = board.cells_of(method, OURS)
        ours, theirs = ([board.gaps(c, m) for c in both] for m in (OURS, method))
        rival = bool(both) and method != OURS
        records = board.records(method)
        found.append(
            Summary(
                method,
                len(cells),
                len(records),
                robust.cells_iqm(gaps),
                robust.iqm_interval(gaps),
                # The median of each cell first, so that every cell counts the same.
                float(np.median([np.median(g) for g in gaps])),
                robust.cells_iqm(ours) if rival else math.nan,
                robust.mean_improvement(ours, theirs) if rival else math.nan,
                robust.improvement_interval(ours, theirs) if rival else None,
                over_cells(board, method, "evaluations"),
                over_cells(board, method, "seconds"),
            )
        )
    return sorted(found, key=lambda s: s.iqm)


def over_cells(board: Board, method: str, attribute: str) -> float:
    """Median over cells of the median over runs."""
    return median(
        median(getattr(r, attribute) for r in board.runs[c, method]) for c in board.cells_of(method)
    )


def median(values: Iterable[float]) -> float:
    """Of the values that are there; NaN if none is."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.median(known)) if known else math.nan


def bar(problem: str) -> float:
    """The largest median gap of ART-RL that is no miss."""
    return ANALYTIC_BAR if problem.startswith(ANALYTIC) else NETWORK_BAR


class Doubt(NamedTuple):
    """A rival that ART-RL does not surely beat in a cell."""

    cell: Cell
    method: str
    improvement: float
    ours: float
    theirs: float


def high_gaps(board: Board) -> list[tuple[Cell, float]]:
    """Cells where the median gap of ART-RL is above its bar."""
    medians = [(cell, float(np.median(board.gaps(cell, OURS)))) for cell in board.cells_of(OURS)]
    return [(cell, gap) for cell, gap in medians if gap > bar(cell.problem)]


def doubts(board: Board) -> list[Doubt]:
    """Rivals, up to K = 10, over which the probability of improvement is below 0.9."""
    found = []
    for cell in board.cells_of(OURS):
        if cell.num_steps > IMPROVEMENT_STEPS:
            continue
        ours = board.gaps(cell, OURS)
        for method in board.methods:
            theirs = board.gaps(cell, method)
            if method in (OURS, LIMIT) or not len(theirs):
                continue
            chance = robust.improvement(ours, theirs)
            if chance < LEAST_IMPROVEMENT:
                found.append(Doubt(cell, method, chance, float(np.median(ours)), float(np.median(theirs))))
    return found


def beaten(found: Iterable[Doubt]) -> list[Doubt]:
    """Of each cell the rival with the lowest median, where ART-RL's is above it by more than a tie."""
    best: dict[Cell, Doubt] = {}
    for doubt in found:
        if doubt.cell not in best or doubt.theirs < best[doubt.cell].theirs:
            best[doubt.cell] = doubt
    return [d for d in best.values() if d.ours > TIE * d.theirs]


def is_search(board: Board, method: str) -> bool:
    """Whether a method learns or searches with a seed, so that its seconds are worth a table."""
    several = any(len(board.runs[c, method]) > 1 for c in board.cells_of(method))
    return several or any(r.env_steps > 0 for r in board.records(method))


# Text


def title(method: str) -> str:
    """How a table calls a method."""
    return TITLES.get(method, method)


def number(value: float) -> str:
    """Four digits or so; a dash for what is not known."""
    if math.isnan(value):
        return "-"
    digits = 3 if abs(value) < 2 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def amount(value: float) -> str:
    """A count or a time in two or three digits: 850, 12k, 3.1M."""
    if math.isnan(value):
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
