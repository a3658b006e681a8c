"""The schedules that people copy by hand today, as even steps of some coordinate of sigma.

Each is a pure function with the same leading arguments. With ``final_sigmas_type="sigma_min"`` the ramp has
``num_steps + 1`` noise levels, from ``sigma_max`` to ``sigma_min``. With ``final_sigmas_type="zero"`` there are two
conventions. ``zero="append"`` (EDM's): ``num_steps`` levels to ``sigma_min`` and then 0, so that the last evaluation
is spent at ``sigma_min``. ``zero="replace"``: the ramp of ``num_steps + 1`` levels, whose last one is then called 0.
It is how DPM-Solver, diff-sampler and DMN count steps, which end at ``sigma_min``. If ``sigma_min`` is itself 0 the
ramp runs to 0 with either.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from art_env._util.names import check_name
from art_env._util.numbers import check_real
from art_env.diffusion.levels import FINAL_SIGMAS_TYPES, LEAST_SIGMA, MOST_SIGMA, check_rho, check_sigma_range
from art_env.schedules.schedule import Array, Schedule, check_num_steps

ZEROS = ("append", "replace")


def _ramp(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    final_sigmas_type: str,
    zero: str,
    inside: Callable[[Array], Array],
    name: str,
) -> Schedule:
    """Noise levels at even clock ticks ``r``, where ``inside`` maps 0 -> sigma_max and 1 -> sigma_min."""
    check_num_steps(num_steps)
    check_sigma_range(sigma_min, sigma_max)
    check_zero(final_sigmas_type, zero)
    to_zero = final_sigmas_type == "zero"
    append_zero = to_zero and zero == "append" and sigma_min > 0
    ticks = np.linspace(0.0, 1.0, num_steps if append_zero else num_steps + 1)
    sigmas = inside(ticks)
    sigmas[0] = sigma_max
    if len(ticks) > 1:
        sigmas[-1] = sigma_min
    if append_zero:
        sigmas = np.append(sigmas, 0.0)
    elif to_zero:
        sigmas[-1] = 0.0
    if zero != ZEROS[0]:
        name += f"{',' if ':' in name else ':'}zero={zero}"
    return Schedule(sigmas, name)


def check_zero(final_sigmas_type: str, zero: str) -> None:
    """Refuse an end that is not known, and a place for a 0 that the list does not have.

    Raises:
        ValueError: says what to use instead.
    """
    check_name("final_sigmas_type", final_sigmas_type, FINAL_SIGMAS_TYPES)
    check_name("zero", zero, ZEROS)
    if zero != ZEROS[0] and final_sigmas_type != "zero":
        raise ValueError(
            f"zero = {zero!r}: a list that ends at sigma_min has no 0; leave zero out, or use "
            "final_sigmas_type='zero'"
        )


def _check_above_zero(name: str, sigma_min: float) -> None:
    if sigma_min <= 0:
        raise ValueError(
            f"{name} needs sigma_min above 0, not {sigma_min:g}; pass for example sigma_min=1e-4"
        )


def uniform(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    *,
    final_sigmas_type: str = "zero",
    zero: str = "append",
) -> Schedule:
    """Equal steps of sigma."""
    return _ramp(
        num_steps,
        sigma_min,
        sigma_max,
        final_sigmas_type,
        zero,
        lambda r: sigma_max + r * (sigma_min - sigma_max),
        "uniform",
    )


def edm(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    *,
    final_sigmas_type: str = "zero",
    zero: str = "append",
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
        num_steps,
        sigma_min,
        sigma_max,
        final_sigmas_type,
        zero,
        lambda r: (high + r * (low - high)) ** rho,
        name,
    )


def log_snr(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    *,
    final_sigmas_type: str = "zero",
    zero: str = "append",
) -> Schedule:
    """Equal steps of log sigma, that is of the log signal-to-noise ratio (DPM-Solver, Lu et al. 2022).

    Raises:
        ValueError: ``sigma_min`` is 0, which is infinitely far away on this scale.
    """
    _check_above_zero("log_snr", sigma_min)
    check_sigma_range(sigma_min, sigma_max)
    high, low = math.log(sigma_max), math.log(sigma_min)
    return _ramp(
        num_steps,
        sigma_min,
        sigma_max,
        final_sigmas_type,
        zero,
        lambda r: np.exp(high + r * (low - high)),
        "log_snr",
    )


def arctan(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    c: float = 1.0,
    *,
    final_sigmas_type: str = "zero",
    zero: str = "append",
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
        zero,
        lambda r: c * np.tan(high + r * (low - high)),
        name,
    )


def cosine(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    *,
    final_sigmas_type: str = "zero",
    zero: str = "append",
) -> Schedule:
    """The cosine schedule (Nichol and Dhariwal 2021) in variance-exploding terms.

    ``alpha_bar = cos(angle)^2`` means ``sigma = sqrt(1 / alpha_bar - 1) = tan(angle)``, so even steps of its
    time are even steps of the angle: the same list as ``arctan`` with ``c = 1``.
    """
    schedule = arctan(num_steps, sigma_min, sigma_max, 1.0, final_sigmas_type=final_sigmas_type, zero=zero)
    return Schedule(schedule.sigmas, schedule.name.replace("arctan", "cosine"))


# Of the variance-preserving process that Song et al. trained, k-diffusion's default: d(log alpha_bar)/dt = -beta.
BETA_MIN, BETA_RANGE = 0.1, 19.9


def vp(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    *,
    final_sigmas_type: str = "zero",
    zero: str = "append",
) -> Schedule:
    """Equal steps of the time of the variance-preserving process (Song et al. 2021; k-diffusion's ``vp``).

    ``sigma(t)^2 = exp(BETA_RANGE t^2 / 2 + BETA_MIN t) - 1``, between the times of ``sigma_max`` and ``sigma_min``.
    """

    def time(sigma: float) -> float:
        square = BETA_MIN**2 + 2 * BETA_RANGE * math.log1p(sigma**2)
        return (math.sqrt(square) - BETA_MIN) / BETA_RANGE

    def inside(r: Array) -> Array:
        t = high + r * (low - high)
        levels: Array = np.sqrt(np.expm1(BETA_RANGE * t**2 / 2 + BETA_MIN * t))
        return levels

    high, low = time(sigma_max), time(sigma_min)
    return _ramp(num_steps, sigma_min, sigma_max, final_sigmas_type, zero, inside, "vp")


def polyexponential(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 1.0,
    *,
    final_sigmas_type: str = "zero",
    zero: str = "append",
) -> Schedule:
    """Log sigma as a power of the time that is left (k-diffusion's ``polyexponential``); ``log_snr`` with rho = 1.

    Raises:
        ValueError: ``sigma_min`` is 0, or ``rho`` is not a positive number.
    """
    if not (math.isfinite(rho) and rho > 0):
        raise ValueError(f"rho = {rho} must be a positive number")
    _check_above_zero("polyexponential", sigma_min)
    high, low = math.log(sigma_max) if sigma_max > 0 else 0.0, math.log(sigma_min)
    return _ramp(
        num_steps,
        sigma_min,
        sigma_max,
        final_sigmas_type,
        zero,
        lambda r: np.exp(low + (1 - r) ** rho * (high - low)),
        "polyexponential" if rho == 1 else f"polyexponential:rho={rho:g}",
    )


HANDCRAFTED: dict[str, Callable[..., Schedule]] = {
    "uniform": uniform,
    "edm": edm,
    "log_snr": log_snr,
    "cosine": cosine,
    "arctan": arctan,
    "vp": vp,
    "polyexponential": polyexponential,
}
