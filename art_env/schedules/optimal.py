"""Schedules that are computed, not learned: what a learner is measured against.

``closed_form`` minimises the paper's objective, ``dynamic_programming`` the sum of the solver's own local
errors, ``direct`` the final error itself (by gradients through the whole sampler): the limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.flow import ReferenceFlow, norm
from art_env.diffusion.solvers import Carry, Solver, euler_step, require_deterministic, sample
from art_env.schedules.handcrafted import edm, log_snr
from art_env.schedules.schedule import Array, Schedule, check_num_steps, from_sigmas

# A search stops when five iterations together gain less than this part of the error.
FLAT = 1e-4


def closed_form(reference: ReferenceFlow, num_steps: int) -> Schedule:
    """The optimum of the paper's objective: equal ``sqrt(E|Q|) dsigma`` per step (``theta ~ E|Q|^(-1/2)``).

    Reads E|Q| from the reference trajectories; costs no network evaluation.
    """
    density = reference.curvature_norms().mean(1).sqrt().cpu().numpy()
    return equal_density(reference, density, num_steps, "closed_form")


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

    The cost of a step ``i -> j`` is the mean error of the solver's step that starts on the exact trajectory.

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
        ValueError: fewer candidates than steps, a coefficient that is not a positive number, or a noisy solver.
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
            jump, _ = euler_step(denoiser, states[i], grid[i], grid[j], Carry(d))
            if j == M - 1:
                last[i] = float(norm(jump - states[j]).mean())
            else:
                if rule.evals_per_step > 1:
                    jump, _ = rule.step(denoiser, states[i], grid[i], grid[j], Carry(d))
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
    sigmas: Tensor | Array,
    solver: str | Solver,
    batch_size: int = 4096,
) -> float:
    """Paired RMSE over all coordinates between the sampler's end and the exact end, from the same noises.

    Raises:
        ValueError: a noisy solver.
    """
    solver = require_deterministic(solver, "the final RMSE")
    total = 0.0
    with torch.no_grad():
        for x, end in zip(reference.start.split(batch_size), reference.x_end.split(batch_size), strict=True):
            total += float((sample(denoiser, x, sigmas, solver) - end).square().sum())
    return float(np.sqrt(total / reference.x_end.numel()))


def direct(
    denoiser: Denoiser,
    reference: ReferenceFlow,
    num_steps: int,
    solver: str | Solver = "heun",
    starts: Iterable[Schedule] = (),
    num_searches: int = 3,
    max_iterations: int = 200,
    screen_noises: int = 512,
    batch_size: int | None = None,
    with_dp: bool = True,
) -> Schedule:
    """The limit: the grid with the least final error, by BFGS with gradients through the whole sampler.

    Minimises the very RMSE that tables report, on the reference's own noises, so that a schedule scored on
    the same noises cannot be better than the limit. The final error has several local minima; searches start
    from the best few of EDM, log-SNR, the closed form, dynamic programming and ``starts``, first on a part of
    the noises, then on all of them, and the last search is restarted until it moves by less than 0.1%.

    Args:
        denoiser: differentiable in x and sigma.
        reference: exact trajectories.
        num_steps: K.
        solver: a name or a ``Solver``.
        starts: more grids to start from (other K are resampled).
        num_searches: how many starts are followed.
        max_iterations: of each search on all the noises.
        screen_noises: noises of the first searches.
        batch_size: rows differentiated at once; None: 512, and more of small samples.
        with_dp: start from dynamic programming too (its local errors cost many evaluations of a network).

    Returns:
        a schedule whose meta has ``rmse``, ``evaluations`` (rows times evaluations, a gradient counted as
        three), and ``last_change``, the relative gain of the last restart.

    Raises:
        ValueError: a noisy solver.
    """
    K = check_num_steps(num_steps)
    rule = require_deterministic(solver, "the error that the limit minimises")
    sigma_max, floor = float(reference.sigmas[0]), float(reference.sigmas[-1])
    terminal = "zero" if reference.sigma_end == 0 else "sigma_min"
    if K == 1:
        only = from_sigmas([sigma_max, reference.sigma_end], "limit")
        rmse = final_rmse(denoiser, reference, only.sigmas, rule)
        return from_sigmas(only.sigmas, "limit", solver=rule.name, rmse=rmse, evaluations=0, last_change=0.0)
    grids: list[Schedule] = [
        edm(K, floor, sigma_max, terminal=terminal),
        edm(K, floor, sigma_max, 3.0, terminal=terminal),
        log_snr(K, floor, sigma_max, terminal=terminal),
        closed_form(reference, K),
        *(s.resample(K) for s in starts),
    ]
    if with_dp:
        grids.append(dynamic_programming(denoiser, reference, K, rule, max(48, 2 * K), max_noises=64))
    part = reference.first(screen_noises)
    batch_size = batch_size or max(512, 16384 // reference.start[0].numel())
    search = _Search(denoiser, rule, batch_size, scale=search_scale(reference))
    ranked = sorted(grids, key=lambda s: final_rmse(denoiser, part, s.sigmas, rule))[:num_searches]
    found = [search.run(part, s.sigmas, min(60, max_iterations)) for s in ranked]
    best = min([*found, *(s.sigmas for s in grids)], key=lambda g: final_rmse(denoiser, reference, g, rule))
    rmse = final_rmse(denoiser, reference, best, rule)
    change = np.inf
    for _ in range(6):
        # A restart forgets BFGS' picture of the curvature: it catches searches that stalled.
        after = search.run(reference, best, max_iterations)
        new = final_rmse(denoiser, reference, after, rule)
        change = (rmse - new) / rmse if rmse > 0 else 0.0
        if new < rmse:
            best, rmse = after, new
        if change < 1e-3:
            break
    return from_sigmas(
        best,
        "limit",
        solver=rule.name,
        objective="global",
        rmse=rmse,
        evaluations=search.evaluations,
        last_change=max(float(change), 0.0),
        num_noises=reference.num_noises,
    )


# A search moves the logs of the K step sizes in the coordinate asinh(sigma / scale), up to a constant.


def search_scale(reference: ReferenceFlow) -> float:
    """Where the search's coordinate turns from log to linear: well below the last useful noise level."""
    return float(reference.sigmas[-1]) if reference.sigma_end > 0 else 0.05 * float(reference.x_end.std())


def log_steps(sigmas: Sequence[float] | Array, scale: float) -> Array:
    """Logs of the step sizes of a grid in a search's coordinate, ``[K]``."""
    z: Array = np.log(np.maximum(-np.diff(np.arcsinh(np.asarray(sigmas) / scale)), 1e-12))
    return z


def levels_from(z: Tensor, sigma_max: float, sigma_end: float, scale: float) -> Tensor:
    """Noise levels ``[K + 1]`` of log step sizes ``z: [K]``, up to rounding at the ends: ``log_steps`` undone."""
    u0, u1 = float(np.arcsinh(sigma_max / scale)), float(np.arcsinh(sigma_end / scale))
    u = torch.cat(
        [torch.zeros_like(z[:1]), torch.cumsum(torch.softmax(z, 0)[:-1], 0), torch.ones_like(z[:1])]
    )
    return scale * torch.sinh(u0 - (u0 - u1) * u)


class _Search:
    """BFGS over the K step sizes, as a softmax in the coordinate ``asinh(sigma / scale)``."""

    def __init__(self, denoiser: Denoiser, solver: Solver, batch_size: int, scale: float) -> None:
        self.denoiser, self.solver, self.batch_size, self.scale = denoiser, solver, batch_size, scale
        self.evaluations = 0

    def run(self, reference: ReferenceFlow, sigmas: Sequence[float] | Array, max_iterations: int) -> Array:
        ends = float(sigmas[0]), float(sigmas[-1])
        values: list[float] = []

        def stop_when_flat(intermediate_result: OptimizeResult) -> None:
            # A network in float32 never reaches the gradient's tolerance: its noise is above it.
            values.append(float(intermediate_result.fun))
            if len(values) > 5 and values[-6] - values[-1] < FLAT:
                raise StopIteration

        result = minimize(
            self._objective,
            log_steps(sigmas, self.scale),
            args=(reference, ends),
            jac=True,
            method="BFGS",
            callback=stop_when_flat,
            options={"maxiter": max_iterations, "gtol": 1e-4},
        )
        out = levels_from(torch.from_numpy(result.x), *ends, self.scale).numpy().copy()
        out[0], out[-1] = ends
        if not (np.isfinite(out).all() and (np.diff(out) < 0).all()):
            return np.asarray(sigmas, dtype=np.float64)
        return np.asarray(out, dtype=np.float64)

    def _objective(
        self, z: Array, reference: ReferenceFlow, ends: tuple[float, float]
    ) -> tuple[float, Array]:
        """log RMSE and its gradient: the log makes the step sizes of all problems alike."""
        leaf = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        total, grad = 0.0, torch.zeros_like(leaf)
        rows = reference.start.shape[0]
        for x, end in zip(
            reference.start.split(self.batch_size), reference.x_end.split(self.batch_size), strict=True
        ):
            levels = levels_from(leaf, *ends, self.scale).to(x.device)
            error = (sample(self.denoiser, x, levels, self.solver) - end).square().sum()
            (g,) = torch.autograd.grad(error, leaf)
            total += float(error.detach())
            grad += g
        self.evaluations += 3 * rows * self.solver.nfe(len(z))
        mean = total / reference.x_end.numel()
        if not np.isfinite(mean) or mean <= 0:
            return 1e6, np.zeros_like(z)
        return 0.5 * float(np.log(mean)), (0.5 * grad / total).numpy().astype(np.float64)
