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

import torch
import tyro
from leaderboard import Book, key
from running import cell
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from art_env.cli import run_command  # noqa: E402
from art_env.problems import make_problem  # noqa: E402
from art_env.schedules import Schedule  # noqa: E402
from art_env.schedules.optimal import direct, final_rmse  # noqa: E402
from art_env.scoring import Scorer, write_csv  # noqa: E402


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


def polish(name: str, solver: str, K: int, book: Book) -> list[Line]:
    """All of ART-RL's schedules in a cell.

    Raises:
        ValueError: the records have no limit or no training there.
    """
    learned = [row for row in book.rows if key(row)[:4] == (name, solver, K, "art")]
    limit = book.limit((name, solver, K))
    if limit is None or not learned:
        raise ValueError(
            f"cells = {name}:{solver}:{K} must have art and limit in the records = {str(book.path)!r}; "
            "run leaderboard.py for it"
        )
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
            on_training(after) / known,
            scorer.rows(after)[0].mean / best,
        )
        lines.append(Line(name, solver, K, row["seed"], *(float(f"{v:.5g}") for v in numbers)))
    return lines


def main(args: Args) -> None:
    """All cells; print, write."""
    torch.set_num_threads(1)
    book = Book(args.records, {})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    for text in args.cells:
        found = polish(*cell(text), book)
        lines += found
        ends = " ".join(f"{line.gap:.3f}->{line.gap_after:.3f}" for line in found)
        tqdm.write(f"{text}: {ends}")
        on_training = " ".join(f"{line.training:.3f}->{line.training_after:.3f}" for line in found)
        tqdm.write(f"  on the training noises: {on_training}")
    write_csv(lines, args.out, Line)


if __name__ == "__main__":
    sys.exit(run_command("polish.py", lambda: main(tyro.cli(Args, description=__doc__))))
