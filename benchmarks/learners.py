"""What do the search and the agents need? Env steps and seconds (``efficiency``), and equal tuning (``tuning``).

python -m benchmarks.learners efficiency

All trainings are on one problem, solver and number of steps, each with its own annealing; ratios are those on
held-out noises.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro

from art_env._util.names import check_name
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import write_csv
from art_env.problems.library import make_problem
from benchmarks.records import RESULTS, Cell, CellLine
from benchmarks.running import kept_oracle, short_training

# For each learner the option of train.py for the width of its exploration, its values, and the step sizes.
GRIDS = {
    "search": ("std_start", (0.09, 0.18, 0.36), (0.003, 0.01, 0.03)),
    "art": ("std_start", (0.09, 0.18, 0.36), (0.02, 0.05, 0.1)),
    "ppo": ("std_start", (0.1, 0.2, 0.4), (1e-3, 3e-3, 1e-2)),
    "sac": ("target_entropy", (-6.0, -4.5, -3.0), (1e-3, 3e-3, 1e-2)),
}


@dataclass
class OneCell:
    """The cell that all trainings are on."""

    problem: str = "mixture-1d"
    solver: str = "heun"
    num_steps: int = 5
    oracles: Path = Path("runs/efficiency")
    """Where the oracle is kept."""


@dataclass
class Efficiency(OneCell):
    """Train for several numbers of env steps."""

    runs: tuple[str, ...] = (
        "search:128:20000",
        "search:128:35000",
        "search:128:50000",
        "search:256:100000",
        "search:256:200000",
        "art:128:100000",
        "art:128:200000",
        "art:256:200000",
        "ppo:128:100000",
        "ppo:128:200000",
        "ppo:256:200000",
        "sac:256:350000",
    )
    """algorithm:rows:env steps"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    sac_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of SAC, which takes minutes."""
    out: Path = RESULTS / "efficiency.csv"


@dataclass
class Tuning(OneCell):
    """Train the search, ART-RL, PPO and SAC with nine settings each, a step size and a width of exploration."""

    algorithms: tuple[str, ...] = ("search", "art", "ppo", "sac")
    num_envs: int = 256
    total_timesteps: int = 400_000
    seeds: tuple[int, ...] = (100, 101)
    """None of the leaderboard's."""
    out: Path = RESULTS / "tuning.csv"


@dataclass(frozen=True)
class EfficiencyLine(CellLine):
    """One training for some number of env steps."""

    algorithm: str
    rows: int
    env_steps: int
    seed: int
    ratio: float
    seconds: float


@dataclass(frozen=True)
class TuningLine(CellLine):
    """One training with some setting; ``value`` is that of the option ``width``."""

    algorithm: str
    learning_rate: float
    width: str
    value: float
    seed: int
    ratio: float
    seconds: float


class Trial(NamedTuple):
    """Some options of train.py, for several seeds."""

    algorithm: str
    options: dict[str, Any]
    seeds: tuple[int, ...]
    columns: tuple[Any, ...]
    """Those of its lines in the CSV file between the algorithm and the seed."""


def lengths(args: Efficiency) -> Iterator[Trial]:
    """The trials of ``efficiency``."""
    for run in args.runs:
        algorithm, rows, steps = run.split(":")
        check_name("algorithm", algorithm, GRIDS)
        options = {"num_envs": int(rows), "total_timesteps": int(steps)}
        seeds = args.sac_seeds if algorithm == "sac" else args.seeds
        yield Trial(algorithm, options, seeds, tuple(options.values()))


def settings(args: Tuning) -> Iterator[Trial]:
    """The trials of ``tuning``."""
    shared = {"num_envs": args.num_envs, "total_timesteps": args.total_timesteps}
    for algorithm in args.algorithms:
        width, values, rates = GRIDS[algorithm]
        for value, rate in itertools.product(values, rates):
            options = {"learning_rate": rate, width: value}
            yield Trial(algorithm, {**options, **shared}, args.seeds, (rate, width, value))


def main(args: Efficiency | Tuning) -> None:
    """Train, score, print, write."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    kind: type[CellLine] = EfficiencyLine if isinstance(args, Efficiency) else TuningLine
    trials = lengths(args) if isinstance(args, Efficiency) else settings(args)
    problem = make_problem(args.problem)
    cell = Cell(problem.name, args.solver, args.num_steps)
    evaluator = Evaluator(problem, args.solver, (0,), metrics=())
    oracle = kept_oracle(evaluator, args.num_steps, args.oracles)
    problem.reference()  # not part of the first training
    lines: list[CellLine] = []
    for trial in trials:
        ratios, seconds = [], []
        for seed in trial.seeds:
            schedule, spent = short_training(trial.algorithm, **cell._asdict(), **trial.options, seed=seed)
            ratios.append(evaluator.ratio(schedule, oracle))
            seconds.append(round(spent, 2))
            line = (*cell, trial.algorithm, *trial.columns, seed, ratios[-1], seconds[-1])
            lines.append(kind(*line))
        chosen = ", ".join(f"{name} {value:,}" for name, value in trial.options.items())
        print(
            f"{trial.algorithm}, {chosen}: ratio {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, "
            f"{len(ratios)} seeds), {np.median(seconds):.1f} s",
            flush=True,
        )
        write_csv(lines, args.out, kind)


if __name__ == "__main__":
    main(tyro.cli(Efficiency | Tuning, prog="python -m benchmarks.learners", description=__doc__))
