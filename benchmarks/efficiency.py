"""How many environment steps and seconds a learner needs: the gap after trainings of several lengths.

Every point is a training of its own, with its own annealing; medians over seeds, held-out noises.

Example (the file in benchmarks/results):
    python benchmarks/efficiency.py
    python benchmarks/efficiency.py --runs art:128:35000 sac:256:350000 --out sac.csv
"""

from __future__ import annotations

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
from art_env.names import check_name  # noqa: E402
from art_env.problems import make_problem  # noqa: E402
from art_env.scoring import Scorer, write_csv  # noqa: E402


@dataclass
class Args:
    """Train with few steps and score."""

    problem: str = "mixture-1d"
    solver: str = "heun"
    num_steps: int = 5
    runs: tuple[str, ...] = (
        "art:128:20000",
        "art:128:35000",
        "art:128:50000",
        "art:256:100000",
        "art:256:200000",
        "ppo:128:100000",
        "ppo:128:200000",
        "ppo:256:200000",
    )
    """algorithm:rows:env steps"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    sac_seeds: tuple[int, ...] = (0,)
    """Of SAC, which takes minutes."""
    limits: Path = Path("runs/efficiency")
    """Where the limit is kept."""
    out: Path = ROOT / "benchmarks" / "results" / "efficiency.csv"


@dataclass(frozen=True)
class Line:
    """One training."""

    problem: str
    solver: str
    num_steps: int
    algorithm: str
    rows: int
    env_steps: int
    seed: int
    gap: float
    seconds: float


def main(args: Args) -> None:
    """Train, score, print, write."""
    torch.set_num_threads(1)
    problem = make_problem(args.problem)
    scorer = Scorer(problem, args.solver, (0,), metrics=())
    K = args.num_steps
    limit = scorer.limit(K, args.limits / f"limit__{problem.name}__{args.solver}__{K}.json")
    problem.reference()  # not part of the first training
    lines: list[Line] = []
    for run in args.runs:
        algorithm, rows, steps = run.split(":")
        check_name("algorithm", algorithm, ("art", "ppo", "sac"))
        for seed in args.sac_seeds if algorithm == "sac" else args.seeds:
            began = time.perf_counter()
            options = ["--problem", args.problem, "--solver", args.solver, "--num-steps", K, "--seed", seed]
            options += ["--num-envs", rows, "--total-timesteps", steps]
            model, dynamics = learn(algorithm, *options)
            seconds = time.perf_counter() - began
            gap = scorer.gap(distill(model, dynamics, 64), limit)
            cell = (problem.name, args.solver, args.num_steps)
            lines.append(Line(*cell, algorithm, int(rows), int(steps), seed, gap, round(seconds, 2)))
        head = (algorithm, int(rows), int(steps))
        own = [line for line in lines if (line.algorithm, line.rows, line.env_steps) == head]
        gaps, each = [line.gap for line in own], np.median([line.seconds for line in own])
        print(
            f"{algorithm}, {rows} rows, {int(steps):,} env steps: median gap {np.median(gaps):.3f} "
            f"({min(gaps):.3f} to {max(gaps):.3f}, {len(gaps)} seeds), {each:.1f} s",
            flush=True,
        )
        write_csv(lines, args.out, Line)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
