"""Can a schedule with weights be interpolated to another number of steps?

python -m benchmarks.resampled_weights

Takes the search's schedules for ``learned_2m`` at K = 5 from the records of the second control, interpolates noise
levels and weights to other K, and sets the error beside that of the same levels with the plain rule (all weights 1/2)
and of the universal list of that K, which is not for this model. Writes a table of docs/results.md between its marks.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from art_env._util.cli import run_command
from art_env._util.files import write_text
from art_env.evaluation.evaluator import NOISE_SEED
from art_env.problems.library import make_problem
from art_env.schedules.optimal import final_rmse
from art_env.schedules.schedule import Array, Schedule
from art_env.schedules.transfer import universal
from benchmarks.records import RESULTS, ROOT, Cell, Leaderboard
from benchmarks.tables import RESAMPLED, markdown, replace_tables

SOLVER, K = "learned_2m", 5


@dataclass
class Args:
    """Score and write."""

    problems: tuple[str, ...] = ("digits", "mixture-2d", "mixture-1d")
    steps: tuple[int, ...] = (4, 6, 7, 8)
    records: Path = RESULTS / "second_control.jsonl"
    page: Path = ROOT / "docs" / "results.md"


def interpolated(weights: Array, num_steps: int) -> Array:
    """Weights ``[K, 1]`` of the steps after the first, linear in their place: ``[num_steps, 1]``."""
    old, new = np.linspace(0, 1, len(weights) - 1), np.linspace(0, 1, num_steps - 1)
    return np.append(0.0, np.interp(new, old, weights[1:, 0]))[:, None]


def rows(name: str, args: Args) -> list[tuple[str, ...]]:
    """Errors at each number of steps."""
    problem = make_problem(name)
    known = problem.reference(problem.effort.score_noises, NOISE_SEED)
    record = Leaderboard.read(args.records).records("search", Cell(name, SOLVER, K))[0]
    learned = record.schedule()
    assert learned.weights is not None

    def error(schedule: Schedule) -> str:
        return f"{final_rmse(problem.denoiser, known, schedule, SOLVER):#.3g}"

    found = [(name, str(K), error(learned), "", error(universal(problem, K, SOLVER)))]
    for steps in args.steps:
        levels = Schedule(learned.sigmas).resample(steps).sigmas
        tried = interpolated(learned.weights, steps), interpolated(np.full((K, 1), 0.5), steps)
        both, plain = (error(Schedule(levels, weights=w)) for w in tried)
        found.append((name, str(steps), both, plain, error(universal(problem, steps, SOLVER))))
    return found


def main(args: Args) -> None:
    """Score, write."""
    torch.set_num_threads(1)
    header = ("", "K", "levels and weights", "levels, all weights 1/2", "universal list")
    table = markdown(header, [row for name in args.problems for row in rows(name, args)])
    write_text(args.page, replace_tables(args.page.read_text("utf-8"), {RESAMPLED: table}))
    print(table)


if __name__ == "__main__":
    program = "python -m benchmarks.resampled_weights"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
