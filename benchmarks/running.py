"""One run of train.py, and the limit of its cell: what every table is made of."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from art_env.evaluation.evaluator import Scorer
    from art_env.schedules import Schedule

ROOT = Path(__file__).resolve().parents[1]


def run_training(folder: Path, *options: object) -> dict[str, Any]:
    """The summary of the run in ``folder``, which is made now, as a user starts it, unless it has finished before.

    Args:
        folder: its run folder; what a broken run has left there is removed.
        options: of train.py, the algorithm first.

    Raises:
        RuntimeError: train.py failed; its command and its error.
    """
    return _unless_finished(folder, options, _in_a_process)


def run_training_here(folder: Path, *options: object) -> dict[str, Any]:
    """As ``run_training``, in this process: imports and exact trajectories are not made again for every run."""
    return _unless_finished(folder, options, _here)


def _unless_finished(
    folder: Path, options: Iterable[object], run: Callable[[list[str]], None]
) -> dict[str, Any]:
    summary = folder / "summary.json"
    if not summary.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        run([*map(str, options), "--no-progress", "--run-dir", str(folder.resolve())])
    return json.loads(summary.read_text())


def _in_a_process(argv: list[str]) -> None:
    command = [sys.executable, "train.py", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def _here(argv: list[str]) -> None:
    train = importlib.import_module("train")
    with contextlib.redirect_stdout(io.StringIO()):
        train.train(train.parse(argv))


def cell(text: str) -> tuple[str, str, int]:
    """``problem:solver:K``, as options name a cell.

    Raises:
        ValueError: another text.
    """
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdecimal():
        raise ValueError(f"cells: {text!r} must be problem:solver:K, such as mixture-1d:heun:5")
    return parts[0], parts[1], int(parts[2])


def rounded(values: Iterable[float]) -> list[float]:
    """To the five digits that a file of results keeps."""
    return [float(f"{value:.5g}") for value in values]


def kept_limit(scorer: Scorer, K: int, folder: Path) -> Schedule:
    """The limit of the scorer's problem and solver at K, computed once and kept in ``folder``."""
    return scorer.limit(K, folder / f"limit__{scorer.problem.name}__{scorer.solver.name}__{K}.json")
