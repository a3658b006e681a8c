"""A schedule as k-diffusion, EDM, ComfyUI, diff-sampler and flow models take it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from art_env.schedules.schedule import Array, Schedule

if TYPE_CHECKING:
    import torch


def to_k_diffusion(
    schedule: Schedule,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    *,
    flow: bool | None = None,
) -> torch.Tensor:
    """``sigmas`` of k-diffusion's samplers, ``[num_steps + 1]``, float32 unless ``dtype`` says otherwise.

    Start them at ``torch.randn(...) * sigmas[0]``. On a schedule that does not end at 0, k-diffusion's Heun
    also evaluates at the last level, which ``art_env``'s does not.

    Args:
        flow: the model denoises ``x = (1 - t) data + t noise``, and the list is one of times ``t = sigma / (1 +
            sigma)``. Euler's samples are the same in both spaces; other solvers take other steps in t. A schedule
            of a flow model needs True or False; None is False for others.

    Raises:
        ValueError: two levels are the same number in this dtype, the schedule has weights, or it is one of a flow
            model and ``flow`` is None.
    """
    check_plain(schedule, "a list of sigmas", "learned_sampler")
    return _tensor(levels_of(schedule, flow), dtype, device)


def levels_of(schedule: Schedule, flow: bool | None) -> Array:
    """Noise levels or, with ``flow``, times ``t = sigma / (1 + sigma)``; ``[num_steps + 1]``.

    Raises:
        ValueError: a schedule of a flow model, and ``flow`` is None.
    """
    if flow is None and schedule.space == "flow":
        raise ValueError(
            f"schedule {schedule.name!r} is one of a flow model; pass flow=True (--space flow) if the model there "
            "denoises (1 - t) x0 + t noise, or flow=False (--space ve) if it denoises x0 + sigma noise, as those of "
            "art_env.adapters do"
        )
    return _flow_times(schedule) if flow else schedule.sigmas


def check_ve(schedule: Schedule, where: str, instead: str) -> None:
    """Refuse a schedule of a flow model.

    Args:
        where: what is for other models.
        instead: what serves flow models.

    Raises:
        ValueError: its space is ``"flow"``.
    """
    if schedule.space == "flow":
        raise ValueError(
            f"schedule {schedule.name!r} is one of a flow model (space = 'flow'), which {where} does not sample; use "
            f"{instead}, or dataclasses.replace(schedule, space='ve') (--space ve) if the model is none"
        )


def to_edm(schedule: Schedule) -> list[float]:
    """``t_steps`` of EDM's ``edm_sampler``: K noise levels, then 0.

    The sampler has no argument for them: put ``torch.tensor(..., dtype=torch.float64, device=...)`` in the
    place of the lines that compute ``t_steps``, and run it with ``--steps`` K.

    Raises:
        ValueError: the schedule does not end at 0, has weights, or is one of a flow model.
    """
    levels = _levels(schedule, "EDM's sampler", "edm_script")
    check_ve(schedule, "EDM's sampler", "to_flow")
    return [*levels.tolist(), 0.0]


def to_comfyui(schedule: Schedule) -> str:
    """Text for ComfyUI's node ManualSigmas: all noise levels, in full precision.

    ComfyUI samples flow models in their own space: for a schedule with ``space="flow"`` the numbers are times
    ``t = sigma / (1 + sigma)``. Its sampler ``euler`` then gives the samples of Euler in sigma; other samplers take
    other steps in t.

    Raises:
        ValueError: the schedule has weights.
    """
    check_plain(schedule, "the node ManualSigmas", "comfyui_node")
    # ManualSigmas looks for digits and dots: it would read 1e-05 as two numbers.
    levels = levels_of(schedule, schedule.space == "flow")
    return ", ".join(np.format_float_positional(s, trim="0") for s in levels)


def to_diff_sampler(schedule: Schedule) -> str:
    """The option ``--t_steps=[...]`` of diff-sampler's ``gits-main/sample.py``.

    Its Heun also evaluates at the last level, which ``art_env``'s does not.

    Raises:
        ValueError: the schedule ends at 0, which diff-sampler never reaches, has weights, or is one of a flow model.
    """
    check_plain(schedule, "diff-sampler")
    check_ve(schedule, "diff-sampler", "to_flow")
    if schedule.final_sigmas_type == "zero":
        raise ValueError(
            f"schedule {schedule.name!r} ends at 0, where diff-sampler's solvers divide by the noise level; "
            "use a schedule made with final_sigmas_type='sigma_min'"
        )
    return f"--t_steps={_numbers(schedule.sigmas)}".replace(" ", "")


def to_flow(schedule: Schedule, shift: float = 1.0) -> Array:
    """Times of a flow model, ``x_t = (1 - t) x0 + t noise``: ``t = sigma / (1 + sigma)``, without the final 0.

    Euler's steps in t are exactly those in sigma: both keep the denoised sample of the step.

    Args:
        shift: of the scheduler that will get the list, which moves each t to ``shift t / (1 + (shift - 1)
            t)``; the list is moved back by as much.

    Returns:
        ``[num_steps]``, descending, in (0, 1).

    Raises:
        ValueError: the schedule does not end at 0, or the shift is not positive.
    """
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift = {shift} must be a positive number")
    levels = _levels(schedule, "a list of times", "learned_scheduler")
    # t = sigma / (1 + sigma), then the inverse of t <- shift t / (1 + (shift - 1) t).
    return levels / (levels + shift)


def check_plain(schedule: Schedule, where: str, instead: str | None = None) -> None:
    """Refuse a schedule whose weights would be lost.

    Args:
        where: what has no place for them.
        instead: the function of this package that has.

    Raises:
        ValueError: it has weights.
    """
    if schedule.weights is not None:
        use = "" if instead is None else f"use art_env.export.{instead}, or "
        raise ValueError(
            f"schedule {schedule.name!r} has weights for {schedule.solver}, and {where} has no place for them; {use}"
            "learn one with a solver of that program, such as solver='dpmpp_2m'"
        )


def check_weighted(schedule: Schedule, instead: str) -> Array:
    """The weights of a schedule, ``[num_steps, m]``.

    Args:
        instead: the function of this package that takes schedules without weights.

    Raises:
        ValueError: it has none.
    """
    if schedule.weights is None:
        raise ValueError(
            f"schedule {schedule.name!r} has no weights; use art_env.export.{instead}, or learn one with "
            "solver='learned_2m'"
        )
    return schedule.weights


def _levels(schedule: Schedule, where: str, instead: str | None = None) -> Array:
    """The levels above 0, ``[K]``, for a target that appends the 0 itself."""
    check_plain(schedule, where, instead)
    if schedule.final_sigmas_type != "zero":
        raise ValueError(
            f"schedule {schedule.name!r} ends at sigma={schedule.sigma_end:g}, but {where} goes on to 0 and would "
            "take a step more; use a schedule made with final_sigmas_type='zero' "
            "(EulerDiscreteScheduler and k-diffusion take this one as it is)"
        )
    return schedule.sigmas[:-1]


def _flow_times(schedule: Schedule) -> Array:
    """``t = sigma / (1 + sigma)`` of every level, ``[K + 1]``."""
    times: Array = schedule.sigmas / (1 + schedule.sigmas)
    return times


def _tensor(levels: Array, dtype: torch.dtype | None, device: torch.device | str | None) -> torch.Tensor:
    """``[K + 1]``, float32 by default; refuses levels that are the same number in this dtype."""
    import torch

    sigmas = torch.tensor(levels, dtype=dtype or torch.float32, device=device)
    same = (sigmas[1:] >= sigmas[:-1]).nonzero()
    if len(same):
        i = int(same[0]) + 1
        raise ValueError(
            f"sigmas[{i}] = {levels[i]:.9g} equals sigmas[{i - 1}] in {sigmas.dtype}; use torch.float64"
        )
    return sigmas


def _numbers(values: Iterable[float]) -> str:
    return f"[{', '.join(repr(float(v)) for v in values)}]"
