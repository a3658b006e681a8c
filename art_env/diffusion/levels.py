"""The range of noise levels: where schedules start and where they end."""

from __future__ import annotations

import math

from art_env._util.numbers import check_number, check_real

FINAL_SIGMAS_TYPES = ("zero", "sigma_min")
# What a model's own programs sample in: x0 + sigma noise, or (1 - t) x0 + t noise with t = sigma / (1 + sigma).
SPACES = ("ve", "flow")


# What float64 can square and raise to the power of 1 / rho; no model has noise beyond it.
LEAST_SIGMA, MOST_SIGMA = 1e-9, 1e9
# Of sigma^(1/rho): beyond it a ramp is all at one of its ends. EDM's rho is 7.
LEAST_RHO, MOST_RHO = 0.1, 1000.0


def check_sigma_range(sigma_min: float, sigma_max: float) -> None:
    """Raise a ValueError unless ``0 <= sigma_min < sigma_max`` are numbers of a noise range."""
    for field, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max)):
        if not math.isfinite(check_number(field, value)):
            raise ValueError(f"{field} = {value} is not finite")
    if sigma_max <= 0:
        raise ValueError(f"sigma_max = {sigma_max:g} must be above 0")
    if sigma_min < 0:
        raise ValueError(f"sigma_min = {sigma_min:g} must not be negative")
    if sigma_min >= sigma_max:
        raise ValueError(f"sigma_min = {sigma_min:g} must be below sigma_max = {sigma_max:g}; swap them?")
    check_real("sigma_max", sigma_max, LEAST_SIGMA, MOST_SIGMA)
    if sigma_min > 0:
        check_real("sigma_min", sigma_min, LEAST_SIGMA, MOST_SIGMA, "or be 0")


def check_rho(field: str, rho: object) -> float:
    """Return ``rho`` of a ramp ``sigma^(1/rho)`` as a float.

    Raises:
        ValueError: not a number in range.
    """
    return check_real(field, rho, LEAST_RHO, MOST_RHO, "such as 7")
