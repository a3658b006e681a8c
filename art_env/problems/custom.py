"""A problem around the caller's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from art_env.adapters.load import load_model
from art_env.diffusion.denoiser import Denoiser
from art_env.problems.problem import ANALYTIC, NETWORK, UNKNOWN_NETWORK, Effort, Problem, check_device


def custom_problem(
    denoiser: Denoiser,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_sigmas_type: str = "zero",
    name: str = "custom",
    num_knots: int = 65,
    num_noises: int | None = None,
    effort: Effort | None = None,
    device: str = "cpu",
) -> Problem:
    """A problem around a caller's own denoiser.

    Args:
        denoiser: the model; ``sigma_min`` and ``sigma_max`` among its attributes are the range it is trained for,
            ``decode`` maps latents to images.
        sigma_min: lowest noise level; None: the denoiser's own, else 0.002.
        sigma_max: highest noise level; None: the denoiser's own, else 80.
        final_sigmas_type: ``"zero"`` or ``"sigma_min"``.
        name: what tables and errors call it.
        num_knots: as ``Problem``.
        num_noises: as ``Problem``; None: 256 for images, else 4,096, since a few noises make most of the error of
            a mixture, and a schedule fitted to 256 of them is not the best for others.
        effort: as ``Problem``; None: that of a network for samples of three dimensions, else that of a formula.
        device: as ``Problem``.

    Raises:
        TypeError: it is not callable, or lacks ``shape`` or ``sigma_data``.
        ValueError: as ``make_problem``, or a range beyond the denoiser's own.
    """
    if not callable(denoiser):
        raise TypeError(f"denoiser is {type(denoiser).__name__}, not callable as denoiser(x, sigma)")
    for attribute in ("shape", "sigma_data"):
        if not hasattr(denoiser, attribute):
            raise TypeError(f"denoiser {type(denoiser).__name__} has no attribute {attribute!r}; set it")
    low, high = getattr(denoiser, "sigma_min", None), getattr(denoiser, "sigma_max", None)
    sigma_min = float(0.002 if low is None else low) if sigma_min is None else float(sigma_min)
    sigma_max = float(80.0 if high is None else high) if sigma_max is None else float(sigma_max)
    if low is not None and sigma_min < low * (1 - 1e-6):
        raise ValueError(f"sigma_min = {sigma_min:g} is below {low:g}, the least noise that the model knows")
    if high is not None and sigma_max > high * (1 + 1e-6):
        raise ValueError(f"sigma_max = {sigma_max:g} is above {high:g}, the most noise that the model knows")
    images = len(denoiser.shape) == 3
    return Problem(
        name=name,
        denoiser=denoiser,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        final_sigmas_type=final_sigmas_type,
        prior_std=sigma_max,
        decode=getattr(denoiser, "decode", None),
        num_knots=num_knots,
        num_noises=(256 if images else 4096) if num_noises is None else num_noises,
        effort=effort or (NETWORK if images else ANALYTIC),
        device=check_device(device),
    )


def model_problem(
    path: str,
    *,
    trust_pickle: bool = False,
    final_sigmas_type: str = "zero",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str = "cpu",
    **arguments: Any,
) -> Problem:
    """A problem around a model on disk or on the hub.

    A network of unknown size: an eighth of the evaluations that the bundled small ones are given for exact
    trajectories.

    Args:
        path: as ``art_env.adapters.load.load_model``.
        trust_pickle: allow it to be a pickle, which may run code.
        final_sigmas_type, sigma_min, sigma_max, device: as ``custom_problem``.
        arguments: further ones of ``load_model``: guidance, class_label, prompt_embeds, ...

    Raises:
        ValueError, FileNotFoundError, ImportError: as ``load_model``.
    """
    check_device(device)
    denoiser = load_model(path, trust_pickle=trust_pickle, device=device, **arguments)
    return custom_problem(
        denoiser,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        final_sigmas_type=final_sigmas_type,
        name=Path(path).stem,
        num_knots=33,
        num_noises=64,
        effort=UNKNOWN_NETWORK,
        device=device,
    )
