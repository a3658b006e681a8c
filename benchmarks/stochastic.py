"""Does a search pay for stochastic samplers? Its schedules against others at the same number of evaluations.

python -m benchmarks.stochastic --problems mixture-1d

Runs the search by evolution on the distributional reward, scores every schedule on held-out noises, prints a table
and writes the numbers and the grids to --out after each configuration. The other files in benchmarks/results are
those of ``--problems mixture-2d --steps 5 10`` and ``--problems digits --steps 5 10 --seeds 0``.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from art_env._util.cli import run_command
from art_env._util.files import write_text
from art_env.diffusion import sample
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.features import Features
from art_env.evaluation.metrics import frechet_distance
from art_env.evaluation.results import Score, format_table, read_csv, write_csv
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules import Schedule
from art_env.schedules.registry import make_schedule
from benchmarks.records import RESULTS
from benchmarks.running import short_training
from benchmarks.tables import IMAGES_PAGE, Pages, markdown

RIVALS = ("uniform", "log_snr", "edm", "closed_form")
# Of the table of docs/images.md.
SHOWN = {"edm": "EDM", "closed_form": "closed form", "search": "learned"}
# Seed of the noises of exact samples, held out from training and from the table.
EXACT_SEED = 30_000


@dataclass
class Args:
    """Search and score schedules of stochastic samplers."""

    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits")
    solvers: tuple[str, ...] = ("euler_maruyama", "edm_churn")
    steps: tuple[int, ...] = (5, 10, 20)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the searches."""
    noise_groups: int = 8
    """Groups of samples, whose distance to exact ones is the reward."""
    updates: int = 150
    num_images: int = 2000
    num_noises: int = 20_000
    """Samples of a mixture that a distance is measured with."""
    out: Path = RESULTS


def search(problem: Problem, solver: str, K: int, seed: int, args: Args) -> tuple[Schedule, float]:
    """The schedule of one search, and its seconds."""
    rows = problem.effort.group_rows
    schedule, seconds, _ = short_training(
        "evolution",
        problem=problem.name,
        solver=solver,
        num_steps=K,
        seed=seed,
        num_envs=rows,
        noise_groups=args.noise_groups,
        total_timesteps=args.updates * rows * K,
    )
    return replace(schedule, name="search"), seconds


class ToExact:
    """Frechet distance of images to exact samples of the same network, from other noises."""

    def __init__(self, problem: Problem, n: int) -> None:
        assert problem.features is not None
        self.features = Features(problem.features)
        fine = make_schedule("closed_form", problem, 30).sigmas
        with torch.no_grad():
            noises = [problem.sample_noise(n, EXACT_SEED + i) for i in range(2)]
            sets = [torch.cat([sample(problem.denoiser, x, fine) for x in y.split(512)]) for y in noises]
        self.exact, other = (self.features(problem.images(x)) for x in sets)
        self.floor = frechet_distance(other, self.exact)

    def __call__(self, images: torch.Tensor) -> float:
        """The distance of images ``[n, ...]`` of a sampler."""
        return frechet_distance(self.features(images), self.exact)


def mean_row(rows: list[Score]) -> Score:
    """One row for several trainings: mean and spread over them."""
    means = [row.mean for row in rows]
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    return replace(rows[0], mean=float(np.mean(means)), sd=sd, n=len(means))


def run(
    problem: Problem, solver: str, K: int, args: Args, to_exact: ToExact | None
) -> tuple[list[Score], list[dict[str, Any]]]:
    """Rows of the table, and what was trained."""
    n = args.num_noises if problem.features is None else None
    evaluator = Evaluator(problem, solver, (0, 1, 2), args.num_images, n, metrics=problem.metrics[:1])
    rows = [*evaluator.floor()] if min(args.steps) == K else []
    if rows and to_exact is not None:
        rows.append(replace(rows[0], metric="frechet_to_exact", mean=to_exact.floor, sd=0.0, n=1))

    def score(schedule: Schedule) -> list[Score]:
        found = evaluator.rows(schedule)
        if to_exact is not None:
            value = to_exact(evaluator.samples(schedule, args.num_images))
            found.append(replace(found[0], metric="frechet_to_exact", mean=value, sd=float("nan"), n=1))
        return found

    for name in RIVALS:
        rows += score(make_schedule(name, problem, K, solver))
    trained, scores = [], []
    for seed in args.seeds:
        schedule, seconds = search(problem, solver, K, seed, args)
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


def table(results: Path) -> str:
    """Distance to the data of three schedules, a row a problem and schedule; bold: the least."""
    columns = [(solver, K) for solver in Args().solvers for K in Args().steps]
    rows = []
    for name in Args().problems:
        scores = read_csv(results / f"stochastic_{name}.csv", Score)
        metric = scores[0].metric
        known = {(s.solver, s.num_steps, s.schedule): s.mean for s in scores if s.metric == metric}
        for schedule, title in SHOWN.items():
            row = []
            for column in columns:
                value = known.get((*column, schedule))
                least = min((known.get((*column, s), math.inf) for s in SHOWN), default=math.inf)
                text = f"{value:#.3g}" if value is not None else ""
                row.append(f"**{text}**" if value is not None and value == least else text)
            rows.append((f"{name} (exact data {scores[0].mean:.3f}): {title}", *row))
    return markdown(("", *(f"{solver}, K = {K}" for solver, K in columns)), rows)


def page_tables(results: Path = RESULTS) -> Pages:
    """The table of docs/images.md."""
    return {IMAGES_PAGE: {"stochastic": table(results)}}


def main(args: Args) -> None:
    """Run all configurations."""
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    settings = {k: v for k, v in asdict(args).items() if k != "out"}
    command = " ".join(["python -m benchmarks.stochastic", *sys.argv[1:]])
    for name in args.problems:
        problem = make_problem(name)
        to_exact = ToExact(problem, args.num_images) if problem.features else None
        everything: list[Score] = []
        trained: list[dict[str, Any]] = []
        for solver in args.solvers:
            rows: list[Score] = []
            for K in args.steps:
                found, runs = run(problem, solver, K, args, to_exact)
                rows, trained = rows + found, trained + runs
                body = {"command": command, "settings": settings, "trained": trained}
                write_csv([*everything, *rows], args.out / f"stochastic_{name}.csv")
                write_text(args.out / f"stochastic_{name}.json", json.dumps(body, indent=1) + "\n")
            everything += rows
            print(f"{name}, {solver}\n{format_table(rows)}", flush=True)


if __name__ == "__main__":
    program = "python -m benchmarks.stochastic"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
