"""The problems that have a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name, look_up
from art_env.adapters.conditional import InpaintingDenoiser, LabelledDenoiser
from art_env.diffusion.analytic import GaussianDenoiser, GaussianMixtureDenoiser
from art_env.diffusion.levels import FINAL_SIGMAS_TYPES
from art_env.networks.autoencoder import Autoencoder
from art_env.networks.bundled import load_autoencoder, load_bundled
from art_env.networks.classifier import DIGIT_FEATURES, MNIST_FEATURES, MNIST_STATISTICS, PHOTO_FEATURES
from art_env.networks.data import digit_images, photo_patches
from art_env.problems.problem import HEAVY_TAILED, LARGE_NETWORK, NETWORK, Problem, check_device
from art_env.problems.random_mixtures import HELD_OUT_FAMILIES, TRAINING_FAMILIES, random_mixture_problem

# Noises of the mixtures: a few that pass between two modes make most of the final error, and a schedule fitted to
# 4,096 of them can be off by half on others.
MIXTURE_NOISES = 16384


def _gaussian_1d(final_sigmas_type: str) -> Problem:
    """Table 1 of the paper: N(0, 1), T = 3, started from the exact marginal N(0, 10)."""
    denoiser = GaussianDenoiser(1.0)
    return Problem(
        name="gaussian-1d",
        denoiser=denoiser,
        sigma_max=3.0,
        sigma_min=0.0 if final_sigmas_type == "zero" else 1e-4,
        final_sigmas_type=final_sigmas_type,
        prior_std=float(np.sqrt(10.0)),
        data=denoiser.sample,
        metrics=("w2",),
        linear=True,
        num_noises=1024,
        solver="euler",
    )


def _mixture(name: str, denoiser: GaussianMixtureDenoiser, metric: str, final_sigmas_type: str) -> Problem:
    return Problem(
        name=name,
        denoiser=denoiser,
        sigma_max=80.0,
        sigma_min=0.002,
        final_sigmas_type=final_sigmas_type,
        prior_std=80.0,
        data=denoiser.sample,
        metrics=(metric,),
        num_noises=MIXTURE_NOISES,
        effort=HEAVY_TAILED,
    )


def _mixture_1d(final_sigmas_type: str) -> Problem:
    """Three modes, two of them narrow."""
    denoiser = GaussianMixtureDenoiser([0.3, 0.4, 0.3], [-2.0, 0.5, 2.5], np.square([0.3, 0.2, 0.4]))
    return _mixture("mixture-1d", denoiser, "w2", final_sigmas_type)


def _mixture_2d(final_sigmas_type: str) -> Problem:
    """Eight modes on two rings, each stretched and turned differently, of different weights."""
    angles = np.arange(8) * np.pi / 4
    radii = np.where(np.arange(8) % 2 == 0, 2.5, 1.5)
    means = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    covs = []
    for i in range(8):
        turn = angles[i] + i * np.pi / 7
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        widths = np.array([0.12 + 0.04 * i, 0.40 - 0.03 * i])
        covs.append(axes @ np.diag(widths**2) @ axes.T)
    denoiser = GaussianMixtureDenoiser(np.arange(8) + 4.0, means, np.array(covs))
    return _mixture("mixture-2d", denoiser, "sliced_w2", final_sigmas_type)


def _digits(final_sigmas_type: str, model: str = "digits-base") -> Problem:
    """scikit-learn's 8x8 handwritten digits through one of the bundled U-Nets."""
    return Problem(
        name="digits" if model == "digits-base" else model,
        denoiser=load_bundled(model),
        sigma_max=80.0,
        sigma_min=0.002,
        final_sigmas_type=final_sigmas_type,
        prior_std=80.0,
        data=_digit_images,
        metrics=("frechet", "sliced_w2"),
        features=DIGIT_FEATURES,
        num_data=1797,
        num_knots=65,
        num_noises=1024,
        effort=NETWORK,
    )


def _digits_class(final_sigmas_type: str) -> Problem:
    """A class of digits for each trajectory, with classifier-free guidance."""
    model = load_bundled("digits-cond")
    return replace(
        _digits(final_sigmas_type),
        name="digits-class",
        denoiser=LabelledDenoiser(model),
        given=partial(_label_channels, shape=tuple(model.shape[1:])),
        given_channels=1,
        num_classes=10,
    )


def _digits_inpaint(final_sigmas_type: str) -> Problem:
    """The right half of a digit, given its left half."""
    whole = _digits(final_sigmas_type)
    _, height, width = whole.shape
    known = torch.zeros(height, width, dtype=torch.bool)
    known[:, : width // 2] = True
    return replace(
        whole,
        name="digits-inpaint",
        denoiser=InpaintingDenoiser(whole.denoiser, known),
        given=partial(_known_pixels, known=known),
        given_channels=1,
    )


def _photos(final_sigmas_type: str) -> Problem:
    """16x16 patches of scikit-learn's two photographs."""
    return replace(
        _digits(final_sigmas_type),
        name="photos",
        denoiser=load_bundled("photos-base"),
        data=_photo_patches,
        features=PHOTO_FEATURES,
        num_data=None,
        num_noises=256,
    )


def _photos_latent(final_sigmas_type: str) -> Problem:
    """Diffusion in the latent space of an autoencoder of the same patches."""
    autoencoder = load_autoencoder()
    return replace(
        _photos(final_sigmas_type),
        name="photos-latent",
        denoiser=load_bundled("photos-latent"),
        decode=partial(_decode, autoencoder),
    )


def _mnist(final_sigmas_type: str) -> Problem:
    """MNIST's digits, 28x28 in a border of two pixels; the images themselves are not part of this package."""
    return Problem(
        name="mnist",
        denoiser=load_bundled("mnist"),
        sigma_max=80.0,
        sigma_min=0.002,
        final_sigmas_type=final_sigmas_type,
        prior_std=80.0,
        metrics=("frechet",),
        features=MNIST_FEATURES,
        statistics=MNIST_STATISTICS,
        # An error of 6e-5 (65 knots: 2e-5), and half a minute for the pool.
        num_knots=49,
        num_noises=256,
        effort=LARGE_NETWORK,
    )


def _random_mixtures(final_sigmas_type: str, held_out: bool = False) -> Problem:
    """Another random mixture for each row: what a policy for every model learns from, and what it is tested on."""
    families, seed = (HELD_OUT_FAMILIES, 2) if held_out else (TRAINING_FAMILIES, 1)
    problem = random_mixture_problem(families=families, seed=seed, final_sigmas_type=final_sigmas_type)
    return replace(problem, name="random-mixtures-test" if held_out else "random-mixtures")


def _labels(n: int, seed: int) -> Tensor:
    """``n`` digits, evenly drawn; the first rows do not depend on ``n``."""
    return torch.from_numpy(np.random.default_rng([seed, 0x1ABE1]).integers(10, size=n))


def _label_channels(n: int, seed: int, shape: tuple[int, ...]) -> Tensor:
    """The digit of each noise as a channel, ``[n, 1, *shape]``."""
    return _labels(n, seed)[:, None, None, None].expand(n, 1, *shape)


def _known_pixels(n: int, seed: int, known: Tensor) -> Tensor:
    """Real digits, ``[n, 1, 8, 8]``, 0 where they are not ``known``."""
    return _digit_images(n, seed) * known


def _photo_patches(n: int, seed: int) -> Tensor:
    return photo_patches(n, seed).double()


@torch.no_grad()
def _decode(autoencoder: Autoencoder, z: Tensor) -> Tensor:
    """Images of latents, in float64."""
    return autoencoder.decode(z.float()).double()


def _digit_images(n: int, seed: int) -> Tensor:
    """``n`` real digits, ``[n, 1, 8, 8]`` in [-1, 1], drawn without replacement while they last (1,797)."""
    images = digit_images()[0].double()
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(images)) for _ in range(-(-n // len(images)))]
    return images[torch.from_numpy(np.concatenate(rounds)[:n])]


# name -> (builder, the final_sigmas_type it has unless told)
_BUILDERS: dict[str, tuple[Callable[[str], Problem], str]] = {
    "gaussian-1d": (_gaussian_1d, "zero"),
    "mixture-1d": (_mixture_1d, "sigma_min"),
    "mixture-2d": (_mixture_2d, "sigma_min"),
    "digits": (_digits, "zero"),
    "digits-small": (partial(_digits, model="digits-small"), "zero"),
    "digits-large": (partial(_digits, model="digits-large"), "zero"),
    "digits-class": (_digits_class, "zero"),
    "digits-inpaint": (_digits_inpaint, "zero"),
    "photos": (_photos, "zero"),
    "photos-latent": (_photos_latent, "zero"),
    "mnist": (_mnist, "zero"),
    "random-mixtures": (_random_mixtures, "zero"),
    "random-mixtures-test": (partial(_random_mixtures, held_out=True), "zero"),
}
PROBLEMS = tuple(_BUILDERS)


def make_problem(
    name: str,
    *,
    final_sigmas_type: str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str = "cpu",
) -> Problem:
    """A problem by name.

    Args:
        name: one of ``PROBLEMS``.
        final_sigmas_type: ``"zero"`` or ``"sigma_min"``; None: the problem's own (zero for gaussian-1d and digits).
        sigma_min: another lowest noise level.
        sigma_max: another highest noise level.
        device: ``"cpu"``, ``"cuda"``, ...

    Raises:
        ValueError: unknown name or final_sigmas_type (suggests the nearest), a range that is inverted, zero or not
            finite, or a device that is not there.
    """
    _, own_end = look_up("problem", name, _BUILDERS)
    problem = _build(
        name,
        check_name("final_sigmas_type", final_sigmas_type or own_end, FINAL_SIGMAS_TYPES),
        check_device(device),
    )
    changes: dict[str, Any] = {}
    if sigma_min is not None:
        changes["sigma_min"] = float(sigma_min)
    if sigma_max is not None:
        changes["sigma_max"] = float(sigma_max)
        if problem.linear:
            changes["prior_std"] = float(np.hypot(sigma_max, problem.denoiser.sigma_data))
        else:
            changes["prior_std"] = float(sigma_max)
    return replace(problem, **changes) if changes else problem


@lru_cache(maxsize=16)
def _build(name: str, final_sigmas_type: str, device: str) -> Problem:
    """One object a problem, so that environments made one by one share its reference trajectories."""
    problem = _BUILDERS[name][0](final_sigmas_type)
    if device == "cpu":
        return problem
    return replace(problem, device=device, denoiser=problem.denoiser.to(device))  # type: ignore[attr-defined]
