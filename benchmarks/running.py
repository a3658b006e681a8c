"""Where the benchmarks start trainings and keep oracles: with a run folder, or without one.

python -m benchmarks.leaderboard --problems gaussian-1d --solvers euler --steps 3 --methods oracle art --seeds 0
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from agents.distill import distill
from agents.training import COMMANDS, ListSearchSettings, Settings, Training, train
from agents.training.report import write
from art_env._util.names import look_up
from art_env.evaluation.evaluator import Evaluator
from art_env.schedules import Schedule


def run_training(folder: Path, algorithm: str, **options: object) -> dict[str, Any]:
    """Train into a run folder, unless the run there has finished, and return its summary.

    Args:
        folder: the run folder; what a broken run has left there is removed.
        algorithm, options: those of train.py, such as ``num_steps=5`` or ``oracle=False``.

    Raises:
        ValueError: train.py refuses the options.
    """
    summary = folder / "summary.json"
    if not summary.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write(train(make_settings(algorithm, **options, progress=False, run_dir=folder)))
    return json.loads(summary.read_text())


class Trained(NamedTuple):
    """A schedule, and what it took: seconds, and evaluations of the denoiser on the training noises."""

    schedule: Schedule
    seconds: float
    evaluations: int


def short_training(algorithm: str, **options: object) -> Trained:
    """Train without run folder, table and checkpoints."""
    began = time.perf_counter()
    training = Training(make_settings(algorithm, **options))
    if isinstance(training.settings, ListSearchSettings):
        found = training.search()
        return Trained(found.schedule, time.perf_counter() - began, found.evaluations)
    model, evaluations = training.fit()
    seconds = time.perf_counter() - began
    return Trained(distill(model, training.dynamics, 64), seconds, evaluations)


def make_settings(algorithm: str, **options: Any) -> Settings:
    """Settings of a training; ``num_steps`` may be a number.

    Raises:
        ValueError, TypeError: an unknown algorithm or option, or a bad value.
    """
    if isinstance(options.get("num_steps"), int):
        options["num_steps"] = (options["num_steps"],)
    return look_up("algorithm", algorithm, COMMANDS)(**options)


def kept_oracle(evaluator: Evaluator, K: int, folder: Path) -> Schedule:
    """The oracle of the evaluator's problem and solver at K, computed once and kept in ``folder``."""
    return evaluator.oracle(
        K, folder / f"oracle__{evaluator.problem.name}__{evaluator.solver.name}__{K}.json"
    )
