"""Schedules that others compute without learning: GITS, SDM and DMN, on this project's solvers and noise ranges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.levels import check_sigma_range
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver, get_solver
from art_env.schedules.handcrafted import edm, log_snr
from art_env.schedules.optimal import dynamic_programming, equal_areas
from art_env.schedules.schedule import Array, Schedule, check_num_steps, from_sigmas


def gits(
    denoiser: Denoiser,
    reference: ReferenceFlow,
    num_steps: int,
    coefficient: float = 1.0,
    num_candidates: int = 64,
) -> Schedule:
    """GITS (Chen et al. 2024, arXiv 2405.11326): ``dynamic_programming`` over Euler's errors, for every solver.

    The cost of a step ``i -> j`` is the mean distance between the exact state at j and one Euler step from the
    exact state at i. The best cost from i with k steps left is ``min_j cost[i, j] + coefficient * best[j, k - 1]``:
    a step that has n before it counts ``coefficient ** n`` times. Theirs is 1.15 with 61 levels of EDM's grid to
    choose from; the levels here are those of ``dynamic_programming``.

    Raises:
        ValueError: as ``dynamic_programming``.
    """
    path = dynamic_programming(denoiser, reference, num_steps, "euler", num_candidates, coefficient)
    name = "gits" if coefficient == 1 else f"gits:coefficient={coefficient:g}"
    return replace(path, name=name)


def sdm(reference: ReferenceFlow, num_steps: int, q: float = 0.25) -> Schedule:
    """SDM's schedule (Jo and Choi 2026, arXiv 2602.12624): an equal share of the weighted local error per step.

    Each interval of the pilot trajectories, of length h, counts ``sqrt(eta) (sigma_max / sigma)^q``, where ``eta =
    h / 2 E|d' - d|`` is Euler's local error and sigma the interval's end. ``sqrt(eta)`` grows like h, so the sum does
    not depend on the pilot grid, and q = 0 is ``closed_form``; a larger q moves steps to low noise. The slopes are
    the reference's, so nothing is evaluated. A grid that ends at 0 divides all of the range down to 0, with the
    density of the last interval (theirs: K levels, then 0).

    Args:
        reference: exact trajectories.
        num_steps: K.
        q: theirs is 0.25 in their published example.

    Raises:
        ValueError: q is negative or not finite.
    """
    check_num_steps(num_steps)
    if not (math.isfinite(q) and q >= 0):
        raise ValueError(f"q = {q} must be a number of at least 0; 0 weighs all noise levels alike")
    sigmas = reference.sigmas.cpu().numpy()
    h = -np.diff(sigmas)
    d = reference.slope / reference.sigmas.reshape(-1, *([1] * (reference.slope.ndim - 1)))
    change = (d[1:] - d[:-1]).flatten(2).norm(dim=2).mean(1).cpu().numpy()
    areas = np.sqrt(h / 2 * change) * (sigmas[0] / sigmas[1:]) ** q
    if reference.sigma_end == 0:
        areas = np.append(areas, areas[-1] / h[-1] * sigmas[-1])
        sigmas = np.append(sigmas, 0.0)
    name = "sdm" if q == 0.25 else f"sdm:q={q:g}"
    nodes = equal_areas(sigmas, areas, num_steps)
    return from_sigmas(nodes, name, q=q, evaluations=0, num_noises=reference.num_noises)


def dmn(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    sigma_data: float,
    solver: str | Solver = "dpmpp_2m",
    *,
    final_sigmas_type: str = "zero",
) -> Schedule:
    """DMN (Xue et al. 2024, arXiv 2402.17376): the least bound on the error that the network's own error makes.

    A multistep solver in ``lambda = -log sigma`` with data prediction ends at ``x / sigma = ... + sum_k w_k D_k``,
    where ``w_k`` are integrals of ``exp(lambda)`` times Lagrange polynomials. If ``D_k`` is off by
    ``eps_k = sigma^2 / sqrt(sigma^2 + sigma_data^2)`` (theirs, in variance-exploding coordinates and for data of any
    scale), then the end is off by at most ``sum_k |w_k| eps_k``, which is minimised over the levels: no network is
    evaluated.

    Euler is such a solver, of order 1, and DPM-Solver++ 2M nearly one, of order 2. For Heun, iPNDM (2) and RK4 (3,
    the most there is) the bound is used as it is and says nothing exact. A grid that ends at 0 is one to
    ``sigma_min`` and then 0, since the weights of a step to 0 are infinite.

    Args:
        num_steps: K.
        sigma_min, sigma_max: noise range, ``sigma_min`` above 0.
        sigma_data: standard deviation of the data.
        solver: a name or a ``Solver``, for its order.
        final_sigmas_type: ``"zero"`` or ``"sigma_min"``.

    Raises:
        ValueError: a range that is not one, or ``sigma_data`` that is not positive.
    """
    check_num_steps(num_steps)
    check_sigma_range(sigma_min, sigma_max)
    if sigma_min == 0:
        raise ValueError("sigma_min = 0 is infinitely far away in log sigma; pass for example 1e-4")
    if not (math.isfinite(sigma_data) and sigma_data > 0):
        raise ValueError(f"sigma_data = {sigma_data} must be a positive number")
    rule = get_solver(solver)
    K = num_steps - 1 if final_sigmas_type == "zero" else num_steps
    order, length = min(rule.order, 3), math.log(sigma_max / sigma_min)

    def levels(z: Array) -> Array:
        steps = np.exp(z - z.max())
        inside = sigma_max * np.exp(-length * np.cumsum(steps[:-1]) / steps.sum())
        return np.concatenate([[sigma_max], inside, [sigma_min]])

    starts = [
        make(num_steps, sigma_min, sigma_max, final_sigmas_type=final_sigmas_type).sigmas
        for make in (log_snr, edm)
    ]
    best = starts[0]
    if K > 1:

        def objective(z: Array) -> float:
            return math.log(error_bound(levels(z), sigma_data, order))

        first = [np.log(-np.diff(np.log(start[: K + 1]))) for start in starts]
        smooth = [minimize(objective, z, method="BFGS") for z in first]
        found = min(smooth, key=lambda result: float(result.fun)).x
        # Where a weight changes its sign the bound has a kink, at which BFGS stops too soon.
        tolerances = {"xatol": 1e-5, "fatol": 1e-7, "maxfev": 2000, "adaptive": True}
        nodes = levels(minimize(objective, found, method="Nelder-Mead", options=tolerances).x)
        best = np.append(nodes, 0.0) if final_sigmas_type == "zero" else nodes
    return from_sigmas(best, "dmn", order=order, evaluations=0)


def error_bound(sigmas: Array, sigma_data: float, order: int) -> float:
    """The bound that ``dmn`` minimises, in units of the data; ``sigmas: [K + 1]``, descending, above 0.

    Step n interpolates ``min(order, n + 1, K - n)`` denoised samples. As in the authors' code, the first three steps
    and the last add up by themselves, with independent errors: nothing cancels between them and later ones.
    """
    lam, K = -np.log(sigmas), len(sigmas) - 1
    eps = sigmas[:-1] ** 2 / np.hypot(sigmas[:-1], sigma_data) / sigma_data
    alone, together = 0.0, np.zeros(K)
    for n in range(K):
        used = np.arange(n, max(n - min(order, K - n), -1), -1)
        h = lam[n + 1] - lam[n]
        moments = [math.expm1(h)]  # of exp(t) t^i from 0 to h
        for i in range(1, len(used)):
            moments.append(h**i * math.exp(h) - i * moments[-1])
        powers = np.vander(lam[used] - lam[n], increasing=True).T
        weights = np.linalg.solve(powers, moments) * sigmas[-1] / sigmas[n]
        if n < 3 or n == K - 1:
            alone += float(np.linalg.norm(weights * eps[used]))
        else:
            together[used] += weights
    return alone + float(np.abs(together) @ eps)
