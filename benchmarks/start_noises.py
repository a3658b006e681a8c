"""How few start noises hold the error, and what drawing them by cost does for a comparison of schedules.

Around ART-RL's schedule of each cell (seed 0 of the leaderboard's records) it perturbs the actions, ranks the
perturbed schedules on a few start noises, and compares with the ranks on the whole pool.

Example (the file in benchmarks/results):
    python benchmarks/start_noises.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from leaderboard import Book, key
from running import cell
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.schedule_policy import SchedulePolicy  # noqa: E402
from agents.schedule_search.noise_sampling import StartNoises  # noqa: E402
from art_env.envs.dynamics import Dynamics  # noqa: E402
from art_env.evaluation.evaluator import NOISE_SEED, Scorer  # noqa: E402
from art_env.evaluation.results import write_csv  # noqa: E402
from art_env.problems.library import make_problem  # noqa: E402
from art_env.schedules import Schedule  # noqa: E402
from art_env.schedules.registry import baseline  # noqa: E402


@dataclass
class Args:
    """Measure the tails of the error over start noises."""

    cells: tuple[str, ...] = (
        "mixture-1d:heun:5",
        "mixture-1d:heun:10",
        "mixture-1d:ipndm:10",
        "mixture-1d:dpmpp_2m:20",
        "mixture-1d:rk4:20",
        "mixture-2d:heun:5",
        "mixture-2d:rk4:7",
        "mixture-2d:rk4:10",
    )
    """problem:solver:K"""
    num_schedules: int = 32
    num_noises: int = 256
    """On which they are ranked."""
    width: float = 0.03
    """Of the perturbation, in units of the action."""
    draws: int = 40
    """Comparisons of each kind."""
    records: Path = ROOT / "benchmarks" / "results" / "leaderboard.jsonl"
    out: Path = ROOT / "benchmarks" / "results" / "start_noises.csv"


@dataclass(frozen=True)
class Line:
    """One cell.

    ``top_16``: part of the squared error that 16 noises hold; correlations: medians of the rank correlation with the
    whole pool; ``edm``, ``art``: RMSE on three sets of noises.
    """

    problem: str
    solver: str
    num_steps: int
    pool: int
    top_16: float
    correlation_even: float
    correlation_by_cost: float
    edm: str
    art: str


def found(args: Args, name: str, solver: str, K: int) -> Schedule:
    """ART-RL's schedule in the records."""
    for row in Book(args.records, {}).rows:
        if key(row) == (name, solver, K, "art", 0):
            return Schedule(np.asarray(row["sigmas"]), "art")
    raise ValueError(f"{args.records} has no record of art, seed 0, {name}, {solver}, {K}")


def measure(args: Args, name: str, solver: str, K: int) -> Line:
    """One cell."""
    problem = make_problem(name)
    schedule = found(args, name, solver, K)
    dynamics = Dynamics(problem, solver=solver, num_steps=K, features=(), clock="closed_form")
    own = SchedulePolicy(schedule, dynamics).actions.astype(np.float64)
    rng = np.random.default_rng(0)
    offsets = args.width * rng.standard_normal((args.num_schedules, K))
    actions = np.clip(own + offsets, -1, 1)

    pool = dynamics.pool_size
    every = torch.arange(pool)
    cost = -dynamics.returns(every, torch.from_numpy(own).expand(pool, K)).numpy()
    noises = StartNoises(pool)
    noises.update(every.numpy(), -cost)
    costs = [-dynamics.returns(every, torch.from_numpy(row).expand(pool, K)).numpy() for row in actions]
    returns = -np.minimum(np.stack(costs), noises.cap)  # what no sample can tell is cut, for both
    truth = returns.mean(1)

    torch.manual_seed(0)
    even, by_cost = [], []
    for _ in range(args.draws):
        index = rng.integers(pool, size=args.num_noises)
        even.append(spearmanr(returns[:, index].mean(1), truth).statistic)
        index = noises.draw(args.num_noises)
        by_cost.append(spearmanr(noises.mean(torch.from_numpy(returns[:, index]), index), truth).statistic)

    edm = baseline("edm", problem, K, solver)
    rmse = {}
    for name, grid in (("edm", edm), ("art", schedule)):
        values = [Scorer(problem, solver, (seed,), metrics=()).rows(grid)[0].mean for seed in range(3)]
        rmse[name] = " ".join(f"{v:.3g}" for v in values)
    top = np.sort(cost)[::-1][:16].sum() / cost.sum()
    correlation = [round(float(np.median(c)), 3) for c in (even, by_cost)]
    return Line(problem.name, solver, K, pool, round(float(top), 4), *correlation, rmse["edm"], rmse["art"])


def main(args: Args) -> None:
    """Measure, print, write."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines = []
    for text in args.cells:
        lines.append(measure(args, *cell(text)))
        line = lines[-1]
        print(
            f"{text}: 16 of {line.pool:,} noises hold {line.top_16:.1%}; rank correlation on {args.num_noises} drawn "
            f"evenly {line.correlation_even:.2f}, by cost {line.correlation_by_cost:.2f}; RMSE on noises of seed "
            f"{NOISE_SEED}, +1, +2: EDM {line.edm}, ART-RL {line.art}",
            flush=True,
        )
    write_csv(lines, args.out, Line)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
