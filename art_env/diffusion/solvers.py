"""Samplers of the probability-flow ODE ``dx/dsigma = (x - D(x; sigma)) / sigma``.

A solver step is a pure function with the same leading arguments,
``step(denoiser, x, sigma, sigma_next, carry) -> x, carry``. No network is ever asked about the final noise level:
the last step of a multistage solver is an Euler step, and a multistep solver only looks back.
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
        past: what a multistep solver keeps of its earlier steps, the latest first: pairs of ``[B, *shape]`` and
            the noise level (scalar or ``[B]``; 0 where there was no such step).
    """

    d: Tensor | None = None
    past: tuple[tuple[Tensor, Tensor], ...] = ()


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


def dpmpp_2m_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, carry: Carry = NOTHING
) -> tuple[Tensor, Carry]:
    """One step of DPM-Solver++(2M) (order 2, one evaluation), Lu et al. 2022, algorithm 2.

    Exact in log sigma for a denoised sample that is extrapolated linearly from the last two. The first step and
    a step to 0 are Euler steps.
    """
    d = to_d(denoiser, x, sigma) if carry.d is None else carry.d
    denoised, slope = x - per_row(sigma, x) * d, d
    if carry.past:
        before, sigma_before = carry.past[0]
        known = (sigma_before > sigma) & (sigma_next > 0)
        # Values that keep the unused branch, and its gradient, finite.
        now = torch.where(known, sigma, torch.ones_like(sigma))
        h_last = torch.log(torch.where(known, sigma_before, 2 * now) / now)
        h = torch.log(now / torch.where(known, sigma_next, now))
        slope = d - per_row(h / (2 * h_last * now), x) * (denoised - before)
    return x + per_row(sigma_next - sigma, x) * slope, Carry(past=((denoised, sigma),))


# Adams-Bashforth weights of the slopes, the latest first; a row for each number of earlier slopes.
ADAMS_BASHFORTH = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0],
        [3 / 2, -1 / 2, 0.0, 0.0],
        [23 / 12, -16 / 12, 5 / 12, 0.0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ],
    dtype=torch.float64,
)


def ipndm_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, carry: Carry = NOTHING
) -> tuple[Tensor, Carry]:
    """One step of iPNDM (one evaluation), Zhang and Chen 2022, appendix, as GITS uses it.

    Adams-Bashforth with the weights of even steps, of order 1, 2, 3 in the first steps and 4 after them. Even
    weights on an uneven grid, and the Euler step that it starts with, make the whole of order 2.
    """
    d = to_d(denoiser, x, sigma) if carry.d is None else carry.d
    slopes = [d, *(slope for slope, _ in carry.past)]
    count = torch.zeros_like(sigma, dtype=torch.int64)
    for _, level in carry.past:
        count = count + (level > 0)
    weights = ADAMS_BASHFORTH.to(x)[count]  # [4] or [B, 4]
    mean = torch.zeros_like(x)
    for j, slope in enumerate(slopes):
        mean = mean + per_row(weights[..., j], x) * slope
    return x + per_row(sigma_next - sigma, x) * mean, Carry(past=((d, sigma), *carry.past)[:3])


def _keep_denoised(x: Tensor, sigma: Tensor, d: Tensor) -> Tensor:
    return x - per_row(sigma, x) * d


def _keep_slope(x: Tensor, sigma: Tensor, d: Tensor) -> Tensor:
    return d


@dataclass(frozen=True)
class Solver:
    """A named solver.

    Attributes:
        name: a key of ``SOLVERS``.
        step: every step, or every step but the last.
        order: order of convergence.
        evals_per_step: evaluations of ``step``.
        memory: how many earlier steps ``step`` looks back at.
        remember: ``(x, sigma, d) -> [B, *shape]``, what is kept of a step in ``Carry.past``.
    """

    name: str
    step: Step
    order: int
    evals_per_step: int
    memory: int = 0
    remember: Callable[[Tensor, Tensor, Tensor], Tensor] = _keep_slope

    @property
    def ends_with_euler(self) -> bool:
        """Whether the last step is an Euler step: the solver would evaluate at the final noise level."""
        return self.evals_per_step > 1

    def nfe(self, num_steps: int) -> int:
        """Network evaluations of a whole run: K for one evaluation a step, 2K - 1 (Heun), 4K - 3 (RK4)."""
        return self.evals_per_step * (num_steps - 1) + 1


SOLVERS = {
    "euler": Solver("euler", euler_step, 1, 1),
    "heun": Solver("heun", heun_step, 2, 2),
    "rk4": Solver("rk4", rk4_step, 4, 4),
    "dpmpp_2m": Solver("dpmpp_2m", dpmpp_2m_step, 2, 1, memory=1, remember=_keep_denoised),
    "ipndm": Solver("ipndm", ipndm_step, 2, 1, memory=3),
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
        step = euler_step if rule.ends_with_euler and k == K - 1 else rule.step
        x, carry = step(denoiser, x, levels[k], levels[k + 1], carry)
        if callback is not None:
            callback(k, x)
    return x
