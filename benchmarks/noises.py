"""What do the initial noises hide? Who carries the error (``tails``), what the oracle is on others (``fresh``), and
what no search on the training noises can know (``polish``): all from the schedules in the leaderboard's records.

python -m benchmarks.noises fresh
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from scipy.stats import spearmanr
from tqdm import tqdm

from agents.schedule_policy import SchedulePolicy
from agents.schedule_search.noise_sampling import InitialNoiseSampler
from art_env._util.cli import run_command
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.evaluator import NOISE_SEED, Evaluator
from art_env.evaluation.results import read_csv, write_csv
from art_env.problems.library import make_problem
from art_env.schedules import Schedule
from art_env.schedules.gradient import gradient_search
from art_env.schedules.optimal import final_rmse
from art_env.schedules.registry import make_schedule
from benchmarks.records import (
    EVOLUTION,
    ORACLE,
    OURS,
    RECORDS,
    RESULTS,
    Cell,
    CellLine,
    FreshLine,
    Leaderboard,
    Record,
    number,
    rounded,
)
from benchmarks.tables import EXPERIMENTS_PAGE, Pages, markdown

PROGRAM = "python -m benchmarks.noises"
TAILS_FILE, FRESH_FILE, POLISH_FILE = "initial_noises.csv", "fresh_noises.csv", "polish.csv"


@dataclass
class Tails:
    """Measure how few noises hold the error, and what drawing them by cost does for a comparison of schedules.

    The actions of the schedule that the search by evolution found in each cell (seed 0) are perturbed; the perturbed
    schedules are ranked on a few initial noises, and the ranks compared with those on the whole pool.
    """

    cells: tuple[str, ...] = (
        "mixture-1d:heun:5",
        "mixture-1d:heun:10",
        "mixture-1d:ipndm:10",
        "mixture-1d:dpmpp_2m:10",
        "mixture-2d:heun:5",
        "mixture-2d:heun:10",
        "mixture-2d:ipndm:10",
    )
    """problem:solver:K"""
    num_schedules: int = 32
    num_noises: int = 256
    """Noises on which schedules are ranked."""
    width: float = 0.03
    """Width of the perturbation, in units of the action."""
    draws: int = 40
    """Comparisons of each kind."""
    records: Path = RECORDS
    out: Path = RESULTS / TAILS_FILE


@dataclass
class Fresh:
    """Score the oracle and, of each method that learns, the run with the median ratio on noises new to all.

    The oracle is fitted to the very noises that the leaderboard judges on. Where few noises hold most of the error,
    a part of the ratio is that advantage.
    """

    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits")
    sets: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Seed sets, as in evaluate.py; the leaderboard has 0."""
    methods: tuple[str, ...] = (OURS, EVOLUTION, "art", "gradient")
    records: Path = RECORDS
    out: Path = RESULTS / FRESH_FILE


@dataclass
class Polish:
    """Search on, by gradients on the training noises, from where the search by evolution ended.

    If gradients go on to the oracle's error, the search was too short; if they stay, it ended in a local minimum.
    Where the oracle itself is bad on the training noises, no method that sees only those could have found it.
    """

    cells: tuple[str, ...] = ("mixture-1d:ipndm:10", "mixture-2d:ipndm:10")
    """problem:solver:K, each with evolution and the oracle in the records."""
    records: Path = RECORDS
    out: Path = RESULTS / POLISH_FILE


Commands = Tails | Fresh | Polish


@dataclass(frozen=True)
class TailsLine(CellLine):
    """One cell.

    ``top_16``: part of the squared error that 16 noises hold; correlations: medians of the rank correlation with the
    whole pool; ``edm``, ``search``: RMSE on three sets of noises.
    """

    pool: int
    top_16: float
    correlation_even: float
    correlation_by_cost: float
    edm: str
    search: str


@dataclass(frozen=True)
class PolishLine(CellLine):
    """One schedule before and after.

    ``training``: RMSE on the training noises over that of the oracle there; ``ratio``: on the leaderboard's noises.
    """

    seed: int
    training: float
    ratio: float
    training_after: float
    ratio_after: float


def measure_tails(args: Tails, cell: Cell, schedule: Schedule) -> TailsLine:
    """The line of one cell, around the search's schedule."""
    name, solver, K = cell
    problem = make_problem(name)
    dynamics = Dynamics(problem=problem, solver=solver, num_steps=K, features=(), base_schedule="closed_form")
    center = SchedulePolicy(schedule, dynamics).actions[:, 0].astype(np.float64)
    rng = np.random.default_rng(0)
    offsets = args.width * rng.standard_normal((args.num_schedules, K))
    actions = np.clip(center + offsets, -1, 1)

    pool = dynamics.pool_size
    every = torch.arange(pool)

    def costs(row: np.ndarray) -> np.ndarray:
        return -dynamics.returns(every, torch.from_numpy(row)[:, None].expand(pool, K, 1)).numpy()

    cost = costs(center)
    noises = InitialNoiseSampler(pool)
    noises.update(every.numpy(), -cost)
    returns = -np.minimum(
        np.stack([costs(row) for row in actions]), noises.cap
    )  # what no sample can tell is cut
    truth = returns.mean(1)

    torch.manual_seed(0)
    even, by_cost = [], []
    for _ in range(args.draws):
        index = rng.integers(pool, size=args.num_noises)
        even.append(spearmanr(returns[:, index].mean(1), truth).statistic)
        index = noises.draw(args.num_noises, rng)
        by_cost.append(spearmanr(noises.mean(returns[:, index], index), truth).statistic)
    correlations = [round(float(np.median(c)), 3) for c in (even, by_cost)]

    def rmse(grid: Schedule) -> str:
        values = [Evaluator(problem, solver, (seed,), metrics=()).rows(grid)[0].mean for seed in range(3)]
        return " ".join(f"{v:.3g}" for v in values)

    top = round(float(np.sort(cost)[::-1][:16].sum() / cost.sum()), 4)
    edm = make_schedule("edm", problem, K, solver)
    return TailsLine(*cell, pool, top, correlations[0], correlations[1], rmse(edm), rmse(schedule))


def tails(args: Tails) -> list[TailsLine]:
    """A line for each cell."""
    board = Leaderboard.read(args.records)
    # All of them before the first is measured.
    schedules = {cell: searched(board, cell)[0].schedule() for cell in map(Cell.parse, args.cells)}
    lines = []
    for cell, schedule in schedules.items():
        line = measure_tails(args, cell, schedule)
        lines.append(line)
        print(
            f"{cell}: 16 of {line.pool:,} noises hold {line.top_16:.1%}; rank correlation on {args.num_noises} drawn "
            f"evenly {line.correlation_even:.2f}, by cost {line.correlation_by_cost:.2f}; RMSE on noises of seed "
            f"{NOISE_SEED}, +1, +2: EDM {line.edm}, search {line.search}",
            flush=True,
        )
    return lines


def pooled(errors: Sequence[float]) -> float:
    """RMSE over sets of one size."""
    return math.sqrt(sum(e * e for e in errors) / len(errors))


def measure_fresh(
    evaluators: Sequence[Evaluator], records: Mapping[str, Sequence[Record]]
) -> list[FreshLine]:
    """A line for each method of one cell, from the records of each and of the oracle; one set for each evaluator."""

    def errors(record: Record) -> list[float]:
        schedule = record.schedule()
        return [evaluator.rows(schedule)[0].mean for evaluator in evaluators]

    oracle = errors(records[ORACLE][0])
    noises = sum(evaluator.num_noises for evaluator in evaluators)
    lines = []
    for method, runs in records.items():
        if method == ORACLE or not runs:
            continue
        # The run with the median ratio, the lower one of two.
        chosen = sorted(runs, key=lambda run: run.ratio)[(len(runs) - 1) // 2]
        own = errors(chosen)
        ratios = [a / b for a, b in zip(own, oracle, strict=True)]
        found = (chosen.ratio, pooled(own) / pooled(oracle), min(ratios), max(ratios))
        lines.append(FreshLine(*chosen.cell, method, noises, *rounded(found)))
    return lines


def fresh(args: Fresh) -> list[FreshLine]:
    """A line for each method in each cell that has the oracle and the schedule search."""
    problems = {name: make_problem(name) for name in args.problems}
    board = Leaderboard.read(args.records)
    cells = [c for c in board.cells_of(OURS, ORACLE) if c.problem in problems]
    if not cells or not args.sets:
        raise ValueError(
            f"nothing to score: records = {str(args.records)!r} must hold search and oracle for one of problems = "
            f"{args.problems}, and sets = {args.sets} must not be empty"
        )
    lines = []
    for cell in tqdm(cells, disable=None):
        evaluators = [
            Evaluator(problems[cell.problem], cell.solver, (seed,), metrics=()) for seed in args.sets
        ]
        found = measure_fresh(evaluators, {m: board.records(m, cell) for m in (ORACLE, *args.methods)})
        lines += found
        texts = (f"{line.method} {line.ratio:.3f}, elsewhere {line.fresh:.3f}" for line in found)
        tqdm.write(f"{cell}: {'; '.join(texts)}")
    return lines


def searched(board: Leaderboard, cell: Cell) -> list[Record]:
    """The search's records of a cell.

    Raises:
        ValueError: there is none, or the oracle is not there.
    """
    records = board.records(EVOLUTION, cell)
    if not records or board.oracle(cell) is None:
        raise ValueError(
            f"cells = {cell.option} must have evolution and oracle in the records = {str(board.path)!r}; run "
            "benchmarks.leaderboard for it"
        )
    return records


def measure_polish(records: Sequence[Record], oracle: Schedule) -> list[PolishLine]:
    """A line for each of the search's records of a cell."""
    cell = records[0].cell
    problem = make_problem(cell.problem)
    evaluator = Evaluator(problem, cell.solver, (0,), metrics=())
    pool = problem.reference()

    def on_training(schedule: Schedule) -> float:
        return final_rmse(problem.denoiser, pool, schedule.sigmas, cell.solver)

    oracle_error, oracle_on_training = evaluator.rows(oracle)[0].mean, on_training(oracle)
    lines = []
    for record in tqdm(records, desc=str(cell), disable=None):
        before = record.schedule()
        # No other start is as good as this one: one search follows it.
        after = gradient_search(
            problem.denoiser, pool, cell.num_steps, cell.solver, [before], num_searches=1, with_dp=False
        )
        numbers = (
            on_training(before) / oracle_on_training,
            record.ratio,
            after.meta["rmse"] / oracle_on_training,
            evaluator.rows(after)[0].mean / oracle_error,
        )
        lines.append(PolishLine(*cell, record.seed, *rounded(numbers)))
    return lines


def polish(args: Polish) -> list[PolishLine]:
    """A line for each of the search's records of all cells."""
    if not args.cells:
        raise ValueError("cells = () is empty; name at least one, such as mixture-1d:heun:5")
    board = Leaderboard.read(args.records)
    # All of them before the first search, which takes minutes.
    cells = {cell: searched(board, cell) for cell in map(Cell.parse, args.cells)}
    lines: list[PolishLine] = []
    for cell, records in cells.items():
        oracle = board.oracle(cell)
        assert oracle is not None
        found = measure_polish(records, oracle)
        lines += found
        ends = " ".join(f"{line.ratio:.3f}->{line.ratio_after:.3f}" for line in found)
        tqdm.write(f"{cell}: {ends}")
        on_training = " ".join(f"{line.training:.3f}->{line.training_after:.3f}" for line in found)
        tqdm.write(f"  on the training noises: {on_training}")
    return lines


def tails_table(lines: Sequence[TailsLine]) -> str:
    """How much of the error few noises hold, and what drawing them by cost does for a comparison."""
    header = ("cell", "squared error of 16 noises", "correlation, drawn evenly", "drawn by cost")
    rows = (
        (str(x.cell), f"{x.top_16:.2g}", f"{x.correlation_even:.2f}", f"{x.correlation_by_cost:.2f}")
        for x in lines
    )
    return markdown(header, rows)


def polish_table(lines: Sequence[PolishLine]) -> str:
    """Ratios before and after gradients on the training noises, on these and on the leaderboard's."""
    header = (
        "cell, seed",
        "on the training noises",
        "after gradients",
        "on the leaderboard's",
        "after gradients",
    )
    rows = (
        (f"{x.cell}, {x.seed}", *map(number, (x.training, x.training_after, x.ratio, x.ratio_after)))
        for x in lines
    )
    return markdown(header, rows)


def page_tables(results: Path = RESULTS) -> Pages:
    """The tables of docs/experiments.md; that of fresh noises is with the leaderboard's."""
    tails, polished = read_csv(results / TAILS_FILE, TailsLine), read_csv(results / POLISH_FILE, PolishLine)
    return {EXPERIMENTS_PAGE: {"few-noises": tails_table(tails), "polish": polish_table(polished)}}


def main(args: Commands) -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(args, Tails):
        write_csv(tails(args), args.out, TailsLine)
    elif isinstance(args, Fresh):
        write_csv(fresh(args), args.out, FreshLine)
    else:
        write_csv(polish(args), args.out, PolishLine)


if __name__ == "__main__":
    sys.exit(run_command(PROGRAM, lambda: main(tyro.cli(Commands, prog=PROGRAM, description=__doc__))))
