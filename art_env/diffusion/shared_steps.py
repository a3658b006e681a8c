"""Samples of many schedules from the same initial noises, where steps that several of them share are made once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.solvers import Solver
from art_env.diffusion.steps import NO_STATE, to_d

# Slopes that are known, ``[M, *shape]``, by the levels and weights that lead to them.
Slopes = dict[bytes, Tensor]


def sample_many(
    denoiser: Denoiser,
    x: Tensor,
    levels: np.ndarray,
    weights: np.ndarray,
    solver: Solver,
    known: Slopes | None = None,
) -> Tensor:
    """Final samples of G schedules on the same initial noises.

    Schedules that agree up to a step need the same slope there, and it is evaluated once. The derivatives of a final
    sample by a late level or weight are then cheap: a run of the last steps alone.

    Args:
        denoiser: the model.
        x: ``[M, *shape]``, initial noises.
        levels: ``[G, K + 1]``, descending.
        weights: ``[G, K, m]``.
        solver: a learned one, which makes one evaluation a step.
        known: slopes that need no evaluation; those that are evaluated here are added.

    Returns:
        ``[G, M, *shape]``.

    Raises:
        ValueError: another kind of solver.
    """
    if solver.learned is None:
        raise ValueError(f"solver = {solver.name!r} takes no weights; use 'learned_2m'")
    known = {} if known is None else known
    G, K, M = len(levels), levels.shape[1] - 1, len(x)
    table = torch.from_numpy(levels).to(x)
    weight = torch.from_numpy(weights).to(x)
    now, state = x.repeat(G, *[1] * (x.ndim - 1)), NO_STATE
    for k in range(K):
        paths = [levels[g, : k + 1].tobytes() + weights[g, :k].tobytes() for g in range(G)]
        first = {path: g for g, path in reversed(list(enumerate(paths)))}
        missing = [g for path, g in first.items() if path not in known]
        if missing:
            states = now.reshape(G, *x.shape)[missing].flatten(0, 1)
            slopes = to_d(denoiser, states, table[missing, k].repeat_interleave(M))
            known |= zip([paths[g] for g in missing], slopes.split(M), strict=True)
        d = torch.cat([known[path] for path in paths])
        state = state._replace(d=d, weights=weight[:, k].repeat_interleave(M, 0), steps_left=K - k)
        sigma, sigma_next = (table[:, i].repeat_interleave(M) for i in (k, k + 1))
        now, state = solver.step(denoiser, now, sigma, sigma_next, state)
    return now.reshape(G, *x.shape)
