"""Samplers of the probability-flow ODE ``dx/dsigma = (x - D(x; sigma)) / sigma``.

A solver step is a pure function with the same leading arguments,
``step(denoiser, x, sigma, sigma_next, carry) -> x, carry``. The last step of every sampler is an Euler step,
so no network is ever asked about the final noise level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from art_env.diffusion.denoiser import CheckedDenoiser, Denoiser, per_row
from art_env.names import look_up


class Carry(NamedTuple):
    """What one step hands to the next.

    Attributes:
        d: the slope at the current ``(x, sigma)``, ``[B, *shape]``, if somebody has evaluated it already.
    """

    d: Tensor | None = None


NOTHING = Carry()
Step = Callable[[Denoiser, Tensor, Tensor, Tensor, Carry], tuple[Tensor, Carry]]


def to_d(denoiser: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    """Slope of the ODE, ``dx/dsigma``; ``x: [B, *shape]``, ``sigma``: scalar or ``[B]``, above 0."""
    return (x - denoiser(x, sigma)) / per_row(sigma, x)


def euler_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, carry: Carry = NOTHING
) -> tuple[Tensor, Carry]:
    """One Euler step (order 1, one evaluation)."""
    d = to_d(denoiser, x, sigma) if carry.d is None else carry.d
    return x + per_row(sigma_next - sigma, x) * d, NOTHING


def heun_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, carry: Carry = NOTHING
) -> tuple[Tensor, Carry]:
    """One step of Heun's rule (order 2, two evaluations), the sampler of Karras et al. 2022, algorithm 1."""
    h = per_row(sigma_next - sigma, x)
    d = to_d(denoiser, x, sigma) if carry.d is None else carry.d
    d_next = to_d(denoiser, x + h * d, sigma_next)
    return x + h * (d + d_next) / 2, NOTHING


def rk4_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, carry: Carry = NOTHING
) -> tuple[Tensor, Carry]:
    """One step of the classical Runge-Kutta rule (order 4, four evaluations)."""
    h = per_row(sigma_next - sigma, x)
    mid = (sigma + sigma_next) / 2
    k1 = to_d(denoiser, x, sigma) if carry.d is None else carry.d
    k2 = to_d(denoiser, x + h / 2 * k1, mid)
    k3 = to_d(denoiser, x + h / 2 * k2, mid)
    k4 = to_d(denoiser, x + h * k3, sigma_next)
    return x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6, NOTHING


@dataclass(frozen=True)
class Solver:
    """A named solver.

    Attributes:
        name: ``euler``, ``heun`` or ``rk4``.
        step: every step but the last.
        order: order of convergence of ``step``.
        evals_per_step: evaluations of ``step``; the last step is Euler and costs one.
    """

    name: str
    step: Step
    order: int
    evals_per_step: int

    def nfe(self, num_steps: int) -> int:
        """Network evaluations of a whole run: K, 2K - 1 and 4K - 3."""
        return self.evals_per_step * (num_steps - 1) + 1


SOLVERS = {
    "euler": Solver("euler", euler_step, 1, 1),
    "heun": Solver("heun", heun_step, 2, 2),
    "rk4": Solver("rk4", rk4_step, 4, 4),
}


def get_solver(solver: str | Solver) -> Solver:
    """A solver by name.

    Raises:
        ValueError: no solver of that name; suggests the nearest.
    """
    return solver if isinstance(solver, Solver) else look_up("solver", solver, SOLVERS)


def sample(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor | np.ndarray | Sequence[float],
    solver: str | Solver = "heun",
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Walk a batch of start noises down a list of noise levels.

    Args:
        denoiser: the model.
        x: ``[B, *shape]``, noise of standard deviation ``sigmas[0]``.
        sigmas: ``[K + 1]``, descending; may require grad, and then so does the result.
        solver: a name or a ``Solver``.
        callback: called as ``callback(k, x)`` after step ``k``.

    Returns:
        ``[B, *shape]``, the samples.
    """
    rule = get_solver(solver)
    if not isinstance(sigmas, Tensor):
        sigmas = torch.tensor(np.asarray(sigmas, dtype=np.float64))
    levels = sigmas.to(x)
    K = len(levels) - 1
    carry = NOTHING
    for k in range(K):
        if isinstance(denoiser, CheckedDenoiser):
            denoiser.step = k
        step = rule.step if k < K - 1 else euler_step
        x, carry = step(denoiser, x, levels[k], levels[k + 1], carry)
        if callback is not None:
            callback(k, x)
    return x
