"""Equal tuning: ART-RL, PPO and SAC with nine settings each, the same env steps, one cell; the best are the defaults.

A setting is a step size and a width of exploration. The seeds are none of the leaderboard's.

Example (the file in benchmarks/results):
    python benchmarks/tuning.py
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from running import learn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.distill import distill  # noqa: E402
from art_env.problems import make_problem  # noqa: E402
from art_env.scoring import Scorer, write_csv  # noqa: E402

# The option of train.py for the width, its values, and the step sizes.
GRIDS = {
    "art": ("std_start", (0.09, 0.18, 0.36), (0.01, 0.03, 0.1)),
    "ppo": ("std_start", (0.1, 0.2, 0.4), (1e-3, 3e-3, 1e-2)),
    "sac": ("target_entropy", (-6.0, -4.5, -3.0), (3e-4, 1e-3, 3e-3)),
}


@dataclass
class Args:
    """Train with every setting and score."""

    problem: str = "mixture-1d"
    solver: str = "heun"
    num_steps: int = 5
    algorithms: tuple[str, ...] = ("art", "ppo", "sac")
    num_envs: int = 256
    total_timesteps: int = 400_000
    seeds: tuple[int, ...] = (100, 101)
    limits: Path = Path("runs/efficiency")
    """Where the limit is kept."""
    out: Path = ROOT / "benchmarks" / "results" / "tuning.csv"


@dataclass(frozen=True)
class Line:
    """One training."""

    problem: str
    solver: str
    num_steps: int
    algorithm: str
    learning_rate: float
    width: str
    value: float
    seed: int
    gap: float
    seconds: float


def main(args: Args) -> None:
    """Train, score, print, write."""
    torch.set_num_threads(1)
    problem, K = make_problem(args.problem), args.num_steps
    scorer = Scorer(problem, args.solver, (0,), metrics=())
    limit = scorer.limit(K, args.limits / f"limit__{problem.name}__{args.solver}__{K}.json")
    shared = ["--problem", args.problem, "--solver", args.solver, "--num-steps", K]
    shared += ["--num-envs", args.num_envs, "--total-timesteps", args.total_timesteps]
    lines: list[Line] = []
    for algorithm in args.algorithms:
        width, values, rates = GRIDS[algorithm]
        for value, rate in itertools.product(values, rates):
            gaps = []
            for seed in args.seeds:
                own = ["--seed", seed, "--learning-rate", rate, f"--{width.replace('_', '-')}", value]
                began = time.perf_counter()
                model, dynamics = learn(algorithm, *shared, *own)
                seconds = round(time.perf_counter() - began, 2)
                gaps.append(scorer.gap(distill(model, dynamics, 64), limit))
                head = (problem.name, args.solver, K, algorithm, rate, width, value)
                lines.append(Line(*head, seed, gaps[-1], seconds))
            print(
                f"{algorithm}, learning_rate {rate:g}, {width} {value:g}: median gap {np.median(gaps):.3f} "
                f"({min(gaps):.3f} to {max(gaps):.3f}), {seconds:.0f} s",
                flush=True,
            )
            write_csv(lines, args.out, Line)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
