"""What does equal tuning give? The search by evolution, ART-RL, PPO and SAC with nine settings each.

python -m benchmarks.tuning

All trainings are on one problem, solver and number of steps; ratios are those on held-out noises.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from art_env._util.cli import run_command
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import write_csv
from art_env.problems.library import make_problem
from benchmarks.records import RESULTS, Cell, CellLine
from benchmarks.running import kept_oracle, short_training

# For each learner the option of train.py for the width of its exploration, its values, and the step sizes.
GRIDS = {
    "evolution": ("std_start", (0.09, 0.18, 0.36), (0.003, 0.01, 0.03)),
    "art": ("std_start", (0.09, 0.18, 0.36), (0.02, 0.05, 0.1)),
    "ppo": ("std_start", (0.1, 0.2, 0.4), (1e-3, 3e-3, 1e-2)),
    "sac": ("target_entropy", (-6.0, -4.5, -3.0), (1e-3, 3e-3, 1e-2)),
}


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
    oracles: Path = Path("runs/efficiency")
    """Where the oracle is kept."""
    out: Path = RESULTS / "tuning.csv"


@dataclass(frozen=True)
class Line(CellLine):
    """One training with some setting; ``value`` is that of the option ``width``."""

    algorithm: str
    learning_rate: float
    width: str
    value: float
    seed: int
    ratio: float
    seconds: float


def main(args: Args) -> None:
    """Train, score, print, write."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    problem = make_problem(args.problem)
    cell = Cell(problem.name, args.solver, args.num_steps)
    evaluator = Evaluator(problem, args.solver, (0,), metrics=())
    oracle = kept_oracle(evaluator, args.num_steps, args.oracles)
    problem.reference()  # not part of the first training
    shared = {**cell._asdict(), "num_envs": args.num_envs, "total_timesteps": args.total_timesteps}
    lines: list[Line] = []
    for algorithm in args.algorithms:
        width, values, rates = GRIDS[algorithm]
        for value, rate in itertools.product(values, rates):
            options = {"learning_rate": rate, width: value}
            new = []
            for seed in args.seeds:
                done = short_training(algorithm, **shared, **options, seed=seed)
                ratio = evaluator.ratio(done.schedule, oracle)
                new.append(Line(*cell, algorithm, rate, width, value, seed, ratio, round(done.seconds, 2)))
            ratios = [line.ratio for line in new]
            chosen = ", ".join(f"{name} {number:,}" for name, number in options.items())
            print(
                f"{algorithm}, {chosen}: ratio {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, "
                f"{len(ratios)} seeds), {np.median([line.seconds for line in new]):.1f} s",
                flush=True,
            )
            lines += new
            write_csv(lines, args.out, Line)


if __name__ == "__main__":
    program = "python -m benchmarks.tuning"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
