"""What is a second control worth? Learned solvers against the best grid of every classical one.

python -m benchmarks.second_control

Runs the oracle, the search, ART-RL and CMA-ES on grid and weights together (``benchmarks.leaderboard``, from whose
records the oracles of the classical solvers come), and scores images of digits by their Frechet distance.
``benchmarks.report`` writes the tables. What is in the records already is not run again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from art_env._util.cli import run_command
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import read_csv, write_csv
from art_env.problems.library import make_problem
from benchmarks import leaderboard
from benchmarks.records import ORACLE, OURS, RECORDS, RESULTS, Cell, CellLine, Leaderboard, title
from benchmarks.solvers import all_weights
from benchmarks.tables import LEADERBOARD_PAGE, RESULTS_PAGE, Pages, markdown

# Solver and K: one weight a step where there are few steps, two where there are more.
CELLS = {"learned_2m": (3, 5), "learned_3m": (7, 10)}
# At one evaluation a step, and at two (but for the last).
SINGLE = ("euler", "dpmpp_2m", "ipndm", "deis_2", "deis_3", "unipc_2", "unipc_3")
DOUBLE = "heun"
METHODS = (ORACLE, "cma", "evolution", "search", "art")
# Files of results: of these runs, of the leaderboard, of the other solvers and of MNIST, and of the images.
FOUND, MNIST = "second_control.jsonl", "mnist.jsonl"
CLASSICAL = (RECORDS.name, "solvers.jsonl", MNIST)
FRECHET = "second_control_frechet.csv"
FRECHET_SEEDS = (0, 1, 2)


@dataclass
class Args:
    """Run what is missing."""

    problems: tuple[str, ...] = ("digits", "mixture-2d", "mixture-1d")
    steps: tuple[int, ...] = (3, 5, 7, 10)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    few_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds on networks."""
    methods: tuple[str, ...] = METHODS
    workers: int = 1
    """Trainings at once; more than one takes Ray (extra [ray])."""
    ray_address: str | None = None
    """A Ray cluster that trains, such as auto or ray://host:10001; by default this machine does."""
    budget: float = 1.0
    """Part of the default length of each training and of CMA-ES."""
    results: Path = RESULTS
    """The folder of second_control.jsonl, with the records of the classical solvers."""
    runs: Path = Path("runs/second_control")


@dataclass(frozen=True)
class FrechetLine(CellLine):
    """Frechet distance of the samples of one schedule."""

    method: str
    seed: int
    nfe: int
    frechet: float


def run(args: Args) -> None:
    """Fill the records."""
    for solver, steps in CELLS.items():
        leaderboard.main(
            leaderboard.Args(
                args.problems,
                (solver,),
                tuple(K for K in steps if K in args.steps),
                args.methods,
                args.seeds,
                args.few_seeds,
                workers=args.workers,
                ray_address=args.ray_address,
                budget=args.budget,
                records=args.results / FOUND,
                oracles=args.runs / "oracles",
                runs=args.runs,
            )
        )


def score_images(args: Args) -> None:
    """Frechet distances on digits at 5 evaluations, and of Heun's oracle with 9."""
    found, classical = read_found(args.results), read_classical(args.results)
    schedules = [(found, Cell("digits", "learned_2m", 5), method) for method in METHODS]
    schedules += [(classical, Cell("digits", solver, 5), ORACLE) for solver in (*SINGLE, DOUBLE)]
    lines = []
    for board, cell, method in schedules:
        evaluator = Evaluator(make_problem("digits"), cell.solver, FRECHET_SEEDS, metrics=("frechet",))
        for record in board.records(method, cell):
            (score,) = (row for row in evaluator.rows(record.schedule()) if row.metric == "frechet")
            lines.append(FrechetLine(*cell, method, record.seed, record.nfe, score.mean))
    write_csv(lines, args.results / FRECHET, FrechetLine)


def read_found(results: Path = RESULTS) -> Leaderboard:
    """The records of grid and weights together."""
    return Leaderboard.read(results / FOUND)


def read_classical(results: Path = RESULTS) -> Leaderboard:
    """The records of all solvers without weights, from the files that are there."""
    boards = [Leaderboard.read(results / name) for name in CLASSICAL if (results / name).is_file()]
    return Leaderboard(results / CLASSICAL[0], [record for board in boards for record in board.records()])


def table(found: Leaderboard, classical: Leaderboard) -> str:
    """RMSE by problem and K: of a method the median of its runs, and their range."""
    header = (
        "problem",
        "K",
        "best classical grid",
        "Heun's, 2K - 1 evaluations",
        "solver",
        "its oracle",
        "CMA-ES",
        "evolution",
        "search",
        "ART-RL",
        "search / classical",
    )
    return markdown(header, _rows(found, classical))


def _rows(found: Leaderboard, classical: Leaderboard) -> Iterator[tuple[str, ...]]:
    for cell in found.cells_of(ORACLE):
        best, heun = best_classical(classical, cell)
        errors = errors_of(found, cell)
        yield (
            cell.problem,
            str(cell.num_steps),
            digits(best),
            digits(heun),
            cell.solver,
            digits(errors[ORACLE][0]),
            *(spread(errors[m]) for m in METHODS[1:]),
            f"{np.median(errors['search']) / best:.2f}" if errors["search"] else "-",
        )


def short_table(found: Leaderboard, classical: Leaderboard) -> str:
    """The same at 5 evaluations."""
    header = (
        "5 evaluations",
        "best classical list",
        "(Heun's, 9 evaluations)",
        *map(title, METHODS[1:]),
        "oracle, one weight a step",
        "oracle, all weights",
    )
    rows = []
    for cell in found.cells_of(ORACLE):
        if cell.num_steps == 5:
            errors = errors_of(found, cell)
            best, heun = map(digits, best_classical(classical, cell))
            shown = (spread(errors[m]) for m in (*METHODS[1:], ORACLE))
            every = classical.records(ORACLE, cell._replace(solver=all_weights(cell.num_steps)))
            rows.append((cell.problem, best, f"({heun})", *shown, digits(every[0].error) if every else "-"))
    return markdown(header, rows)


def table_by_steps(found: Leaderboard, classical: Leaderboard) -> str:
    """For each K the range over problems of median errors, divided by the oracle's and by the best classical one."""
    rows = []
    cells = [c for c in found.cells_of(ORACLE) if (c, OURS) in found.runs]
    for K in sorted({c.num_steps for c in cells}):
        medians = {m: _relative_errors(found, [c for c in cells if c.num_steps == K], m) for m in METHODS[1:]}
        best = [
            float(np.median(errors_of(found, c)[OURS])) / best_classical(classical, c)[0]
            for c in cells
            if c.num_steps == K
        ]
        rows.append([str(K), *map(_range, medians.values()), _range(best)])
    return markdown(["K", *map(title, METHODS[1:]), "schedule search / best classical list"], rows)


def _relative_errors(found: Leaderboard, cells: Sequence[Cell], method: str) -> list[float]:
    errors = [(errors_of(found, c)[method], errors_of(found, c)[ORACLE][0]) for c in cells]
    return [float(np.median(own)) / oracle for own, oracle in errors if own]


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else "-"


def errors_of(found: Leaderboard, cell: Cell) -> dict[str, list[float]]:
    """The error of every run in a cell, by method."""
    return {method: [record.error for record in found.records(method, cell)] for method in METHODS}


def best_classical(classical: Leaderboard, cell: Cell) -> tuple[float, float]:
    """Errors of the oracles: the least at one evaluation a step, and that of Heun's method; NaN: not there."""

    def error(solver: str) -> float:
        records = classical.records(ORACLE, cell._replace(solver=solver))
        return records[0].error if records else math.nan

    known = [e for e in map(error, SINGLE) if not math.isnan(e)]
    return min(known, default=math.nan), error(DOUBLE)


def digits(value: float) -> str:
    """Three digits, also of a small number; a dash for what is not known."""
    return "-" if math.isnan(value) else f"{value:#.3g}"


def spread(errors: Sequence[float]) -> str:
    """Median and range."""
    if not errors:
        return "-"
    low, high = min(errors), max(errors)
    return digits(float(np.median(errors))) + (f" ({digits(low)} to {digits(high)})" if high > low else "")


def frechet_table(lines: Sequence[FrechetLine]) -> str:
    """Frechet distances on digits."""
    rows = []
    for solver, method in dict.fromkeys((line.solver, line.method) for line in lines):
        own = [line for line in lines if (line.solver, line.method) == (solver, method)]
        rows.append((solver, title(method), str(own[0].nfe), spread([line.frechet for line in own])))
    return markdown(("solver", "schedule", "evaluations", "Frechet distance"), rows, left=2)


def page_tables(results: Path = RESULTS) -> Pages:
    """The tables of docs/leaderboard.md, and the short one of docs/results.md."""
    found, classical = read_found(results), read_classical(results)
    whole = {"second-control": table(found, classical)}
    if (results / FRECHET).is_file():
        whole["second-control-frechet"] = frechet_table(read_csv(results / FRECHET, FrechetLine))
    short = {
        "second-control-5": short_table(found, classical),
        "second-control-by-k": table_by_steps(found, classical),
    }
    return {LEADERBOARD_PAGE: whole, RESULTS_PAGE: short}


def main(args: Args) -> None:
    """Run what is missing."""
    run(args)
    score_images(args)


if __name__ == "__main__":
    program = "python -m benchmarks.second_control"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
