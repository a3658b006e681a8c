"""Can a schedule with weights be interpolated to another number of steps?

python -m benchmarks.resampled_weights

Takes the search's schedules for ``learned_2m`` at K = 5 from the records of the second control, interpolates noise
levels and weights to other K, and sets the error beside that of the same levels with the plain rule (all weights 1/2)
and of the universal list of that K, which is not for this model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from art_env._util.cli import run_command
from art_env.evaluation.evaluator import NOISE_SEED
from art_env.evaluation.results import read_csv, write_csv
from art_env.problems.library import make_problem
from art_env.schedules.optimal import final_rmse
from art_env.schedules.schedule import Array, Schedule
from art_env.schedules.transfer import universal
from benchmarks.records import OURS, RESULTS, Cell, CellLine
from benchmarks.second_control import digits, read_found
from benchmarks.tables import EXPERIMENTS_PAGE, Pages, markdown

FILE = "resampled_weights.csv"
SOLVER, K = "learned_2m", 5


@dataclass
class Args:
    """Score and write."""

    problems: tuple[str, ...] = ("digits", "mixture-2d", "mixture-1d")
    steps: tuple[int, ...] = (4, 6, 7, 8)
    results: Path = RESULTS
    """The folder of the records of the second control, which gets resampled_weights.csv."""


@dataclass(frozen=True)
class Line(CellLine):
    """RMSE of learned levels with learned weights and with 1/2 (NaN at K = 5), and of the universal list."""

    both: float
    plain: float
    universal: float


def interpolated(weights: Array, num_steps: int) -> Array:
    """Weights ``[K, 1]`` of the steps after the first, linear in their place: ``[num_steps, 1]``."""
    old, new = np.linspace(0, 1, len(weights) - 1), np.linspace(0, 1, num_steps - 1)
    return np.append(0.0, np.interp(new, old, weights[1:, 0]))[:, None]


def measure(name: str, args: Args) -> list[Line]:
    """A line for each number of steps, that of the records first."""
    problem = make_problem(name)
    known = problem.reference(problem.effort.score_noises, NOISE_SEED)
    learned = read_found(args.results).records(OURS, Cell(name, SOLVER, K))[0].schedule()
    assert learned.weights is not None

    def error(schedule: Schedule) -> float:
        return final_rmse(problem.denoiser, known, schedule, SOLVER)

    lines = [Line(name, SOLVER, K, error(learned), math.nan, error(universal(problem, K, SOLVER)))]
    for steps in args.steps:
        levels = Schedule(learned.sigmas).resample(steps).sigmas
        tried = interpolated(learned.weights, steps), interpolated(np.full((K, 1), 0.5), steps)
        both, plain = (error(Schedule(levels, weights=w)) for w in tried)
        lines.append(Line(name, SOLVER, steps, both, plain, error(universal(problem, steps, SOLVER))))
    return lines


def table(lines: Sequence[Line]) -> str:
    """Errors, a row for each problem and K."""
    header = ("", "K", "levels and weights", "levels, all weights 1/2", "universal list")
    rows = ((x.problem, str(x.num_steps), *map(digits, (x.both, x.plain, x.universal))) for x in lines)
    return markdown(header, rows)


def page_tables(results: Path = RESULTS) -> Pages:
    """The table of docs/experiments.md."""
    return {EXPERIMENTS_PAGE: {"resampled-weights": table(read_csv(results / FILE, Line))}}


def main(args: Args) -> None:
    """Score, write, print."""
    torch.set_num_threads(1)
    lines = [line for name in args.problems for line in measure(name, args)]
    write_csv(lines, args.results / FILE, Line)
    print(table(lines))


if __name__ == "__main__":
    program = "python -m benchmarks.resampled_weights"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
