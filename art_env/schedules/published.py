"""Schedules that others compute without learning: GITS, SDM and DMN, on this project's solvers and noise ranges."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
from scipy.optimize import LinearConstraint, minimize

from art_env._util.names import check_name
from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.levels import FINAL_SIGMAS_TYPES, check_sigma_range
from art_env.diffusion.ode import ReferenceFlow
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
    choose from; the levels here are those of ``dynamic_programming``. That does exactly the same for every solver
    with one evaluation a step, whose local error there is that of Euler's step.

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
    sigma_data: float = 1.0,
    *,
    final_sigmas_type: str = "zero",
) -> Schedule:
    """DMN (Xue et al. 2024, arXiv 2402.17376): the least bound on the error that the network's own error makes.

    A multistep solver in ``lambda = -log sigma`` with data prediction ends at ``x / sigma = ... + sum_k w_k D_k``,
    where ``w_k`` are integrals of ``exp(lambda)`` times Lagrange polynomials. If ``D_k`` is off by
    ``eps_k = sigma^2 / sqrt(sigma^2 + sigma_data^2)`` (theirs, in variance-exploding coordinates and for data of any
    scale), then the end is off by at most ``sum_k |w_k| eps_k``, which is minimised over the levels: no network is
    evaluated.

    As in the authors' code the bound is that of order 3 for every solver, and the search starts from even steps of
    lambda and follows one local minimum. With more than 7 steps the bound has so many kinks that where a search stops
    depends on rounding. The list has ``num_steps + 1`` levels to ``sigma_min``; if it is to end at 0
    the last one is called 0 (``zero="replace"`` of the hand-crafted ones).

    Args:
        num_steps: K.
        sigma_min, sigma_max: noise range, ``sigma_min`` above 0.
        sigma_data: standard deviation of the data; theirs is 1 for every model.
        final_sigmas_type: ``"zero"`` or ``"sigma_min"``.

    Raises:
        ValueError: a range that is not one, or ``sigma_data`` that is not positive.
    """
    K = check_num_steps(num_steps)
    check_sigma_range(sigma_min, sigma_max)
    check_name("final_sigmas_type", final_sigmas_type, FINAL_SIGMAS_TYPES)
    if sigma_min == 0:
        raise ValueError("sigma_min = 0 is infinitely far away in log sigma; pass for example 1e-4")
    if not (math.isfinite(sigma_data) and sigma_data > 0):
        raise ValueError(f"sigma_data = {sigma_data} must be a positive number")

    def levels(inside: Array) -> Array:
        return np.concatenate([[sigma_max], np.exp(-inside), [sigma_min]])

    lam = np.linspace(-math.log(sigma_max), -math.log(sigma_min), K + 1)
    inside = lam[1:-1]
    if K > 1:
        # Each level below the one before it; the first and the last row are bounds.
        steps = np.eye(K, K - 1) - np.eye(K, K - 1, -1)
        least = np.zeros(K)
        least[0], least[-1] = lam[0], -lam[-1]
        with warnings.catch_warnings():
            # Two equal gradients in a row are no sign that the bound is linear.
            warnings.filterwarnings("ignore", "delta_grad == 0.0", UserWarning)
            inside = minimize(
                lambda z: error_bound(levels(z), sigma_data) * sigma_data / sigma_min,
                inside,
                method="trust-constr",
                constraints=[LinearConstraint(steps, least, np.inf)],
            ).x
    best = levels(inside)
    if final_sigmas_type == "zero":
        best[-1] = 0.0
    return from_sigmas(best, "dmn", evaluations=0)


def error_bound(sigmas: Array, sigma_data: float, order: int = 3) -> float:
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
