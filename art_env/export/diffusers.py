"""A schedule on the schedulers of diffusers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from art_env.export.formats import _levels, check_plain, to_flow
from art_env.schedules.schedule import Array, Schedule

if TYPE_CHECKING:
    import torch

# How far a schedule may lie outside a model's range: such ends are quoted with three or four digits.
RANGE_RTOL = 1e-3
# Settings that replace or move the noise levels that a diffusers scheduler is given.
SPACINGS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "use_flow_sigmas",
    "invert_sigmas",
    "shift_terminal",
)


def diffusers_kwargs(
    schedule: Schedule, scheduler: Any, *, quantize: bool = False, mu: float | None = None
) -> dict[str, Any]:
    """Keyword arguments for a diffusers pipeline: ``pipe(..., **diffusers_kwargs(schedule, pipe.scheduler))``.

    A pipeline starts from noise of the scheduler's ``init_noise_sigma``, or of 1 for a flow model; that is
    within 1 / (2 sigmas[0]^2), or 1 / sigmas[0], of this grid's own start.

    Args:
        scheduler: as for ``to_diffusers``; it is left as it is.
        quantize: as for ``to_diffusers``.
        mu: as for ``to_diffusers``; the value that the pipeline itself will compute.

    Returns:
        ``{"sigmas": ...}`` or ``{"timesteps": ...}``, whichever the scheduler takes.

    Raises:
        ValueError: as ``to_diffusers``.
    """
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    name = next((n for n in names if n in GRIDS), None)
    if name is None:
        raise ValueError(
            f"{names[0]} cannot be given a grid (or is not a scheduler instance); diffusers schedulers that can: "
            f"{', '.join(n for n in GRIDS if n != QUANTIZED)}, and {QUANTIZED} with quantize=True. "
            "Put one in with Scheduler.from_config(pipe.scheduler.config)"
        )
    check_plain(schedule, name)
    kwargs, expected, rtol = GRIDS[name](schedule, scheduler, quantize=quantize, mu=mu)
    trial = copy.deepcopy(scheduler)
    trial.set_timesteps(**kwargs, **_mu(mu))
    _check_read_back(trial, name, expected, rtol)
    return kwargs


def to_diffusers(
    schedule: Schedule,
    scheduler: Any,
    *,
    device: torch.device | str | None = None,
    quantize: bool = False,
    mu: float | None = None,
) -> Any:
    """Set this grid on a diffusers scheduler, in place, for a sampling loop of your own.

    A pipeline sets its scheduler again: give it ``diffusers_kwargs`` instead.

    Args:
        scheduler: an ``EulerDiscreteScheduler``, ``HeunDiscreteScheduler``, ``EDMEulerScheduler``,
            ``FlowMatchEulerDiscreteScheduler`` or, with ``quantize``, ``DPMSolverMultistepScheduler``. All
            but the first append 0 themselves, so the schedule must end there.
        device: where the timesteps go.
        quantize: allow a scheduler that rounds the grid to its training timesteps; see its ``.sigmas``.
        mu: dynamic shift of a flow model, if the scheduler has one.

    Returns:
        The scheduler.

    Raises:
        ValueError: another scheduler, settings that would change the grid, a schedule that does not end at
            0, or one outside the model's range of noise levels. The scheduler is left as it was.
    """
    kwargs = diffusers_kwargs(schedule, scheduler, quantize=quantize, mu=mu)
    scheduler.set_timesteps(**kwargs, **_mu(mu), device=device)
    return scheduler


# What a scheduler is given; the noise levels that it must then show (its .sigmas, without repeats); tolerance.
Grid = tuple[dict[str, Any], Array, float]


def _euler(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """``EulerDiscreteScheduler``: the levels as they are, the last one included."""
    config = scheduler.config
    if _get(config, "timestep_type") == "continuous" and _get(config, "prediction_type") == "v_prediction":
        low, high = _get(config, "sigma_min", 0.0), _get(config, "sigma_max", math.inf)
    else:
        table = _training_sigmas(scheduler)
        low, high = table[0], table[-1]
    _check_bounds(schedule, "EulerDiscreteScheduler", low, high)
    return {"sigmas": schedule.sigmas.tolist()}, schedule.sigmas, RANGE_RTOL


def _heun(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """``HeunDiscreteScheduler``: fractional timesteps, which it interpolates its training sigmas at; appends 0."""
    name = "HeunDiscreteScheduler"
    levels = _levels(schedule, name)
    _check_config(scheduler, name)
    table = _training_sigmas(scheduler)
    _check_bounds(schedule, name, table[0], table[-1])
    times = np.interp(levels, table, np.arange(len(table)))
    return {"timesteps": times.tolist()}, np.append(levels, 0.0), RANGE_RTOL


def _edm_euler(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """``EDMEulerScheduler``: positions in [0, 1] on its Karras ramp, in float64; appends 0."""
    import torch

    name = "EDMEulerScheduler"
    levels = _levels(schedule, name)
    _check_config(scheduler, name)
    config = scheduler.config
    if config.sigma_schedule != "karras":
        raise ValueError(
            f"{name} with sigma_schedule={config.sigma_schedule!r} ignores the grid; use "
            f"{name}.from_config(scheduler.config, sigma_schedule='karras')"
        )
    _check_bounds(schedule, name, config.sigma_min, config.sigma_max)
    if not np.isclose(schedule.sigma_max, config.sigma_max, rtol=RANGE_RTOL):
        raise ValueError(
            f"schedule {schedule.name!r} starts at sigma={schedule.sigma_max:g}, but {name} draws its initial noise "
            f"for sigma_max={config.sigma_max:g}; use "
            f"{name}.from_config(scheduler.config, sigma_max={schedule.sigma_max:g})"
        )
    ramp = _ramp(levels, config.sigma_min, config.sigma_max, config.rho)
    return {"sigmas": torch.from_numpy(ramp)}, np.append(levels, 0.0), RANGE_RTOL


def _flow_match(schedule: Schedule, scheduler: Any, *, mu: float | None = None, **_: Any) -> Grid:
    """``FlowMatchEulerDiscreteScheduler``: t in (0, 1], before its own shift; appends 0."""
    name = "FlowMatchEulerDiscreteScheduler"
    _check_config(scheduler, name)
    config = scheduler.config
    if not config.use_dynamic_shifting:
        shift = float(scheduler.shift)
    elif mu is None:
        raise ValueError(
            f"{name} with use_dynamic_shifting=True moves the grid by the pipeline's mu; pass mu=, or use "
            f"{name}.from_config(scheduler.config, use_dynamic_shifting=False, shift=1.0)"
        )
    else:
        linear = _get(config, "time_shift_type", "exponential") == "linear"
        shift = mu if linear else math.exp(mu)
    expected = np.append(to_flow(schedule), 0.0)
    # Near t = 1 a small step in t is a large one in sigma; 1e-6 is float32's rounding.
    return {"sigmas": to_flow(schedule, shift).tolist()}, expected, 1e-6


def _dpm_multistep(schedule: Schedule, scheduler: Any, *, quantize: bool = False, **_: Any) -> Grid:
    """``DPMSolverMultistepScheduler``: whole timesteps, that is the nearest of its training sigmas; appends 0."""
    name = QUANTIZED
    if not quantize:
        raise ValueError(
            f"{name} rounds a grid to whole training timesteps; pass quantize=True to accept that, or use "
            "EulerDiscreteScheduler or HeunDiscreteScheduler, which take it exactly"
        )
    levels = _levels(schedule, name)
    _check_config(scheduler, name)
    table = _training_sigmas(scheduler)
    _check_bounds(schedule, name, table[0], table[-1])
    times = np.rint(np.interp(np.log(levels), np.log(table), np.arange(len(table)))).astype(int)
    same = np.flatnonzero(np.diff(times) == 0)
    if len(same):
        i = int(same[0])
        raise ValueError(
            f"sigmas[{i}] = {levels[i]:g} and sigmas[{i + 1}] = {levels[i + 1]:g} round to the same timestep "
            f"{times[i]} of {name}; use fewer steps, EulerDiscreteScheduler or HeunDiscreteScheduler"
        )
    return {"timesteps": times.tolist()}, np.append(table[times], 0.0), RANGE_RTOL


QUANTIZED = "DPMSolverMultistepScheduler"
GRIDS: dict[str, Callable[..., Grid]] = {
    "EulerDiscreteScheduler": _euler,
    "HeunDiscreteScheduler": _heun,
    "EDMEulerScheduler": _edm_euler,
    "FlowMatchEulerDiscreteScheduler": _flow_match,
    QUANTIZED: _dpm_multistep,
}


def _ramp(levels: Array, sigma_min: float, sigma_max: float, rho: float) -> Array:
    """Where levels lie on Karras' ramp: 0 at ``sigma_max``, 1 at ``sigma_min``; ``[K]``."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    ramp: Array = (high - levels ** (1 / rho)) / (high - low)
    return ramp


def _training_sigmas(scheduler: Any) -> Array:
    """The noise levels of the training timesteps, ``[num_train_timesteps]``, ascending."""
    alphas = scheduler.alphas_cumprod.cpu()
    table: Array = (((1 - alphas) / alphas) ** 0.5).double().numpy()  # in float32 first, as diffusers does
    return table


def _check_bounds(schedule: Schedule, name: str, low: float, high: float) -> None:
    """Refuse noise levels that the scheduler's model was not trained on."""
    top, bottom = schedule.sigma_max, float(schedule.sigmas[schedule.sigmas > 0].min())
    if top > high * (1 + RANGE_RTOL):
        raise ValueError(
            f"schedule {schedule.name!r} starts at sigma={top:g}, above {name}'s sigma_max={high:g}; "
            f"use a schedule made for sigma_max={high:g}"
        )
    if bottom < low * (1 - RANGE_RTOL):
        raise ValueError(
            f"schedule {schedule.name!r} has the noise level {bottom:g}, below {name}'s sigma_min={low:g}; "
            f"use a schedule made for sigma_min={low:g}"
        )


def _check_config(scheduler: Any, name: str) -> None:
    """Refuse settings under which the scheduler would not use the grid, or not end at 0."""
    for key in SPACINGS:
        if _get(scheduler.config, key):
            value = "None" if key == "shift_terminal" else "False"
            raise ValueError(
                f"{name} with {key}={_get(scheduler.config, key)} would change the grid; use "
                f"{name}.from_config(scheduler.config, {key}={value})"
            )
    if _get(scheduler.config, "final_sigmas_type", "zero") != "zero":
        raise ValueError(
            f"{name} with final_sigmas_type={scheduler.config.final_sigmas_type!r} does not end at 0; use "
            f"{name}.from_config(scheduler.config, final_sigmas_type='zero')"
        )


def _check_read_back(scheduler: Any, name: str, expected: Array, rtol: float) -> None:
    """Compare what a scheduler has made of a grid with what it should have."""
    got = scheduler.sigmas.cpu().double().numpy()
    if name == "HeunDiscreteScheduler":
        got = np.append(got[0], got[1::2])  # every level between the ends is there twice
    if got.shape != expected.shape or not np.allclose(got, expected, rtol=rtol, atol=0):
        raise ValueError(
            f"this version of diffusers makes {got.tolist()} of the grid {expected.tolist()}; {name} is not supported"
        )
    times = scheduler.timesteps
    if int((times == times[0]).sum()) > 1:
        raise ValueError(f"the first two noise levels have the same timestep in {name}; use fewer steps")


def _get(config: Any, key: str, default: Any = None) -> Any:
    """A setting; ``default`` if it is absent or None."""
    value = config.get(key)
    return default if value is None else value


def _mu(mu: float | None) -> dict[str, float]:
    return {} if mu is None else {"mu": mu}
