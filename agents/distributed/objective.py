"""The objective of a search, evaluated by workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.distributed.shares import places_of
from agents.distributed.workers import Workers
from agents.schedule_search.objective import Objective
from art_env.envs.dynamics import Dynamics


class ShardedObjective(Objective):
    """``Objective`` whose episodes are played by workers, each from its share of the initial noises.

    Where returns are those of whole groups of noises, each plays its share of the candidates instead. What travels
    is actions, numbers of noises, and returns; for a least-squares step a matrix of scalar products from each worker.

    Args:
        dynamics, batch: as ``Objective``.
        workers: they play.
    """

    def __init__(self, dynamics: Dynamics, batch: int | None, workers: Workers) -> None:
        super().__init__(dynamics, batch)
        self._workers, self._counter = workers, dynamics.stepper.counter
        self._held = workers.hold(Objective(dynamics, batch), self._counter)

    def __call__(self, actions: np.ndarray, noises: np.ndarray) -> np.ndarray:
        """See ``ObjectiveFunction``."""
        count = self._workers.count
        if not self.paired:
            shares = [(actions[p], noises) for p in places_of(len(actions), count)]
            return np.concatenate(self._played("__call__", shares))
        shares = [(actions, noises[p]) for p in places_of(len(noises), count)]
        return np.concatenate(self._played("__call__", shares), axis=1)

    def products(self, actions: np.ndarray, noises: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See ``ObjectiveFunction``."""
        places = places_of(len(noises), self._workers.count)
        parts = self._played("products", [(actions, noises[p], weights[p]) for p in places])
        return np.asarray(np.sum(parts, axis=0))

    def _played(self, method: str, shares: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
        """Answers of the workers; each share begins with actions and noises."""
        before = self._counter.evals
        answers = self._held.map(method, shares)
        self.rows += sum(len(share[0]) * len(share[1]) for share in shares)
        self.evaluations += self._counter.evals - before
        return answers
