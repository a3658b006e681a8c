"""Short trainings on one problem, solver and number of steps: the gap and the seconds of each."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from running import kept_limit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.distill import distill  # noqa: E402
from art_env.evaluation.evaluator import Scorer  # noqa: E402
from art_env.problems.library import make_problem  # noqa: E402


@dataclass
class TrialArgs:
    """What is trained on."""

    problem: str = "mixture-1d"
    solver: str = "heun"
    num_steps: int = 5
    limits: Path = Path("runs/efficiency")
    """Where the limit is kept."""


class Trials:
    """Trainings as train.py's, without run folder and callbacks; one torch thread."""

    def __init__(self, args: TrialArgs) -> None:
        torch.set_num_threads(1)
        problem, K = make_problem(args.problem), args.num_steps
        self.cell = (problem.name, args.solver, K)
        self.options = ("--problem", args.problem, "--solver", args.solver, "--num-steps", K)
        self.scorer = Scorer(problem, args.solver, (0,), metrics=())
        self.limit = kept_limit(self.scorer, K, args.limits)
        problem.reference()  # not part of the first training

    def run(self, algorithm: str, *options: object) -> tuple[float, float]:
        """Gap on held-out noises, and seconds, of a training with these ``options`` of train.py."""
        train = importlib.import_module("train")
        began = time.perf_counter()
        args = train.parse([algorithm, *map(str, (*self.options, *options))])
        settings, dynamics, total = train.check(args)
        model = train.new_model(args, train.make_env(args, settings, dynamics, args.seed), total)
        model.learn(total)
        seconds = time.perf_counter() - began
        return self.scorer.gap(distill(model, dynamics, 64), self.limit), round(seconds, 2)
