"""Which initial noises ART-RL meets late in training: those that carry the error."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Part of the draws that stays even over the pool: no weight exceeds its inverse.
EVEN = 0.2
# No initial noise may hold more than this part of the whole cost.
MOST = 0.1


class StartNoises:
    """Importance sampling of initial noises by what they cost the present schedule.

    The final error is heavy-tailed: of 16,384 noises on ``mixture-1d`` 16 hold a fifth of it with DPM-Solver++ at
    K = 20, and 99% with RK4. The ranks of schedules on 256 noises drawn evenly have a correlation of 0.57 with the
    truth (DPM-Solver++; ``benchmarks/start_noises.py``), on 256 drawn by cost and weighted by the inverse 0.99. What
    no sample of noises can tell is cut off: a noise that alone holds more than a tenth of the cost counts as if it
    held a tenth.

    Args:
        size: of the pool.

    Attributes:
        costs: ``[size]``, minus the return of an episode from each noise, as surveyed last; nan where never.
        cap: costs count up to here.
    """

    def __init__(self, size: int) -> None:
        self.costs = np.full(size, np.nan)
        self.cap = np.inf
        self._cumulative = np.arange(1, size + 1) / size
        self._weights = np.ones(size)

    @classmethod
    def of(cls, costs: np.ndarray) -> StartNoises:
        """With known costs ``[size]``, nan where never surveyed."""
        noises = cls(len(costs))
        noises.costs[:] = costs
        noises._share_out()
        return noises

    def update(self, index: np.ndarray, returns: np.ndarray) -> None:
        """Returns of episodes from the noises ``index``, both ``[n]``, under the present schedule."""
        self.costs[index] = np.maximum(-returns, 0.0)
        self._share_out()

    def _share_out(self) -> None:
        known = self.costs[~np.isnan(self.costs)]
        self.cap = cap_of(known)
        cut = np.minimum(self.costs, self.cap)
        # One never surveyed is taken for an average one.
        cut = np.where(np.isnan(cut), np.minimum(known, self.cap).mean(), cut)
        size = len(cut)
        total = cut.sum()
        share = EVEN / size + (1 - EVEN) * cut / total if total > 0 else np.full(size, 1 / size)
        share /= share.sum()
        self._cumulative = np.cumsum(share)
        self._weights = 1 / (size * share)

    def mean_cost(self, cap: float) -> float:
        """Mean over the noises surveyed, each counted up to ``cap``."""
        return float(np.minimum(self.costs[~np.isnan(self.costs)], cap).mean())

    def draw(self, n: int) -> np.ndarray:
        """``[n]`` rows of the pool, spread evenly over the distribution (systematic sampling)."""
        places = (np.arange(n) + torch.rand(1, dtype=torch.float64).item()) / n
        return np.minimum(np.searchsorted(self._cumulative, places), len(self.costs) - 1)

    def mean(self, returns: Tensor, index: np.ndarray) -> Tensor:
        """Estimates ``[G]`` of mean returns, from ``returns`` ``[G, n]`` of episodes from the noises ``index``."""
        return (returns.clamp_min(-self.cap) * torch.from_numpy(self._weights[index])).mean(1)


def cap_of(costs: np.ndarray, most: float = MOST) -> float:
    """The level at which costs are cut so that none is more than ``most`` of their sum; inf if none is."""
    ordered = np.sort(costs)[::-1]
    rest = ordered.sum()
    # With the k largest cut to c, c = most (k c + rest).
    for k, largest in enumerate(ordered[: int(1 / most)]):
        cap = most * rest / (1 - most * k)
        if cap >= largest:
            return float(cap) if k else np.inf
        rest -= largest
    return np.inf  # so few that each must hold more
