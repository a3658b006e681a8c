"""What does equal tuning give? The search by evolution, ART-RL, PPO and SAC with nine settings each.

python -m benchmarks.tuning

All trainings are on one problem, solver and number of steps. Ratios are those on a set of held-out noises that no
other table reports, so that settings are not chosen by the noises that judge them. What is in the file already is
not run again.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from art_env._util.cli import run_command
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import read_csv, write_csv
from art_env.problems.library import make_problem
from benchmarks.records import RESULTS, Cell, CellLine, number, title
from benchmarks.running import kept_oracle, short_training
from benchmarks.tables import EXPERIMENTS_PAGE, Pages, markdown

# For each learner the option of train.py for the width of its exploration, its values, and the step sizes.
GRIDS = {
    "evolution": ("std_start", (0.09, 0.18, 0.36), (0.003, 0.01, 0.03)),
    "art": ("std_start", (0.09, 0.18, 0.36), (0.02, 0.05, 0.1)),
    "ppo": ("std_start", (0.1, 0.2, 0.4), (1e-3, 3e-3, 1e-2)),
    "sac": ("target_entropy", (-6.0, -4.5, -3.0), (1e-3, 3e-3, 1e-2)),
}
FILE = "tuning.csv"
# The seed set of held-out noises; tables have 0 to 5.
NOISE_SET = 6


@dataclass
class Args:
    """Train evolution, ART-RL, PPO and SAC with nine settings each, a step size and a width of exploration."""

    problem: str = "mixture-1d"
    solver: str = "heun"
    num_steps: int = 5
    algorithms: tuple[str, ...] = ("evolution", "art", "ppo", "sac")
    num_envs: int = 256
    total_timesteps: int = 400_000
    seeds: tuple[int, ...] = (100, 101)
    """None of the leaderboard's."""
    oracles: Path = Path("runs/tuning")
    """Where the oracle is kept."""
    out: Path = RESULTS / FILE


@dataclass(frozen=True)
class Line(CellLine):
    """One training with some setting; ``value`` is that of the option ``width``, ``noise_set`` the seed set."""

    noise_set: int
    algorithm: str
    learning_rate: float
    width: str
    value: float
    seed: int
    ratio: float
    seconds: float


def settings(algorithms: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, str, float, float, int]]:
    """Every training: algorithm, option for the width, its value, step size and seed."""
    for algorithm in algorithms:
        width, values, rates = GRIDS[algorithm]
        for value, rate, seed in itertools.product(values, rates, seeds):
            yield algorithm, width, value, rate, seed


def table(lines: Sequence[Line]) -> str:
    """Median ratio of each setting, a line a method and width, the three step sizes in columns; bold: the best."""
    rows = []
    for algorithm in dict.fromkeys(line.algorithm for line in lines):
        width, values, rates = GRIDS[algorithm]
        own = [line for line in lines if line.algorithm == algorithm]
        medians = {
            (value, rate): _median([x.ratio for x in own if (x.value, x.learning_rate) == (value, rate)])
            for value in values
            for rate in rates
        }
        least = min(medians.values())
        for value in values:
            texts = [number(medians[value, rate]) for rate in rates]
            bold = [
                f"**{x}**" if medians[value, r] == least else x for x, r in zip(texts, rates, strict=True)
            ]
            steps = (f"{rate:g}: {text}" for rate, text in zip(rates, bold, strict=True))
            rows.append((title(algorithm), f"{width} {value:g}", *steps))
    return markdown(("method", "width of exploration", "step size: ratio", "", ""), rows, left=2)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan


def page_tables(results: Path = RESULTS) -> Pages:
    """The table of docs/experiments.md."""
    return {EXPERIMENTS_PAGE: {"tuning": table(read_csv(results / FILE, Line))}}


def main(args: Args) -> None:
    """Train what is missing, score, print, write."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    problem = make_problem(args.problem)
    cell = Cell(problem.name, args.solver, args.num_steps)
    evaluator = Evaluator(problem, args.solver, (NOISE_SET,), metrics=())
    oracle = kept_oracle(evaluator, args.num_steps, args.oracles)
    problem.reference()  # not part of the first training
    shared = {**cell._asdict(), "num_envs": args.num_envs, "total_timesteps": args.total_timesteps}
    lines = read_csv(args.out, Line) if args.out.is_file() else []
    known = {
        (line.cell, line.noise_set, line.algorithm, line.value, line.learning_rate, line.seed)
        for line in lines
    }
    for algorithm, width, value, rate, seed in settings(args.algorithms, args.seeds):
        if (cell, NOISE_SET, algorithm, value, rate, seed) in known:
            continue
        done = short_training(algorithm, **shared, learning_rate=rate, **{width: value}, seed=seed)
        ratio = evaluator.ratio(done.schedule, oracle)
        lines.append(
            Line(*cell, NOISE_SET, algorithm, rate, width, value, seed, ratio, round(done.seconds, 2))
        )
        write_csv(lines, args.out, Line)
        print(f"{algorithm}, {width} {value}, learning_rate {rate}, seed {seed}: {ratio:.3f}", flush=True)


if __name__ == "__main__":
    program = "python -m benchmarks.tuning"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
