"""What do default agents of RL libraries end with? The table of docs/libraries.md.

python -m benchmarks.libraries --names sb3 cleanrl
python -m benchmarks.libraries --names sbx --python ~/venvs/sbx/bin/python --seeds 0 1 2

Runs ``examples/train_NAME.py`` with its own number of steps, on one thread, and keeps what it prints in a file of
results, from which the table is written. Libraries that cannot be installed together take turns, each with the Python
of its environment. A run that is in the file already is not repeated.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import tyro

from agents.schedule_policy import SchedulePolicy
from art_env._util.cli import run_command
from art_env._util.names import check_name
from art_env.envs.dynamics import Dynamics
from art_env.envs.rewards import GlobalReward
from art_env.evaluation.results import read_csv, write_csv
from art_env.schedules.registry import make_schedule
from benchmarks.records import ORACLE, RECORDS, RESULTS, ROOT, Cell, Leaderboard, amount
from benchmarks.reward_thresholds import squared_errors
from benchmarks.second_control import spread
from benchmarks.tables import Pages, markdown, write_pages

PAGE, TABLE, FILE = Path("docs/libraries.md"), "libraries", "libraries.csv"
# As in examples/report.py.
ID = "art_env:ART/Mixture1D-v1"
LISTS = {"edm": "EDM's list", "closed_form": "action 0: the closed form", ORACLE: "oracle"}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
_TOOK = re.compile(r"^(.+): (\d+) steps in ([\d.]+) s of processor time, (\d+) a second$", re.MULTILINE)
_SCORE = r"^{}: mean return (\S+), RMSE (\S+)$"


class Library(NamedTuple):
    """A library: its distribution on PyPI, how it takes the environment, and who resets rows that have ended."""

    distribution: str
    line: str
    autoreset: str


LIBRARIES = {
    "sb3": Library("stable-baselines3", "to_sb3(gym.make_vec(ID, 8, autoreset_mode=...))", "SAME_STEP"),
    "sb3_contrib": Library("sb3-contrib", "to_sb3(gym.make_vec(ID, 8, autoreset_mode=...))", "SAME_STEP"),
    "sbx": Library("sbx-rl", "to_sb3(gym.make_vec(ID, 8, autoreset_mode=...))", "SAME_STEP"),
    "cleanrl": Library("torch", "gym.make_vec(ID, 8, autoreset_mode=...)", "SAME_STEP"),
    "torchrl": Library("torchrl", "GymWrapper(gym.make_vec(ID, 64, autoreset_mode=...))", "DISABLED"),
    "skrl": Library("skrl", "wrap_env(gym.make_vec(ID, 64, autoreset_mode=...), 'gymnasium')", "SAME_STEP"),
    "tianshou": Library("tianshou", "to_tianshou(gym.make_vec(ID, 64, autoreset_mode=...))", "DISABLED"),
    "agilerl": Library("agilerl", "gym.make_vec(ID, 64, autoreset_mode=...)", "SAME_STEP"),
    "rllib": Library("ray", "PPOConfig().environment(ID)", "NEXT_STEP"),
}


@dataclass
class Args:
    """Run the examples of libraries, and write the table."""

    names: tuple[str, ...] = ()
    """Libraries to run, as in examples/train_NAME.py; none: write the table alone."""
    seeds: tuple[int, ...] = (0, 1, 2)
    python: Path = Path(sys.executable)
    """The Python of an environment that has the libraries."""
    results: Path = RESULTS / FILE


@dataclass(frozen=True)
class Run:
    """What one example printed."""

    name: str
    version: str
    agent: str
    seed: int
    steps: int
    seconds: float
    mean_return: float
    rmse: float


def run_example(name: str, seed: int, python: Path) -> Run:
    """Run the example of a library in a process of its own.

    Raises:
        RuntimeError: it fails; the text has its error.
    """
    env = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    script = str(ROOT / "examples" / f"train_{name}.py")
    text = _output([str(python), script, "--seed", str(seed)], env)
    ask = f"import importlib.metadata as m; print(m.version({LIBRARIES[name].distribution!r}))"
    return parse(name, _output([str(python), "-c", ask], env).strip(), seed, text)


def _output(command: Sequence[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} has failed:\n{done.stderr}")
    return done.stdout


def parse(name: str, version: str, seed: int, text: str) -> Run:
    """Read what an example prints.

    Raises:
        ValueError: a line is missing.
    """
    took = _TOOK.search(text)
    if took is None:
        raise ValueError(f"train_{name}.py printed no number of steps:\n{text}")
    scores = re.search(_SCORE.format(re.escape(took[1])), text, re.MULTILINE)
    if scores is None:
        raise ValueError(f"train_{name}.py printed no scores:\n{text}")
    agent, steps, seconds = took[1], int(took[2]), float(took[3])
    return Run(name, version, agent, seed, steps, seconds, float(scores[1]), float(scores[2]))


def read(path: Path) -> list[Run]:
    """The runs in a file of results; none if it is not there."""
    return read_csv(path, Run) if path.is_file() else []


def write(path: Path, runs: Iterable[Run]) -> None:
    """Write runs in the order of the table."""
    order = [*LIBRARIES, *LISTS]
    write_csv(sorted(runs, key=lambda run: (order.index(run.name), run.seed)), path, Run)


def play_lists() -> list[Run]:
    """Lists of noise levels, over the initial noises that the examples score policies on."""
    dynamics = Dynamics(**{**gym.spec(ID.partition(":")[2]).kwargs, "action_range": 10.0})
    problem, rule = dynamics.problem, dynamics.reward_rule
    assert isinstance(rule, GlobalReward)
    scale = math.hypot(problem.sigma_end, problem.denoiser.sigma_data)
    oracle = Leaderboard.read(RECORDS).oracle(Cell(problem.name, dynamics.solver.name, dynamics.num_steps))
    assert oracle is not None
    runs = []
    for name, title in LISTS.items():
        schedule = oracle
        if name != ORACLE:
            schedule = make_schedule(name, problem, dynamics.num_steps, dynamics.solver)
        actions = torch.tensor(SchedulePolicy(schedule, dynamics).actions, dtype=torch.float64)
        errors = squared_errors(dynamics, actions)
        mean_return, rmse = -float(rule.cost(errors).mean()), scale * float(errors.mean().sqrt())
        runs.append(Run(name, "-", title, 0, 0, 0.0, mean_return, rmse))
    return runs


def table(runs: Sequence[Run]) -> str:
    """A row for each library that has runs, and for each list."""
    oracle = next(run.rmse for run in runs if run.name == ORACLE)
    rows = []
    for name in (*LIBRARIES, *LISTS):
        own = [run for run in runs if run.name == name]
        if not own:
            continue
        library = LIBRARIES.get(name)
        setting = ("-", "-", "-")
        if library:
            package = f"{library.distribution} {own[0].version}"
            setting = (package, f"`{library.line}`", f"`{library.autoreset}`")
        scores = (spread([run.mean_return for run in own]), spread([run.rmse / oracle for run in own]))
        speed = float(np.median([run.steps / max(run.seconds, 1) for run in own]))
        cost = (str(len(own)), f"{own[0].steps:,}", amount(speed)) if library else "---"
        rows.append((own[0].agent, *setting, *scores, *cost))
    header = ["agent", "package", "environment", "autoreset", "return", "ratio", "seeds", "steps", "steps/s"]
    return markdown(header, rows, left=4)


def page_tables(results: Path = RESULTS / FILE) -> Pages:
    """The table of docs/libraries.md."""
    return {PAGE: {TABLE: table(read(results))}} if results.is_file() else {}


def main(args: Args) -> None:
    """Run what is not in the file of results yet; without names, write the table."""
    for name in args.names:
        check_name("names", name, LIBRARIES)
    if not any(run.name == ORACLE for run in read(args.results)):
        write(args.results, [*read(args.results), *play_lists()])
    for name, seed in ((name, seed) for name in args.names for seed in args.seeds):
        if any((run.name, run.seed) == (name, seed) for run in read(args.results)):
            continue
        run = run_example(name, seed, args.python)
        print(f"{run.agent}, seed {seed}: mean return {run.mean_return}, RMSE {run.rmse}", flush=True)
        write(args.results, [*read(args.results), run])
    if not args.names:
        write_pages(page_tables(args.results))


if __name__ == "__main__":
    program = "python -m benchmarks.libraries"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
