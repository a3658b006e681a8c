"""The noise of stochastic solvers: a table of standard normal numbers that is a pure function of its seed."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# Rows are drawn in blocks of this size, so that a row does not depend on how many others are asked for.
BLOCK = 256
# Tables up to this many bytes are kept whole; of a larger one only the latest step is kept.
KEEP = 200_000_000


class StepNoise:
    """Standard normal noise for every step and row: a table ``[K, N, *shape]`` float64, unbounded in K and N.

    Block b of step k is drawn by a generator of its own, from ``(seed, k, b)``: whatever is asked for, in whatever
    order, an entry is always the same.

    Args:
        shape: of one sample.
        seed: of the whole table, at least 0.
        given_channels: the last channels of a sample that are a condition; their noise is 0.
    """

    def __init__(self, shape: tuple[int, ...], seed: int, given_channels: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"seed = {seed} must not be negative")
        self.shape, self.seed, self.given_channels = tuple(shape), int(seed), int(given_channels)
        self._kept: dict[int, Tensor] = {}

    def first(self, k: int, n: int) -> Tensor:
        """The noise of step ``k`` for rows 0 to n - 1, ``[n, *shape]``."""
        table = self._kept.get(k)
        if table is None or len(table) < n:
            size = 8 * math.prod(self.shape) * n
            if size * (len(self._kept) + 1) > KEEP:
                self._kept.clear()
            table = torch.cat([self._block(k, b) for b in range(math.ceil(n / BLOCK))])
            self._kept[k] = table
        return table[:n]

    def rows(self, k: Tensor, index: Tensor) -> Tensor:
        """The noise of row ``index[i]`` at step ``k[i]``, ``[B, *shape]``; both ``[B]``."""
        n = int(index.max()) + 1
        steps = k.unique().tolist()
        if len(steps) == 1:
            return self.first(steps[0], n).to(index.device)[index]
        out = torch.empty(len(index), *self.shape, dtype=torch.float64, device=index.device)
        for step in steps:
            at = k == step
            out[at] = self.first(step, n).to(index.device)[index[at]]
        return out

    def _block(self, k: int, b: int) -> Tensor:
        channels, *rest = self.shape
        rng = np.random.default_rng([self.seed, 0x57E9, k, b])
        drawn = torch.from_numpy(rng.standard_normal((BLOCK, channels - self.given_channels, *rest)))
        still = drawn.new_zeros(BLOCK, self.given_channels, *rest)
        return torch.cat([drawn, still], 1) if self.given_channels else drawn
