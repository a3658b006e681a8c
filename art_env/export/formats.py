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
    schedule: Schedule, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> torch.Tensor:
    """``sigmas`` of k-diffusion's samplers, ``[num_steps + 1]``, float32 unless ``dtype`` says otherwise.

    Start them at ``torch.randn(...) * sigmas[0]``. On a schedule that does not end at 0, k-diffusion's Heun
    also evaluates at the last level, which ``art_env``'s does not.

    Raises:
        ValueError: two levels are the same number in this dtype.
    """
    import torch

    check_plain(schedule, "k-diffusion")
    sigmas = torch.tensor(schedule.sigmas, dtype=dtype or torch.float32, device=device)
    same = (sigmas[1:] >= sigmas[:-1]).nonzero()
    if len(same):
        i = int(same[0]) + 1
        raise ValueError(
            f"sigmas[{i}] = {schedule.sigmas[i]:.9g} equals sigmas[{i - 1}] in {sigmas.dtype}; use torch.float64"
        )
    return sigmas


def to_edm(schedule: Schedule) -> list[float]:
    """``t_steps`` of EDM's ``edm_sampler``: K noise levels, then 0.

    The sampler has no argument for them: put ``torch.tensor(..., dtype=torch.float64, device=...)`` in the
    place of the lines that compute ``t_steps``, and run it with ``--steps`` K.

    Raises:
        ValueError: the schedule does not end at 0.
    """
    return [*_levels(schedule, "EDM's sampler").tolist(), 0.0]


def to_comfyui(schedule: Schedule) -> str:
    """Text for ComfyUI's node ManualSigmas: all noise levels, in full precision."""
    check_plain(schedule, "ComfyUI")
    # ManualSigmas looks for digits and dots: it would read 1e-05 as two numbers.
    return ", ".join(np.format_float_positional(s, trim="0") for s in schedule.sigmas)


def to_diff_sampler(schedule: Schedule) -> str:
    """The option ``--t_steps=[...]`` of diff-sampler's ``gits-main/sample.py``.

    Its Heun also evaluates at the last level, which ``art_env``'s does not.

    Raises:
        ValueError: the schedule ends at 0, which diff-sampler never reaches.
    """
    check_plain(schedule, "diff-sampler")
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
    levels = _levels(schedule, "a flow sampler")
    # t = sigma / (1 + sigma), then the inverse of t <- shift t / (1 + (shift - 1) t).
    return levels / (levels + shift)


def check_plain(schedule: Schedule, where: str) -> None:
    """Refuse a schedule whose weights would be lost.

    Raises:
        ValueError: it has weights.
    """
    if schedule.weights is not None:
        raise ValueError(
            f"schedule {schedule.name!r} has weights for {schedule.solver}, and {where} has no place for them; learn "
            "one with a solver of that program, such as solver='dpmpp_2m'"
        )


def _levels(schedule: Schedule, where: str) -> Array:
    """The levels above 0, ``[K]``, for a target that appends the 0 itself."""
    check_plain(schedule, where)
    if schedule.final_sigmas_type != "zero":
        raise ValueError(
            f"schedule {schedule.name!r} ends at sigma={schedule.sigma_end:g}, but {where} goes on to 0 and would "
            "take a step more; use a schedule made with final_sigmas_type='zero' "
            "(EulerDiscreteScheduler and k-diffusion take this one as it is)"
        )
    return schedule.sigmas[:-1]


def _numbers(values: Iterable[float]) -> str:
    return f"[{', '.join(repr(float(v)) for v in values)}]"
