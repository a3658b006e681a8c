"""Policies that see each sample, against the best fixed schedule at the same number of evaluations.

Trains ART-RL with features (a run folder each under --runs; a finished one is used again), lets every policy act on
each held-out trajectory, and sets its error beside that of the best fixed schedule, of ART-RL's, and of an adaptive
Heun-Euler pair whose tolerance is matched to the same mean number of evaluations. Then times what a policy costs.

Examples (the file in benchmarks/results):
    python benchmarks/state.py
    python benchmarks/state.py --cells mixture-1d:euler:5 --seeds 0
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from running import cell, kept_limit, run_training
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.checkpoint import load_agent  # noqa: E402
from art_env.diffusion.adaptive import match_tolerance, sample_adaptive  # noqa: E402
from art_env.evaluation.evaluator import Scorer  # noqa: E402
from art_env.evaluation.metrics import rmse  # noqa: E402
from art_env.evaluation.results import write_csv  # noqa: E402
from art_env.problems.library import make_problem  # noqa: E402

ALL = ("log_f", "log_q", "size", "cosine")
# Of the start noises that the tolerance is matched on.
PILOT_SEED = 40_000


@dataclass
class Args:
    """Train and score policies that see the sample."""

    cells: tuple[str, ...] = (
        "mixture-1d:euler:5",
        "mixture-1d:heun:10",
        "mixture-1d:heun:5",
        "mixture-2d:heun:5",
        "digits:heun:5",
    )
    """problem:solver:K"""
    single: tuple[str, ...] = ("mixture-1d:euler:5",)
    """Cells in which each feature is tried alone too, with the first seed."""
    once: tuple[str, ...] = ("mixture-1d:heun:5", "mixture-2d:heun:5", "digits:heun:5")
    """Cells of which only the first seed is run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    runs: Path = Path("runs/state")
    """Where the runs are kept."""
    out: Path = ROOT / "benchmarks" / "results" / "state.csv"


@dataclass(frozen=True)
class Line:
    """One line of the table; ``ratio`` is its error over that of the best fixed schedule."""

    problem: str
    solver: str
    num_steps: int
    sampler: str
    seed: int
    nfe: float
    rmse: float
    ratio: float
    seconds: float


def lines_of(args: Args, text: str) -> list[Line]:
    """Everything of one cell."""
    name, solver, K = cell(text)
    problem = make_problem(name)
    scorer = Scorer(problem, solver, (0,), metrics=())
    limit = kept_limit(scorer, K, args.runs)
    best = scorer.rows(limit)[0].mean
    lines = [Line(name, solver, K, "best fixed schedule", 0, scorer.nfe(K), best, 1.0, 0.0)]
    seeds = args.seeds[:1] if text in args.once else args.seeds
    trials = [(features, seed) for features in ((), ALL) for seed in seeds]
    if len(problem.shape) == 1:
        trials += [((*ALL, "x"), args.seeds[0])]
    if text in args.single:
        trials += [((feature,), args.seeds[0]) for feature in (*ALL, "x")]
    for features, seed in tqdm(trials, desc=text, disable=None):
        folder = args.runs / f"{name}__{solver}__{K}__{'+'.join(features) or 'time'}__{seed}"
        options = ["--problem", name, "--solver", solver, "--num-steps", K, "--seed", seed, "--no-limit"]
        options += ["--features", *features] if features else []
        summary = run_training(folder, "art", *options)
        error = summary["policy_rmse" if features else "rmse"]
        label = f"policy, {' '.join(features)}" if features else "ART-RL, fixed schedule"
        lines.append(
            Line(name, solver, K, label, seed, scorer.nfe(K), error, error / best, summary["seconds"])
        )
    return [*lines, adaptive(scorer, K, best)]


def adaptive(scorer: Scorer, K: int, best: float) -> Line:
    """The embedded Heun-Euler pair at the same mean number of evaluations, rejected steps counted."""
    problem, nfe = scorer.problem, scorer.nfe(K)
    levels = (problem.sigma_max, problem.sigma_floor, problem.sigma_end)
    head = (problem.name, scorer.solver.name, K, "adaptive Heun-Euler pair", 0)
    try:
        pilot = problem.sample_noise(512, PILOT_SEED)
        tolerance = match_tolerance(problem.denoiser, pilot, *levels, nfe)
    except ValueError:  # adaptive steps take more evaluations than that
        return Line(*head, nfe, float("nan"), float("nan"), 0.0)
    reference = scorer.reference()
    ends, used = sample_adaptive(problem.denoiser, reference.start, *levels, tolerance)
    error = rmse(problem.visible(ends), problem.visible(reference.x_end))
    return Line(*head, float(used.double().mean()), error, error / best, 0.0)


def overhead(args: Args, text: str, batch: int, rounds: int = 200) -> str:
    """Time of a decision of the policy beside that of an evaluation of the network, in one run."""
    name, solver, K = cell(text)
    folder = args.runs / f"{name}__{solver}__{K}__{'+'.join(ALL)}__{args.seeds[0]}"
    model, dynamics = load_agent(folder / "model.zip")
    bare = dynamics.without_rewards()
    state = bare.initial(dynamics.problem.sample_noise(batch, PILOT_SEED))
    spent = {"decide": 0.0, "evaluate": 0.0}
    with torch.no_grad():
        for i in range(rounds + 20):
            began = time.perf_counter()
            model.predict(bare.observation(state).cpu().numpy(), deterministic=True)
            middle = time.perf_counter()
            dynamics.problem.denoiser(state.x, state.sigma)
            ended = time.perf_counter()
            if i >= 20:  # warm
                spent["decide"] += middle - began
                spent["evaluate"] += ended - middle
    decide, evaluate = (1e6 * v / rounds for v in spent.values())
    return (
        f"{text}, {batch} samples at once: a decision {decide:.0f} us, an evaluation {evaluate:.0f} us, "
        f"ratio {decide / evaluate:.2f}"
    )


def main(args: Args) -> None:
    """Train, score, time, write."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines: list[Line] = []
    for text in args.cells:
        lines += lines_of(args, text)
        write_csv(lines, args.out, Line)
        for line in lines:
            if (line.problem, line.solver, line.num_steps) == cell(text):
                print(
                    f"{text:20} {line.sampler:42} seed {line.seed} NFE {line.nfe:5.1f} rmse {line.rmse:.4f} "
                    f"ratio {line.ratio:.3f} training {line.seconds:.0f} s",
                    flush=True,
                )
    for text in args.cells:
        for batch in (1, 256):
            print(overhead(args, text, batch), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
