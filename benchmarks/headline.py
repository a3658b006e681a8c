"""The one table of README.md: digits, with the strongest rivals, from the records of other benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from art_env.evaluation.results import read_csv
from art_env.problems.library import make_problem
from benchmarks import few_shot, second_control, solvers
from benchmarks.records import ORACLE, OURS, RESULTS, Cell, Record, amount, title
from benchmarks.second_control import SINGLE, spread
from benchmarks.tables import README, Pages, markdown

PROBLEM, K = "digits", 5
HEUN, LEARNED = Cell(PROBLEM, "heun", K), Cell(PROBLEM, "learned_2m", K)
# Lists that need no evaluation of the model: EDM's without its wasted step, and the best there are with Heun's nine
# evaluations, and with five of a solver that takes one a step.
COPIED = (("edm:zero=replace", HEUN), ("dmn", HEUN._replace(solver="unipc_3")), ("simple", HEUN))
ADAPTED = "`--effort quick`: adapted from fitted tables"
FOUND = ("cma", "art", OURS)
# Those that the project is about.
OWN = ("art", OURS)


class Row(NamedTuple):
    """A row of the table: what it is called, and its runs."""

    name: str
    runs: list[Record]


def rows(results: Path = RESULTS) -> list[Row]:
    """Lists that people copy, the best lists of classical solvers, and lists with weights; none without runs."""
    found, classical = second_control.read_found(results), second_control.read_classical(results)
    known = [Row(title(method), classical.records(method, cell)) for method, cell in COPIED]
    oracles = [run for solver in SINGLE for run in classical.records(ORACLE, HEUN._replace(solver=solver))]
    best = sorted(oracles, key=lambda run: run.error)[:1]
    known.append(Row("the best list of any classical solver with 5 (oracle)", best))
    known += [Row(title(method), found.records(method, LEARNED)) for method in FOUND]
    known.append(Row("the best list and weights (oracle)", found.records(ORACLE, LEARNED)))
    all_weights = LEARNED._replace(solver=solvers.all_weights(K))
    known.append(Row("the best list and all weights (oracle)", classical.records(ORACLE, all_weights)))
    return [row for row in known if row.runs]


def table(known: Sequence[Row], quick: Sequence[few_shot.Line]) -> str:
    """Error and cost of every row, and of the list that is adapted with the fewest evaluations."""
    header = ("noise levels", "solver", "evaluations a sample", "RMSE", "evaluations to find them")
    lines = list(map(_texts, known))
    if quick:
        spent, error = f"{quick[0].evaluations:,}", spread([line.first for line in quick])
        place = sum(not row.runs[0].cell.solver.startswith("learned") for row in known)
        lines.insert(place, (ADAPTED, f"`{quick[0].solver}`", str(quick[0].num_steps), error, spent))
    return markdown(header, lines, left=2)


def adapted(results: Path = RESULTS) -> list[few_shot.Line]:
    """The lists that are adapted with the fewest evaluations, one for each set of initial noises."""
    path = results / few_shot.FILE
    lines = read_csv(path, few_shot.Line) if path.is_file() else []
    own = [line for line in lines if line.problem == PROBLEM and line.schedule == few_shot.TABLES]
    least = min((line.evaluations for line in own), default=0)
    return [line for line in own if line.evaluations == least and line.cell == LEARNED]


def _texts(row: Row) -> tuple[str, ...]:
    first = row.runs[0]
    name = f"**{row.name}**" if first.method in OWN else row.name
    spent = float(np.median([run.evaluations for run in row.runs]))
    known = "fitted to these noises" if first.method == ORACLE else amount(spent) if spent else "none"
    error = spread([run.error for run in row.runs])
    return (name, f"`{first.cell.solver}`", str(first.nfe), error, known)


def page_tables(results: Path = RESULTS) -> Pages:
    """The table of README.md, and what its last column leaves out."""
    problem = make_problem(PROBLEM)
    pool, one = problem.num_noises, problem.reference(1).evaluations
    uncounted = (
        f"Not counted: {amount(pool * one)} evaluations for exact trajectories from {pool:,} training noises, which "
        "all learners compare with."
    )
    return {README: {"headline": f"{table(rows(results), adapted(results))}\n\n{uncounted}"}}
