"""The range of noise levels: where schedules start and where they end."""

from __future__ import annotations

import math

FINAL_SIGMAS_TYPES = ("zero", "sigma_min")
# What a model's own programs sample in: x0 + sigma noise, or (1 - t) x0 + t noise with t = sigma / (1 + sigma).
SPACES = ("ve", "flow")


def check_sigma_range(sigma_min: float, sigma_max: float) -> None:
    """Raise a ValueError unless ``0 <= sigma_min < sigma_max`` are finite."""
    for field, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max)):
        if not math.isfinite(value):
            raise ValueError(f"{field} = {value} is not finite")
    if sigma_max <= 0:
        raise ValueError(f"sigma_max = {sigma_max:g} must be above 0")
    if sigma_min < 0:
        raise ValueError(f"sigma_min = {sigma_min:g} must not be negative")
    if sigma_min >= sigma_max:
        raise ValueError(f"sigma_min = {sigma_min:g} must be below sigma_max = {sigma_max:g}; swap them?")
