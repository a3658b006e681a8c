"""Does the order of README's table hold on other noises? Its rows, scored again on sets that no run has seen.

python -m benchmarks.order

The schedules are those of the records. An oracle alone is searched for again on each set, as it is by definition the
best list on the noises that judge. Row by row the median over its runs is compared.
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
from benchmarks import headline
from benchmarks.records import ORACLE, RESULTS, CellLine
from benchmarks.second_control import digits, spread
from benchmarks.tables import RESULTS_PAGE, Pages, markdown
from benchmarks.tasks import Tasks

FILE = "order.csv"
# The seed set that README's table has, and five that no table and no training has.
OWN_SET, OTHER_SETS = 0, (1, 2, 3, 4, 5)


@dataclass
class Args:
    """Score the rows and write a file."""

    sets: tuple[int, ...] = (OWN_SET, *OTHER_SETS)
    """Seed sets, as in evaluate.py; README's table has 0."""
    results: Path = RESULTS
    """The folder of the records, which gets order.csv."""
    oracles: Path = Path("runs/order")
    """Where oracles of the sets are kept."""
    workers: int = 1
    """Sets at once; more than one takes Ray (extra [ray])."""


@dataclass(frozen=True)
class Line(CellLine):
    """Median RMSE of the runs of a row on one set of noises."""

    row: str
    noise_set: int
    rmse: float


def measure(rows: Sequence[headline.Row], noise_set: int, oracles: Path) -> list[Line]:
    """The lines of one set; ``oracles`` keeps its own."""
    torch.set_num_threads(1)
    lines = []
    for row in rows:
        cell, schedules = row.runs[0].cell, [run.schedule() for run in row.runs]
        evaluator = Evaluator(make_problem(cell.problem), cell.solver, (noise_set,), metrics=())
        if row.runs[0].method == ORACLE and noise_set != OWN_SET:
            path = oracles / f"{cell.problem}__{cell.solver}__{cell.num_steps}__{noise_set}.json"
            schedules = [evaluator.oracle(cell.num_steps, path, schedules)]
        errors = [evaluator.rows(schedule)[0].mean for schedule in schedules]
        lines.append(Line(*cell, row.name, noise_set, float(np.median(errors))))
    return lines


def by_row(lines: Sequence[Line]) -> dict[str, dict[int, Line]]:
    """The lines by row and set, the rows with the largest error on README's noises first."""
    found: dict[str, dict[int, Line]] = {}
    for line in lines:
        found.setdefault(line.row, {})[line.noise_set] = line
    return dict(sorted(found.items(), key=lambda item: -item[1][OWN_SET].rmse))


def table(lines: Sequence[Line]) -> str:
    """Errors on README's noises and on the others, and on how many of these a row is below the row above it."""
    texts, above = [], dict[int, float]()
    for name, own in by_row(lines).items():
        others = {seed: line.rmse for seed, line in own.items() if seed != OWN_SET}
        kept = sum(rmse < above[seed] for seed, rmse in others.items()) if above else None
        first = own[OWN_SET]
        texts.append(
            (
                name,
                f"`{first.solver}`",
                digits(first.rmse),
                spread(list(others.values())),
                "" if kept is None else f"{kept} of {len(others)}",
            )
        )
        above = others
    header = ("row of README's table", "solver", "its noises", "the other sets", "below the row above it on")
    return markdown(header, texts, left=2)


def page_tables(results: Path = RESULTS) -> Pages:
    """The table of docs/results.md."""
    return {RESULTS_PAGE: {"order": table(read_csv(results / FILE, Line))}}


def main(args: Args) -> None:
    """Score, write, print."""
    rows, tasks = headline.rows(args.results), Tasks(args.workers)
    waiting = [tasks.submit(measure, rows, noise_set, args.oracles.resolve()) for noise_set in args.sets]
    lines = [line for wait in tqdm(waiting, disable=None) for line in wait()]
    write_csv(lines, args.results / FILE, Line)
    print(table(lines))


if __name__ == "__main__":
    program = "python -m benchmarks.order"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
