"""What is it worth to see the sample? Policies against the best fixed schedule at the same number of evaluations.

python -m benchmarks.state_policies

Trains ART-RL with features (a run folder each under --runs; a finished one is used again), lets every policy act on
each held-out trajectory, and sets its error beside that of the best fixed schedule, of the schedule search's, and of
an adaptive Heun-Euler pair whose tolerance is matched to the same mean number of evaluations; with two controls,
instead of the pair, beside that of a policy trained by gradients. Then times what a policy costs. Lines of cells that
are not asked for stay in state.csv, from which ``benchmarks.report`` makes the tables.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from agents.checkpoint import load_agent
from agents.gradient_policy import bound_ends
from art_env._util.cli import run_command
from art_env.diffusion.adaptive import match_tolerance, sample_adaptive
from art_env.diffusion.denoiser import difference
from art_env.diffusion.solvers import get_solver
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import read_csv, write_csv
from art_env.problems.library import make_problem
from art_env.schedules.schedule import Schedule
from benchmarks.lengths import shorter
from benchmarks.records import RESULTS, SOLVERS, Cell, CellLine, number
from benchmarks.running import kept_oracle, run_training
from benchmarks.tables import LEADERBOARD_PAGE, RESULTS_PAGE, Pages, markdown, median_and_range

FILE = "state.csv"
FEATURES = ("log_velocity", "log_curvature", "rms", "turn")
SAMPLE = ("x",)
# With two controls; and where there is a condition to see.
LEARNED_FEATURES, CLASS = ("change", "denoised"), ("class",)
# Seed of the initial noises that the tolerance is matched on.
PILOT_SEED = 40_000
BEST, SEARCH, ADAPTIVE = "best fixed schedule", "search by evolution", "adaptive Heun-Euler pair"
BOUND = "policy trained by gradients"
# Of the table of docs/results.md.
SHORT_STEPS = 5


@dataclass
class Args:
    """Train and score policies that see the sample."""

    cells: tuple[str, ...] = (
        "mixture-1d:euler:5",
        "mixture-1d:dpmpp_2m:5",
        "mixture-1d:heun:5",
        "mixture-1d:heun:10",
        "mixture-2d:heun:5",
        "digits:heun:5",
        "mixture-1d:learned_2m:5",
        "mixture-2d:learned_2m:5",
        "digits-class:learned_2m:5",
    )
    """problem:solver:K"""
    single: tuple[str, ...] = ("mixture-2d:learned_2m:5",)
    """Cells in which each feature is tried alone too, and all together, with the first seed."""
    once: tuple[str, ...] = ("digits:heun:5",)
    """Cells of which only the first seed is run."""
    init_search: tuple[str, ...] = (
        "mixture-1d:heun:10",
        "mixture-2d:learned_2m:5",
        "digits-class:learned_2m:5",
    )
    """Cells whose policies begin with what a search finds with half of the env steps."""
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: float = 1.0
    """Part of the default length of each training."""
    runs: Path = Path("runs/state")
    """Where the runs are kept."""
    out: Path = RESULTS / FILE


@dataclass(frozen=True)
class Line(CellLine):
    """One line of the table; ``ratio`` is its error over that of the best fixed schedule.

    ``list_ratio`` is that of the plain list that a policy is distilled into (NaN: there is none).
    """

    sampler: str
    seed: int
    nfe: float
    rmse: float
    ratio: float
    seconds: float
    list_ratio: float = math.nan


def run_folder(args: Args, cell: Cell, features: tuple[str, ...], seed: int) -> Path:
    """Where the run of a cell with some features is kept."""
    return args.runs / "__".join(map(str, (*cell, "+".join(features) or "time", seed)))


def seen(cell: Cell) -> tuple[str, ...]:
    """The features of a cell's policies."""
    if cell.problem == "digits-class":
        return CLASS
    return LEARNED_FEATURES if get_solver(cell.solver).num_weights else FEATURES


def ablation(cell: Cell) -> list[tuple[str, ...]]:
    """Each feature alone, and all of them."""
    every = (*FEATURES, *LEARNED_FEATURES) if get_solver(cell.solver).num_weights else FEATURES
    return [*((feature,) for feature in every), every]


def measure(args: Args, cell: Cell) -> list[Line]:
    """All lines of one cell."""
    problem, K = make_problem(cell.problem), cell.num_steps
    evaluator = Evaluator(problem, cell.solver, (0,), metrics=())
    oracle = kept_oracle(evaluator, K, args.runs)
    best = evaluator.rows(oracle)[0].mean
    lines = [Line(*cell, BEST, 0, evaluator.nfe(K), best, 1.0, 0.0)]
    seeds = args.seeds[:1] if cell.option in args.once else args.seeds
    trials: list[tuple[tuple[str, ...], int]] = [((), seeds[0]), *((seen(cell), seed) for seed in seeds)]
    learned = get_solver(cell.solver).num_weights > 0
    if len(problem.shape) == 1 and not learned:
        trials.append((SAMPLE, seeds[0]))
    if cell.option in args.single:
        trials += [(features, args.seeds[0]) for features in ablation(cell)]
    for features, seed in tqdm(trials, desc=cell.option, disable=None):
        options = {**cell._asdict(), "seed": seed, "oracle": False}
        if features:
            options |= {"features": features, "init": "search" if cell.option in args.init_search else "base"}
        algorithm = "art" if features else "evolution"
        options = shorter(args.budget, algorithm, **options)
        summary = run_training(run_folder(args, cell, features, seed), algorithm, **options)
        error = summary["policy_rmse" if features else "rmse"]
        distilled = summary["rmse"] / best if features else math.nan
        label = f"policy, {' '.join(features)}" if features else SEARCH
        nfe = evaluator.nfe(K)
        lines.append(Line(*cell, label, seed, nfe, error, error / best, summary["seconds"], distilled))
    return [*lines, bound(evaluator, oracle, cell, best) if learned else adaptive(evaluator, cell, best)]


def bound(evaluator: Evaluator, oracle: Schedule, cell: Cell, best: float) -> Line:
    """A policy with the same features that is trained by gradients through the sampler."""
    began = time.perf_counter()
    ends = bound_ends(evaluator.problem, evaluator.solver, seen(cell), oracle)
    seconds = time.perf_counter() - began
    (error,) = (
        r.mean for r in evaluator.policy_rows(BOUND, cell.num_steps, ends, oracle) if r.metric == "rmse"
    )
    return Line(*cell, BOUND, 0, evaluator.nfe(cell.num_steps), error, error / best, seconds)


def adaptive(evaluator: Evaluator, cell: Cell, best: float) -> Line:
    """The embedded Heun-Euler pair at the same mean number of evaluations, rejected steps counted."""
    problem, nfe = evaluator.problem, evaluator.nfe(cell.num_steps)
    levels = (problem.sigma_max, problem.sigma_floor, problem.sigma_end)
    try:
        pilot = problem.sample_noise(512, PILOT_SEED)
        tolerance = match_tolerance(problem.denoiser, pilot, *levels, nfe)
    except ValueError:  # adaptive steps take more evaluations than that
        return Line(*cell, ADAPTIVE, 0, nfe, math.nan, math.nan, 0.0)
    reference = evaluator.reference()
    ends, used = sample_adaptive(problem.denoiser, reference.start, *levels, tolerance)
    error = float(difference(problem.denoiser, ends, reference.x_end).square().mean().sqrt())
    return Line(*cell, ADAPTIVE, 0, float(used.double().mean()), error, error / best, 0.0)


def overhead(args: Args, cell: Cell, batch: int, rounds: int = 200) -> str:
    """Time of a decision of the policy beside that of an evaluation of the network, in one run."""
    model, dynamics = load_agent(run_folder(args, cell, seen(cell), args.seeds[0]) / "agent.safetensors")
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
        f"{cell}, {batch} samples at once: a decision {decide:.0f} us, an evaluation {evaluate:.0f} us, "
        f"ratio {decide / evaluate:.2f}"
    )


def spread(values: Sequence[float]) -> str:
    """The median and the range of several values; one number of equal ones, and nothing of unknown ones."""
    if not values or math.isnan(values[0]):
        return ""
    low, high = number(min(values)), number(max(values))
    return median_and_range(values) if low != high else low


def table(lines: Sequence[Line]) -> str:
    """Ratios of all samplers, a row for each cell."""
    rows = []
    for cell in dict.fromkeys(line.cell for line in lines):
        policy, sample = (f"policy, {' '.join(features)}" for features in (seen(cell), SAMPLE))

        def of(sampler: str, column: str = "ratio", cell: Cell = cell) -> str:
            return spread([getattr(x, column) for x in lines if (x.cell, x.sampler) == (cell, sampler)])

        name = f"{cell.problem}, {SOLVERS.get(cell.solver, cell.solver)}, K = {cell.num_steps}"
        ratios = (of(sampler) for sampler in (SEARCH, policy, sample, BOUND, ADAPTIVE))
        rows.append([name, of(BEST, "rmse"), of(policy, "list_ratio"), *ratios])
    header = ["", f"{BEST}, RMSE", "list distilled from the policy", SEARCH, "policy"]
    return markdown([*header, "policy that sees x itself", BOUND, ADAPTIVE], rows)


def feature_table(lines: Sequence[Line], cells: Sequence[Cell]) -> str:
    """Ratios of policies that see one feature, and of one that sees all, a column for each cell."""
    header = ["", *(f"{cell.problem}, {cell.solver}, K = {cell.num_steps}" for cell in cells)]
    known = {(x.cell, x.sampler): number(x.ratio) for x in reversed(lines)}
    rows = [
        [" ".join(features) if len(features) == 1 else "all of them"]
        + [known.get((cell, f"policy, {' '.join(features)}"), "-") for cell in cells]
        for features in ablation(cells[0])
    ]
    return markdown(header, rows)


def short_table(lines: Sequence[Line]) -> str:
    """Of the table at one number of steps: the best list, the policy, and the strongest rivals of each."""
    rows = []
    for cell in dict.fromkeys(line.cell for line in lines if line.num_steps == SHORT_STEPS):
        policy = f"policy, {' '.join(seen(cell))}"
        columns = {
            sampler: [x.ratio for x in lines if (x.cell, x.sampler) == (cell, sampler)]
            for sampler in (SEARCH, policy, BOUND, ADAPTIVE)
        }
        name = f"{cell.problem}, {SOLVERS.get(cell.solver, cell.solver)}"
        seconds = [x.seconds for x in lines if (x.cell, x.sampler) == (cell, policy)]
        rows.append(
            [name, *map(spread, columns.values()), f"{statistics.median(seconds):.0f}" if seconds else ""]
        )
    header = [
        f"K = {SHORT_STEPS}",
        SEARCH,
        "**ART-RL's policy**",
        BOUND,
        ADAPTIVE,
        "seconds of a policy's training",
    ]
    return markdown(header, rows)


def page_tables(results: Path = RESULTS) -> Pages:
    """The tables of docs/leaderboard.md, and the short one of docs/results.md."""
    lines = read_csv(results / FILE, Line)
    whole = {
        "policies": table(lines),
        "which-features": feature_table(lines, [*map(Cell.parse, Args().single)]),
    }
    return {LEADERBOARD_PAGE: whole, RESULTS_PAGE: {"policies-5": short_table(lines)}}


def main(args: Args) -> None:
    """Train, score, time, write."""
    cells = [Cell.parse(text) for text in args.cells]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines: list[Line] = read_csv(args.out, Line) if args.out.is_file() else []
    for cell in cells:
        found = measure(args, cell)
        lines = [line for line in lines if line.cell != cell] + found
        write_csv(lines, args.out, Line)
        for line in found:
            print(
                f"{cell.option:20} {line.sampler:42} seed {line.seed} NFE {line.nfe:5.1f} rmse {line.rmse:.4f} "
                f"ratio {line.ratio:.3f} training {line.seconds:.0f} s",
                flush=True,
            )
    for cell in cells:
        for batch in (1, 256):
            print(overhead(args, cell, batch), flush=True)


if __name__ == "__main__":
    program = "python -m benchmarks.state_policies"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
