"""Schedules that minimise local errors: the closed form of the paper's objective, and dynamic programming."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser, difference
from art_env.diffusion.ode import ReferenceFlow, norm
from art_env.diffusion.solvers import Solver, require_deterministic, sample
from art_env.diffusion.steps import SolverState, euler_step
from art_env.schedules.schedule import Array, Schedule, check_num_steps, from_sigmas


def closed_form(reference: ReferenceFlow, num_steps: int) -> Schedule:
    """The optimum of the paper's objective: equal ``sqrt(E|Q|) dsigma`` per step (``theta ~ E|Q|^(-1/2)``).

    Reads E|Q| from the reference trajectories; costs no network evaluation.
    """
    density = reference.curvature_norms().mean(1).sqrt().cpu().numpy()
    return equal_density(reference, density, num_steps, "closed_form")


def gain_of_seeing(reference: ReferenceFlow) -> float:
    """What a clock that sees the sample can win of the paper's objective, as a part of the best fixed clock's cost.

    The best fixed clock costs ``(integral sqrt(E|Q|))^2``, the best clock of each trajectory ``E (integral
    sqrt(|Q|))^2``: their ratio, at most 1, costs no evaluation. It is about Euler's steps, and hindsight, which no
    policy has.
    """
    norms = reference.curvature_norms()
    widths = -reference.sigmas.diff()

    def integral(density: Tensor) -> Tensor:
        return (0.5 * (density[1:] + density[:-1]) * widths.reshape(-1, *[1] * (density.ndim - 1))).sum(0)

    alone = integral(norms.sqrt()).square().mean()
    return float(alone / integral(norms.mean(1).sqrt()).square())


def equal_density(reference: ReferenceFlow, density: Array, num_steps: int, name: str) -> Schedule:
    """The grid with an equal integral of ``density`` (``[M]``, at the reference's knots) over each step."""
    check_num_steps(num_steps)
    sigmas = reference.sigmas.cpu().numpy()
    if reference.sigma_end == 0:
        sigmas, density = np.append(sigmas, 0.0), np.append(density, density[-1])
    areas = 0.5 * (density[1:] + density[:-1]) * -np.diff(sigmas)
    nodes = equal_areas(sigmas, areas, num_steps)
    return from_sigmas(nodes, name, evaluations=0, num_noises=reference.num_noises)


def equal_areas(sigmas: Array, areas: Array, num_steps: int) -> Array:
    """``[num_steps + 1]`` noise levels with an equal share of the total area in each step.

    ``sigmas: [M]``, descending; ``areas: [M - 1]``, not negative, those between them.
    """
    travelled = np.concatenate([[0.0], np.cumsum(areas)])
    # Strictly increasing, also where the flow is straight to rounding (Q = 0).
    travelled = travelled / travelled[-1] + 1e-9 * np.linspace(0.0, 1.0, len(travelled))
    clock = PchipInterpolator(travelled / travelled[-1], sigmas)
    nodes: Array = clock(np.linspace(0.0, 1.0, num_steps + 1))
    nodes[0], nodes[-1] = sigmas[0], sigmas[-1]
    return nodes


@torch.no_grad()
def dynamic_programming(
    denoiser: Denoiser,
    reference: ReferenceFlow,
    num_steps: int,
    solver: str | Solver = "euler",
    num_candidates: int = 64,
    coefficient: float = 1.0,
    max_noises: int = 256,
) -> Schedule:
    """Shortest path over the matrix of local errors, as GITS (Chen et al. 2024) but for any solver.

    The cost of a step ``i -> j`` is the mean error of the solver's step that starts on the exact trajectory. What is
    before a step is not known yet, so that of a solver with one evaluation a step it is Euler's: the path is ``gits``
    then, and another one only of a multistage solver.

    Args:
        denoiser: the model; a candidate costs one evaluation a row, and with a multistage solver each pair of
            candidates the rest of its stages.
        reference: exact trajectories.
        num_steps: K.
        solver: a name or a ``Solver``; the last step is Euler.
        num_candidates: noise levels to choose from, half even in log sigma, half even in ``closed_form``.
        coefficient: GITS' fudge factor: later costs are multiplied by it once a step (1: none).
        max_noises: trajectories used.

    Returns:
        a schedule whose meta has ``evaluations`` (rows times evaluations; those of the reference come on top).

    Raises:
        ValueError: fewer candidates than steps, a coefficient that is not a positive number, or a stochastic solver.
    """
    check_num_steps(num_steps)
    rule = require_deterministic(solver, "the local error of dynamic programming")
    if num_candidates < num_steps + 1:
        raise ValueError(f"num_candidates = {num_candidates} must exceed num_steps = {num_steps}")
    if not (math.isfinite(coefficient) and coefficient > 0):
        raise ValueError(f"coefficient = {coefficient} must be a positive number; 1 is none")
    dense = closed_form(reference, num_candidates // 2).sigmas
    sigma_max, floor = float(reference.sigmas[0]), float(reference.sigmas[-1])
    levels = np.unique(np.concatenate([dense, np.geomspace(sigma_max, floor, num_candidates // 2)]))[::-1]
    keep = np.append(True, -np.diff(levels) > 1e-9 * levels[:-1])
    levels = levels[keep]
    M = len(levels)
    index = torch.arange(min(max_noises, reference.num_noises), device=reference.x.device)
    grid = torch.as_tensor(levels.copy(), dtype=reference.x.dtype, device=reference.x.device)
    states = [reference.at(s, index) for s in grid]
    cost = np.full((M, M), np.inf)
    last = np.full(M, np.inf)
    for i in range(M - 1):
        d = (states[i] - denoiser(states[i], grid[i])) / grid[i]
        for j in range(i + 1, M):
            jump, _ = euler_step(denoiser, states[i], grid[i], grid[j], SolverState(d))
            if j == M - 1:
                last[i] = float(norm(jump - states[j]).mean())
            else:
                if rule.evals_per_step > 1:
                    jump, _ = rule.step(denoiser, states[i], grid[i], grid[j], SolverState(d))
                cost[i, j] = float(norm(jump - states[j]).mean())
    value = last.copy()  # best cost from level i to the end with one step left
    choice: list[np.ndarray] = []
    for _ in range(num_steps - 1):
        total = cost + coefficient * value[None, :]
        choice.append(np.argmin(total, axis=1))
        value = total.min(axis=1)
    path = [0]
    for best in reversed(choice):
        path.append(int(best[path[-1]]))
    name = "dp" if coefficient == 1 else f"dp:coefficient={coefficient:g}"
    calls = M - 1 + (rule.evals_per_step - 1) * (M - 1) * (M - 2) // 2
    return from_sigmas(
        np.append(levels[path], reference.sigma_end),
        name,
        solver=rule.name,
        objective="local",
        evaluations=calls * len(index),
    )


def final_rmse(
    denoiser: Denoiser,
    reference: ReferenceFlow,
    schedule: Schedule | Tensor | Array,
    solver: str | Solver,
    batch_size: int = 4096,
) -> float:
    """Paired RMSE between the sampler's end and the exact end, from the same noises (see ``difference``).

    Raises:
        ValueError: a stochastic solver, or a schedule with weights for another one.
    """
    solver = require_deterministic(solver, "the final RMSE")
    sigmas, weights = (
        (schedule.sigmas, schedule.weights) if isinstance(schedule, Schedule) else (schedule, None)
    )
    total, count = 0.0, 0
    with torch.no_grad():
        for x, end in zip(reference.start.split(batch_size), reference.x_end.split(batch_size), strict=True):
            ends = sample(denoiser, x, sigmas, solver, weights=weights)
            off = difference(denoiser, ends, end)
            total, count = total + float(off.square().sum()), count + off.numel()
    return float(np.sqrt(total / count))
