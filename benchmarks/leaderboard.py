"""Every way to find a schedule in one table: same held-out noises, same evaluations; then ``report.py`` reads it.

A cell is a problem, a solver and a number of steps. What is in the records already is not run again, so that the
table can be made in parts, and one that was interrupted goes on.

Examples:
    python benchmarks/leaderboard.py --jobs 2
    python benchmarks/leaderboard.py --problems mixture-1d --solvers heun --steps 5 --methods art ppo sac limit
    python benchmarks/report.py
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from running import run_training_here
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from art_env import __version__  # noqa: E402
from art_env._util.files import write_text  # noqa: E402
from art_env.diffusion.ode import ReferenceFlow  # noqa: E402
from art_env.evaluation.evaluator import NOISE_SEED, Scorer  # noqa: E402
from art_env.problems.library import make_problem  # noqa: E402
from art_env.problems.problem import Problem  # noqa: E402
from art_env.schedules import Schedule  # noqa: E402
from art_env.schedules.cma_es import evolve  # noqa: E402
from art_env.schedules.registry import baseline, check_fit  # noqa: E402

LEARNED = ("art", "ppo", "sac")
SEARCHES = (*LEARNED, "cma", "direct")
COMPUTED = ("edm_tuned", "closed_form", "gits", "gits:coefficient=1.15", "sdm", "dmn", "dp")
BY_HAND = ("uniform", "log_snr", "cosine", "arctan", "edm")
METHODS = ("limit", *BY_HAND, *COMPUTED, "direct", "cma", "art")
# A schedule this far below the limit shows that the search for the limit missed a basin.
BELOW = 0.999
# If all searches end this far above it, the basin of one of them may be the better one.
FAR = 1.02
# Some grids make no error at all on a linear problem (one equation, K - 1 unknowns). A gap to nothing means nothing.
NO_ERROR = 1e-3


@dataclass
class Args:
    """Run the methods on the cells and write a record a run."""

    problems: tuple[str, ...] = ("gaussian-1d", "mixture-1d", "mixture-2d", "digits")
    solvers: tuple[str, ...] = ("euler", "heun", "rk4", "dpmpp_2m", "ipndm")
    steps: tuple[int, ...] = (2, 3, 5, 7, 10, 20)
    methods: tuple[str, ...] = METHODS
    """limit, art, ppo, sac, cma, direct (gradients through the solver, as the limit, but on the training noises), or
    any schedule that evaluate.py knows."""
    seeds: tuple[int, ...] = tuple(range(10))
    """Of art, ppo and sac."""
    cma_seeds: tuple[int, ...] = (0, 1, 2)
    """Of CMA-ES, which may take longer than all the others together."""
    jobs: int = 1
    """Trainings at once."""
    records: Path = ROOT / "benchmarks" / "results" / "leaderboard.jsonl"
    """One JSON object a line."""
    limits: Path = Path("runs/leaderboard/limits")
    """Where limits are kept between calls, beside the records."""
    runs: Path = Path("runs/leaderboard")
    """Where trained schedules are kept."""


@dataclass
class Book:
    """The records file: read once, written whole after every run."""

    path: Path
    header: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.is_file():
            lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line]
            self.rows = [entry for entry in lines if "header" not in entry]

    def has(self, cell: tuple[str, str, int], method: str, seed: int) -> bool:
        """Whether this run is there."""
        return any(key(row) == (*cell, method, seed) for row in self.rows)

    def limit(self, cell: tuple[str, str, int]) -> Schedule | None:
        """The limit of a cell, if it is there."""
        rows = [row for row in self.rows if key(row) == (*cell, "limit", 0)]
        return Schedule(rows[0]["sigmas"], "limit", {"seconds": rows[0]["seconds"]}) if rows else None

    def add(self, row: dict[str, Any]) -> None:
        """Keep a record, in the place of an older one of the same run."""
        self.rows = [r for r in self.rows if key(r) != key(row)] + [row]
        self.rows.sort(key=lambda r: (r["problem"], r["solver"], r["num_steps"], r["method"], r["seed"]))
        self.write()

    def rebase(self, cell: tuple[str, str, int], best: float) -> None:
        """Another limit: every gap of the cell anew."""
        for row in self.rows:
            if key(row)[:3] == cell:
                old = row["error"] / row["gap"]
                row["gap"] = row["error"] / best
                row["curve"] = [[a, b, g * old / best] for a, b, g in row.get("curve") or []]
        self.write()

    def drop(self, cell: tuple[str, str, int]) -> None:
        """Forget a cell."""
        self.rows = [row for row in self.rows if key(row)[:3] != cell]
        self.write()

    def write(self) -> None:
        """All of it, in one piece."""
        lines = [json.dumps({"header": self.header}), *(json.dumps(row) for row in self.rows)]
        write_text(self.path, "\n".join(lines) + "\n")


def key(row: dict[str, Any]) -> tuple[str, str, int, str, int]:
    """What makes a record one of its kind."""
    return row["problem"], row["solver"], row["num_steps"], row["method"], row["seed"]


class CellRunner:
    """All methods on one problem, solver and number of steps."""

    def __init__(self, problem: Problem, solver: str, K: int, args: Args, book: Book) -> None:
        self.problem, self.solver, self.K, self.args, self.book = problem, solver, K, args, book
        self.cell = (problem.name, solver, K)
        self.scorer = Scorer(problem, solver, (0,), metrics=())
        self.nfe = self.scorer.nfe(K)
        self.limit_path = args.limits / f"{problem.name}__{solver}__{K}.json"
        # A fresh clone has the records, but not the folder of limits.
        known = book.limit(self.cell)
        self.limit = known if known is not None else self.scorer.limit(K, self.limit_path)
        self.best = self.error(self.limit)
        self.new_schedules = False

    def error(self, schedule: Schedule) -> float:
        """RMSE on the held-out noises (exact on a linear problem)."""
        return self.scorer.rows(schedule)[0].mean

    def record(self, schedule: Schedule, method: str, seed: int, seconds: float, **more: Any) -> None:
        """Score a schedule and keep it; a schedule far below the limit starts another search for it."""
        error = self.error(schedule)
        if error < BELOW * self.best and method != "limit":
            self._search_limit([schedule], error)
        self.new_schedules |= method in SEARCHES
        evaluations = more.pop("evaluations", schedule.meta.get("evaluations", 0))
        row = dict(zip(("problem", "solver", "num_steps"), self.cell, strict=True))
        row |= {"nfe": self.nfe, "method": method, "seed": seed, "error": error, "gap": error / self.best}
        row |= {"evaluations": evaluations, "seconds": round(seconds, 3), **more}
        self.book.add({**row, "sigmas": schedule.sigmas.tolist()})

    def _search_limit(self, starts: list[Schedule], known: float) -> None:
        self.limit = self.scorer.limit(self.K, self.limit_path, (*starts, self.limit), again=True)
        self.best = min(self.error(self.limit), known)
        self.book.rebase(self.cell, self.best)
        self.record(self.limit, "limit", 0, self.limit.meta.get("seconds", 0.0))

    def look_again(self) -> None:
        """Search for the limit from where new searches ended too, if all of them ended far above it."""
        rows = [row for row in self.book.rows if key(row)[:3] == self.cell and row["method"] in SEARCHES]
        if self.new_schedules and min((row["gap"] for row in rows), default=1.0) > FAR:
            self._search_limit([Schedule(row["sigmas"], row["method"]) for row in rows], self.best)

    def run(self, method: str, seed: int) -> None:
        """One method with one seed, unless it is there."""
        if self.book.has(self.cell, method, seed):
            return
        if method == "limit":
            self.record(self.limit, "limit", 0, self.limit.meta.get("seconds", 0.0))
        elif method == "cma":
            self._evolve(seed)
        elif method == "direct":
            began = time.perf_counter()
            found = baseline("limit", self.problem, self.K, self.solver, self._training_noises())
            self.record(found, "direct", 0, time.perf_counter() - began)
        else:
            began = time.perf_counter()
            schedule = baseline(method, self.problem, self.K, self.solver)
            check_fit(schedule, self.problem)
            self.record(schedule, method, 0, time.perf_counter() - began)

    def _evolve(self, seed: int) -> None:
        """CMA-ES on the training noises."""
        pool = self._training_noises()
        budget = 300 if self.problem.is_image else 1000
        began = time.perf_counter()
        found = evolve(self.problem.denoiser, pool, self.K, self.solver, budget, seed)
        self.record(found, "cma", seed, time.perf_counter() - began)

    def _training_noises(self) -> ReferenceFlow:
        """Of the learners' number; on images a quarter, for more candidates from as many evaluations."""
        return self.problem.reference(256 if self.problem.is_image else None)

    def learn(self, method: str, workers: ProcessPoolExecutor) -> None:
        """train.py with every seed that is not there."""
        name, solver, K = self.cell
        runs = {}
        for seed in self.args.seeds:
            if not self.book.has(self.cell, method, seed):
                folder = self.args.runs / "__".join((*map(str, self.cell), method, str(seed)))
                options = [
                    "--problem",
                    name,
                    "--solver",
                    solver,
                    "--num-steps",
                    K,
                    "--seed",
                    seed,
                    "--no-limit",
                ]
                runs[seed] = folder, workers.submit(run_training_here, folder, method, *options)
        for seed, (folder, run) in runs.items():
            self._read(folder, run.result(), method, seed)

    def _read(self, folder: Path, summary: dict[str, Any], method: str, seed: int) -> None:
        with (folder / "progress.csv").open(newline="") as file:
            log = [row for row in csv.DictReader(file) if row["art/rmse"]]
        each = summary["denoiser_evals"] / summary["env_steps"]
        # The log measures on the same held-out noises; its last entry is not the average that is deployed.
        curve = []
        for row in log:
            done = int(row["time/total_timesteps"])
            curve.append([done, int(done * each), float(row["art/rmse"]) / self.best])
        self.record(
            Schedule.load(folder / "schedule.json"),
            method,
            seed,
            summary["seconds"],
            evaluations=summary["denoiser_evals"],
            env_steps=summary["env_steps"],
            curve=curve,
        )


def left_out(runner: CellRunner) -> bool:
    """Whether the cell has a grid without error; says so, and forgets the cell."""
    if not runner.problem.linear or runner.best >= NO_ERROR:
        return False
    runner.book.drop(runner.cell)
    problem, solver, K = runner.cell
    tqdm.write(f"{problem} {solver} K={K}: left out, a grid with an error of {runner.best:.1g} exists")
    return True


def header(args: Args) -> dict[str, Any]:
    """What made the records."""
    return {
        "command": "python benchmarks/leaderboard.py",
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared",
        "held_out": f"noises of seed {NOISE_SEED}",
    }


def main() -> None:
    """All cells, one after the other; the trainings of a cell side by side."""
    args = tyro.cli(Args, description=__doc__)
    args.records.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    book = Book(args.records, header(args))
    cells = [(p, s, K) for p in args.problems for K in args.steps for s in args.solvers]
    # Spawned, not forked: torch has threads.
    workers = ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"))
    for name, solver, K in tqdm(cells, disable=None):
        runner = CellRunner(make_problem(name), solver, K, args, book)
        if left_out(runner):
            continue
        for method in args.methods:
            if method in LEARNED:
                runner.learn(method, workers)
                continue
            for seed in args.cma_seeds if method == "cma" else (0,):
                runner.run(method, seed)
        runner.look_again()
        if left_out(runner):
            continue
        own = [r["gap"] for r in book.rows if key(r)[:4] == (name, solver, K, "art")]
        if own:
            own.sort()
            tqdm.write(f"{name} {solver} K={K}: ART-RL's gap {own[len(own) // 2]:.3f} (to {own[-1]:.3f})")
    workers.shutdown()


if __name__ == "__main__":
    main()
