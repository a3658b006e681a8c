"""ART-RL on the one problem whose optimum is known on paper: N(0, 1), Euler (table 1 of the paper).

Trains with the paper's reward at K = 20 and resamples, and with the final-error reward for each K; prints the
exact W2 beside the closed form of the paper's objective and the true optimum.

Example:
    python benchmarks/gaussian.py --jobs 2
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro
from running import run_training

from art_env.evaluation.evaluator import Scorer
from art_env.problems.library import make_problem
from art_env.schedules import Schedule
from art_env.schedules.registry import baseline

STEPS = (2, 5, 10, 20, 50, 100)
GLOBAL_STEPS = (2, 5, 10, 20)


@dataclass
class Args:
    """Seeds and how many trainings run at once."""

    seeds: tuple[int, ...] = tuple(range(10))
    jobs: int = 1


def train(reward: str, K: int, seed: int) -> tuple[Schedule, float]:
    """One training of train.py; its schedule and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        options = (
            f"--problem gaussian-1d --solver euler --num-steps {K} --reward {reward} --seed {seed} --no-limit"
        )
        run = Path(folder, "run")
        summary = run_training(run, "art", *options.split())
        return Schedule.load(run / "schedule.json"), summary["seconds"]


def main() -> None:
    """Train everything, print two tables."""
    args = tyro.cli(Args, description=__doc__)
    problem = make_problem("gaussian-1d")
    scorer = Scorer(problem, "euler", (0,))

    def w2(schedule: Schedule) -> float:
        return next(row.mean for row in scorer.rows(schedule) if row.metric == "w2")

    closed = {K: w2(baseline("closed_form", problem, K, "euler")) for K in STEPS}
    best = {K: w2(baseline("arctan", problem, K, "euler")) for K in STEPS}
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda s: train("euler", 20, s), args.seeds))
        print("reward=euler, trained at K = 20, resampled: W2 / W2 of the closed form")
        print("   K  closed form      min      max   within 2%")
        for K in STEPS:
            ratios = [w2(schedule.resample(K)) / closed[K] for schedule, _ in found]
            print(row(K, closed[K], ratios), flush=True)
        print(f"seconds of training: at most {max(s for _, s in found):.0f}")
        print("reward=global, trained at each K: W2 / W2 of the optimum")
        print("   K      optimum      min      max   within 2%")
        for K in GLOBAL_STEPS:
            found = list(pool.map(lambda s, k=K: train("global", k, s), args.seeds))
            print(row(K, best[K], [w2(schedule) / best[K] for schedule, _ in found]), flush=True)
            print(f"      seconds of training: at most {max(s for _, s in found):.0f}", flush=True)


def row(K: int, target: float, ratios: list[float]) -> str:
    """One line: the target, the smallest and largest ratio, how many are within 2%."""
    good = sum(abs(r - 1) <= 0.02 for r in ratios)
    return f"{K:4d} {target:12.4f} {min(ratios):8.4f} {max(ratios):8.4f}   {good} of {len(ratios)}"


if __name__ == "__main__":
    main()
