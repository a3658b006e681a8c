"""The base schedule as a clock: a monotone map from the spent budget to a noise level."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from art_env._util.names import check_name
from art_env.problems.problem import Problem
from art_env.schedules.optimal import closed_form
from art_env.schedules.schedule import Schedule

# Least part of the clock's coordinate that a step takes: far below any useful one, far above rounding.
MIN_SHARE = 1e-9

Clock = Callable[[np.ndarray], np.ndarray]


def _resolve_clock(clock: float | str | Schedule, problem: Problem) -> float | Schedule:
    if not isinstance(clock, str):
        return clock
    check_name("clock", clock, ("closed_form",))
    return closed_form(problem.reference(min(problem.num_noises, 256)), 256)


def make_clock(clock: float | str | Schedule, problem: Problem, num_steps: int) -> Clock:
    """The coordinate in which even spending means ``action = 0``: a monotone map ``t in [0, 1] -> sigma``.

    Args:
        clock: a number rho: even steps of ``sigma^(1/rho)`` as in ``edm(num_steps, rho=rho)`` (7: EDM's grid,
            1: the uniform one); ``"closed_form"``: the optimum of the paper's objective; or any ``Schedule``.
        problem: its range and terminal.
        num_steps: K.

    Raises:
        ValueError: a name or number that is not a clock, or a schedule for another noise range.
    """
    clock = _resolve_clock(clock, problem)
    if isinstance(clock, Schedule):
        clock.check_range(problem.sigma_max, problem.sigma_end)
        return clock.interpolator()
    try:
        rho = float(clock)
    except (TypeError, ValueError):
        rho = math.nan
    if not (math.isfinite(rho) and rho > 0):
        raise ValueError(f"clock = {clock!r} must be a positive number rho, 'closed_form' or a Schedule")
    high, low = problem.sigma_max ** (1 / rho), problem.sigma_min ** (1 / rho)
    # K noise levels and then 0: the ramp takes all the ticks but the last.
    split = (num_steps - 1) / num_steps if problem.terminal == "zero" and problem.sigma_min > 0 else 1.0

    def sigma_of(t: np.ndarray) -> np.ndarray:
        if split == 0.0:
            return np.asarray(problem.sigma_max * (1 - t))
        ramp = (high + np.minimum(t / split, 1.0) * (low - high)) ** rho
        if split == 1.0:
            return np.asarray(ramp)
        return np.where(t > split, problem.sigma_min * (1 - t) / (1 - split), ramp)

    return sigma_of
