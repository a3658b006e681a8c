"""One policy for all numbers of steps, against a training for each and against resampling one schedule.

Trains ART-RL once with several K and once with each K alone (a run folder each under --runs; a finished one is used
again), and scores the schedules on held-out noises, at K that no training has seen too.

Examples (the file in benchmarks/results):
    python benchmarks/budgets.py
    python benchmarks/budgets.py --seeds 0 --unseen
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from running import kept_limit, run_training
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.checkpoint import load_agent  # noqa: E402
from agents.distill import distill  # noqa: E402
from art_env.evaluation.evaluator import Scorer  # noqa: E402
from art_env.evaluation.results import write_csv  # noqa: E402
from art_env.problems.library import make_problem  # noqa: E402
from art_env.schedules import Schedule  # noqa: E402


@dataclass
class Args:
    """Train and score one policy for several K."""

    problem: str = "mixture-1d"
    solver: str = "heun"
    steps: tuple[int, ...] = (3, 5, 7, 10, 15, 20)
    """K of the training."""
    unseen: tuple[int, ...] = (4, 6, 8, 12, 17)
    """Other K that its schedules are asked for."""
    resampled_from: int = 10
    """K of the single schedule that is resampled."""
    seeds: tuple[int, ...] = (0, 1, 2)
    runs: Path = Path("runs/budgets")
    """Where the runs are kept."""
    out: Path = ROOT / "benchmarks" / "results" / "budgets.csv"


@dataclass(frozen=True)
class Line:
    """One schedule; ``gap`` is its error over that of the limit at its K."""

    problem: str
    solver: str
    num_steps: int
    method: str
    seed: int
    rmse: float
    gap: float


def main(args: Args) -> None:
    """Train, score, print, write."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    problem = make_problem(args.problem)
    scorer = Scorer(problem, args.solver, (0,), metrics=())
    stem = f"{problem.name}__{args.solver}"
    limits = {
        K: kept_limit(scorer, K, args.runs) for K in tqdm(sorted({*args.steps, *args.unseen}), desc="limits")
    }
    lines: list[Line] = []

    def add(schedule: Schedule, method: str, seed: int) -> None:
        K = schedule.num_steps
        gap = scorer.gap(schedule, limits[K])
        lines.append(Line(problem.name, args.solver, K, method, seed, scorer.rows(schedule)[0].mean, gap))

    spent: dict[str, list[float]] = {"one policy": [], "a training for each K": []}
    for seed in args.seeds:
        options = ["--problem", problem.name, "--solver", args.solver, "--seed", seed, "--no-limit"]
        folder = args.runs / f"{stem}__all__{seed}"
        summary = run_training(folder, "art", *options, "--num-steps", *args.steps)
        spent["one policy"].append(summary["seconds"])
        model, dynamics = load_agent(folder / "model.zip")
        for K in limits:
            add(distill(model, dynamics, num_steps=K), "one policy", seed)
        seconds = 0.0
        for K in args.steps:
            folder = args.runs / f"{stem}__{K}__{seed}"
            seconds += run_training(folder, "art", *options, "--num-steps", K)["seconds"]
            own = Schedule.load(folder / "schedule.json")
            add(own, "a training for each K", seed)
            if args.resampled_from == K:
                for other in limits:
                    add(own.resample(other), f"K = {K} resampled", seed)
        spent["a training for each K"].append(seconds)
        write_csv(lines, args.out, Line)
    for method in dict.fromkeys(line.method for line in lines):
        print(f"{method}: median gap (range) over {len(args.seeds)} seeds")
        for K in limits:
            gaps = [line.gap for line in lines if line.method == method and line.num_steps == K]
            if gaps:
                note = "" if K in args.steps else "  not trained"
                print(f"  K = {K:2}: {np.median(gaps):.3f} ({min(gaps):.3f} to {max(gaps):.3f}){note}")
    for method, seconds_each in spent.items():
        print(f"{method}: {np.median(seconds_each):.0f} s of training")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
