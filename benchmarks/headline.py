"""The one table of README.md: digits, with the strongest rivals, from the records of other benchmarks.

python -m benchmarks.headline
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks import second_control
from benchmarks.records import ORACLE, Cell, Leaderboard, Record, amount, title
from benchmarks.second_control import SINGLE, spread
from benchmarks.tables import HEADLINE, README, Pages, markdown, write_pages

PROBLEM, K = "digits", 5
HEUN, LEARNED = Cell(PROBLEM, "heun", K), Cell(PROBLEM, "learned_2m", K)
COPIED = ("edm", "edm:zero=replace", "simple")
FOUND = ("cma", "art", "search")
# Those that the project is about.
OWN = ("art", "search")


def table(found: Leaderboard, classical: Leaderboard) -> str:
    """Lists that people copy, the best lists of classical solvers, and lists with weights."""
    rows = [_row(title(method), "heun", classical.records(method, HEUN)) for method in COPIED]
    rows.append(_row("its best list (oracle)", "heun", classical.records(ORACLE, HEUN)))
    best = min(
        (run for solver in SINGLE for run in classical.records(ORACLE, HEUN._replace(solver=solver))),
        key=lambda run: run.error,
    )
    rows.append(_row("the best list of any classical solver (oracle)", best.cell.solver, [best]))
    for method in FOUND:
        name = f"**{title(method)}**" if method in OWN else title(method)
        rows.append(_row(name, LEARNED.solver, found.records(method, LEARNED)))
    rows.append(_row("its best list and weights (oracle)", LEARNED.solver, found.records(ORACLE, LEARNED)))
    header = ("noise levels", "solver", "evaluations a sample", "RMSE", "evaluations to find them")
    return markdown(header, rows, left=2)


def _row(name: str, solver: str, runs: Sequence[Record]) -> tuple[str, ...]:
    error = spread([run.error for run in runs])
    spent = float(np.median([run.evaluations for run in runs])) if runs else math.nan
    known = "held-out noises" if runs and runs[0].method == ORACLE else amount(spent) if spent else "none"
    return (name, f"`{solver}`", str(runs[0].nfe) if runs else "-", error, known)


def page_tables() -> Pages:
    """The table of README.md."""
    args = second_control.Args()
    return {README: {HEADLINE: table(Leaderboard.read(args.records), second_control.read_classical(args))}}


if __name__ == "__main__":
    write_pages(page_tables())
