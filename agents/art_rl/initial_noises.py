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

    Where the noises belong to several data distributions, costs are relative to what their own distribution costs the
    policy, and what is learned from them is weighted alike: the actor climbs the mean over distributions of minus the
    logarithm of their cost. Else those on which every policy has large errors would be all that counts.

    Args:
        size: of the pool.
        distributions: ``[size]``, the number of the data distribution of each noise; None: all have the same.

    Attributes:
        costs: ``[size]``, running means of minus the return of an episode from each noise; nan where never met.
        index: ``[n]`` int64, the noises drawn last.
        weights: ``[n]``, one over the probability that each had relative to even draws; with several distributions
            over the cost of its own too.
    """

    CHANGING = ("costs", "index", "weights")

    def __init__(self, size: int, distributions: np.ndarray | None = None) -> None:
        self.costs, self.distributions = np.full(size, np.nan), distributions
        self.index, self.weights = np.zeros(0, dtype=np.int64), np.ones(0)

    def draw(self, n: int) -> np.ndarray:
        """``[n]`` noises of the pool, spread evenly over the distribution (systematic sampling)."""
        size, units = len(self.costs), self._units()
        cost = self.costs / units
        unknown = np.isnan(cost)
        cost[unknown] = 1.0 if unknown.all() else cost[~unknown].mean()  # taken for an average one
        total = cost.sum()
        share = np.full(size, 1 / size)
        if total > 0:
            share = EVEN * share + (1 - EVEN) * cost / total
        cumulative = np.cumsum(share)
        places = (np.arange(n) + torch.rand(1, dtype=torch.float64).item()) / n * cumulative[-1]
        self.index = np.minimum(np.searchsorted(cumulative, places), size - 1)
        self.weights = 1 / (size * share[self.index]) / units[self.index]
        return self.index

    def _units(self) -> np.ndarray:
        """``[size]``, the mean cost of the distribution of each noise; 1 where there is but one, or none is known."""
        if self.distributions is None:
            return np.ones(len(self.costs))
        known = ~np.isnan(self.costs)
        met = np.bincount(self.distributions[known], minlength=self.distributions.max() + 1)
        total = np.bincount(self.distributions[known], self.costs[known], minlength=len(met))
        every = max(float(total.sum() / max(met.sum(), 1)), 1e-300) if known.any() else 1.0
        return np.asarray(np.where(met > 0, np.maximum(total, 1e-300) / np.maximum(met, 1), every))[
            self.distributions
        ]

    def update(self, returns: np.ndarray) -> None:
        """Take the mean returns ``[n]`` of the episodes from the noises drawn last."""
        new, old = np.maximum(-returns, 0.0), self.costs[self.index]
        self.costs[self.index] = np.where(np.isnan(old), new, (old + new) / 2)
