"""Which way to find a schedule is the best? Every method on the same held-out noises; ``report`` reads the records.

python -m benchmarks.leaderboard --workers 2

A cell is a problem, a solver and a number of steps. CMA-ES, the search, ART-RL, PPO and SAC integrate as many
trajectories, those of a default training; gradients take what they need. The trainings of the records took 7.5 hours
together, most of them beside other jobs. What is in the records already is not run again, so that the table can be
made in parts, and one that was interrupted goes on.
"""

from __future__ import annotations

import csv
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from art_env import __version__
from art_env._util.cli import run_command
from art_env.diffusion.solvers import get_solver
from art_env.evaluation.evaluator import NOISE_SEED, Evaluator
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules import Schedule
from art_env.schedules.cma_es import evolve
from art_env.schedules.registry import check_fit, make_schedule
from benchmarks.lengths import shorter
from benchmarks.records import ORACLE, OURS, RECORDS, Cell, Leaderboard, Record
from benchmarks.statistics import ANALYTIC
from benchmarks.tasks import Tasks

# Methods that train.py knows, each with seeds.
LEARNED = ("search", "evolution", "art", "ppo", "sac")
SLOW = ("ppo", "sac")
SEARCHES = (*LEARNED, "cma", "gradient")
COMPUTED = ("edm_tuned", "closed_form", "gits", "gits:coefficient=1.15", "sdm", "dmn", "dp")
HANDCRAFTED = (
    *("uniform", "log_snr", "cosine", "arctan", "edm", "vp"),
    *("simple", "simple:table=vp", "beta", "beta:table=vp", "sgm_uniform"),
    *("ays_sd15", "ays_sdxl", "ays_svd"),
)
# K steps to sigma_min whose last level is called 0: another list only where lists end at 0.
REPLACED = ("log_snr:zero=replace", "edm:zero=replace", "edm_tuned:zero=replace")
METHODS = (
    ORACLE,
    *HANDCRAFTED,
    *REPLACED,
    *COMPUTED,
    "gradient",
    "cma",
    "evolution",
    "search",
    "art",
    "ppo",
    "sac",
)
# A schedule with a smaller ratio than this shows that the search for the oracle missed a basin.
LEAST_RATIO = 0.999
# If the best of all searches has a larger ratio than this, the basin of one of them may be better than the oracle's.
DOUBTFUL_RATIO = 1.02
# Some grids make no error at all on a linear problem (one equation, K - 1 unknowns): a ratio to 0 means nothing.
LEAST_ERROR = 1e-3


@dataclass
class Args:
    """Run the methods on the cells and write a record a run."""

    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits")
    solvers: tuple[str, ...] = ("euler", "heun", "dpmpp_2m", "ipndm")
    steps: tuple[int, ...] = (3, 5, 7, 10)
    methods: tuple[str, ...] = METHODS
    """oracle, search, art, ppo, sac, cma, gradient (as the oracle, but on the training noises), or any schedule that
    evaluate.py knows."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of search, art and cma on analytic problems."""
    few_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the same on networks, and of ppo and sac."""
    slow_cells: tuple[str, ...] = (
        "mixture-1d:euler:5",
        "mixture-1d:heun:5",
        "mixture-1d:dpmpp_2m:5",
        "mixture-1d:dpmpp_2m:10",
        "digits:heun:5",
    )
    """PROBLEM:SOLVER:K of the cells that ppo and sac are trained in, which take minutes."""
    workers: int = 1
    """Trainings at once; more than one takes Ray (extra [ray])."""
    ray_address: str | None = None
    """A Ray cluster that trains, such as auto or ray://host:10001; by default this machine does."""
    budget: float = 1.0
    """Part of the default length of each training and of CMA-ES."""
    device: str = "cpu"
    """Where the networks run."""
    records: Path = RECORDS
    """One JSON object a line."""
    oracles: Path = Path("runs/leaderboard/oracles")
    """Where oracles are kept between calls, beside the records."""
    runs: Path = Path("runs/leaderboard")
    """Where trained schedules are kept."""


class CellRunner:
    """All methods on one problem, solver and number of steps."""

    def __init__(self, problem: Problem, solver: str, K: int, args: Args, board: Leaderboard) -> None:
        self.problem, self.solver, self.K, self.args, self.board = problem, solver, K, args, board
        self.cell = Cell(problem.name, solver, K)
        self.evaluator = Evaluator(problem, solver, (0,), metrics=())
        self.oracle_path = args.oracles / f"{problem.name}__{solver}__{K}.json"
        # A fresh clone has the records, but not the folder of oracles.
        self.oracle = board.oracle(self.cell) or self.evaluator.oracle(K, self.oracle_path)
        self.least_error = self.error(self.oracle)
        self.new_schedules = False

    def error(self, schedule: Schedule) -> float:
        """RMSE on the held-out noises (exact on a linear problem)."""
        return self.evaluator.rows(schedule)[0].mean

    def record(self, schedule: Schedule, method: str, seed: int, seconds: float, **more: Any) -> None:
        """Score a schedule and keep it; a schedule below the oracle starts another search for it.

        Args:
            schedule, method, seed, seconds: what was found, and how.
            more: further fields of the record; here ``curve`` has errors, not ratios.
        """
        error = self.error(schedule)
        if error < LEAST_RATIO * self.least_error and method != ORACLE:
            self._search_oracle([schedule], error)
        self.new_schedules |= method in SEARCHES
        spent = {"evaluations": schedule.meta.get("evaluations", 0), "seconds": round(seconds, 3), **more}
        spent["curve"] = tuple((n, evals, e / self.least_error) for n, evals, e in more.get("curve", ()))
        weights = () if schedule.weights is None else tuple(map(tuple, schedule.weights.tolist()))
        spent |= {"sigmas": tuple(schedule.sigmas.tolist()), "weights": weights}
        nfe, ratio = self.evaluator.nfe(self.K), error / self.least_error
        self.board.add(Record(self.cell, nfe, method, seed, error, ratio, **spent))

    def _record_oracle(self) -> None:
        self.record(self.oracle, ORACLE, 0, self.oracle.meta.get("seconds", 0.0))

    def _search_oracle(self, starts: list[Schedule], known: float) -> None:
        self.oracle = self.evaluator.oracle(self.K, self.oracle_path, (*starts, self.oracle), again=True)
        self.least_error = min(self.error(self.oracle), known)
        self.board.rebase(self.cell, self.least_error)
        self._record_oracle()

    def search_oracle_again(self) -> None:
        """Search for the oracle from where new searches ended too, if all of them ended far above it."""
        searched = [r for r in self.board.records(cell=self.cell) if r.method in SEARCHES]
        if self.new_schedules and min((r.ratio for r in searched), default=1.0) > DOUBTFUL_RATIO:
            self._search_oracle([r.schedule() for r in searched], self.least_error)

    def left_out(self) -> bool:
        """Whether the cell has a grid without error; if so, say it and forget the cell."""
        if not self.problem.linear or self.least_error >= LEAST_ERROR:
            return False
        self.board.drop(self.cell)
        tqdm.write(f"{self.cell}: left out, a grid with an error of {self.least_error:.1g} exists")
        return True

    def run(self, method: str, seed: int) -> None:
        """Run a method that is no learner with one seed, unless its record is there."""
        if self.board.has(self.cell, method, seed):
            return
        if method == ORACLE:
            self._record_oracle()
            return
        problem, effort = self.problem, self.problem.effort
        # Exact trajectories are no part of the seconds, as for a learner.
        noises = {"cma": effort.cma_noises, "gradient": effort.gradient_noises}
        pool = problem.reference(noises[method]) if method in noises else None
        began = time.perf_counter()
        if pool is None:
            found = make_schedule(method, problem, self.K, self.solver)
            check_fit(found, problem)
        elif method == "cma":
            rows, episodes = effort.training(False, self.K, get_solver(self.solver).num_weights)
            # As many as a learner has.
            evaluations = max(round(self.args.budget * rows * episodes) // pool.num_noises, self.K)
            found = evolve(problem.denoiser, pool, self.K, self.solver, evaluations, seed)
        else:
            found = make_schedule(ORACLE, problem, self.K, self.solver, pool)
        self.record(found, method, seed, time.perf_counter() - began)

    def seeds(self, method: str) -> tuple[int, ...]:
        """Those that a method is run with in this cell."""
        if method in REPLACED and self.problem.final_sigmas_type != "zero":
            return ()
        if method == "dp" and get_solver(self.solver).evals_per_step == 1:
            return ()  # It is GITS: the path of Euler's jumps.
        if method in SLOW:
            return self.args.few_seeds if self.cell.option in self.args.slow_cells else ()
        if method not in (*LEARNED, "cma"):
            return (0,)
        return self.args.seeds if self.problem.name.startswith(ANALYTIC) else self.args.few_seeds

    def learn(self, method: str, tasks: Tasks) -> None:
        """Train with every seed whose record is not there."""
        runs = {}
        for seed in self.seeds(method):
            if not self.board.has(self.cell, method, seed):
                folder = self.args.runs / "__".join(map(str, (*self.cell, method, seed)))
                options = {**self.cell._asdict(), "seed": seed, "oracle": False, "device": self.args.device}
                options = shorter(self.args.budget, method, **options)
                runs[seed] = folder, tasks.train(folder, method, **options)
        for seed, (folder, run) in runs.items():
            self._record_run(folder, run(), method, seed)

    def _record_run(self, folder: Path, summary: dict[str, Any], method: str, seed: int) -> None:
        with (folder / "progress.csv").open(newline="") as file:
            log = [row for row in csv.DictReader(file) if row["art/rmse"]]
        evaluations, env_steps = summary["denoiser_evals"], summary["env_steps"]
        # The log measures on the same held-out noises. Its first entry is the schedule that training begins with.
        points = [(int(row["time/total_timesteps"]), float(row["art/rmse"])) for row in log]
        curve = [(n, int(n * (evaluations / env_steps)), error) for n, error in points if n > 0]
        spent = {"evaluations": evaluations, "env_steps": env_steps, "curve": curve}
        self.record(Schedule.load(folder / "schedule.json"), method, seed, summary["seconds"], **spent)


def header() -> dict[str, Any]:
    """The origin of the records."""
    return {
        "command": "python -m benchmarks.leaderboard",
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared",
        "held_out": f"noises of seed {NOISE_SEED}",
    }


def main(args: Args) -> None:
    """Run all cells, one after the other, and the trainings of a cell side by side."""
    args.records.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    board = Leaderboard.read(args.records) if args.records.is_file() else Leaderboard(args.records)
    board.headers = [header()]
    cells = [(p, s, K) for p in args.problems for K in args.steps for s in args.solvers]
    tasks = Tasks(args.workers, args.ray_address, args.device)
    for name, solver, K in tqdm(cells, disable=None):
        runner = CellRunner(make_problem(name, device=args.device), solver, K, args, board)
        if runner.left_out():
            continue
        for method in args.methods:
            if method in LEARNED:
                runner.learn(method, tasks)
                continue
            for seed in runner.seeds(method):
                runner.run(method, seed)
        runner.search_oracle_again()
        ratios = board.ratios(runner.cell, OURS)
        if not runner.left_out() and len(ratios):
            tqdm.write(f"{runner.cell}: ratio of the search {np.median(ratios):.3f} (to {ratios.max():.3f})")


if __name__ == "__main__":
    program = "python -m benchmarks.leaderboard"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
