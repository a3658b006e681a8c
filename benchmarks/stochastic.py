"""Schedules learned for stochastic samplers, against hand-crafted ones at the same number of evaluations.

Trains ART-RL on the distributional reward, scores every schedule on held-out noises, prints a table and writes the
numbers and the grids to --out after each configuration.

Example (the files in benchmarks/results):
    python benchmarks/stochastic.py --problems mixture-1d
    python benchmarks/stochastic.py --problems mixture-2d --steps 5 10
    python benchmarks/stochastic.py --problems digits --steps 5 10 --seeds 0
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.art_rl import ARTRL  # noqa: E402
from agents.distill import distill  # noqa: E402
from art_env._util.files import write_text  # noqa: E402
from art_env.diffusion import sample  # noqa: E402
from art_env.envs.sb3 import to_sb3  # noqa: E402
from art_env.envs.vector_env import ARTVectorEnv  # noqa: E402
from art_env.evaluation.evaluator import Scorer  # noqa: E402
from art_env.evaluation.features import Features  # noqa: E402
from art_env.evaluation.metrics import frechet_distance  # noqa: E402
from art_env.evaluation.results import Row, format_table, write_csv  # noqa: E402
from art_env.problems.library import make_problem  # noqa: E402
from art_env.problems.problem import Problem  # noqa: E402
from art_env.schedules import Schedule  # noqa: E402
from art_env.schedules.registry import baseline  # noqa: E402

RIVALS = ("uniform", "log_snr", "edm", "closed_form")
# Held out from training and from the noises of the table.
EXACT_SEED = 30_000


@dataclass
class Args:
    """Train and score schedules of stochastic samplers."""

    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits")
    solvers: tuple[str, ...] = ("euler_maruyama", "edm_churn")
    steps: tuple[int, ...] = (5, 10, 20)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the trainings."""
    num_envs: int = 4096
    image_envs: int = 1024
    """num_envs on images."""
    noise_groups: int = 8
    """Groups of num_envs / noise_groups samples, whose distance to exact ones is the reward."""
    updates: int = 150
    num_images: int = 2000
    num_noises: int = 20_000
    """Samples of a mixture that a distance is measured with."""
    out: Path = ROOT / "benchmarks" / "results"


def learn(problem: Problem, solver: str, K: int, seed: int, args: Args) -> tuple[Schedule, float]:
    """One training; its schedule and seconds."""
    began = time.time()
    rows = args.image_envs if problem.is_image else args.num_envs
    env = ARTVectorEnv(
        rows,
        problem,
        noise_groups=args.noise_groups,
        autoreset_mode="SAME_STEP",
        solver=solver,
        num_steps=K,
        features=(),
        clock="closed_form",
    )
    wrapped = to_sb3(env)
    wrapped.seed(seed)
    model = ARTRL("ARTPolicy", wrapped, seed=seed).learn(args.updates * rows * K)
    return distill(model, env.dynamics, name="art_rl"), time.time() - began


class ToExact:
    """Frechet distance of images to exact samples of the same network, from other noises."""

    def __init__(self, problem: Problem, n: int) -> None:
        assert problem.features is not None
        self.features = Features(problem.features)
        fine = baseline("closed_form", problem, 30).sigmas
        with torch.no_grad():
            noises = [problem.sample_noise(n, EXACT_SEED + i) for i in range(2)]
            sets = [torch.cat([sample(problem.denoiser, x, fine) for x in y.split(512)]) for y in noises]
        self.exact, other = (self.features(problem.images(x)) for x in sets)
        self.floor = frechet_distance(other, self.exact)

    def __call__(self, images: torch.Tensor) -> float:
        """Images ``[n, ...]`` of a sampler."""
        return frechet_distance(self.features(images), self.exact)


def mean_row(rows: list[Row]) -> Row:
    """One row for several trainings: mean and spread over them."""
    means = [row.mean for row in rows]
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    return replace(rows[0], mean=float(np.mean(means)), sd=sd, n=len(means))


def run(
    problem: Problem, solver: str, K: int, args: Args, to_exact: ToExact | None
) -> tuple[list[Row], list]:
    """Rows of the table, and what was trained."""
    n = None if problem.is_image else args.num_noises
    scorer = Scorer(problem, solver, (0, 1, 2), args.num_images, n, metrics=problem.metrics[:1])
    rows = [*scorer.floor()] if min(args.steps) == K else []
    if rows and to_exact is not None:
        rows.append(replace(rows[0], metric="frechet_to_exact", mean=to_exact.floor, sd=0.0, n=1))

    def score(schedule: Schedule) -> list[Row]:
        found = scorer.rows(schedule)
        if to_exact is not None:
            value = to_exact(scorer.samples(schedule, args.num_images))
            found.append(replace(found[0], metric="frechet_to_exact", mean=value, sd=float("nan"), n=1))
        return found

    for name in RIVALS:
        rows += score(baseline(name, problem, K, solver))
    trained, scores = [], []
    for seed in args.seeds:
        schedule, seconds = learn(problem, solver, K, seed, args)
        scores.append(score(schedule))
        trained.append(
            {
                "problem": problem.name,
                "solver": solver,
                "num_steps": K,
                "seed": seed,
                "seconds": round(seconds, 1),
                "sigmas": schedule.sigmas.tolist(),
                **{row.metric: row.mean for row in scores[-1]},
            }
        )
    rows += [mean_row(list(same)) for same in zip(*scores, strict=True)]
    return rows, trained


def main() -> None:
    """Run all configurations."""
    args = tyro.cli(Args, description=__doc__)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in args.problems:
        problem = make_problem(name)
        to_exact = ToExact(problem, args.num_images) if problem.is_image else None
        everything: list[Row] = []
        trained: list[dict] = []
        for solver in args.solvers:
            rows: list[Row] = []
            for K in args.steps:
                found, runs = run(problem, solver, K, args, to_exact)
                rows, trained = rows + found, trained + runs
                settings = {k: v for k, v in asdict(args).items() if k != "out"}
                body = {"command": " ".join(["python", *sys.argv]), "settings": settings, "trained": trained}
                write_csv([*everything, *rows], args.out / f"stochastic_{name}.csv")
                write_text(args.out / f"stochastic_{name}.json", json.dumps(body, indent=1) + "\n")
            everything += rows
            print(f"{name}, {solver}\n{format_table(rows)}", flush=True)


if __name__ == "__main__":
    main()
