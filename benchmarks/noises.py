"""What do the initial noises hide? Who carries the error (``tails``), what the oracle is on others (``fresh``), and
what no search on the training noises can know (``polish``): all from the schedules in the leaderboard's records.

python -m benchmarks.noises fresh
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
from scipy.stats import spearmanr
from tqdm import tqdm

from agents.schedule_policy import SchedulePolicy
from agents.schedule_search.noise_sampling import InitialNoiseSampler
from art_env._util.cli import run_command
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.evaluator import NOISE_SEED, Evaluator
from art_env.evaluation.results import write_csv
from art_env.problems.library import make_problem
from art_env.schedules import Schedule
from art_env.schedules.gradient import gradient_search
from art_env.schedules.optimal import final_rmse
from art_env.schedules.registry import make_schedule
from benchmarks.records import (
    EVOLUTION,
    ORACLE,
    RECORDS,
    RESULTS,
    Cell,
    CellLine,
    FreshLine,
    Leaderboard,
    Record,
    rounded,
)

PROGRAM = "python -m benchmarks.noises"


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
        "mixture-1d:dpmpp_2m:20",
        "mixture-1d:rk4:20",
        "mixture-2d:heun:5",
        "mixture-2d:rk4:7",
        "mixture-2d:rk4:10",
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
    out: Path = RESULTS / "initial_noises.csv"


@dataclass
class Fresh:
    """Score the oracle, the runs of evolution and ART-RL with the median ratio, and gradients on noises new to all.

    The oracle is fitted to the very noises that the leaderboard judges on. Where few noises hold most of the error,
    a part of the ratio is that advantage.
    """

    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits")
    sets: tuple[int, ...] = (1, 2, 3, 4)
    """Seed sets, as in evaluate.py; the leaderboard has 0."""
    records: Path = RECORDS
    out: Path = RESULTS / "fresh_noises.csv"


@dataclass
class Polish:
    """Search on, by gradients on the training noises, from where the search by evolution ended.

    If gradients go on to the oracle's error, the search was too short; if they stay, it ended in a local minimum.
    Where the oracle itself is bad on the training noises, no method that sees only those could have found it.
    """

    cells: tuple[str, ...] = ("mixture-1d:ipndm:10", "mixture-1d:ipndm:20", "mixture-2d:ipndm:10")
    """problem:solver:K, each with evolution and the oracle in the records."""
    records: Path = RECORDS
    out: Path = RESULTS / "polish.csv"


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
    center = SchedulePolicy(schedule, dynamics).actions.astype(np.float64)
    rng = np.random.default_rng(0)
    offsets = args.width * rng.standard_normal((args.num_schedules, K))
    actions = np.clip(center + offsets, -1, 1)

    pool = dynamics.pool_size
    every = torch.arange(pool)

    def costs(row: np.ndarray) -> np.ndarray:
        return -dynamics.returns(every, torch.from_numpy(row).expand(pool, K)).numpy()

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


def measure_fresh(evaluators: Sequence[Evaluator], records: Sequence[Record]) -> FreshLine:
    """The line of one cell, from its records, on one set for each evaluator."""
    methods: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: r.ratio):
        methods.setdefault(record.method, []).append(record)
    # The run with the median ratio, the lower one of two.
    chosen = {method: runs[(len(runs) - 1) // 2] for method, runs in methods.items()}

    def errors(method: str) -> list[float]:
        schedule = chosen[method].schedule()
        return [evaluator.rows(schedule)[0].mean for evaluator in evaluators]

    oracle, ours = errors(ORACLE), errors(EVOLUTION)
    others = [pooled(errors(m)) / pooled(oracle) if m in chosen else math.nan for m in ("gradient", "art")]
    ratios = [a / b for a, b in zip(ours, oracle, strict=True)]
    noises = sum(evaluator.num_noises for evaluator in evaluators)
    found = (chosen[EVOLUTION].ratio, pooled(ours) / pooled(oracle), min(ratios), max(ratios), *others)
    return FreshLine(*chosen[EVOLUTION].cell, noises, *rounded(found))


def fresh(args: Fresh) -> list[FreshLine]:
    """A line for each cell that has the search and the oracle."""
    problems = {name: make_problem(name) for name in args.problems}
    board = Leaderboard.read(args.records)
    cells = [c for c in board.cells_of(EVOLUTION, ORACLE) if c.problem in problems]
    if not cells or not args.sets:
        raise ValueError(
            f"nothing to score: records = {str(args.records)!r} must hold evolution and oracle for one of problems = "
            f"{args.problems}, and sets = {args.sets} must not be empty"
        )
    lines = []
    for cell in tqdm(cells, disable=None):
        evaluators = [
            Evaluator(problems[cell.problem], cell.solver, (seed,), metrics=()) for seed in args.sets
        ]
        line = measure_fresh(evaluators, board.records(cell=cell))
        lines.append(line)
        tqdm.write(
            f"{cell}: {line.ratio:.3f} on the leaderboard's noises, {line.fresh:.3f} "
            f"({line.low:.3f} to {line.high:.3f}) on {line.noises:,} others"
        )
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
