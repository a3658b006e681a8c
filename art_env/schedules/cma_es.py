"""The final error minimised without gradients, by CMA-ES (Hansen 2016, arXiv 1604.00772).

Needs the extra: ``pip install "art-rl[cma]"``.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from types import ModuleType

import numpy as np

from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver, get_solver
from art_env.schedules.gradient import FLAT, from_numbers, search_scale, to_numbers, with_weights
from art_env.schedules.optimal import closed_form, final_rmse
from art_env.schedules.schedule import Schedule, check_num_steps, from_sigmas

# Log error of a grid that cannot be sampled.
WORST = 1e6


def require_cma() -> ModuleType:
    """The package ``cma``.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("cma")
    except ImportError as error:
        raise ImportError('the schedule cma needs the package cma: pip install "art-rl[cma]"') from error


def evolve(
    denoiser: Denoiser,
    reference: ReferenceFlow,
    num_steps: int,
    solver: str | Solver = "heun",
    max_evaluations: float = 1000,
    seed: int = 0,
    step_size: float = 0.5,
    callback: Callable[[int, float], None] | None = None,
) -> Schedule:
    """The grid with the least final error that CMA-ES finds: what ``gradient_search`` minimises, without gradients.

    CMA-ES moves the logs of the K step sizes in the coordinate of ``gradient_search``, and the weights of a learned
    solver. It starts from the closed form, with the best of the classical rules' weights. A search that has converged
    is started again there with twice the population, until ``max_evaluations`` are spent. One descent takes about
    200 K errors, and may end in a local minimum.

    Args:
        denoiser: the model; need not be differentiable.
        reference: exact trajectories; the error is that of all of its noises.
        num_steps: K.
        solver: a name or a ``Solver``.
        max_evaluations: final errors to compute, each of all the noises; at least 1, the first is that of the start.
        seed: of CMA-ES.
        step_size: its first standard deviation, of log step sizes and weights.
        callback: called as ``callback(evaluations, rmse)`` at the start and at every improvement, with the network
            evaluations so far and the best error.

    Returns:
        a schedule whose meta has ``rmse``, ``evaluations`` (rows times evaluations), ``max_evaluations`` and
        ``seconds``.

    Raises:
        ImportError: the package ``cma`` is not installed.
        ValueError: max_evaluations, seed or step size out of range.
    """
    cma = require_cma()
    K, rule = check_num_steps(num_steps), get_solver(solver)
    if not float(max_evaluations).is_integer() or max_evaluations < 1:
        raise ValueError(f"max_evaluations = {max_evaluations} must be a whole number of at least 1")
    if seed < 0:
        raise ValueError(f"seed = {seed} must not be negative")
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size = {step_size} must be a positive number")
    begun, price = time.perf_counter(), reference.num_noises * rule.nfe(K)
    scale, closed = search_scale(reference), closed_form(reference, K)
    best, least, used, evaluations = closed, np.inf, 0, 0

    def log_error(schedule: Schedule | None) -> float:
        nonlocal best, least, used, evaluations
        used += 1
        if schedule is None:  # cannot be sampled
            return WORST
        evaluations += price
        rmse = final_rmse(denoiser, reference, schedule, rule)
        if rmse < least:
            best, least = schedule, rmse
            if callback is not None:
                callback(evaluations, rmse)
        return math.log(max(rmse, 1e-300)) if math.isfinite(rmse) else WORST

    for given in with_weights(closed, rule)[: int(max_evaluations)]:
        log_error(given)
    start = best
    first = to_numbers(start, rule, scale)
    population = 4 + int(3 * np.log(len(first)))
    while K > 1 and used < max_evaluations:
        # cma takes the seed 0 as "from the clock".
        options = {
            "popsize": population,
            "seed": seed + used,
            "verbose": -9,
            "tolfun": FLAT,
            "tolfunhist": FLAT,
        }
        search = cma.CMAEvolutionStrategy(first, step_size, options)
        while used < max_evaluations and not search.stop():
            asked = search.ask()
            tried = asked[: int(max_evaluations) - used]
            errors = [log_error(from_numbers(z, start, rule, scale)) for z in tried]
            if len(errors) == len(asked):
                search.tell(asked, errors)
        population *= 2
    return from_sigmas(
        best.sigmas,
        "cma",
        weights=best.weights,
        solver=rule.name,
        objective="global",
        rmse=least,
        evaluations=evaluations,
        max_evaluations=int(max_evaluations),
        seed=seed,
        seconds=time.perf_counter() - begun,
        num_noises=reference.num_noises,
    )
