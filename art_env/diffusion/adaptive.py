"""Adaptive step sizes: every trajectory chooses its own noise levels, by an embedded pair of solvers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser, append_dims
from art_env.diffusion.steps import to_d

# A trajectory with more evaluations than this has a tolerance that rounding does not let it reach.
MAX_EVALUATIONS = 10_000


@torch.no_grad()
def sample_adaptive(
    denoiser: Denoiser,
    x: Tensor,
    sigma_max: float,
    sigma_floor: float,
    sigma_end: float,
    tolerance: float,
    *,
    first_step: float = 0.9,
    safety: float = 0.9,
    min_factor: float = 0.2,
    max_factor: float = 5.0,
) -> tuple[Tensor, Tensor]:
    """Walk initial noises down with Heun steps whose error is estimated by the Euler steps inside them.

    The estimate ``h / 2 (d' - d)`` is divided by ``sqrt(sigma'^2 + sigma_data^2)``, the standard deviation of a
    coordinate at the step's end, and its root mean square over coordinates is held below the tolerance (for Gaussian
    data that is how much of the error survives). It is Euler's error, of order h^2; the step that is kept is Heun's.
    Step sizes are those of ``asinh(sigma / sigma_data)``, which needs fewer rejections than sigma or its logarithm.
    They are multiplied by ``safety (tolerance / error)^(1/2)``, within the two factors, for the next step or the
    next attempt; a step that was accepted after a rejection does not make the next one longer.

    Each attempt costs one evaluation and each accepted step one more: a rejected step keeps its first slope. A last
    step to 0 is an Euler step (one evaluation) without error control. Only trajectories that are not finished
    are evaluated.

    Args:
        denoiser: the model.
        x: ``[B, *shape]``, noise of standard deviation ``sigma_max``.
        sigma_max: first noise level.
        sigma_floor: where the controlled steps end, above 0; unlike in ``sample``, the network is asked about it.
        sigma_end: last noise level: ``sigma_floor``, or 0.
        tolerance: of the scaled error of a step.
        first_step: fraction of ``sigma_max`` that the first attempt removes, at most 1.
        safety: aims below the tolerance, at most 1.
        min_factor, max_factor: bounds of one change of the step size.

    Returns:
        the samples ``[B, *shape]``, and the network evaluations of each, ``[B]`` int64.

    Raises:
        ValueError: arguments out of range, or a tolerance too small for the precision of ``x``.
    """
    check_levels(sigma_max, sigma_floor, sigma_end)
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance = {tolerance} must be a positive number, such as 0.05")
    for field, value in (("first_step", first_step), ("safety", safety)):
        if not 0 < value <= 1:
            raise ValueError(f"{field} = {value} must be above 0 and at most 1")
    if not 0 < min_factor < 1 < max_factor:
        raise ValueError(f"min_factor = {min_factor} and max_factor = {max_factor} must enclose 1")
    x, price = x.clone(), int(getattr(denoiser, "nfe_per_call", 1))
    unit = float(denoiser.sigma_data)
    sigma = torch.full((len(x),), float(sigma_max), dtype=x.dtype, device=x.device)
    size = torch.asinh(sigma / unit) - torch.asinh(sigma * (1 - first_step) / unit)
    nfe = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    d, rejected = torch.zeros_like(x), torch.zeros_like(nfe, dtype=torch.bool)
    rows = torch.arange(len(x), device=x.device)
    while len(rows):
        fresh = rows[~rejected[rows]]
        if len(fresh):
            d[fresh] = to_d(denoiser, x[fresh], sigma[fresh])
            nfe[fresh] += price
        start = sigma[rows]
        end = (unit * torch.sinh(torch.asinh(start / unit) - size[rows])).clamp(min=sigma_floor)
        tried = torch.asinh(start / unit) - torch.asinh(end / unit)
        h, slope = append_dims(end - start, x), d[rows]
        ahead = to_d(denoiser, x[rows] + h * slope, end)
        nfe[rows] += price
        scale = torch.sqrt(end**2 + unit**2)
        error = (h / 2 * (ahead - slope)).flatten(1).square().mean(1).sqrt() / scale
        accept = error <= tolerance
        if bool((nfe[rows] > MAX_EVALUATIONS).any()) or not bool((error.isfinite() & (end < start)).all()):
            raise ValueError(
                f"tolerance = {tolerance:g} cannot be met at sigma = {float(start.min()):g}; use a larger one"
            )
        most = torch.where(rejected[rows], 1.0, max_factor)
        factor = safety * (tolerance / error.clamp(min=1e-300)).sqrt()
        size[rows] = tried * torch.minimum(factor.clamp(min=min_factor), most)
        done = rows[accept]
        x[done] += (h * (slope + ahead) / 2)[accept]
        sigma[done] = end[accept]
        rejected[rows] = ~accept
        rows = rows[(sigma[rows] > sigma_floor)]
    if sigma_end == 0:
        x, nfe = denoiser(x, sigma), nfe + price
    return x, nfe


def check_levels(sigma_max: float, sigma_floor: float, sigma_end: float) -> None:
    """Raise a ValueError unless ``0 < sigma_floor < sigma_max`` and ``sigma_end`` is ``sigma_floor`` or 0."""
    if not 0 < sigma_floor < sigma_max < math.inf:
        raise ValueError(f"sigma_floor = {sigma_floor:g} must lie between 0 and sigma_max = {sigma_max:g}")
    if sigma_end not in (0, sigma_floor):
        raise ValueError(f"sigma_end = {sigma_end:g} must be 0 or sigma_floor = {sigma_floor:g}")


def match_tolerance(
    denoiser: Denoiser,
    x: Tensor,
    sigma_max: float,
    sigma_floor: float,
    sigma_end: float,
    nfe: float,
    *,
    accuracy: float = 0.005,
    **options: float,
) -> float:
    """The tolerance at which pilot noises cost ``nfe`` evaluations in the mean, by bisection of its logarithm.

    The mean is that of whole numbers, so give a few hundred noises.

    Args:
        denoiser, x, sigma_max, sigma_floor, sigma_end: as ``sample_adaptive``; ``x`` are the pilot noises.
        nfe: the target.
        accuracy: relative difference from the target at which the search stops; it ends with the nearest mean that
            it has seen if 40 halvings do not get there.
        options: other arguments of ``sample_adaptive``.

    Raises:
        ValueError: no tolerance costs so few or so many, or as ``sample_adaptive``.
    """

    def cost(log_tolerance: float) -> float:
        tolerance = math.exp(log_tolerance)
        used = sample_adaptive(denoiser, x, sigma_max, sigma_floor, sigma_end, tolerance, **options)[1]
        return float(used.double().mean())

    loose = 5.0
    least = cost(loose)
    if nfe < least:
        raise ValueError(f"nfe = {nfe:g} is below {least:g}, the fewest that adaptive steps take")
    tight = loose - math.log(10)
    while (most := cost(tight)) < nfe:
        loose, least, tight = tight, most, tight - math.log(10)
        if tight < math.log(1e-12):
            raise ValueError(f"nfe = {nfe:g} is more than a tolerance of 1e-12 costs, {most:g}")
    seen = {loose: least, tight: most}
    for _ in range(40):
        best = min(seen, key=lambda t: abs(seen[t] - nfe))
        if abs(seen[best] - nfe) <= accuracy * nfe:
            break
        middle = (loose + tight) / 2
        seen[middle] = cost(middle)
        if seen[middle] < nfe:
            loose = middle
        else:
            tight = middle
    return math.exp(min(seen, key=lambda t: abs(seen[t] - nfe)))
