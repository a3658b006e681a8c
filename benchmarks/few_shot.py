"""How good is a schedule that is adapted to a model with a thousand evaluations of it?

python -m benchmarks.few_shot

On every bundled model: the universal list, ``adapted`` with 1,000 and 5,000 evaluations from the universal tables
and from nothing (EDM's grid with the weights of classical rules), and the model's own best list and weights (by
gradients, on the first set of held-out noises). Writes results/few_shot.csv and a table of docs/generalisation.md
between its marks.
"""

from __future__ import annotations

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
from art_env.schedules.gradient import with_weights
from art_env.schedules.optimal import final_rmse
from art_env.schedules.registry import make_schedule
from art_env.schedules.schedule import Schedule
from art_env.schedules.transfer import adapted, universal
from benchmarks.records import RESULTS, CellLine
from benchmarks.tables import FEW_SHOT, GENERAL_PAGE, Pages, markdown, median_and_range, write_pages
from benchmarks.universal import Args as UniversalArgs

FILE, SOLVER = "few_shot.csv", "learned_2m"
LIST, TABLES, NOTHING, OWN = "universal list", "from the universal tables", "from nothing", "own pair"


@dataclass
class Args:
    """Adapt, score and write."""

    problems: tuple[str, ...] = UniversalArgs.problems
    num_steps: int = 5
    evaluations: tuple[int, ...] = (1000, 5000)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the initial noises that a schedule is adapted on, and of the held-out ones."""
    runs: Path = Path("runs/few_shot")
    """Where the own pairs are kept."""
    out: Path = RESULTS / FILE
    tables_only: bool = False
    """Only write the table from ``out``."""


@dataclass(frozen=True)
class Line(CellLine):
    """RMSE of a schedule, the mean over the held-out noises of all seeds, and on the first; what it took, at most."""

    schedule: str
    seed: int
    evaluations: int
    rmse: float
    first: float


def measure(args: Args, name: str) -> list[Line]:
    """All lines of one model."""
    problem, K = make_problem(name), args.num_steps
    evaluator = Evaluator(problem, SOLVER, args.seeds, metrics=())

    def line(label: str, schedule: Schedule, seed: int = 0, evaluations: int = 0) -> Line:
        known = [evaluator.reference(i) for i in range(len(args.seeds))]
        errors = [final_rmse(problem.denoiser, r, schedule, SOLVER) for r in known]
        return Line(name, SOLVER, K, label, seed, evaluations, float(np.mean(errors)), errors[0])

    lines = [line(LIST, universal(problem, K, SOLVER))]
    blank = with_weights(make_schedule("edm", problem, K), evaluator.solver)
    for evaluations in args.evaluations:
        for seed in args.seeds:
            for label, starts in ((TABLES, ()), (NOTHING, blank)):
                found = adapted(problem, K, SOLVER, evaluations, seed, starts)
                lines.append(line(label, found, seed, evaluations))
    near = adapted(problem, K, SOLVER, max(args.evaluations))
    own = evaluator.oracle(K, args.runs / f"{name}_{K}.json", [near])
    return [*lines, line(OWN, own, evaluations=int(own.meta["evaluations"]))]


def table(lines: Sequence[Line]) -> str:
    """RMSE as ratios to the model's own pair."""
    budgets = sorted({line.evaluations for line in lines if line.schedule in (TABLES, NOTHING)})
    columns = [(label, n) for n in budgets for label in (TABLES, NOTHING)]
    rows = []
    for name in dict.fromkeys(line.problem for line in lines):
        mine = [line for line in lines if line.problem == name]
        (own,) = (line.rmse for line in mine if line.schedule == OWN)
        (free,) = (line.rmse for line in mine if line.schedule == LIST)
        ratios = [
            [line.rmse / own for line in mine if (line.schedule, line.evaluations) == column]
            for column in columns
        ]
        rows.append((name, f"{own:.3f}", f"{free / own:.2f}", *map(median_and_range, ratios)))
    header = (
        "model",
        "own pair, RMSE",
        "universal list",
        *(f"{n:,} evaluations, {label}" for label, n in columns),
    )
    return markdown(header, rows)


def page_tables(args: Args | None = None) -> Pages:
    """The table of docs/generalisation.md, from the file."""
    path = (args or Args()).out
    return {GENERAL_PAGE: {FEW_SHOT: table(read_csv(path, Line))}} if path.is_file() else {}


def main(args: Args) -> None:
    """Adapt, score, write."""
    torch.set_num_threads(1)
    lines: list[Line] = read_csv(args.out, Line) if args.out.is_file() else []
    if not args.tables_only:
        for name in tqdm(args.problems, disable=None):
            lines = [line for line in lines if line.problem != name] + measure(args, name)
            write_csv(lines, args.out, Line)
    write_pages(page_tables(args))


if __name__ == "__main__":
    program = "python -m benchmarks.few_shot"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
