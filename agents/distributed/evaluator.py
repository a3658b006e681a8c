"""The evaluator whose samples are made by workers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from agents.distributed.workers import Workers
from art_env.adapters.counting import CountedDenoiser
from art_env.evaluation.evaluator import Evaluator
from art_env.problems.problem import Problem
from art_env.schedules.schedule import Schedule


class ShardedEvaluator(Evaluator):
    """``Evaluator`` whose samples are made by workers: batches of all seed sets at once.

    The batches are those of one process, so scores are the same to the bit for any number of workers. What travels is
    initial noises and samples. Metrics are computed here, from all samples together.

    Args:
        workers: they sample.
        problem, settings: as ``Evaluator``.
    """

    def __init__(self, workers: Workers, problem: Problem, *settings: Any, **more: Any) -> None:
        super().__init__(problem, *settings, **more)
        counter = problem.denoiser if isinstance(problem.denoiser, CountedDenoiser) else None
        sampler = copy.copy(self)
        sampler._fid = None  # a large network, and the copies compute no metrics
        self._held = workers.hold(sampler, counter)

    def _sample_batches(self, batches: Sequence[tuple[Schedule, Tensor, int, int]]) -> list[Tensor]:
        return self._held.map("sample_batch", batches)
