"""The limit and what was found without it, on start noises that none of them has seen.

The limit is fitted to the held-out noises that the leaderboard judges on. Where few noises hold the error, a part of
a gap says no more than that. Here the same schedules meet other noises: the limit, ART-RL's run with the median gap,
and gradients on the training noises.

Example (the file in benchmarks/results):
    python benchmarks/fresh_noises.py
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from leaderboard import Book, key
from running import rounded
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from art_env._util.cli import run_command  # noqa: E402
from art_env.evaluation.evaluator import Scorer  # noqa: E402
from art_env.evaluation.results import write_csv  # noqa: E402
from art_env.problems.library import make_problem  # noqa: E402
from art_env.schedules import Schedule  # noqa: E402


@dataclass
class Args:
    """Score the records' schedules on other noises than theirs."""

    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits")
    sets: tuple[int, ...] = (1, 2, 3, 4)
    """Seed sets, as in evaluate.py; the leaderboard has 0."""
    records: Path = ROOT / "benchmarks" / "results" / "leaderboard.jsonl"
    out: Path = ROOT / "benchmarks" / "results" / "fresh_noises.csv"


@dataclass(frozen=True)
class Line:
    """One cell.

    ``gap``: on the leaderboard's noises; ``fresh``: RMSE over that of the limit on all sets together; ``low``,
    ``high``: on a single set; ``gradients``: as ``fresh``.
    """

    problem: str
    solver: str
    num_steps: int
    noises: int
    gap: float
    fresh: float
    low: float
    high: float
    gradients: float


def chosen(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each method the run with the median gap, the lower one of two."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["gap"]):
        methods.setdefault(row["method"], []).append(row)
    return {method: runs[(len(runs) - 1) // 2] for method, runs in methods.items()}


def pooled(errors: list[float]) -> float:
    """RMSE over sets of one size."""
    return math.sqrt(sum(e * e for e in errors) / len(errors))


def measure(scorers: list[Scorer], rows: list[dict[str, Any]]) -> Line:
    """One cell, on one set for each scorer."""
    own = chosen(rows)
    row = own["art"]

    def errors(method: str) -> list[float]:
        schedule = Schedule(own[method]["sigmas"], method)
        return [scorer.rows(schedule)[0].mean for scorer in scorers]

    limit, art = errors("limit"), errors("art")
    gradients = pooled(errors("direct")) / pooled(limit) if "direct" in own else math.nan
    ratios = [a / b for a, b in zip(art, limit, strict=True)]
    noises = sum(scorer.num_noises for scorer in scorers)
    found = (row["gap"], pooled(art) / pooled(limit), min(ratios), max(ratios), gradients)
    return Line(row["problem"], row["solver"], row["num_steps"], noises, *rounded(found))


def main(args: Args) -> None:
    """All cells that have ART-RL and the limit; print, write."""
    torch.set_num_threads(1)
    problems = {name: make_problem(name) for name in args.problems}
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in Book(args.records, {}).rows:
        if row["problem"] in problems:
            cells.setdefault(key(row)[:3], []).append(row)
    cells = {cell: rows for cell, rows in cells.items() if {"art", "limit"} <= {r["method"] for r in rows}}
    if not cells or not args.sets:
        raise ValueError(
            f"nothing to score: records = {str(args.records)!r} must hold art and limit for one of problems = "
            f"{args.problems}, and sets = {args.sets} must not be empty"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for (name, solver, K), rows in tqdm(cells.items(), disable=None):
        scorers = [Scorer(problems[name], solver, (seed,), metrics=()) for seed in args.sets]
        lines.append(measure(scorers, rows))
        line = lines[-1]
        tqdm.write(
            f"{name} {solver} K={K}: {line.gap:.3f} on the leaderboard's noises, {line.fresh:.3f} "
            f"({line.low:.3f} to {line.high:.3f}) on {line.noises:,} others"
        )
    write_csv(lines, args.out, Line)


if __name__ == "__main__":
    sys.exit(run_command("fresh_noises.py", lambda: main(tyro.cli(Args, description=__doc__))))
