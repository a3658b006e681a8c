"""How many environment steps and seconds a learner needs: the gap after trainings of several lengths.

Every point is a training of its own, with its own annealing; medians over seeds, held-out noises.

Example (the file in benchmarks/results):
    python benchmarks/efficiency.py
    python benchmarks/efficiency.py --runs art:128:35000 ppo:128:200000 --out some.csv
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from trials import TrialArgs, Trials

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from art_env._util.names import check_name  # noqa: E402
from art_env.evaluation.results import write_csv  # noqa: E402


@dataclass
class Args(TrialArgs):
    """Train with few steps and score."""

    runs: tuple[str, ...] = (
        "art:128:20000",
        "art:128:35000",
        "art:128:50000",
        "art:256:100000",
        "art:256:200000",
        "ppo:128:100000",
        "ppo:128:200000",
        "ppo:256:200000",
        "sac:256:350000",
    )
    """algorithm:rows:env steps"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    sac_seeds: tuple[int, ...] = (0, 1, 2)
    """Of SAC, which takes minutes."""
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
    args.out.parent.mkdir(parents=True, exist_ok=True)
    trials = Trials(args)
    lines: list[Line] = []
    for run in args.runs:
        algorithm, rows, steps = run.split(":")
        check_name("algorithm", algorithm, ("art", "ppo", "sac"))
        for seed in args.sac_seeds if algorithm == "sac" else args.seeds:
            options = ("--seed", seed, "--num-envs", rows, "--total-timesteps", steps)
            gap, seconds = trials.run(algorithm, *options)
            lines.append(Line(*trials.cell, algorithm, int(rows), int(steps), seed, gap, seconds))
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
