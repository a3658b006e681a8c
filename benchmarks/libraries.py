"""What do default agents of RL libraries end with? The table of docs/libraries.md.

python -m benchmarks.libraries --names sb3 cleanrl
python -m benchmarks.libraries --names sbx --python ~/venvs/sbx/bin/python --seeds 0 1 2

Runs ``examples/train_NAME.py`` with its own number of steps, on one thread, and keeps what it prints in a file of
results, from which the table is written. Libraries that cannot be installed together take turns, each with the Python
of its environment. A run that is in the file already is not repeated.
"""

from __future__ import annotations

import csv
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro

from agents.schedule_policy import SchedulePolicy
from art_env._util.cli import run_command
from art_env._util.files import write_text
from art_env._util.names import check_name
from art_env.envs.dynamics import Dynamics
from benchmarks.records import RECORDS, RESULTS, ROOT, Cell, Leaderboard, number
from benchmarks.tables import Pages, markdown, write_pages

PAGE, TABLE = ROOT / "docs" / "libraries.md", "libraries"
CELL = Cell("mixture-1d", "heun", 5)
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
_TOOK = re.compile(r"^(.+): (\d+) steps in (\d+) s of processor time, (\d+) a second$", re.MULTILINE)
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
    results: Path = RESULTS / "libraries.csv"


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
    edm_return: float
    edm_rmse: float


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
    scores: list[float] = []
    for who in (took[1], "EDM"):
        found = re.search(_SCORE.format(re.escape(who)), text, re.MULTILINE)
        if found is None:
            raise ValueError(f"train_{name}.py printed no scores of {who}:\n{text}")
        scores += [float(found[1]), float(found[2])]
    return Run(name, version, took[1], seed, int(took[2]), float(took[3]), *scores)


def read(path: Path) -> list[Run]:
    """The runs in a file of results; none if it is not there."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        kinds = {"seed": int, "steps": int, **dict.fromkeys([f.name for f in fields(Run)][5:], float)}
        return [Run(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in csv.DictReader(file)]


def write(path: Path, runs: Iterable[Run]) -> None:
    """Write runs in the order of the table."""
    order = {name: i for i, name in enumerate(LIBRARIES)}
    rows = [asdict(run) for run in sorted(runs, key=lambda run: (order[run.name], run.seed))]
    lines = [",".join(field.name for field in fields(Run)), *(",".join(map(str, r.values())) for r in rows)]
    write_text(path, "\n".join(lines) + "\n")


def oracle_rmse() -> float:
    """RMSE of the leaderboard's oracle over the initial noises that the examples score policies on."""
    schedule = Leaderboard.read(RECORDS).oracle(CELL)
    assert schedule is not None
    dynamics = Dynamics(
        problem=CELL.problem, solver=CELL.solver, num_steps=CELL.num_steps, reward="global", action_range=10.0
    )
    assert dynamics.reference is not None
    actions = torch.tensor(SchedulePolicy(schedule, dynamics).actions, dtype=torch.float64)
    index = torch.arange(dynamics.reference.num_noises)
    returns = dynamics.returns(index, actions.expand(len(index), *actions.shape))
    problem = dynamics.problem
    return math.sqrt(-float(returns.mean())) * math.hypot(problem.sigma_end, problem.denoiser.sigma_data)


def table(runs: Sequence[Run], oracle: float) -> str:
    """A row for each library that has runs."""
    rows = []
    for name, library in LIBRARIES.items():
        own = [run for run in runs if run.name == name]
        if not own:
            continue
        returns, ratios = [run.mean_return for run in own], [run.rmse / oracle for run in own]
        rows.append(
            (
                f"{own[0].agent}",
                own[0].version,
                f"`{library.line}`",
                f"`{library.autoreset}`",
                f"{own[0].steps:,}",
                _median(returns),
                _median(ratios),
                f"{np.median([run.steps / max(run.seconds, 1) for run in own]):,.0f}",
            )
        )
    header = ("agent", "version", "environment", "autoreset", "steps", "mean return", "ratio", "steps/s")
    return markdown(header, rows, left=4)


def _median(values: Sequence[float]) -> str:
    """``median (low to high)``, or the one value."""
    low, high = number(min(values)), number(max(values))
    return number(float(np.median(values))) + (f" ({low} to {high})" if len(values) > 1 else "")


def page_tables(results: Path = RESULTS / "libraries.csv") -> Pages:
    """The table of docs/libraries.md."""
    return {PAGE: {TABLE: table(read(results), oracle_rmse())}}


def main(args: Args) -> None:
    """Run what is not in the file of results yet, then write the table."""
    for name in args.names:
        check_name("names", name, LIBRARIES)
    for name in args.names:
        for seed in args.seeds:
            runs = read(args.results)
            if any((run.name, run.seed) == (name, seed) for run in runs):
                continue
            run = run_example(name, seed, args.python)
            print(f"{run.agent}, seed {seed}: mean return {run.mean_return}, RMSE {run.rmse}", flush=True)
            write(args.results, [*read(args.results), run])
    write_pages(page_tables(args.results))


if __name__ == "__main__":
    program = "python -m benchmarks.libraries"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
