"""How many denoiser evaluations does each way to find a schedule need? The figure of sample efficiency.

python -m benchmarks.efficiency

Every point is a run of its own length, with its own annealing, scored on held-out noises. Evaluations are counted
alike for all: every row that the denoiser is asked for on the training noises, by a step of an environment or by
the error of a whole schedule, and two more for a backward pass. The exact trajectories of these noises, which every
method needs, are not counted. Seconds are processor time, so that what else runs on a machine does not count. What
is in the file already is not run again. ``benchmarks.report`` draws the figure.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from art_env._util.cli import run_command
from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import get_solver
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import read_csv, write_csv
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules.cma_es import evolve
from art_env.schedules.gradient import gradient_search
from art_env.schedules.registry import make_schedule
from benchmarks.figures import START, Band, efficiency
from benchmarks.records import RESULTS, TITLES, Cell, CellLine, amount, number, title
from benchmarks.running import Trained, kept_oracle, short_training
from benchmarks.tables import EXPERIMENTS_PAGE, RESULTS_PAGE, Pages, markdown, median_and_range

FILE = "efficiency.csv"
# Methods that train.py knows, and their options.
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "art": ("art", {}),
    "ppo": ("ppo", {"noise_groups": 1}),
    "ppo:noise_groups=16": ("ppo", {"noise_groups": 16}),
    "sac": ("sac", {}),
    "search": ("search", {}),
    "evolution": ("evolution", {}),
}
# Errors that CMA-ES computes: at K = 5 a descent is about half as long.
CMA_ERRORS = 400


class Plan(NamedTuple):
    """What is run of a method in a cell.

    Attributes:
        rows: for each budget of evaluations the rows that step together, of CMA-ES and gradients the initial noises.
        seeds: how many.
    """

    method: str
    rows: dict[int, int]
    seeds: int


# Small budgets are worth more in many small updates; PPO needs the most of them. A method ends where its runs become
# long. CMA-ES and a descent by gradients take about as many errors however many noises there are, so a budget decides
# the number of noises.
MIXTURE = {100_000: 128, 300_000: 128, 1_000_000: 256, 3_000_000: 1024, 10_000_000: 2048}
PPO = {100_000: 64, 300_000: 128, 1_000_000: 256, 3_000_000: 1024}
DIGITS = {30_000: 64, 100_000: 64, 300_000: 64}
SHORT = {30_000: 64, 100_000: 64}
PLANS = {
    Cell("mixture-1d", "heun", 5): (
        Plan("gradient", {budget: budget // 1100 for budget in MIXTURE}, 5),
        Plan("cma", {budget: budget // (9 * CMA_ERRORS) for budget in MIXTURE}, 5),
        Plan("evolution", MIXTURE, 5),
        Plan("search", MIXTURE, 5),
        Plan("art", MIXTURE, 3),
        Plan("ppo", PPO, 3),
        Plan("ppo:noise_groups=16", PPO, 3),
        Plan("sac", {100_000: 256, 300_000: 256}, 3),
    ),
    Cell("digits", "heun", 5): (
        Plan("gradient", {budget: budget // 2000 for budget in DIGITS}, 3),
        Plan("cma", {budget: budget // (9 * CMA_ERRORS) for budget in SHORT}, 3),
        Plan("evolution", DIGITS, 3),
        Plan("search", DIGITS, 3),
        Plan("art", DIGITS, 3),
        Plan("ppo", SHORT, 3),
    ),
}
# Near the oracle: the ratio that a table asks the evaluations and the seconds for, by problem.
NEAR = {"mixture-1d": 1.01, "digits": 1.05}


@dataclass
class Args:
    """Run the methods at several budgets."""

    cells: tuple[str, ...] = tuple(cell.option for cell in PLANS)
    """problem:solver:K, of those that have a plan."""
    oracles: Path = Path("runs/efficiency")
    """Where oracles are kept."""
    largest: int | None = None
    """The largest budget of evaluations that is run; by default all are."""
    out: Path = RESULTS / FILE


@dataclass(frozen=True)
class Line(CellLine):
    """One run; the schedule that all begin with has a line without evaluations.

    ``clock``: what seconds are, ``processor`` time or that on the ``wall`` of a busy machine.
    """

    method: str
    budget: int
    rows: int
    seed: int
    evaluations: int
    ratio: float
    seconds: float
    clock: str = "wall"


class CountedDenoiser:
    """A denoiser that counts the rows it is asked for, one each, and two more if there will be a backward pass."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.shape, self.sigma_data = denoiser, denoiser.shape, denoiser.sigma_data
        self.evaluations = 0

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """As the denoiser."""
        out = self.denoiser(x, sigma)
        self.evaluations += len(x) * (3 if out.requires_grad else 1)
        return out


def some_noises(reference: ReferenceFlow, count: int, seed: int) -> ReferenceFlow:
    """``count`` of the exact trajectories, chosen by the seed.

    Raises:
        ValueError: there are fewer.
    """
    if count > reference.num_noises:
        raise ValueError(f"rows = {count}, but there are {reference.num_noises} initial noises; use fewer")
    picked = np.random.default_rng(seed).permutation(reference.num_noises)[:count]
    return reference.pick(torch.from_numpy(picked))


def run(problem: Problem, cell: Cell, method: str, budget: int, rows: int, seed: int) -> Trained:
    """One run of a method with about ``budget`` evaluations.

    Args:
        problem, cell: where.
        method: one of ``LEARNERS``, ``cma`` or ``gradient`` (one descent from the best of four plain schedules).
        budget: evaluations; gradients stop when they have converged.
        rows: as in ``Plan``.
        seed: of the learner; of CMA-ES and gradients it chooses the initial noises too.
    """
    K, solver = cell.num_steps, cell.solver
    if method in LEARNERS:
        algorithm, options = LEARNERS[method]
        steps = budget * K // get_solver(solver).nfe(K)
        options = {**options, **cell._asdict(), "num_envs": rows, "total_timesteps": steps}
        began = time.process_time()
        done = short_training(algorithm, **options, seed=seed)
        return done._replace(seconds=time.process_time() - began)
    noises, denoiser = some_noises(problem.reference(), rows, seed), CountedDenoiser(problem.denoiser)
    began = time.process_time()
    if method == "cma":
        found = evolve(denoiser, noises, K, solver, CMA_ERRORS, seed)
    else:
        screen = problem.effort.oracle_screen_noises
        found = gradient_search(
            denoiser, noises, K, solver, num_searches=1, screen_noises=screen, with_dp=False
        )
    return Trained(found, time.process_time() - began, denoiser.evaluations)


def measure(cell: Cell, known: Sequence[Line], args: Args) -> Iterator[Line]:
    """The lines of a cell that are not known yet, one by one."""
    there = {(line.method, line.budget, line.rows, line.seed) for line in known if line.cell == cell}
    runs = [(START, 0, 0, 0)]
    runs += [
        (p.method, budget, rows, s)
        for p in PLANS[cell]
        for budget, rows in p.rows.items()
        for s in range(p.seeds)
        if args.largest is None or budget <= args.largest
    ]
    missing = [one for one in runs if one not in there]
    if not missing:
        return
    problem = make_problem(cell.problem)
    evaluator = Evaluator(problem, cell.solver, (0,), metrics=())
    oracle = kept_oracle(evaluator, cell.num_steps, args.oracles)
    problem.reference()  # not part of the first run
    for method, budget, rows, seed in missing:
        if method == START:
            done = Trained(make_schedule(START, problem, cell.num_steps, cell.solver), 0.0, 0)
        else:
            done = run(problem, cell, method, budget, rows, seed)
        ratio = evaluator.ratio(done.schedule, oracle)
        yield Line(
            *cell, method, budget, rows, seed, done.evaluations, ratio, round(done.seconds, 2), "processor"
        )


def read(path: Path) -> list[Line]:
    """The lines of a file; none if there is no file."""
    return read_csv(path, Line) if path.is_file() else []


def grouped(lines: Sequence[Line]) -> dict[str, dict[int, list[Line]]]:
    """The lines of one cell by method and budget."""
    groups: dict[str, dict[int, list[Line]]] = {}
    for line in lines:
        groups.setdefault(line.method, {}).setdefault(line.budget, []).append(line)
    return groups


def bands(lines: Sequence[Line]) -> dict[str, Band]:
    """Of each method in one cell, for each budget: median evaluations, and least, median and largest ratio."""
    found = {}
    for method, budgets in grouped(lines).items():
        points = []
        for some in budgets.values():
            ratios = [line.ratio for line in some]
            spent = np.median([line.evaluations for line in some])
            points.append((spent, min(ratios), np.median(ratios), max(ratios)))
        found[method] = Band(*np.array(sorted(points)).T)
    return found


def table(lines: Sequence[Line]) -> str:
    """The ratios of one cell, a line a method, a column a budget; and the seconds of the longest runs."""
    groups = grouped([line for line in lines if line.method != START])
    columns = sorted({line.budget for line in lines if line.method != START})
    rows = []
    for method in sorted(groups, key=list(TITLES).index):
        budgets, row = groups[method], [title(method)]
        for budget in columns:
            ratios = [line.ratio for line in budgets.get(budget, [])]
            row.append(median_and_range(ratios) if ratios else "-")
        longest = budgets[max(budgets)]
        seconds = f"{np.median([line.seconds for line in longest]):.2g}"
        rows.append([*row, _timed(seconds, longest[0].clock)])
    return markdown(["method", *map(amount, columns), "seconds"], rows)


class Price(NamedTuple):
    """What a method needs to come near the oracle: medians of the runs with the least budget that does."""

    evaluations: float
    seconds: float
    clock: str


def price(lines: Sequence[Line], near: float) -> Price:
    """What one method needs in one cell; infinite if no budget has a median ratio of ``near`` or less."""
    for _, runs in sorted(grouped(lines)[lines[0].method].items()):
        if np.median([run.ratio for run in runs]) <= near:
            evaluations = float(np.median([run.evaluations for run in runs]))
            return Price(evaluations, float(np.median([run.seconds for run in runs])), runs[0].clock)
    return Price(math.inf, math.inf, lines[0].clock)


def cheapest_table(lines: Sequence[Line]) -> str:
    """Evaluations and seconds that each method needs to come near the oracle, a pair of columns a cell."""
    cells = list(dict.fromkeys(line.cell for line in lines))
    methods = [m for m in dict.fromkeys(line.method for line in lines) if m != START]
    rows = []
    for method in sorted(methods, key=list(TITLES).index):
        row = [title(method)]
        for cell in cells:
            own = [line for line in lines if (line.cell, line.method) == (cell, method)]
            row += _price_texts(price(own, NEAR[cell.problem])) if own else ["-", "-"]
        rows.append(row)
    header = ["method"]
    for cell in cells:
        header += [f"{cell.problem}, ratio {NEAR[cell.problem]}: evaluations", "seconds"]
    return markdown(header, rows)


def _price_texts(found: Price) -> list[str]:
    if math.isinf(found.evaluations):
        return ["not reached", "not reached"]
    return [amount(found.evaluations), _timed(amount(found.seconds), found.clock)]


def _timed(seconds: str, clock: str) -> str:
    """Mark what was not measured in processor time."""
    return seconds if clock == "processor" else f"{seconds} ({clock})"


def figure(lines: Sequence[Line]) -> Figure:
    """The ratio against the evaluations, a panel a cell."""
    cells = dict.fromkeys(line.cell for line in lines)
    return efficiency({cell: bands([line for line in lines if line.cell == cell]) for cell in cells})


def page_tables(results: Path = RESULTS) -> Pages:
    """The short table of docs/results.md, and a table a cell of docs/experiments.md."""
    lines = read(results / FILE)
    if not lines:
        raise FileNotFoundError(
            f"{results / FILE} is not there; make it with python -m benchmarks.efficiency"
        )
    by_cell = {cell: [x for x in lines if x.cell == cell] for cell in dict.fromkeys(x.cell for x in lines)}
    whole = {f"efficiency:{cell.problem}": table(own) for cell, own in by_cell.items()}
    return {RESULTS_PAGE: {"cheapest": cheapest_table(lines)}, EXPERIMENTS_PAGE: whole}


def main(args: Args) -> None:
    """Run what is missing, write, print."""
    torch.set_num_threads(1)
    cells = [Cell.parse(text) for text in args.cells]
    for cell in cells:
        if cell not in PLANS:
            raise ValueError(
                f"cells: no plan for {cell.option!r}; there are: {', '.join(c.option for c in PLANS)}"
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = read(args.out)
    for cell in cells:
        for line in measure(cell, lines, args):
            print(f"{cell}: {line.method}, {amount(line.evaluations)}: {number(line.ratio)}", flush=True)
            lines.append(line)
            write_csv(lines, args.out, Line)
    for cell in cells:
        its = [line for line in lines if line.cell == cell]
        print(f"\n{cell}, {sum(line.seconds for line in its):,.0f} seconds in all\n\n{table(its)}")


if __name__ == "__main__":
    program = "python -m benchmarks.efficiency"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
