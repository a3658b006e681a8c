"""A table with one number for each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StepTable(nn.Module):
    """One number per step, linear in between: a function of time that may jump from step to step.

    A smooth network of (time, budget) misses the sharp turns of the best schedules. With several K there is a table
    for each, and in between values are linear in log K.

    Args:
        budgets: every K, ascending.
    """

    first: Tensor
    sizes: Tensor

    def __init__(self, budgets: Sequence[int]) -> None:
        super().__init__()
        self.budgets = tuple(budgets)
        self.values = nn.Parameter(torch.zeros(sum(self.budgets)))
        sizes = torch.tensor(self.budgets)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("first", torch.cumsum(sizes, 0) - sizes, persistent=False)

    def of(self, i: int) -> slice:
        """Where the values of the i-th K are."""
        first = int(self.first[i])
        return slice(first, first + self.budgets[i])

    def forward(self, time: Tensor, num_steps: Tensor) -> Tensor:
        """``[B]`` times k / K and ``[B]`` K in, ``[B]`` values out."""
        if len(self.budgets) == 1:
            return self._read(time, torch.zeros_like(time, dtype=torch.int64))
        logs = torch.log(self.sizes.to(time))
        log_k = torch.log(num_steps).clamp(logs[0], logs[-1])
        right = torch.searchsorted(logs, log_k.contiguous()).clamp(1, len(logs) - 1)
        part = (log_k - logs[right - 1]) / (logs[right] - logs[right - 1])
        # Exactly at a budget, whatever the rounding of the observation.
        part = torch.where(part < 1e-3, torch.zeros_like(part), part)
        part = torch.where(part > 1 - 1e-3, torch.ones_like(part), part)
        return self._read(time, right - 1) * (1 - part) + self._read(time, right) * part

    @torch.no_grad()
    def from_neighbours(self) -> Tensor:
        """As ``values``, where each K has what lies between those on either side of it (nearest, at the ends).

        All zeros for a single K.
        """
        out = torch.zeros_like(self.values)
        for i, K in enumerate(self.budgets):
            others = self.budgets[:i] + self.budgets[i + 1 :]
            if not others:
                continue
            rest = StepTable(others).to(self.values.device)
            rest.values.copy_(
                torch.cat([self.values[self.of(j)] for j in range(len(self.budgets)) if j != i])
            )
            time = torch.arange(K, device=out.device) / K
            out[self.of(i)] = rest(time, torch.full_like(time, float(K)))
        return out

    def place(self, time: Tensor, num_steps: Tensor) -> Tensor:
        """``[B]`` int64: which value belongs to the step, for K among the budgets."""
        which = (self.sizes[None, :] - num_steps[:, None]).abs().argmin(1)
        return self.first[which] + (time * self.sizes[which]).round().long()

    def _read(self, time: Tensor, which: Tensor) -> Tensor:
        size, first = self.sizes[which], self.first[which]
        place = torch.minimum((time * size).clamp_min(0), size - 1)
        left = place.floor().long()
        right = torch.minimum(left + 1, size - 1)
        part = place - left
        return self.values[first + left] * (1 - part) + self.values[first + right] * part
