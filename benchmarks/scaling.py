"""How much faster are two workers than one? The same training by 1 and 2 of them, side by side, and what they find.

python -m benchmarks.scaling

Walls of a machine with other jobs say little, so the CPU time of every process is measured too. The caller waits
while workers work, and on idle cores a training takes the caller's CPU time and that of the busiest worker, one after
the other (column ``path``). What Ray's own processes need, and the way of the messages, is in ``wall`` alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import tyro

from agents.art_rl import ARTRL
from agents.distributed.cluster import connect
from agents.distributed.workers import Workers
from agents.training import Settings, Training
from art_env._util.cli import run_command
from art_env.evaluation.results import read_csv, write_csv
from benchmarks.records import RESULTS
from benchmarks.running import make_settings
from benchmarks.tables import Pages, markdown

PROGRAM, FILE = "python -m benchmarks.scaling", "scaling.csv"


@dataclass(frozen=True)
class Args:
    """Train by several numbers of workers, in turn, and compare."""

    problem: str = "digits"
    solver: str = "heun"
    num_steps: int = 5
    algorithms: tuple[str, ...] = ("search", "art")
    workers: tuple[int, ...] = (1, 2)
    """Numbers of workers; 0: in this process, without them."""
    num_envs: tuple[int, ...] = (64, 512)
    """Rows that step together; the search, which has none, is measured once."""
    total_timesteps: int = 128_000
    """Env steps of a training, those of all rows."""
    num_noises: int = 256
    """Initial noises of the trainings."""
    repeats: int = 2
    """Trainings of each kind, four times as many searches; the median is shown."""
    ray_address: str | None = None
    """A Ray cluster that has the workers; by default they are on this machine."""
    out: Path = RESULTS / FILE


@dataclass(frozen=True)
class Line:
    """One training: rows, seconds of the wall, CPU seconds, the load of the machine, and the actions found."""

    algorithm: str
    num_envs: int
    workers: int
    repeat: int
    wall: float
    caller: float
    busiest: float
    path: float
    load: float
    actions: str


class Clock:
    """Tells the CPU seconds of the process that it is in."""

    def now(self, place: int) -> tuple[int, float]:
        """The process, and its CPU seconds so far; the pause has every worker answer once."""
        time.sleep(0.2)
        return os.getpid(), time.process_time()


def worker_seconds(workers: Workers | None) -> dict[int, float]:
    """CPU seconds of each worker so far."""
    if workers is None:
        return {}
    found: dict[int, float] = {}
    while len(found) < workers.count:
        found |= dict(workers.hold(Clock()).map("now", [(i,) for i in range(workers.count)]))
    return found


def found_by(training: Training) -> np.ndarray:
    """Train, and return the actions that were found, ``[K, A]``."""
    if training.settings.algorithm == "art":
        model, _ = training.fit()
        assert isinstance(model, ARTRL)
        assert model.policy.table is not None
        return np.asarray(model.policy.table.values.detach().numpy(), np.float64)
    return training.search().actions


def measure(settings: Settings, repeat: int) -> Line:
    """Train once; exact trajectories are there, and workers have been started."""
    training = Training(settings)
    before, caller, wall = worker_seconds(training.workers), time.process_time(), time.perf_counter()
    actions = found_by(training)
    wall, caller = time.perf_counter() - wall, time.process_time() - caller
    busiest = max((s - before[pid] for pid, s in worker_seconds(training.workers).items()), default=0.0)
    shown = " ".join(f"{a:.9g}" for a in actions.ravel())
    load, count = os.getloadavg()[0], settings.workers or 0
    name, rows = settings.algorithm, settings.num_envs or 0
    return Line(name, rows, count, repeat, wall, caller, busiest, caller + busiest, load, shown)


def table(lines: Sequence[Line]) -> str:
    """Medians of each number of workers, and how many times faster than the first one it is."""
    rows = []
    for algorithm, num_envs in dict.fromkeys((line.algorithm, line.num_envs) for line in lines):
        mine = [line for line in lines if (line.algorithm, line.num_envs) == (algorithm, num_envs)]
        name = "search" if algorithm == "search" else f"{algorithm}, {num_envs} rows"
        first, *_ = counts = tuple(dict.fromkeys(line.workers for line in mine))
        medians = {
            n: {
                key: median(getattr(line, key) for line in mine if line.workers == n)
                for key in ("wall", "caller", "busiest", "path", "load")
            }
            for n in counts
        }
        actions = {
            n: np.array([[*map(float, x.actions.split())] for x in mine if x.workers == n]) for n in counts
        }
        for n, seconds in medians.items():
            gains = [medians[first][key] / seconds[key] for key in ("wall", "path")]
            off = float(np.abs(actions[n] - actions[first][:1]).max())
            numbers = [f"{seconds[key]:.2f}" for key in ("wall", "caller", "busiest", "path")]
            ends = [f"{gains[0]:.2f}", f"{gains[1]:.2f}", f"{seconds['load']:.1f}", f"{off:.1g}"]
            rows.append((name, str(n), *numbers, *ends))
    head = ("algorithm", "workers", "wall s", "caller CPU s", "busiest worker CPU s", "path s")
    return markdown((*head, "wall gain", "path gain", "load", "actions differ by"), rows)


def page_tables(results: Path = RESULTS) -> Pages:
    """The table of docs/scaling.md, if it has been measured."""
    path = results / FILE
    return {Path("docs/scaling.md"): {"scaling": table(read_csv(path, Line))}} if path.is_file() else {}


def trainings(args: Args) -> Iterator[tuple[str, int, int, int]]:
    """Algorithm, rows, repeat and number of workers of each training, in turn."""
    for algorithm in args.algorithms:
        for rows in args.num_envs[:1] if algorithm == "search" else args.num_envs:
            # A search is short, and the speed of a shared machine changes within a minute.
            for repeat in range(args.repeats * (4 if algorithm == "search" else 1)):
                for workers in args.workers if repeat % 2 == 0 else args.workers[::-1]:
                    yield algorithm, rows, repeat, workers


def main(args: Args) -> None:
    """Train in turn, write the lines, print the table."""
    torch.set_num_threads(1)
    connect(args.ray_address, sum(args.workers))  # all of them stay; those that wait cost nothing
    lines = []
    for algorithm, num_envs, repeat, workers in trainings(args):
        settings = make_settings(
            algorithm,
            problem=args.problem,
            solver=args.solver,
            num_steps=args.num_steps,
            num_envs=num_envs,
            num_noises=args.num_noises,
            total_timesteps=args.total_timesteps,
            workers=workers or None,
        )
        lines.append(measure(settings, repeat))
        print(lines[-1], flush=True)
    write_csv(sorted(lines, key=lambda line: args.workers.index(line.workers)), args.out, Line)
    print(table(read_csv(args.out, Line)))


if __name__ == "__main__":
    sys.exit(run_command(PROGRAM, lambda: main(tyro.cli(Args, prog=PROGRAM, description=__doc__))))
