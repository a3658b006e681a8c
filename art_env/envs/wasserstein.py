"""Squared (sliced) Wasserstein distance of a group to reference samples, split into per-sample contributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from art_env.evaluation.metrics import directions

# Directions of the sliced distance; on the line there is only one.
NUM_PROJECTIONS = 128
# A smaller group says next to nothing about a distribution.
MIN_GROUP = 16


class GroupDistance:
    """Squared (sliced) Wasserstein-2 distance of groups of samples to one set of exact samples, split over the rows.

    On each direction the sorted samples of a group are matched with the sorted exact ones, r of these to each sample.
    A row contributes the mean squared difference to the exact samples matched with it, over directions. The mean of
    the contributions is exactly ``sliced_w2(samples r times each, exact)^2`` (``wasserstein_1d`` on the line). Many
    exact samples a row keep their sampling error out of the comparison of groups.

    Args:
        exact: ``[N, d]``, as many as are there; the last ``N % group_size`` are left out.
        group_size: M, rows of a group.
        num_projections: directions, for d above 1.
        seed: of the directions, those of ``art_env.evaluation.metrics.sliced_w2``.

    Raises:
        ValueError: a group is smaller than 16 rows, or larger than the exact set.
    """

    def __init__(
        self, exact: Tensor, group_size: int, num_projections: int = NUM_PROJECTIONS, seed: int = 0
    ) -> None:
        N, d = exact.shape
        if group_size < MIN_GROUP:
            raise ValueError(
                f"group_size = {group_size} samples are too few for a distance between distributions; at least "
                f"{MIN_GROUP} are needed"
            )
        if group_size > N:
            raise ValueError(
                f"group_size = {group_size} exceeds the {N} exact samples: raise num_noises, or use more noise_groups"
            )
        self.group_size = group_size
        lines = directions(d, num_projections, seed) if d > 1 else [[1.0]]
        self.lines = torch.as_tensor(lines).to(exact)  # [d, P]
        r = N // group_size
        cells = (exact[: r * group_size] @ self.lines).sort(dim=0).values.reshape(group_size, r, -1)
        self.centres = cells.mean(1)  # [M, P]
        self.spreads = cells.var(1, unbiased=False)

    def contributions(self, samples: Tensor) -> Tensor:
        """Each row's part of its group's distance, ``[G M]``; ``samples: [G M, d]``, group after group.

        Raises:
            ValueError: not a whole number of groups.
        """
        if len(samples) % self.group_size:
            raise ValueError(f"{len(samples)} samples are not whole groups of {self.group_size}")
        on_lines = (samples @ self.lines).reshape(-1, self.group_size, self.lines.shape[1])
        values, order = on_lines.sort(dim=1)
        squares = (values - self.centres).square() + self.spreads
        return torch.empty_like(squares).scatter_(1, order, squares).mean(2).flatten()


def sliced_distance(samples: Tensor, exact: Tensor) -> float:
    """Sliced W2 (W2 on the line) between ``[M, ...]`` samples and ``[N, ...]`` exact ones, N at least M."""
    parts = GroupDistance(exact.flatten(1), len(samples)).contributions(samples.flatten(1))
    return math.sqrt(float(parts.mean()))
