"""Newton's polynomials in log sigma through the values of several steps, and their integrals over the next step.

``u = log(sigma_0 / sigma)`` counts from the latest noise level ``sigma_0`` down: 0 there, negative at earlier levels.
Every tensor that is no sample is scalar or ``[B]``, for rows may be at different steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from art_env.diffusion.denoiser import append_dims

Past = Sequence[tuple[Tensor, Tensor]]


def steps_made(sigma: Tensor, past: Past) -> list[Tensor]:
    """For each pair of ``SolverState.past`` whether there was such a step; none where the run has ended at 0."""
    made, latest, found = sigma > 0, sigma, []
    for _, level in past:
        made = made & (level > latest)
        latest = level
        found.append(made)
    return found


def nodes_of(sigma: Tensor, past: Past, used: Sequence[Tensor]) -> list[Tensor]:
    """``u`` of the latest level and of each earlier one; where a step does not count, 1 below the one before it."""
    nodes = [torch.zeros_like(sigma)]
    for (_, level), there in zip(past, used, strict=True):
        ratio = torch.where(there, sigma / torch.where(there, level, sigma), torch.ones_like(sigma))
        nodes.append(torch.where(there, torch.log(ratio), nodes[-1] - 1))
    return nodes


def bend(nodes: Sequence[Tensor], values: Sequence[Tensor], moments: Sequence[Tensor]) -> Tensor:
    """The integral of the polynomial through all values minus the first value, ``[B, *shape]``.

    Args:
        nodes: n different ones; the first is 0.
        values: n of ``[B, *shape]``.
        moments: integrals of the weight times ``u^i``, for i = 0 to n - 1.
    """
    basis, table = [torch.ones_like(nodes[0])], list(values)
    total = torch.zeros_like(values[0])
    for order in range(1, len(nodes)):
        basis = _times(basis, nodes[order - 1])
        integral = sum((c * m for c, m in zip(basis, moments, strict=False)), torch.zeros_like(nodes[0]))
        # The next column of the divided differences.
        table = [
            (after - before) / append_dims(nodes[i + order] - nodes[i], before)
            for i, (before, after) in enumerate(pairwise(table))
        ]
        total = total + append_dims(integral, total) * table[0]
    return total


def _times(polynomial: Sequence[Tensor], node: Tensor) -> list[Tensor]:
    """Coefficients of a polynomial, lowest first, times ``u - node``."""
    raised = [torch.zeros_like(node), *polynomial]
    lowered = [*(-node * c for c in polynomial), torch.zeros_like(node)]
    return [a + b for a, b in zip(raised, lowered, strict=True)]


def growing_moments(h: Tensor, count: int) -> list[Tensor]:
    """Integrals of ``exp(u - h) u^i`` over u from 0 to h, for i = 0 to ``count - 1``."""
    moments = [-torch.expm1(-h)]
    for i in range(1, count):
        moments.append(h**i - i * moments[-1])
    return moments


def falling_moments(h: Tensor, count: int) -> list[Tensor]:
    """Integrals of ``exp(-u) u^i`` over u from 0 to h, for i = 0 to ``count - 1``."""
    moments = [-torch.expm1(-h)]
    for i in range(1, count):
        moments.append(i * moments[-1] - h**i * torch.exp(-h))
    return moments


def by_steps_used(used: Sequence[Tensor], part: Callable[[int], Tensor], like: Tensor) -> Tensor:
    """``part(n)`` in the rows that use exactly n earlier steps, for n from 1; 0 where none is used.

    Args:
        used: for each earlier step, the latest first; none is used after one that is not.
        part: what to add, ``[B, *shape]``.
        like: ``[B, *shape]``.
    """
    total = torch.zeros_like(like)
    for n, there in enumerate(used, 1):
        exactly = there & ~used[n] if n < len(used) else there
        if bool(exactly.any()):
            total = total + torch.where(append_dims(exactly, like).bool(), part(n), torch.zeros_like(like))
    return total
