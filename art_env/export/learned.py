"""A schedule with weights as a scheduler of diffusers."""

from __future__ import annotations

from typing import Any

from art_env.export.diffusers import _check_bounds, _euler_range, _get, _is_flow, check_start, least_start
from art_env.export.formats import check_ve, check_weighted
from art_env.schedules.schedule import Schedule

# Settings of how a model was trained, which the scheduler takes over.
TRAINING = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_type",
    "rescale_betas_zero_snr",
)
SMALLEST_ALPHA = 2.0**-24  # diffusers' own stand-in for a terminal signal of zero


def learned_scheduler(schedule: Schedule, scheduler: Any, *, image_to_image: bool = False) -> Any:
    """A scheduler of diffusers that samples with the noise levels and the weights of a schedule.

    ``pipe.scheduler = learned_scheduler(schedule, pipe.scheduler)``, then
    ``pipe(..., num_inference_steps=schedule.num_steps)``. It gives the samples of this package's solver
    ``schedule.solver``. A pipeline starts a flow model from noise of 1, which is within ``1 / sigmas[0]`` of the
    schedule's own start. What a scheduler does to a finished prediction (``clip_sample``, ``thresholding``) is left
    out.

    Args:
        scheduler: the model's own, of any class: it says how the model was trained, and is left as it is.
        image_to_image: as for ``diffusers_kwargs``.

    Returns:
        A ``LearnedMultistepScheduler`` (epsilon, v_prediction and sample models), or a
        ``FlowMatchLearnedMultistepScheduler`` (flow models). ``save_pretrained`` and ``from_pretrained`` keep levels
        and weights. To load a pipeline that was saved with one, import ``art_env.export.scheduler`` first.

    Raises:
        ValueError: the schedule has no weights, lies outside the model's range of noise levels, begins in its middle
            (without ``image_to_image``) or is one of a flow model for another, or the scheduler is one of EDM's, or
            has no training betas that diffusers' Euler scheduler can make.
        ImportError: diffusers is not installed.
    """
    weights = check_weighted(schedule, "diffusers_kwargs")
    from art_env.export.scheduler import FlowMatchLearnedMultistepScheduler, LearnedMultistepScheduler

    name, config = type(scheduler).__name__, getattr(scheduler, "config", None)
    if config is None or isinstance(scheduler, type):
        raise ValueError(f"{name} is not a scheduler instance of diffusers; give pipe.scheduler")
    given = {"sigmas": schedule.sigmas.tolist(), "weights": weights.tolist()}
    training = {key: config[key] for key in TRAINING if config.get(key) is not None}
    least = 0.0 if image_to_image else least_start(scheduler)
    if _is_flow(scheduler):
        if _get(config, "invert_sigmas"):
            raise ValueError(f"{name} with invert_sigmas=True runs from data to noise; it is not supported")
        check_start(schedule, least, name, "learned_scheduler")
        return FlowMatchLearnedMultistepScheduler(
            **given, num_train_timesteps=config.get("num_train_timesteps", 1000)
        )
    if hasattr(scheduler, "precondition_outputs") or not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{name} has EDM's preconditioning, or no alphas_cumprod; learned_scheduler takes models trained with "
            "betas (DDPMScheduler, EulerDiscreteScheduler, ...) or by flow matching. With a denoiser of your own, "
            "use art_env.export.learned_sampler"
        )
    check_start(schedule, least, name, "learned_scheduler")
    check_ve(schedule, name, "the flow model's own scheduler")
    _check_bounds(schedule, name, *_euler_range(scheduler))
    try:
        made = LearnedMultistepScheduler(**given, **training)
    except NotImplementedError as error:
        raise ValueError(f"the betas of {name} are not known to EulerDiscreteScheduler: {error}") from error
    want = scheduler.alphas_cumprod.detach().cpu().double().clamp(min=SMALLEST_ALPHA)
    got = made.alphas_cumprod.double().clamp(min=SMALLEST_ALPHA)
    if got.shape != want.shape or not bool(((got - want).abs() <= 1e-4 * want).all()):
        raise ValueError(
            f"{name} has other noise levels than EulerDiscreteScheduler with its beta_start, beta_end and "
            "beta_schedule; it is not supported"
        )
    return made
