"""Where gradients go from the ends of ART-RL's trainings: what is left of a gap, and why.

Each learned schedule of the leaderboard's records is the start of a search by gradients on the training noises, the
only ones that a learner knows. If the search ends at the limit's error, training was too short; if it stays, in a
local minimum. Where the limit itself is bad on the training noises, no learner could have known it.

Examples (the file in benchmarks/results):
    python benchmarks/polish.py
    python benchmarks/polish.py --cells mixture-1d:heun:20
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from leaderboard import Book, key
from running import cell, rounded
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from art_env._util.cli import run_command  # noqa: E402
from art_env.evaluation.evaluator import Scorer  # noqa: E402
from art_env.evaluation.results import write_csv  # noqa: E402
from art_env.problems.library import make_problem  # noqa: E402
from art_env.schedules import Schedule  # noqa: E402
from art_env.schedules.gradient import direct  # noqa: E402
from art_env.schedules.optimal import final_rmse  # noqa: E402


@dataclass
class Args:
    """Search on from the records' schedules."""

    cells: tuple[str, ...] = ("mixture-1d:ipndm:10", "mixture-1d:ipndm:20", "mixture-2d:ipndm:10")
    """problem:solver:K, each with ART-RL and the limit in the records."""
    records: Path = ROOT / "benchmarks" / "results" / "leaderboard.jsonl"
    out: Path = ROOT / "benchmarks" / "results" / "polish.csv"


@dataclass(frozen=True)
class Line:
    """One schedule before and after.

    ``training``: RMSE on the training noises over that of the limit there; ``gap``: on the leaderboard's noises.
    """

    problem: str
    solver: str
    num_steps: int
    seed: int
    training: float
    gap: float
    training_after: float
    gap_after: float


def recorded(where: tuple[str, str, int], book: Book) -> tuple[list[dict[str, Any]], Schedule]:
    """ART-RL's records of a cell, and its limit.

    Raises:
        ValueError: one of them is not there.
    """
    learned = [row for row in book.rows if key(row)[:4] == (*where, "art")]
    limit = book.limit(where)
    if limit is None or not learned:
        name, solver, K = where
        raise ValueError(
            f"cells = {name}:{solver}:{K} must have art and limit in the records = {str(book.path)!r}; "
            "run leaderboard.py for it"
        )
    return learned, limit


def polish(where: tuple[str, str, int], learned: list[dict[str, Any]], limit: Schedule) -> list[Line]:
    """A line for each of ART-RL's records of a cell."""
    name, solver, K = where
    problem = make_problem(name)
    scorer = Scorer(problem, solver, (0,), metrics=())
    pool = problem.reference()

    def on_training(schedule: Schedule) -> float:
        return final_rmse(problem.denoiser, pool, schedule.sigmas, solver)

    best, known = scorer.rows(limit)[0].mean, on_training(limit)
    lines = []
    for row in tqdm(learned, desc=f"{name} {solver} K={K}", disable=None):
        before = Schedule(row["sigmas"], "art")
        # No other start is as good as this one: one search follows it.
        after = direct(problem.denoiser, pool, K, solver, [before], num_searches=1, with_dp=False)
        numbers = (
            on_training(before) / known,
            row["gap"],
            after.meta["rmse"] / known,
            scorer.rows(after)[0].mean / best,
        )
        lines.append(Line(name, solver, K, row["seed"], *rounded(numbers)))
    return lines


def main(args: Args) -> None:
    """All cells; print, write."""
    if not args.cells:
        raise ValueError("cells = () is empty; name at least one, such as mixture-1d:heun:5")
    torch.set_num_threads(1)
    book = Book(args.records, {})
    # All of them before the first search, which takes minutes.
    cells = {where: recorded(where, book) for where in map(cell, args.cells)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    for where, (learned, limit) in cells.items():
        found = polish(where, learned, limit)
        lines += found
        ends = " ".join(f"{line.gap:.3f}->{line.gap_after:.3f}" for line in found)
        tqdm.write(f"{':'.join(map(str, where))}: {ends}")
        on_training = " ".join(f"{line.training:.3f}->{line.training_after:.3f}" for line in found)
        tqdm.write(f"  on the training noises: {on_training}")
    write_csv(lines, args.out, Line)


if __name__ == "__main__":
    sys.exit(run_command("polish.py", lambda: main(tyro.cli(Args, description=__doc__))))
