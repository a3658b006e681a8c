"""Do universal schedules hold on models that they were not made for?

python -m benchmarks.universal

Scores, on every bundled model, EDM's grid and the model's own closed form with DPM-Solver++ 2M, and the universal
list and clock with one and two weights (``art_env/schedules/universal.json``). Both clocks are made of the same 16
trajectories. Beside the universal list stand all lists that need no evaluation either, with DPM-Solver++,
iPNDM and UniPC. None of these models had a part in the tables. Writes results/universal.csv and the tables of
docs/generalisation.md between their marks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from art_env._util.cli import run_command
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import read_csv, write_csv
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.problems.random_mixtures import TRAINING_FAMILIES
from art_env.schedules.optimal import closed_form, final_rmse
from art_env.schedules.registry import make_schedule
from art_env.schedules.schedule import Schedule
from art_env.schedules.transfer import CLOCK_KNOTS, CLOCK_NOISES, universal
from benchmarks.records import RESULTS, SOLVERS, CellLine, title
from benchmarks.tables import (
    GENERAL_PAGE,
    SHAPE_TABLE,
    UNIVERSAL_CLOCK_TABLE,
    UNIVERSAL_FREE_TABLE,
    UNIVERSAL_LIST_TABLE,
    Pages,
    markdown,
    write_pages,
)
from benchmarks.universal_fit import CLOCK_STEPS, RIVAL, Mixtures

TIMES = np.array([0.25, 0.5, 0.75])
EDM, OWN, LIST, CLOCK = "EDM's grid", "own clock", "universal list", "universal clock"
# Lists that need no evaluation of the model, and the solvers that each of them is tried with.
FREE = ("edm:zero=replace", "simple", "beta", "ays_sd15", "ays_sdxl", "ays_svd", "dmn")
FREE_SOLVERS = ("dpmpp_2m", "ipndm", "unipc_2", "unipc_3")


@dataclass
class Args:
    """Score and write."""

    problems: tuple[str, ...] = (
        "digits",
        "digits-large",
        "digits-class",
        "photos",
        "photos-latent",
        "mnist",
        "mixture-1d",
        "mixture-2d",
    )
    steps: tuple[int, ...] = (3, 5, 8)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of held-out noises."""
    out: Path = RESULTS / "universal.csv"
    out_shapes: Path = RESULTS / "universal_shapes.csv"
    tables_only: bool = False
    """Only write the tables from ``out``."""


@dataclass(frozen=True)
class Line(CellLine):
    """RMSE of one schedule: the mean over seed sets, the least and the largest; evaluations to make it."""

    schedule: str
    rmse: float
    least: float
    most: float
    evaluations: int


def own_clock(problem: Problem, K: int) -> Schedule:
    """The model's own closed form, of as many trajectories as ``universal_clock`` reads."""
    return closed_form(problem.reference(CLOCK_NOISES, num_knots=CLOCK_KNOTS), K)


def measure(name: str, args: Args) -> list[Line]:
    """All lines of one problem."""
    problem = make_problem(name)
    spent = problem.reference(CLOCK_NOISES, num_knots=CLOCK_KNOTS).evaluations
    lines: list[Line] = []
    for solver in (RIVAL, "learned_2m", "learned_3m"):
        evaluator = Evaluator(problem, solver, args.seeds, metrics=())
        for K in args.steps:
            if solver == RIVAL:
                tried = {EDM: (make_schedule("edm", problem, K), 0), OWN: (own_clock(problem, K), spent)}
            else:
                tried = {
                    LIST: (universal(problem, K, solver), 0),
                    CLOCK: (universal(problem, K, solver, on_clock=True), spent),
                }
            lines += [scored(evaluator, label, *of) for label, of in tried.items()]
    return lines + measure_free(problem, args)


def scored(evaluator: Evaluator, label: str, schedule: Schedule, evaluations: int) -> Line:
    """The line of one schedule, from all seed sets of the evaluator."""
    problem, solver = evaluator.problem, evaluator.solver.name
    errors = [
        final_rmse(problem.denoiser, evaluator.reference(i), schedule, solver)
        for i in range(len(evaluator.seeds))
    ]
    found = float(np.mean(errors)), min(errors), max(errors)
    return Line(problem.name, solver, schedule.num_steps, label, *found, evaluations)


def measure_free(problem: Problem, args: Args) -> list[Line]:
    """The lines of lists that need no evaluation."""
    lines = []
    for solver in FREE_SOLVERS:
        evaluator = Evaluator(problem, solver, args.seeds, metrics=())
        for K in args.steps:
            for spec in FREE:
                # A list that ends at sigma_min has no 0 to replace, and wastes no step.
                name = spec if problem.final_sigmas_type == "zero" else spec.partition(":")[0]
                lines.append(scored(evaluator, spec, make_schedule(name, problem, K, solver), 0))
    return lines


@dataclass(frozen=True)
class Shape:
    """Noise levels, in units of the data's standard deviation, at which a model's clock shows these times."""

    model: str
    early: float
    middle: float
    late: float


def shapes(names: Sequence[str]) -> list[Shape]:
    """Where the data of each model take shape, and of the training mixtures 5%, half and 95%."""
    found = []
    for name in names:
        problem = make_problem(name)
        levels = own_clock(problem, 256).interpolator()(TIMES) / float(problem.denoiser.sigma_data)
        found.append(Shape(name, *map(float, levels)))
    mixtures = Mixtures(128, 8, 1, TRAINING_FAMILIES)
    own = torch.stack([mixtures.clocks[int(t * CLOCK_STEPS)] for t in TIMES]) / mixtures.denoiser.spreads
    for part in (0.05, 0.5, 0.95):
        found.append(Shape(f"training mixtures, {part:.0%}", *torch.quantile(own, part, 1).tolist()))
    return found


def table(lines: Sequence[Line], rival: str, own: str) -> str:
    """RMSE of the rival and of the universal schedules, and their ratio."""
    steps = sorted({line.num_steps for line in lines})
    names = list(dict.fromkeys(line.problem for line in lines))
    known = {(line.problem, line.solver, line.num_steps, line.schedule): line.rmse for line in lines}
    header = ["", *(f"K = {K}: {text}" for K in steps for text in ("DPM++", "one weight", "two", "ratio"))]
    rows, ratios = [], {(K, m): [] for K in steps for m in (1, 2)}  # type: ignore[var-annotated]
    for name in names:
        row = [name]
        for K in steps:
            base = known[name, RIVAL, K, rival]
            one, two = (known[name, f"learned_{m + 1}m", K, own] for m in (1, 2))
            ratios[K, 1].append(one / base)
            ratios[K, 2].append(two / base)
            row += [f"{base:.3f}", f"{one:.3f}", f"{two:.3f}", f"{one / base:.2f}, {two / base:.2f}"]
        rows.append(row)
    for label, of in (("median ratio", np.median), ("worst ratio", np.max)):
        row = [label]
        for K in steps:
            row += ["", "", "", f"**{of(ratios[K, 1]):.2f}, {of(ratios[K, 2]):.2f}**"]
        rows.append(row)
    better = ["better on"]
    for K in steps:
        counts = [sum(r < 1 for r in ratios[K, m]) for m in (1, 2)]
        better += ["", "", "", f"{counts[0]}, {counts[1]} of {len(names)}"]
    return markdown(header, [*rows, better])


def free_table(lines: Sequence[Line]) -> str:
    """The universal list beside the pair of list and solver that is best over all models, and the best on each."""
    steps = sorted({line.num_steps for line in lines})
    names = list(dict.fromkeys(line.problem for line in lines))
    own = {(x.problem, x.num_steps): x.rmse for x in lines if (x.solver, x.schedule) == ("learned_2m", LIST)}
    free = {K: _free(lines, K) for K in steps}
    best = {K: min(free[K], key=lambda pair: sum(map(math.log, free[K][pair].values()))) for K in steps}
    header = [""]
    for K in steps:
        header += [f"K = {K}: universal list", f"K = {K}: {_pair(best[K])}", f"K = {K}: best of all"]
    rows = []
    for name in names:
        row = [name]
        for K in steps:
            least = min(free[K], key=lambda pair: free[K][pair][name])
            known = [own[name, K], free[K][best[K]][name], free[K][least][name]]
            texts = [f"**{e:.3f}**" if e == min(known) else f"{e:.3f}" for e in known]
            row += [*texts[:2], f"{texts[2]} {_pair(least)}"]
        rows.append(row)
    counts = ["universal list better on"]
    for K in steps:
        of_all = sum(own[name, K] < min(e[name] for e in free[K].values()) for name in names)
        of_one = sum(own[name, K] < free[K][best[K]][name] for name in names)
        counts += ["", f"{of_one} of {len(names)}", f"{of_all} of {len(names)}"]
    return markdown(header, [*rows, counts])


def _free(lines: Sequence[Line], K: int) -> dict[tuple[str, str], dict[str, float]]:
    """RMSE by list and solver, and by problem."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for line in lines:
        if line.num_steps == K and line.schedule in FREE:
            found.setdefault((line.schedule, line.solver), {})[line.problem] = line.rmse
    return found


def _pair(pair: tuple[str, str]) -> str:
    spec, solver = pair
    return f"{title(spec)}, {SOLVERS[solver]}"


def page_tables(args: Args | None = None) -> Pages:
    """The tables of docs/generalisation.md, from the files."""
    args = args or Args()
    lines = read_csv(args.out, Line)
    taking_shape = [
        (s.model, *(f"{v:.2f}" for v in (s.early, s.middle, s.late)))
        for s in read_csv(args.out_shapes, Shape)
    ]
    tables = {
        UNIVERSAL_LIST_TABLE: table(lines, EDM, LIST),
        UNIVERSAL_CLOCK_TABLE: table(lines, OWN, CLOCK),
        UNIVERSAL_FREE_TABLE: free_table(lines),
        SHAPE_TABLE: markdown(("", *(f"at time {t}" for t in TIMES)), taking_shape),
    }
    return {GENERAL_PAGE: tables}


def main(args: Args) -> None:
    """Score, write."""
    torch.set_num_threads(1)
    lines: list[Line] = read_csv(args.out, Line) if args.out.is_file() else []
    if not args.tables_only:
        for name in tqdm(args.problems, disable=None):
            lines = [line for line in lines if line.problem != name] + measure(name, args)
            write_csv(lines, args.out, Line)
        write_csv(shapes(list(dict.fromkeys(line.problem for line in lines))), args.out_shapes, Shape)
    write_pages(page_tables(args))


if __name__ == "__main__":
    program = "python -m benchmarks.universal"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
