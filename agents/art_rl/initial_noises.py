"""Which initial noises ART-RL meets: those that cost much, more often."""

from __future__ import annotations

import numpy as np
import torch

# Part of the draws that stays even over the pool: no weight exceeds its inverse.
EVEN = 0.2


class InitialNoises:
    """Importance sampling of initial noises by what they cost the policy of late.

    The final error is heavy-tailed over initial noises: a few trajectories near the border between two modes make
    most of it. Prioritised replay of levels (Jiang et al. 2021), weighted by the inverse probability, so that the
    mean of what is learned from stays that over all noises.

    Args:
        size: of the pool.

    Attributes:
        costs: ``[size]``, running means of minus the return of an episode from each noise; nan where never met.
        index: ``[n]`` int64, the noises drawn last.
        weights: ``[n]``, one over the probability that each had relative to even draws.
    """

    def __init__(self, size: int) -> None:
        self.costs = np.full(size, np.nan)
        self.index, self.weights = np.zeros(0, dtype=np.int64), np.ones(0)

    def draw(self, n: int) -> np.ndarray:
        """``[n]`` noises of the pool, spread evenly over the distribution (systematic sampling)."""
        size = len(self.costs)
        cost = self.costs.copy()
        unknown = np.isnan(cost)
        cost[unknown] = 1.0 if unknown.all() else cost[~unknown].mean()  # taken for an average one
        total = cost.sum()
        share = np.full(size, 1 / size)
        if total > 0:
            share = EVEN * share + (1 - EVEN) * cost / total
        cumulative = np.cumsum(share)
        places = (np.arange(n) + torch.rand(1, dtype=torch.float64).item()) / n * cumulative[-1]
        self.index = np.minimum(np.searchsorted(cumulative, places), size - 1)
        self.weights = 1 / (size * share[self.index])
        return self.index

    def update(self, returns: np.ndarray) -> None:
        """Take the mean returns ``[n]`` of the episodes from the noises drawn last."""
        new, old = np.maximum(-returns, 0.0), self.costs[self.index]
        self.costs[self.index] = np.where(np.isnan(old), new, (old + new) / 2)
