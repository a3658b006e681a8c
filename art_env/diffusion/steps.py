"""Solver steps of the probability-flow ODE ``dx/dsigma = (x - D(x; sigma)) / sigma``.

A step is a pure function, ``step(denoiser, x, sigma, sigma_next, state) -> x, state``. No network is ever asked about
the final noise level: the last step of a multistage solver is an Euler step, and a multistep solver only looks back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser, append_dims


class SolverState(NamedTuple):
    """The state that one step hands to the next.

    Attributes:
        d: the slope where the step makes its first evaluation, ``[B, *shape]``, if somebody has made it already: at
            the current ``(x, sigma)``, or where ``Solver.add_churn`` moves it.
        past: what a multistep solver keeps of its earlier steps, the latest first: pairs of ``[B, *shape]`` and
            the noise level (scalar or ``[B]``; 0 where there was no such step).
        noise: standard normal numbers for this step of a stochastic solver, ``[B, *shape]``; 0 in channels that are
            a condition.
        num_steps: K of the whole run, which ``edm_churn`` spreads its noise over.
        sigma_max: highest noise level that the denoiser may be asked about.
        weights: of this step of a ``LearnedMultistep``, ``[m]`` or ``[B, m]``.
        steps_left: of the run, this one included, a number or ``[B]``; None: not known.
        exact: x lies on the exact trajectory and not where the last step has led, so that a corrector has nothing to
            correct.
    """

    d: Tensor | None = None
    past: tuple[tuple[Tensor, Tensor], ...] = ()
    noise: Tensor | None = None
    num_steps: int | None = None
    sigma_max: Tensor | float = math.inf
    weights: Tensor | None = None
    steps_left: Tensor | int | None = None
    exact: bool = False


NO_STATE = SolverState()
Step = Callable[[Denoiser, Tensor, Tensor, Tensor, SolverState], tuple[Tensor, SolverState]]


def to_d(denoiser: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    """Slope of the ODE, ``dx/dsigma``; ``x: [B, *shape]``, ``sigma``: scalar or ``[B]``, above 0."""
    return (x - denoiser(x, sigma)) / append_dims(sigma, x)


def to_denoised(x: Tensor, sigma: Tensor, d: Tensor) -> Tensor:
    """The denoised sample behind a slope: ``to_d`` undone."""
    return x - append_dims(sigma, x) * d


def euler_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One Euler step (order 1, one evaluation)."""
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    return x + append_dims(sigma_next - sigma, x) * d, NO_STATE


def heun_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One step of Heun's rule (order 2, two evaluations), the sampler of Karras et al. 2022, algorithm 1."""
    h = append_dims(sigma_next - sigma, x)
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    d_next = to_d(denoiser, x + h * d, sigma_next)
    return x + h * (d + d_next) / 2, NO_STATE


def rk4_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One step of the classical Runge-Kutta rule (order 4, four evaluations)."""
    h = append_dims(sigma_next - sigma, x)
    mid = (sigma + sigma_next) / 2
    k1 = to_d(denoiser, x, sigma) if state.d is None else state.d
    k2 = to_d(denoiser, x + h / 2 * k1, mid)
    k3 = to_d(denoiser, x + h / 2 * k2, mid)
    k4 = to_d(denoiser, x + h * k3, sigma_next)
    return x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6, NO_STATE


def dpmpp_2m_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One step of DPM-Solver++(2M) (order 2, one evaluation), Lu et al. 2022, algorithm 2.

    Exact in log sigma for a denoised sample that is extrapolated linearly from the last two. The first step and
    a step to 0 are Euler steps.
    """
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    denoised, slope = to_denoised(x, sigma, d), d
    if state.past:
        before, sigma_before = state.past[0]
        known = (sigma_before > sigma) & (sigma_next > 0)
        # Values that keep the unused branch, and its gradient, finite.
        now = torch.where(known, sigma, torch.ones_like(sigma))
        h_last = torch.log(torch.where(known, sigma_before, 2 * now) / now)
        h = torch.log(now / torch.where(known, sigma_next, now))
        slope = d - append_dims(h / (2 * h_last * now), x) * (denoised - before)
    return x + append_dims(sigma_next - sigma, x) * slope, SolverState(past=((denoised, sigma),))


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
# The same rules as weights of ``LearnedMultistep``; row n is for a step with n earlier slopes.
EVEN_WEIGHTS = tuple(tuple((-row[1 : n + 1]).tolist()) for n, row in enumerate(ADAMS_BASHFORTH))


def ipndm_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One step of iPNDM (one evaluation), Zhang and Chen 2022, appendix, as GITS uses it.

    Adams-Bashforth with the weights of even steps, of order 1, 2, 3 in the first steps and 4 after them. Even
    weights on an uneven grid, and the Euler step that it starts with, make the whole of order 2.
    """
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    slopes = [d, *(slope for slope, _ in state.past)]
    count = torch.zeros_like(sigma, dtype=torch.int64)
    for _, level in state.past:
        count = count + (level > 0)
    weights = ADAMS_BASHFORTH.to(x)[count]  # [4] or [B, 4]
    mean = torch.zeros_like(x)
    for j, slope in enumerate(slopes):
        mean = mean + append_dims(weights[..., j], x) * slope
    return x + append_dims(sigma_next - sigma, x) * mean, SolverState(past=((d, sigma), *state.past)[:3])


@dataclass(frozen=True)
class LearnedMultistep:
    """A multistep rule with one evaluation a step, whose coefficients are free: they come in with each step.

    The slope of a step is ``d + sum_j w_j (d - d_j)``, ``d_j`` the slope of j steps before. Steps that were not made
    are left out, so the first step is Euler's. Points of this space are Euler's rule (all weights 0), the
    two-step Adams-Bashforth rule (``w_1`` half of the ratio of the step to the one before, the others 0) and the
    four-step one of even steps, iPNDM's (59/24, -37/24, 9/24).

    Attributes:
        num_weights: m, weights a step and earlier slopes that it looks back at.
    """

    num_weights: int

    @property
    def default(self) -> tuple[float, ...]:
        """Weights of a step that is given none: the two-step rule for even steps."""
        return (*EVEN_WEIGHTS[1], *[0.0] * (self.num_weights - 1))

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
    ) -> tuple[Tensor, SolverState]:
        """One step with ``state.weights``."""
        d = to_d(denoiser, x, sigma) if state.d is None else state.d
        weights = x.new_tensor(self.default) if state.weights is None else state.weights
        slope = d
        for j, (before, level) in enumerate(state.past):
            slope = slope + append_dims(weights[..., j] * (level > 0), x) * (d - before)
        past = ((d, sigma), *state.past)[: self.num_weights]
        return x + append_dims(sigma_next - sigma, x) * slope, SolverState(past=past)
