"""Equal tuning: ART-RL, PPO and SAC with nine settings each, the same env steps, one cell.

A setting is a step size and a width of exploration. The seeds are none of the leaderboard's.

Example (the file in benchmarks/results):
    python benchmarks/tuning.py
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from trials import TrialArgs, Trials

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from art_env.evaluation.results import write_csv  # noqa: E402

# The option of train.py for the width, its values, and the step sizes.
GRIDS = {
    "art": ("std_start", (0.09, 0.18, 0.36), (0.003, 0.01, 0.03)),
    "ppo": ("std_start", (0.1, 0.2, 0.4), (1e-3, 3e-3, 1e-2)),
    "sac": ("target_entropy", (-6.0, -4.5, -3.0), (1e-3, 3e-3, 1e-2)),
}


@dataclass
class Args(TrialArgs):
    """Train with every setting and score."""

    algorithms: tuple[str, ...] = ("art", "ppo", "sac")
    num_envs: int = 256
    total_timesteps: int = 400_000
    seeds: tuple[int, ...] = (100, 101)
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
    args.out.parent.mkdir(parents=True, exist_ok=True)
    trials = Trials(args)
    shared = ("--num-envs", args.num_envs, "--total-timesteps", args.total_timesteps)
    lines: list[Line] = []
    for algorithm in args.algorithms:
        width, values, rates = GRIDS[algorithm]
        for value, rate in itertools.product(values, rates):
            own = ("--learning-rate", rate, f"--{width.replace('_', '-')}", value)
            found = [trials.run(algorithm, *shared, *own, "--seed", seed) for seed in args.seeds]
            head = (*trials.cell, algorithm, rate, width, value)
            lines += [Line(*head, seed, *each) for seed, each in zip(args.seeds, found, strict=True)]
            gaps, seconds = zip(*found, strict=True)
            print(
                f"{algorithm}, learning_rate {rate:g}, {width} {value:g}: median gap {np.median(gaps):.3f} "
                f"({min(gaps):.3f} to {max(gaps):.3f}), {np.median(seconds):.0f} s",
                flush=True,
            )
            write_csv(lines, args.out, Line)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
