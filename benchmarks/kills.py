"""Kills trainings at random moments, resumes each, and compares it with the same training left alone.

python -m benchmarks.kills --kills 50 --algorithms art search
python -m benchmarks.kills --kills 12 --workers 2 --signals SIGKILL SIGTERM SIGINT
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from agents.tensor_file import read_tree
from art_env._util.cli import run_command
from art_env.schedules import Schedule

ROOT = Path(__file__).parents[1]
PROGRAM = "python -m benchmarks.kills"
# Trainings of a few seconds, beside the imports.
OPTIONS = (
    "--problem",
    "mixture-1d",
    "--num-steps",
    "3",
    "--num-envs",
    "32",
    "--num-noises",
    "64",
    "--no-progress",
)
TIMESTEPS = {"art": 13_440, "search": 57_600, "evolution": 57_600, "ppo": 13_440, "sac": 9_600}
# How long processes that a killed training had started may be there after it: Ray's agents look for it now and then.
GRACE = 120.0


@dataclass(frozen=True)
class Args:
    """Kill trainings at random moments, resume them, and compare.

    Attributes:
        algorithms: of train.py.
        kills: trainings that are killed, of each algorithm.
        others: further trainings left alone, with other seeds, for the spread of the error.
        seed: of the moments.
        signals: what kills, in turn: SIGKILL, SIGTERM, SIGINT.
        workers: of each training; 0: it works alone.
        resume_workers: of the rest of a killed one; None: as many.
        more: further options of train.py in one text, as in ``--more="--features rms --init search"``.
    """

    algorithms: tuple[str, ...] = ("art", "search")
    kills: int = 50
    others: int = 0
    seed: int = 0
    signals: tuple[str, ...] = ("SIGKILL",)
    workers: int = 0
    resume_workers: int | None = None
    more: str = ""


class Killed(NamedTuple):
    """What became of a training that was killed.

    Attributes:
        after: seconds from its start.
        by: the signal.
        error: why it could not go on; empty if it could.
        same: whether it ended as the training that was left alone, to the bit.
        off: relative difference of its noise levels.
        strays: temporary files that are left.
        orphans: processes that are left.
        rmse: of its schedule.
    """

    after: float
    by: str
    error: str
    same: bool
    off: float
    strays: int
    orphans: int
    rmse: float

    @property
    def sound(self) -> bool:
        """Whether it could go on, and nothing is left behind."""
        return not (self.error or self.strays or self.orphans)


def train(algorithm: str, folder: Path, more: str, seed: int = 0, workers: int = 0) -> list[str]:
    """The command of a training."""
    steps = ["--total-timesteps", str(TIMESTEPS[algorithm])]
    options = [*OPTIONS, *steps, "--seed", str(seed), *more.split(), "--run-dir", str(folder)]
    return [sys.executable, "train.py", algorithm, *options, *shared_by(workers)]


def shared_by(workers: int) -> list[str]:
    """The option of so many workers."""
    return ["--workers", str(workers)] if workers else []


def finish(command: Sequence[str]) -> str:
    """Run to the end; the last line of what it says on stderr if it fails, else nothing."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environ())
    return (done.stderr.strip().splitlines() or ["no word"])[-1] if done.returncode else ""


def environ() -> dict[str, str]:
    """One thread, and the modules of this clone."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def kill(command: Sequence[str], wait: Callable[[], object], number: int) -> tuple[int, set[int]]:
    """Start, and send a signal after ``wait``; the exit code, and the processes that it had started."""
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, env=environ())
    wait()
    started = descendants(child.pid)
    child.send_signal(number)
    return child.wait(), started


def processes() -> dict[int, int]:
    """The parent of each process that is there."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    lines = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid): int(parent) for pid, parent, state in lines if not state.startswith("Z")}


def descendants(pid: int) -> set[int]:
    """The processes below one."""
    parents, found, new = processes(), set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def left_of(started: set[int], grace: float = GRACE) -> set[int]:
    """Those of some processes that are still there after a while."""
    began = time.monotonic()
    while (left := started & processes().keys()) and time.monotonic() - began < grace:
        time.sleep(0.5)
    return left


def resumed(command: Sequence[str], folder: Path, workers: int = 0) -> str:
    """Go on as the messages say: by ``--resume``, or from the start where nothing had begun."""
    if (folder / "summary.json").is_file():
        return ""
    if (folder / "config.json").is_file():
        return finish([sys.executable, "train.py", "--resume", str(folder), *shared_by(workers)])
    return finish(command)


def same(one: Path, other: Path) -> bool:
    """Whether two run folders hold the same schedule, scores and agent, to the bit."""
    first, second = (Schedule.load(folder / "schedule.json") for folder in (one, other))
    if not np.array_equal(first.sigmas, second.sigmas):
        return False
    if (one / "results.csv").read_bytes() != (other / "results.csv").read_bytes():
        return False
    agents = [folder / "agent.safetensors" for folder in (one, other)]
    if not agents[0].is_file():
        return True
    tensors = [read_tree(path, "agent", "train it again")["policy"] for path in agents]
    return all(bool((tensors[0][name] == tensors[1][name]).all()) for name in tensors[0])


def rmse(folder: Path) -> float:
    """Of the schedule in a run folder."""
    rows = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()]
    place = {name: rows[0].index(name) for name in ("schedule", "metric", "mean")}
    name = Schedule.load(folder / "schedule.json").name
    (found,) = (
        r[place["mean"]] for r in rows if r[place["schedule"]] == name and r[place["metric"]] == "rmse"
    )
    return float(found)


def off(one: Path, other: Path) -> float:
    """The largest relative difference between the noise levels of two run folders."""
    first, second = (Schedule.load(folder / "schedule.json").sigmas for folder in (one, other))
    return float(np.abs(second - first).max() / np.abs(first).max()) if len(first) == len(second) else np.inf


def trial(args: Args, algorithm: str, whole: Path, folder: Path, after: float, by: str) -> Killed | None:
    """Kill one training and go on with it; None if it had ended before."""
    command = train(algorithm, folder, args.more, workers=args.workers)
    number = signal.Signals[by]
    code, started = kill(command, lambda: time.sleep(after), number)
    if code == 0:
        shutil.rmtree(folder)
        return None
    workers = args.workers if args.resume_workers is None else args.resume_workers
    error = "" if code in (-number, 128 + number) else f"it ended with {code}"
    error = error or resumed(command, folder, workers)
    strays = len(list(folder.rglob(".*"))) if folder.is_dir() else 0
    left = strays, len(left_of(started))
    if error:
        return Killed(after, by, error, False, np.inf, *left, float("nan"))
    return Killed(after, by, "", same(whole, folder), off(whole, folder), *left, rmse(folder))


def check(algorithm: str, error: str) -> None:
    """Refuse to measure with a training that fails by itself."""
    if error:
        raise ValueError(f"{algorithm}: {error}")


def measure(args: Args, algorithm: str, place: Path) -> str:
    """One line on one algorithm."""
    whole, rng = place / algorithm, random.Random(args.seed)
    began = time.perf_counter()
    check(algorithm, finish(train(algorithm, whole, args.more, workers=args.workers)))
    seconds, alone = time.perf_counter() - began, [rmse(whole)]
    for seed in range(1, args.others + 1):
        folder = place / f"{algorithm}-{seed}"
        check(algorithm, finish(train(algorithm, folder, args.more, seed, args.workers)))
        alone.append(rmse(folder))
    killed: list[Killed] = []
    while len(killed) < args.kills:
        folder = place / f"{algorithm}-killed-{len(killed)}"
        signalled = args.signals[len(killed) % len(args.signals)]
        found = trial(args, algorithm, whole, folder, rng.uniform(0.0, seconds), signalled)
        if found is not None:
            killed.append(found)
            shutil.rmtree(folder, ignore_errors=True)
            if not (found.same and found.sound):
                print(f"{algorithm}: {found}", flush=True)
    errors = [k.rmse for k in killed]
    return (
        f"{algorithm}: {len(killed)} killed, {sum(not k.error for k in killed)} finished, "
        f"{sum(k.same for k in killed)} identical (all within {max(k.off for k in killed):.1g}), "
        f"{sum(bool(k.error) for k in killed)} dead ends, {sum(k.strays for k in killed)} strays, "
        f"{sum(k.orphans for k in killed)} orphans; RMSE {min(errors):.5g} to {max(errors):.5g}, "
        f"left alone {min(alone):.5g} to {max(alone):.5g} ({len(alone)} seeds)"
    )


def main(args: Args) -> None:
    """Print a line for each algorithm."""
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in args.algorithms:
            print(measure(args, algorithm, Path(folder)), flush=True)


if __name__ == "__main__":
    sys.exit(run_command(PROGRAM, lambda: main(tyro.cli(Args, prog=PROGRAM, description=__doc__))))
