"""Exact trajectories, integrated by workers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from agents.distributed.workers import Held, Workers
from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion.ode import ReferenceFlow
from art_env.problems.problem import Problem

# Rows that a worker integrates at once, at least, and how many such parts there are at most: the same for any number
# of workers, so that results are too. The last bits of a network's output depend on the size of its batch.
ROWS, PARTS = 128, 16


class ShardedIntegrator:
    """An ``integrator`` of a ``Problem`` that has workers do it.

    A copy of the problem in another process integrates by itself.

    Args:
        workers: they integrate.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._held: dict[Problem, Held] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def __call__(self, problem: Problem, x: Tensor, num_knots: int) -> ReferenceFlow:
        """See ``Problem.integrator``."""
        if problem not in self._held:
            counter = problem.denoiser if isinstance(problem.denoiser, CountedDenoiser) else None
            self._held[problem] = self.workers.hold(problem, counter)
        rows = max(ROWS, math.ceil(len(x) / PARTS))
        parts = self._held[problem].map("integrate", [(part, num_knots) for part in x.split(rows)])
        return ReferenceFlow(
            parts[0].sigmas,
            torch.cat([part.x for part in parts], 1),
            torch.cat([part.slope for part in parts], 1),
            parts[0].sigma_end,
        )


def with_workers(problem: Problem, workers: Workers) -> Problem:
    """The same problem, whose exact trajectories workers integrate."""
    return replace(problem, integrator=ShardedIntegrator(workers))
