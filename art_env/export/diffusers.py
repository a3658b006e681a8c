"""A schedule on the schedulers of diffusers."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from art_env.export.formats import _flow_times, _levels, check_plain, check_ve, to_flow
from art_env.schedules.schedule import Array, Schedule

if TYPE_CHECKING:
    import torch

# How far a schedule may lie outside a model's range: such ends are quoted with three or four digits.
RANGE_RTOL = 1e-3
# A pipeline starts from noise alone. It lacks the data's part of the variance, (1 / sigma)^2 for latents, which is
# little from here on; a flow model's pipelines begin at t = 1 whatever the list says, and are off by 1 / sigma.
START, FLOW_START, START_RTOL = 10.0, 50.0, 0.1
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
# Settings under which a scheduler takes the steps of the solver that it stands for, and touches no prediction.
STEPS: dict[str, dict[str, Any]] = {
    "HeunDiscreteScheduler": {"clip_sample": False},
    "FlowMatchEulerDiscreteScheduler": {"stochastic_sampling": False},
    "DPMSolverMultistepScheduler": {
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
        "thresholding": False,
    },
}
# The solver that a scheduler is.
SOLVERS = {
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "EDMEulerScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
}


def diffusers_kwargs(
    schedule: Schedule, scheduler: Any, *, quantize: bool = False, image_to_image: bool = False
) -> dict[str, Any]:
    """Keyword arguments for a diffusers pipeline: ``pipe(..., **diffusers_kwargs(schedule, pipe.scheduler))``.

    A pipeline starts from noise of the scheduler's ``init_noise_sigma``, or of 1 for a flow model; that is
    within 1 / (2 sigmas[0]^2), or 1 / sigmas[0], of this grid's own start.

    Args:
        scheduler: as for ``to_diffusers``; it is left as it is. A flow model's must have a fixed shift.
        quantize: as for ``to_diffusers``.
        image_to_image: the pipeline starts from an image with noise of ``sigmas[0]``, not from noise alone.

    Returns:
        ``{"sigmas": ...}`` or ``{"timesteps": ...}``, whichever the scheduler takes; ``{"num_inference_steps": ...}``
        for one that ``learned_scheduler`` made, which has the schedule in it.

    Raises:
        ValueError: as ``to_diffusers``, or a schedule that begins in the middle of the model's range without
            ``image_to_image``.

    Warns:
        UserWarning: as ``to_diffusers``.
    """
    kwargs = _arguments(schedule, scheduler, quantize, None)
    if not image_to_image:
        check_start(schedule, least_start(scheduler), type(scheduler).__name__, "diffusers_kwargs")
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
            but the first append 0 themselves, so the schedule must end there. For a schedule with weights: what
            ``learned_scheduler`` made of it.
        device: where the timesteps go.
        quantize: allow a scheduler that rounds the grid to its training timesteps; see its ``.sigmas``.
        mu: dynamic shift of a flow model, if the scheduler has one.

    Returns:
        The scheduler.

    Raises:
        ValueError: another scheduler, settings under which it changes the grid or is no longer the deterministic
            solver of its name, a schedule that does not end at 0, one outside the model's range of noise levels, or
            one of a flow model for another. The scheduler is left as it was.

    Warns:
        UserWarning: the schedule was made for another solver than the scheduler's.
    """
    kwargs = _arguments(schedule, scheduler, quantize, mu)
    scheduler.set_timesteps(**kwargs, **_mu(mu), device=device)
    return scheduler


def _arguments(schedule: Schedule, scheduler: Any, quantize: bool, mu: float | None) -> dict[str, Any]:
    """The arguments of ``set_timesteps``, tried on a copy of the scheduler."""
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    name = next((n for n in names if n in GRIDS), None)
    if name is None:
        raise ValueError(
            f"{names[0]} cannot be given a grid (or is not a scheduler instance); diffusers schedulers that can: "
            f"{', '.join(n for n in GRIDS if n not in (QUANTIZED, *LEARNED))}, and {QUANTIZED} with quantize=True. "
            "Put one in with Scheduler.from_config(pipe.scheduler.config)"
        )
    if name not in LEARNED:
        check_plain(schedule, name, "learned_scheduler")
    if not name.startswith("FlowMatch"):
        check_ve(schedule, name, "FlowMatchEulerDiscreteScheduler")
    kwargs, expected, rtol = GRIDS[name](schedule, scheduler, quantize=quantize, mu=mu)
    trial = copy.deepcopy(scheduler)
    trial.set_timesteps(**kwargs, **_mu(mu))
    _check_read_back(trial, name, expected, rtol)
    _warn_of_solver(schedule, name)
    return kwargs


def check_start(schedule: Schedule, least: float, name: str, function: str) -> None:
    """Refuse a schedule that begins where noise alone is no start.

    Args:
        least: the noise level to begin at, as ``least_start`` says.
        name: of the scheduler.
        function: of this package, that takes ``image_to_image``.

    Raises:
        ValueError: its first noise level is below that.
    """
    if schedule.sigma_max < (1 - START_RTOL) * least:
        raise ValueError(
            f"schedule {schedule.name!r} starts at sigma={schedule.sigma_max:g}, where the image already shows, "
            f"but a pipeline with {name} starts from noise alone; use a schedule that starts at sigma={least:g} or "
            f"above, or {function}(..., image_to_image=True) (--image-to-image) if the pipeline starts from an image"
        )


def least_start(scheduler: Any) -> float:
    """The noise level that a pipeline's noise is a fair start for, with the scheduler's model."""
    if _is_flow(scheduler):
        return FLOW_START
    if hasattr(scheduler, "alphas_cumprod"):
        return min(START, _euler_range(scheduler)[1])
    return min(START, float(_get(scheduler.config, "sigma_max", START)))  # EDM's


def _is_flow(scheduler: Any) -> bool:
    return any(cls.__name__.startswith("FlowMatch") for cls in type(scheduler).__mro__) or (
        _get(scheduler.config, "prediction_type") == "flow_prediction"
    )


def _warn_of_solver(schedule: Schedule, name: str) -> None:
    """Warn if a schedule was made for another solver than the scheduler's."""
    made_for, own = schedule.meta.get("solver"), SOLVERS.get(name)
    if own is None or made_for is None or made_for == own:
        return
    other = next((n for n, solver in SOLVERS.items() if solver == made_for), None)
    use = "" if other is None or name.startswith("FlowMatch") else f"use {other}, or "
    warnings.warn(
        f"schedule {schedule.name!r} was made for the solver {made_for!r}, but {name} takes the steps of {own!r}, "
        f"for which other lists are better; {use}learn one with solver={own!r}",
        UserWarning,
        stacklevel=4,
    )


# What a scheduler is given; the noise levels that it must then show (its .sigmas, without repeats); tolerance.
Grid = tuple[dict[str, Any], Array, float]


def _euler(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """``EulerDiscreteScheduler``: the levels as they are, the last one included."""
    _check_bounds(schedule, "EulerDiscreteScheduler", *_euler_range(scheduler))
    return {"sigmas": schedule.sigmas.tolist()}, schedule.sigmas, RANGE_RTOL


def _learned(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """A scheduler that has the schedule in it already."""
    name = type(scheduler).__name__
    if schedule != scheduler.schedule:
        raise ValueError(
            f"{name} was made for another schedule than {schedule.name!r}; use "
            "art_env.export.learned_scheduler(schedule, scheduler) for this one, or "
            "EulerDiscreteScheduler.from_config(scheduler.config) if it has no weights"
        )
    expected = _flow_times(schedule) if name.startswith("FlowMatch") else schedule.sigmas
    return {"num_inference_steps": schedule.num_steps}, expected, 1e-6


def _heun(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """``HeunDiscreteScheduler``: fractional timesteps, which it interpolates its training sigmas at; appends 0."""
    name = "HeunDiscreteScheduler"
    levels = _levels(schedule, name)
    _check_config(scheduler, name)
    table = _training_sigmas(scheduler)
    _check_bounds(schedule, name, table[0], table[-1])
    levels = np.clip(levels, table[0], table[-1])  # a rounded end is that end
    times = np.interp(levels, table, np.arange(len(table)))
    if (np.diff(times) >= 0).any():
        raise ValueError(
            f"two noise levels of schedule {schedule.name!r} are the same in {name}; use fewer steps"
        )
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
            f"{name} with use_dynamic_shifting=True moves the grid by a mu that the pipeline computes; use "
            f"{name}.from_config(scheduler.config, use_dynamic_shifting=False, shift=1.0), or, in a loop of your "
            "own, to_diffusers(..., mu=...)"
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
LEARNED = ("LearnedMultistepScheduler", "FlowMatchLearnedMultistepScheduler")
GRIDS: dict[str, Callable[..., Grid]] = {
    **dict.fromkeys(LEARNED, _learned),
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


def _euler_range(scheduler: Any) -> tuple[float, float]:
    """The lowest and the highest noise level of a model that ``EulerDiscreteScheduler`` fits."""
    config = scheduler.config
    if _get(config, "timestep_type") == "continuous" and _get(config, "prediction_type") == "v_prediction":
        return _get(config, "sigma_min", 0.0), _get(config, "sigma_max", math.inf)
    table = _training_sigmas(scheduler)
    return float(table[0]), float(table[-1])


def _check_bounds(schedule: Schedule, name: str, low: float, high: float) -> None:
    """Refuse noise levels that the scheduler's model was not trained on."""
    top, bottom = schedule.sigma_max, float(schedule.sigmas[schedule.sigmas > 0].min())
    if top > high * (1 + RANGE_RTOL) and not _is_rounded(top, high):
        raise ValueError(
            f"schedule {schedule.name!r} starts at sigma={top:g}, above {name}'s sigma_max={high:g}; "
            f"use a schedule made for sigma_max={high:g}"
        )
    if bottom < low * (1 - RANGE_RTOL) and not _is_rounded(bottom, low):
        raise ValueError(
            f"schedule {schedule.name!r} has the noise level {bottom:g}, below {name}'s sigma_min={low:g}; "
            f"use a schedule made for sigma_min={low:g}"
        )


def _is_rounded(quoted: float, exact: float) -> bool:
    """Whether a number of two or more digits is another one, rounded to as many: 0.029 of 0.02917, but not 0.028."""
    digits = np.format_float_scientific(quoted, trim="-").partition("e")[0].replace(".", "")
    return len(digits) >= 2 and float(f"{exact:.{len(digits) - 1}e}") == quoted


def _check_config(scheduler: Any, name: str) -> None:
    """Refuse settings under which the scheduler would not use the grid, not end at 0, or be another solver."""
    for key, value in STEPS.get(name, {}).items():
        found = _get(scheduler.config, key, value)
        if found != value:
            raise ValueError(
                f"{name} with {key}={found!r} is another sampler than {SOLVERS[name]!r}, whose schedules these are; "
                f"use {name}.from_config(scheduler.config, {key}={value!r})"
            )
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
