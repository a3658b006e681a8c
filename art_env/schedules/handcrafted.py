"""The schedules that people copy by hand today.

Each is a pure function with the same leading arguments. With ``final_sigmas_type="sigma_min"`` the ramp has
``num_steps + 1`` noise levels, from ``sigma_max`` to ``sigma_min``. With ``final_sigmas_type="zero"`` (EDM's
convention) it has ``num_steps`` levels and then 0; if ``sigma_min`` is itself 0 the ramp runs to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from art_env._util.names import check_name
from art_env._util.numbers import check_real
from art_env.diffusion.levels import FINAL_SIGMAS_TYPES, LEAST_SIGMA, MOST_SIGMA, check_rho, check_sigma_range
from art_env.schedules.schedule import Array, Schedule, check_num_steps


def _ramp(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    final_sigmas_type: str,
    inside: Callable[[Array], Array],
    name: str,
) -> Schedule:
    """Noise levels at even clock ticks ``r``, where ``inside`` maps 0 -> sigma_max and 1 -> sigma_min."""
    check_num_steps(num_steps)
    check_sigma_range(sigma_min, sigma_max)
    check_name("final_sigmas_type", final_sigmas_type, FINAL_SIGMAS_TYPES)
    append_zero = final_sigmas_type == "zero" and sigma_min > 0
    ticks = np.linspace(0.0, 1.0, num_steps if append_zero else num_steps + 1)
    sigmas = inside(ticks)
    sigmas[0] = sigma_max
    if len(ticks) > 1:
        sigmas[-1] = sigma_min
    if append_zero:
        sigmas = np.append(sigmas, 0.0)
    return Schedule(sigmas, name)


def uniform(
    num_steps: int, sigma_min: float, sigma_max: float, *, final_sigmas_type: str = "zero"
) -> Schedule:
    """Equal steps of sigma."""
    return _ramp(
        num_steps,
        sigma_min,
        sigma_max,
        final_sigmas_type,
        lambda r: sigma_max + r * (sigma_min - sigma_max),
        "uniform",
    )


def edm(
    num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0, *, final_sigmas_type: str = "zero"
) -> Schedule:
    """Equal steps of ``sigma ** (1 / rho)`` (Karras et al. 2022, eq. 5).

    Raises:
        ValueError: ``rho`` is not a number from 0.1 to 1,000.
    """
    check_rho("rho", rho)
    check_sigma_range(sigma_min, sigma_max)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    name = "edm" if rho == 7 else f"edm:rho={rho:g}"
    return _ramp(
        num_steps, sigma_min, sigma_max, final_sigmas_type, lambda r: (high + r * (low - high)) ** rho, name
    )


def log_snr(
    num_steps: int, sigma_min: float, sigma_max: float, *, final_sigmas_type: str = "zero"
) -> Schedule:
    """Equal steps of log sigma, that is of the log signal-to-noise ratio (DPM-Solver, Lu et al. 2022).

    Raises:
        ValueError: ``sigma_min`` is 0, which is infinitely far away on this scale.
    """
    if sigma_min <= 0:
        raise ValueError(
            f"log_snr needs sigma_min above 0, not {sigma_min:g}; pass for example sigma_min=1e-4"
        )
    check_sigma_range(sigma_min, sigma_max)
    high, low = math.log(sigma_max), math.log(sigma_min)
    return _ramp(
        num_steps,
        sigma_min,
        sigma_max,
        final_sigmas_type,
        lambda r: np.exp(high + r * (low - high)),
        "log_snr",
    )


def arctan(
    num_steps: int, sigma_min: float, sigma_max: float, c: float = 1.0, *, final_sigmas_type: str = "zero"
) -> Schedule:
    """Equal steps of ``arctan(sigma / c)``: Euler's optimum at every K if the data is N(0, c^2).

    Raises:
        ValueError: ``c`` is not a positive number.
    """
    check_real("c", c, LEAST_SIGMA, MOST_SIGMA, "as the standard deviation of the data")
    check_sigma_range(sigma_min, sigma_max)
    high, low = math.atan(sigma_max / c), math.atan(sigma_min / c)
    name = "arctan" if c == 1 else f"arctan:c={c:g}"
    return _ramp(
        num_steps,
        sigma_min,
        sigma_max,
        final_sigmas_type,
        lambda r: c * np.tan(high + r * (low - high)),
        name,
    )


def cosine(
    num_steps: int, sigma_min: float, sigma_max: float, *, final_sigmas_type: str = "zero"
) -> Schedule:
    """The cosine schedule (Nichol and Dhariwal 2021) in variance-exploding terms.

    ``alpha_bar = cos(angle)^2`` means ``sigma = sqrt(1 / alpha_bar - 1) = tan(angle)``, so even steps of its
    time are even steps of the angle: the same list as ``arctan`` with ``c = 1``.
    """
    schedule = arctan(num_steps, sigma_min, sigma_max, 1.0, final_sigmas_type=final_sigmas_type)
    return Schedule(schedule.sigmas, "cosine")


HANDCRAFTED: dict[str, Callable[..., Schedule]] = {
    "uniform": uniform,
    "edm": edm,
    "log_snr": log_snr,
    "cosine": cosine,
    "arctan": arctan,
}
