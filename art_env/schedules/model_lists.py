"""Schedules that pick the noise levels of one model: from the table that it was trained on, or found for it.

A table or a list of another noise range is stretched: log sigma is mapped linearly, so that its ends are
``sigma_max`` and ``sigma_min``. Where the ranges agree nothing changes. Every list has ``num_steps`` levels above the
end, and no evaluation is spent at ``sigma_min``: the programs that these lists come from call their last level 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.stats import beta as beta_distribution

from art_env._util.names import check_name
from art_env.diffusion.levels import FINAL_SIGMAS_TYPES, check_sigma_range
from art_env.schedules.schedule import Array, Schedule, check_num_steps


def _of_betas(betas: Array) -> Array:
    """The noise levels of a variance-preserving process, ascending."""
    left = np.cumprod(1 - betas)
    levels: Array = np.sqrt((1 - left) / left)
    return levels


# Stable Diffusion's training noise levels (Rombach et al. 2022), 0.0292 to 14.6, and DDPM's (Ho et al. 2020), 0.01 to
# 157.
TABLES = {
    "sd": _of_betas(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
    "vp": _of_betas(np.linspace(1e-4, 0.02, 1000)),
}
# Align Your Steps (Sabour et al. 2024, arXiv 2404.14507): the published lists of ten steps.
AYS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def _fit(
    own: tuple[float, float], levels: Array, sigma_min: float, sigma_max: float, end: str, name: str
) -> Schedule:
    """``levels: [K]`` of a model whose range is ``own``, stretched to another range, and the end."""
    check_sigma_range(sigma_min, sigma_max)
    check_name("final_sigmas_type", end, FINAL_SIGMAS_TYPES)
    if sigma_min == 0:
        raise ValueError(f"{name} needs sigma_min above 0, not 0; pass for example sigma_min=1e-4")
    low, high = np.log(own)
    depth = (high - np.log(levels)) / (high - low)
    sigmas = np.append(
        sigma_max * (sigma_min / sigma_max) ** depth, 0.0 if end == "zero" else float(sigma_min)
    )
    sigmas[0] = sigma_max
    return Schedule(sigmas, name)


def _table(table: str, name: str) -> tuple[Array, tuple[float, float], str]:
    """A table by name, its range, and the name of a schedule made from it."""
    check_name("table", table, TABLES)
    levels = TABLES[table]
    return levels, (levels[0], levels[-1]), name if table == "sd" else f"{name}:table={table}"


def simple(
    num_steps: int, sigma_min: float, sigma_max: float, table: str = "sd", *, final_sigmas_type: str = "zero"
) -> Schedule:
    """Every n-th noise level of a model's table, from the top (ComfyUI's ``simple``).

    Args:
        num_steps: K, at most as many as the table has levels.
        sigma_min, sigma_max: noise range, ``sigma_min`` above 0.
        table: ``"sd"`` (Stable Diffusion) or ``"vp"`` (DDPM).
        final_sigmas_type: ``"zero"`` or ``"sigma_min"``.

    Raises:
        ValueError: a bad argument; names it.
    """
    levels, own, name = _table(table, "simple")
    if check_num_steps(num_steps) > len(levels):
        raise ValueError(f"num_steps = {num_steps} is more than the {len(levels)} levels of table {table!r}")
    stride = len(levels) / num_steps
    picked = levels[[-1 - int(i * stride) for i in range(num_steps)]]
    return _fit(own, picked, sigma_min, sigma_max, final_sigmas_type, name)


def beta(
    num_steps: int, sigma_min: float, sigma_max: float, table: str = "sd", *, final_sigmas_type: str = "zero"
) -> Schedule:
    """Times at even quantiles of the distribution Beta(0.6, 0.6): dense at both ends (ComfyUI's ``beta``).

    Lee et al. 2024, arXiv 2407.12173. Arguments as ``simple``.

    Raises:
        ValueError: a bad argument, or so many steps that two fall on one level of the table.
    """
    levels, own, name = _table(table, "beta")
    quantiles = 1 - np.linspace(0, 1, check_num_steps(num_steps), endpoint=False)
    times = np.rint(beta_distribution.ppf(quantiles, 0.6, 0.6) * (len(levels) - 1)).astype(int)
    if (np.diff(times) >= 0).any() or (num_steps > 1 and times[-1] == 0):
        raise ValueError(f"num_steps = {num_steps}: two steps of beta fall on one level of table {table!r}")
    return _fit(own, levels[times], sigma_min, sigma_max, final_sigmas_type, name)


def sgm_uniform(
    num_steps: int, sigma_min: float, sigma_max: float, table: str = "sd", *, final_sigmas_type: str = "zero"
) -> Schedule:
    """Equal steps of a model's training time (``sgm_uniform`` of ComfyUI). Arguments as ``simple``.

    Raises:
        ValueError: a bad argument; names it.
    """
    levels, own, name = _table(table, "sgm_uniform")
    times = np.linspace(len(levels) - 1, 0, check_num_steps(num_steps) + 1)[:-1]
    between = np.exp(np.interp(times, np.arange(len(levels)), np.log(levels)))
    return _fit(own, between, sigma_min, sigma_max, final_sigmas_type, name)


def ays(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    model: str = "sdxl",
    *,
    final_sigmas_type: str = "zero",
) -> Schedule:
    """Align Your Steps for a model of images or video, stretched to another noise range.

    Other numbers of steps than ten are interpolated in log sigma, as its authors propose. On another model than its
    own the list is nobody's optimum.

    Args:
        num_steps: K.
        sigma_min, sigma_max: noise range, ``sigma_min`` above 0; the list's own is 0.029 to 14.615 (``"svd"``: 0.002
            to 700).
        model: ``"sd15"``, ``"sdxl"`` or ``"svd"``.
        final_sigmas_type: ``"zero"`` or ``"sigma_min"``.

    Raises:
        ValueError: a bad argument; names it.
    """
    check_name("model", model, AYS)
    known = np.array(AYS[model])
    at = np.linspace(0, 1, check_num_steps(num_steps) + 1)[:-1]
    levels = np.exp(np.interp(at, np.linspace(0, 1, len(known)), np.log(known)))
    return _fit((known[-1], known[0]), levels, sigma_min, sigma_max, final_sigmas_type, f"ays_{model}")


MODEL_LISTS: dict[str, Callable[..., Schedule]] = {
    "simple": simple,
    "beta": beta,
    "sgm_uniform": sgm_uniform,
    **{f"ays_{model}": partial(ays, model=model) for model in AYS},
}
