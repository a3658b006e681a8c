"""The control problem behind the schedules, solved numerically; docs/theory.md states the results.

The clock only re-times a fixed trajectory of the flow. With ``q(sigma) = |Q|`` along it the paper's cost is
``int q theta^2 dt``, and along it ``V_x F + V_psi`` is the derivative of the value with respect to psi: the HJB
equation closes on (time, noise level).

The Gaussian functions are about gaussian-1d: N(0, 1), T = 3, the trajectory ``x = sqrt(1 + s^2)`` that starts one
standard deviation out (also below s = 0, where a randomised clock may go). All others scale with |x|.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import hyp2f1

from art_env.diffusion import GaussianDenoiser, sample
from art_env.diffusion.ode import ReferenceFlow, curvature
from art_env.envs.dynamics import Dynamics
from art_env.problems.problem import Problem
from art_env.schedules.optimal import equal_density
from art_env.schedules.schedule import Array, Schedule, from_sigmas

T = 3.0


def clock_cost(sigmas: Array, q: Callable[[Array], Array]) -> float:
    """``int q theta^2 dt`` of the clock that passes ``sigmas`` at even times; exact as the list grows."""
    steps = -np.diff(sigmas)
    dt = steps.sum() / len(steps)
    return float((q((sigmas[1:] + sigmas[:-1]) / 2) * steps**2).sum() / dt)


def retimed(schedule: Schedule, change: Callable[[Array], Array], num_steps: int) -> Array:
    """Noise levels of ``schedule``'s clock at times ``t + change(t)``, t even in [0, 1]; 0 at both ends."""
    t = np.linspace(0.0, 1.0, num_steps + 1)
    return schedule.interpolator()(t + change(t))


def wave(a: Array) -> Callable[[Array], Array]:
    """``t -> int_0^t r`` of the change of speed ``r = sum a_k cos(pi k t)``, k = 1, 2, ..."""
    k = np.arange(1, len(a) + 1)[:, None]
    return lambda t: a @ (np.sin(np.pi * k * t) / (np.pi * k))


# N(0, 1) in closed form


def gaussian_q(s: Array) -> Array:
    """``|Q| = |x| / (1 + s^2)^2`` on the trajectory."""
    return np.asarray((1 + s**2) ** -1.5)


def gaussian_area(s: Array | float) -> Array:
    """``int_0^s sqrt(q)``, odd in s."""
    s = np.asarray(s, dtype=np.float64)
    return np.asarray(s * hyp2f1(0.5, 0.75, 1.5, -(s**2)))


def gaussian_clock(times: Array) -> Array:
    """The optimal noise level at ``times`` in [0, T]: ``gaussian_area`` falls at a constant rate."""
    s = np.linspace(0.0, T, 20_001)
    return np.interp(gaussian_area(T) * (1 - np.asarray(times) / T), gaussian_area(s), s)


# The HJB equation


def _least(total: Array) -> Array:
    """The least value of each row, refined by the parabola through the least entry and its neighbours."""
    best = np.argmin(total, axis=1)
    rows, inner = np.arange(len(total)), np.clip(best, 1, total.shape[1] - 2)
    left, mid, right = (total[rows, inner + k] for k in (-1, 0, 1))
    bend = left - 2 * mid + right
    smooth = (best == inner) & (bend > 0)
    gain = np.where(smooth, (right - left) ** 2 / (8 * np.where(smooth, bend, 1.0)), 0.0)
    return np.asarray(total[rows, best] - gain)


@dataclass(frozen=True)
class HJB:
    """Cost-to-go of the Gaussian problem with the end fixed, ``C(t, x, psi) = |x| v(t, psi)``.

    Attributes:
        sigmas: ``[M]``, levels ``s = T - psi``, descending.
        v: ``[N, M]``, at the times ``n T / N``; at T the clock must be at s = 0.
    """

    sigmas: Array
    v: Array

    @property
    def dt(self) -> float:
        """Time between rows."""
        return T / len(self.v)

    def mean(self) -> Array:
        """``mu* = (V_x F + V_psi) / (2 |Q|)`` from the table, ``[N, M]`` (V = -C; |x| cancels)."""
        s = self.sigmas
        v_psi = np.gradient(self.v, -s, axis=1, edge_order=2)
        F, Q = -s / (1 + s**2), 1 / (1 + s**2) ** 2
        return np.asarray((-self.v * F - v_psi) / (2 * Q))

    def rollout(self) -> Array:
        """Noise levels at times 0, dt, ..., T under the mean; the last step spends what is left."""
        out = [T]
        for mu in self.mean()[:-1]:
            out.append(out[-1] - self.dt * float(np.interp(-out[-1], -self.sigmas, mu)))
        return np.array([*out, 0.0])


def solve_hjb(num_times: int, num_levels: int, lam: float = 0.0) -> HJB:
    """Semi-Lagrangian scheme: over ``dt`` the speed is constant, and its cost is integrated exactly (of the noise
    only with |Q| at the start).

    Args:
        num_times: N, ``dt = T / N``.
        num_levels: levels between s = T and 0.
        lam: above 0, every speed but the last is drawn from ``N(m, lam / |Q|)`` and the clock moves by what was
            drawn: the Bellman equation in the mean m, expectations by Gauss-Hermite quadrature.
    """
    dt, ds = T / num_times, T / num_levels
    margin = 0 if lam == 0 else int(0.3 * num_levels)
    s = ds * np.arange(num_levels + margin, -margin - 1, -1.0)
    move = _segment(s[:, None], s[None, :], dt) + lam * dt
    nodes, weights = np.polynomial.hermite_e.hermegauss(5 if lam else 1)
    width = np.sqrt(lam / gaussian_q(s))[:, None] * dt
    costs = [_segment(s, np.zeros(1), dt)]
    for _ in range(num_times - 1):
        if lam == 0:
            ahead = costs[0][None, :]
        else:
            drawn = [np.interp(width * z - s[None, :], -s, costs[0]) for z in nodes]
            ahead = np.tensordot(weights / weights.sum(), np.stack(drawn), 1)
        costs.insert(0, _least(move + ahead))
    return HJB(s, np.stack(costs) / np.sqrt(1 + s**2))


def _segment(s: Array, to: Array, dt: float) -> Array:
    """``int q theta^2 dt`` from level s to level ``to`` in ``dt``, at constant speed."""
    return (s - to) * (s / np.sqrt(1 + s**2) - to / np.sqrt(1 + to**2)) / dt


# Randomised clocks


def sampled_costs(lam: float, num_steps: int, num_paths: int, averaged: bool = False, seed: int = 0) -> Array:
    """``[num_paths]``, ``sum |Q| theta^2 dt`` of Gaussian clocks with speeds drawn from ``N(mu*, lam / |Q|)``.

    Args:
        lam: a new speed is drawn every ``dt = T / num_steps``; mu* is the optimum for the time and level reached.
        num_steps, num_paths, seed: of the simulation, x by the Euler rule.
        averaged: the state follows mu* (the dynamics averaged over the policy); else it follows what was drawn,
            and the last step spends what is left.
    """
    rng = np.random.default_rng(seed)
    dt = T / num_steps
    s, x, cost = np.full(num_paths, T), np.full(num_paths, np.sqrt(1 + T**2)), np.zeros(num_paths)
    levels = np.linspace(-2 * T, 2 * T, 8001)
    table = gaussian_area(levels) / np.sqrt(gaussian_q(levels))
    for k in range(num_steps):
        Q = np.abs(x) / (1 + s**2) ** 2
        last = k == num_steps - 1
        mean = s / dt if last else np.interp(s, levels, table) / (T - k * dt)
        noise = np.sqrt(lam / Q) * rng.standard_normal(num_paths)
        theta = mean if last and not averaged else mean + noise
        cost += Q * theta**2 * dt
        move = (mean if averaged else theta) * dt
        x, s = x - move * s * x / (1 + s**2), s - move
    return cost


# What survives of a local error


def surviving_curvature(problem: Problem, reference: ReferenceFlow, offset: float = 1e-4) -> Array:
    """``(dx_end / dx_s) Q`` at the knots in one dimension, ``[M, N]``: half of it, times h^2, reaches the end.

    The propagator is the ratio of the distances of neighbouring trajectories, ``2 offset sigma_max`` apart at the
    start.
    """
    if problem.shape != (1,):
        raise ValueError(
            f"problem {problem.name!r} has shape {problem.shape}; neighbours are those on a line"
        )
    ratios = []
    for sign in (1, -1):
        start = reference.start + sign * offset * problem.sigma_max
        flow = ReferenceFlow.integrate(
            problem.denoiser,
            start,
            problem.sigma_max,
            problem.sigma_floor,
            problem.sigma_end,
            len(reference.sigmas),
        )
        ratios.append((flow.x, flow.x_end))
    propagator = (ratios[0][1] - ratios[1][1]) / (ratios[0][0] - ratios[1][0])
    Q = [curvature(problem.denoiser, x, s)[1] for x, s in zip(reference.x, reference.sigmas, strict=True)]
    return (propagator * torch.stack(Q))[..., 0].cpu().numpy()


def quantile_flow(problem: Problem, n: int) -> ReferenceFlow:
    """Exact trajectories of the ``n`` even quantiles of the initial noise: a quadrature in one dimension."""
    levels = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    start = problem.prior_std * levels[:, None]
    return ReferenceFlow.integrate(
        problem.denoiser, start, problem.sigma_max, problem.sigma_floor, problem.sigma_end, problem.num_knots
    )


def weighted_closed_form(
    problem: Problem, reference: ReferenceFlow, num_steps: int, iterations: int = 12
) -> Schedule:
    """The closed form of the final error in one dimension: ``|Q|`` replaced by what its step moves at the end.

    A step of length h off a trajectory by ``h^2 Q / 2`` ends on another one: the distance of their ends, in root
    mean square over noises and over ``h^2 / 2``, is the weight. Where the flow parts this is far less than the
    propagator says. h depends on the grid, so it is a fixed point.
    """
    order = torch.argsort(reference.start[:, 0])
    x, end = reference.x[:, order, 0].numpy(), reference.x_end[order, 0].numpy()
    s = reference.sigmas.numpy()
    Q = np.stack(
        [
            curvature(problem.denoiser, rows[order], level)[1][:, 0].numpy()
            for rows, level in zip(reference.x, reference.sigmas, strict=True)
        ]
    )
    density = np.sqrt(np.abs(Q).mean(1))
    for _ in range(iterations):
        area = (0.5 * (density[1:] + density[:-1]) * -np.diff(s)).sum()
        h = np.minimum(area / num_steps / density, s)
        moved = np.stack(
            [_interp(at + 0.5 * k**2 * q, at, end) - end for at, k, q in zip(x, h, Q, strict=True)]
        )
        weight = np.sqrt((moved**2).mean(1)) / (0.5 * h**2)
        # Halfway in logs: the plain iteration may swing.
        density = np.sqrt(density * np.sqrt(np.maximum(weight, 1e-12)))
    return equal_density(reference, density, num_steps, "weighted")


def _interp(y: Array, x: Array, values: Array) -> Array:
    """Linear interpolation that goes on beyond the ends."""
    i = np.clip(np.searchsorted(x, y), 1, len(x) - 1)
    slope = (values[i] - values[i - 1]) / (x[i] - x[i - 1])
    return np.asarray(values[i - 1] + slope * (y - x[i - 1]))


# The paper's reward at few steps


def paper_cost(problem: Problem, schedule: Schedule, num_noises: int, seed: int = 0) -> float:
    """Minus the mean return of ``reward="euler"`` on a grid: |Q| at the sampler's own iterates."""
    physics = Dynamics(
        problem=problem,
        solver="euler",
        num_steps=schedule.num_steps,
        reward="euler",
        control="speed",
        features=(),
    )
    state = physics.initial(problem.sample_noise(num_noises, seed))
    total = 0.0
    for theta in -np.diff(schedule.sigmas) * schedule.num_steps / physics.horizon:
        action = torch.full_like(state.sigma, float(theta))
        after = physics.transition(state, action)
        total -= float(physics.reward(state, action, after).mean())
        state = after
    return total


def giant_step(schedule: Schedule, sigma: float, num_steps: int) -> Schedule:
    """One step down to ``sigma``, then ``num_steps - 1`` even steps of the clock behind ``schedule``."""
    ticks = np.linspace(0.0, 1.0, 4001)
    levels = schedule.interpolator()(ticks)
    start = np.interp(-sigma, -levels, ticks)
    nodes = schedule.interpolator()(np.linspace(start, 1.0, num_steps))
    nodes[0], nodes[-1] = sigma, schedule.sigma_end
    return from_sigmas([schedule.sigma_max, *nodes], f"one step to {sigma:g}")


def gaussian_surrogate(num_steps: int, num_levels: int = 600) -> Schedule:
    """The grid of gaussian-1d with the best return of ``reward="euler"``, by dynamic programming.

    Euler and |Q| are linear in x, so the cost-to-go is |x| times a function of the level and the steps left.
    """
    s = np.linspace(T, 0.0, num_levels + 1)
    step, at = s[:, None] - s[None, :], s[:, None]
    cost = np.where(step > 0, num_steps / T * step**2 / (1 + at**2) ** 2, np.inf)
    ratio = 1 - step * at / (1 + at**2)
    to_go, choices = cost[:, -1], []
    for _ in range(num_steps - 1):
        total = cost + ratio * np.where(np.isfinite(to_go), to_go, 1e9)
        choices.append(np.argmin(total, axis=1))
        to_go = total.min(axis=1)
    path = [0]
    for best in reversed(choices):
        path.append(int(best[path[-1]]))
    return from_sigmas([*s[path], 0.0], "surrogate")


# Two steps and one weight


def two_step_error(r: float, H: float, weight: float) -> float:
    """Signed final error of two steps of ``learned_2m`` on N(0, 1), from x = 1 at sigma = 2.

    Args:
        r: length of the second step over that of the first.
        H: length of both together.
        weight: of the second step.
    """
    sigmas = np.array([2.0, 2.0 - H / (1 + r), 2.0 - H])
    exact = np.sqrt((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2))
    x = torch.ones(1, 1, dtype=torch.float64)
    end = sample(GaussianDenoiser(1.0), x, sigmas, "learned_2m", weights=np.array([[0.0], [weight]]))
    return float(end) - float(exact)


def mending_weight(r: float, H: float) -> float:
    """The weight without error; the error is linear in it."""
    at_0, at_1 = (two_step_error(r, H, weight) for weight in (0.0, 1.0))
    return -at_0 / (at_1 - at_0)


def two_step_order(r: float, weight: float) -> float:
    """The power of H that the error grows with, between H = 0.05 and 0.1."""
    return float(np.log2(two_step_error(r, 0.1, weight) / two_step_error(r, 0.05, weight)))
