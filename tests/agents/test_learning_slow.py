"""The published bars of learning. Minutes: run with ``-m slow``."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.schedules import Schedule
from art_env.schedules.registry import make_schedule

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def _train(folder: Path, *args: object) -> dict:
    """A run of train.py with its defaults but for ``args``; its summary."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", "--run-dir", str(folder), "--no-progress", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "summary.json").read_text())


def _cpu_seconds() -> float:
    """Of the children: on one thread the seconds of an idle core, whatever else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _w2(schedule: Schedule) -> float:
    evaluator = Evaluator(make_problem("gaussian-1d"), "euler")
    return next(row.mean for row in evaluator.rows(schedule) if row.metric == "w2")


@pytest.mark.parametrize("seed", range(10))
def test_gaussian_trained_once_and_resampled(seed: int, tmp_path) -> None:
    args = ["--problem", "gaussian-1d", "--solver", "euler", "--reward", "euler", "--num-steps", 20]
    began = _cpu_seconds()
    summary = _train(tmp_path / "run", *args, "--seed", seed)
    seconds = _cpu_seconds() - began
    schedule = Schedule.load(tmp_path / "run" / "schedule.json")
    problem = make_problem("gaussian-1d")
    ratios = {}
    for K in (2, 5, 10, 20, 50, 100):
        ratios[K] = _w2(schedule.resample(K)) / _w2(make_schedule("closed_form", problem, K))
    print(f"seed {seed}: {seconds:.0f} s of CPU, W2 over the closed form's {ratios}")
    assert max(ratios.values()) <= 1.02, ratios
    assert summary["seed"] == seed
    assert seconds < 60


@pytest.mark.parametrize("K", [2, 5, 10, 20])
@pytest.mark.parametrize("seed", range(10))
def test_gaussian_final_error_per_K(seed: int, K: int, tmp_path) -> None:
    args = ["--problem", "gaussian-1d", "--solver", "euler", "--reward", "global", "--num-steps", K]
    _train(tmp_path / "run", *args, "--seed", seed, "--no-oracle")
    learned = _w2(Schedule.load(tmp_path / "run" / "schedule.json"))
    ratio = learned / _w2(make_schedule("arctan", make_problem("gaussian-1d"), K))
    print(f"seed {seed}, K = {K}: W2 over the optimum's {ratio:.4f}")
    assert ratio <= 1.02


@cache
def _mixture_ratio(solver: str, K: int, seed: int, folder: Path) -> float:
    args = ["--problem", "mixture-1d", "--reward", "global", "--solver", solver, "--num-steps", K]
    return _train(folder / f"{solver}{K}-{seed}", *args, "--seed", seed)["ratio"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mixture")


BARS = [("euler", 5, 1.10), ("euler", 10, 1.10), ("heun", 5, 1.15)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("solver", "K", "bar"), BARS)
def test_mixture_run(solver: str, K: int, bar: float, seed: int, folder) -> None:
    """One seed: the oracle is an oracle, and the result far better than any grid known beforehand."""
    ratio = _mixture_ratio(solver, K, seed, folder)
    print(f"{solver}, K = {K}, seed {seed}: ratio {ratio:.4f} (median must be <= {bar})")
    assert 1.0 <= ratio < 1.6


@pytest.mark.parametrize(("solver", "K", "bar"), BARS)
def test_mixture_median_ratio(solver: str, K: int, bar: float, folder) -> None:
    ratios = [_mixture_ratio(solver, K, seed, folder) for seed in range(10)]
    print(f"{solver}, K = {K}: median ratio {median(ratios):.4f} of {sorted(ratios)}")
    assert min(ratios) >= 1.0
    assert median(ratios) <= bar
