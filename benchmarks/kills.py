"""Kills trainings at random moments, resumes each, and compares it with the same training left alone.

python -m benchmarks.kills --kills 50 --algorithms art search
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
from collections.abc import Sequence
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
TIMESTEPS = {"art": 13_440, "search": 57_600, "ppo": 13_440, "sac": 9_600}


@dataclass(frozen=True)
class Args:
    """Kill trainings at random moments, resume them, and compare.

    Attributes:
        algorithms: of train.py.
        kills: trainings that are killed, of each algorithm.
        others: further trainings left alone, with other seeds, for the spread of the error.
        seed: of the moments.
        more: further options of train.py in one text, as in ``--more="--features rms --init search"``.
    """

    algorithms: tuple[str, ...] = ("art", "search")
    kills: int = 50
    others: int = 0
    seed: int = 0
    more: str = ""


class Killed(NamedTuple):
    """What became of a training that was killed: the moment, whether it could go on, what differs, what is left."""

    after: float
    error: str
    same: bool
    strays: int
    rmse: float


def train(algorithm: str, folder: Path, more: str, seed: int = 0) -> list[str]:
    """The command of a training."""
    steps = ["--total-timesteps", str(TIMESTEPS[algorithm])]
    options = [*OPTIONS, *steps, "--seed", str(seed), *more.split(), "--run-dir", str(folder)]
    return [sys.executable, "train.py", algorithm, *options]


def finish(command: Sequence[str]) -> str:
    """Run to the end; the last line of what it says on stderr if it fails, else nothing."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environ())
    return (done.stderr.strip().splitlines() or ["no word"])[-1] if done.returncode else ""


def environ() -> dict[str, str]:
    """One thread, and the modules of this clone."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def kill(command: Sequence[str], after: float) -> bool:
    """Start, and kill after so many seconds; False if it had ended by then."""
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, env=environ())
    time.sleep(after)
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


def resumed(command: Sequence[str], folder: Path) -> str:
    """Go on as the messages say: by ``--resume``, or from the start where nothing had begun."""
    if (folder / "summary.json").is_file():
        return ""
    if (folder / "config.json").is_file():
        return finish([sys.executable, "train.py", "--resume", str(folder)])
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


def trial(args: Args, algorithm: str, whole: Path, folder: Path, after: float) -> Killed | None:
    """Kill one training and go on with it; None if it had ended before."""
    command = train(algorithm, folder, args.more)
    if not kill(command, after):
        shutil.rmtree(folder)
        return None
    error = resumed(command, folder)
    strays = len(list(folder.rglob(".*"))) if folder.is_dir() else 0
    if error:
        return Killed(after, error, False, strays, float("nan"))
    return Killed(after, "", same(whole, folder), strays, rmse(folder))


def check(algorithm: str, error: str) -> None:
    """Refuse to measure with a training that fails by itself."""
    if error:
        raise ValueError(f"{algorithm}: {error}")


def measure(args: Args, algorithm: str, place: Path) -> str:
    """One line on one algorithm."""
    whole, rng = place / algorithm, random.Random(args.seed)
    began = time.perf_counter()
    check(algorithm, finish(train(algorithm, whole, args.more)))
    seconds, alone = time.perf_counter() - began, [rmse(whole)]
    for seed in range(1, args.others + 1):
        folder = place / f"{algorithm}-{seed}"
        check(algorithm, finish(train(algorithm, folder, args.more, seed)))
        alone.append(rmse(folder))
    killed: list[Killed] = []
    while len(killed) < args.kills:
        folder = place / f"{algorithm}-killed-{len(killed)}"
        found = trial(args, algorithm, whole, folder, rng.uniform(0.0, seconds))
        if found is not None:
            killed.append(found)
            shutil.rmtree(folder, ignore_errors=True)
            if found.error or not found.same or found.strays:
                print(f"{algorithm}: {found}", flush=True)
    errors = [k.rmse for k in killed]
    return (
        f"{algorithm}: {len(killed)} killed, {sum(not k.error for k in killed)} finished, "
        f"{sum(k.same for k in killed)} identical, {sum(bool(k.error) for k in killed)} dead ends, "
        f"{sum(k.strays for k in killed)} strays; RMSE {min(errors):.5g} to {max(errors):.5g}, "
        f"left alone {min(alone):.5g} to {max(alone):.5g} ({len(alone)} seeds)"
    )


def main(args: Args) -> None:
    """Print a line for each algorithm."""
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in args.algorithms:
            print(measure(args, algorithm, Path(folder)), flush=True)


if __name__ == "__main__":
    sys.exit(run_command(PROGRAM, lambda: main(tyro.cli(Args, prog=PROGRAM, description=__doc__))))
