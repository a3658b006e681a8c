"""Random Gaussian mixtures: a family of problems, another one for each row of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.diffusion.mixture_rows import MixtureRowsDenoiser
from art_env.problems.problem import Effort, Problem

# Coordinates, covariances of a mixture, and modes of each covariance.
MAX_SIZE, COVARIANCES, MODES = 64, 4, 32
Array = np.ndarray


class Mixture(NamedTuple):
    """One mixture: ``weights: [C, N]``, ``means: [C, N, d]``, ``variances: [C, d]``."""

    weights: Array
    means: Array
    variances: Array


def spectrum(rng: np.random.Generator, size: int, steepest: float) -> Array:
    """A power law ``i^-a``, ``[size]``, with mean 1 and a uniform between 0 and ``steepest``."""
    values = np.arange(1, size + 1) ** -rng.uniform(0.0, steepest)
    return np.asarray(values / values.mean())


def covariances(rng: np.random.Generator, size: int) -> Array:
    """Variances of the noise around the modes, ``[C, size]``: power laws of other order and width."""
    law = spectrum(rng, size, 2.5)
    rows = []
    for _ in range(COVARIANCES):
        rows.append(rng.permutation(law) * np.exp(rng.normal(0.0, 0.7)))
    found = np.stack(rows)
    return np.asarray(found / found.mean())


def _mixture(rng: np.random.Generator, means: Array, within: float, count: int) -> Mixture:
    """Means ``[C N, size]`` with mean square 1, and noise of mean variance ``within`` around them."""
    size = means.shape[1]
    weights = np.zeros(COVARIANCES * MODES)
    chosen = rng.permutation(len(weights))[:count]
    weights[chosen] = rng.gamma(2.0, size=count) + 0.1
    weights /= weights.sum()
    means = means - weights @ means
    scale = np.sqrt(weights @ (means**2).mean(1))
    between = 0.0 if count == 1 else 1.0
    means = means * (between / scale if scale > 0 else 0.0)
    floor = 10.0 ** rng.uniform(-6.0, -2.0)
    variances = within * covariances(rng, size) + floor
    shape = (COVARIANCES, MODES)
    return Mixture(weights.reshape(shape), means.reshape(*shape, size), variances)


def clusters(rng: np.random.Generator, size: int) -> Mixture:
    """1 to 128 independent modes, whose means and covariances have power-law spectra."""
    count = int(np.exp2(rng.uniform(0.0, 7.0)))
    means = rng.standard_normal((COVARIANCES * MODES, size)) * np.sqrt(spectrum(rng, size, 2.0))
    within = 1.0 if count == 1 else 10.0 ** rng.uniform(-3.0, 0.5)
    return _mixture(rng, means, within, count)


def manifold(rng: np.random.Generator, size: int) -> Mixture:
    """128 points of a smooth curve, surface or solid, and thin noise around them: coordinates are random waves."""
    count, latent = COVARIANCES * MODES, int(rng.integers(1, 4))
    places = rng.uniform(0.0, 1.0, (count, latent))
    waves = rng.normal(0.0, 1.0, (latent, size)) * np.exp2(rng.uniform(0.0, 3.0, size))
    means = np.sin(places @ waves + rng.uniform(0.0, 2 * np.pi, size)) * np.sqrt(spectrum(rng, size, 2.0))
    return _mixture(rng, means, 10.0 ** rng.uniform(-3.0, -0.5), count)


def tree(rng: np.random.Generator, size: int) -> Mixture:
    """128 leaves of a binary tree: modes in groups in groups, as classes of images are."""
    count = COVARIANCES * MODES
    law, shrink = np.sqrt(spectrum(rng, size, 2.0)), rng.uniform(0.3, 0.8)
    means = np.zeros((count, size))
    for level in range(7):
        branches = rng.standard_normal((2 ** (level + 1), size)) * law * shrink**level
        means += np.repeat(branches, count // len(branches), 0)
    return _mixture(rng, means, 10.0 ** rng.uniform(-3.0, 0.0), count)


def sphere(rng: np.random.Generator, size: int) -> Mixture:
    """128 points on a sphere of 1 to 8 dimensions, squeezed along some of its axes, and noise around them."""
    count, wide = COVARIANCES * MODES, min(size, int(rng.integers(1, 9)))
    means = np.zeros((count, size))
    points = rng.standard_normal((count, wide))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    means[:, :wide] = points * np.exp(rng.normal(0.0, 0.5, wide))
    return _mixture(rng, means, 10.0 ** rng.uniform(-3.0, -0.5), count)


FAMILIES: dict[str, Callable[[np.random.Generator, int], Mixture]] = {
    "clusters": clusters,
    "manifold": manifold,
    "tree": tree,
    "sphere": sphere,
}
# What agents and tables learn from, and what they are tested on.
TRAINING_FAMILIES, HELD_OUT_FAMILIES = ("clusters", "manifold"), ("tree", "sphere")
# log2 of the standard deviation of the data, and of the number of dimensions.
SCALES, SIZES = (-2.0, 1.5), (0.0, 6.0)
# log2 of the coordinates of the space for each dimension of a mixture: most of the variance of images lies in a few
# of their hundreds of directions.
EMBEDDINGS = (0.0, 5.0)


def random_mixtures(
    num_mixtures: int, seed: int, families: Sequence[str] = TRAINING_FAMILIES
) -> MixtureRowsDenoiser:
    """Mixtures that are drawn from families in turn; mixture ``i`` does not depend on how many there are.

    Dimensions are log-uniform from 1 to 64, the coordinates of the space for each dimension from 1 to 32, and
    standard deviations per coordinate from 0.25 to 2.8.

    Args:
        num_mixtures: P.
        seed: of the draw.
        families: names from ``FAMILIES``.

    Raises:
        ValueError: an unknown family, or fewer than one mixture.
    """
    if num_mixtures < 1:
        raise ValueError(f"num_mixtures = {num_mixtures} must be at least 1")
    names = [check_name("family", name, FAMILIES) for name in families]
    if not names:
        raise ValueError(f"families = (): give one of {', '.join(FAMILIES)}")
    weights = np.zeros((num_mixtures, COVARIANCES, MODES))
    means = np.zeros((num_mixtures, COVARIANCES, MODES, MAX_SIZE))
    variances = np.ones((num_mixtures, COVARIANCES, MAX_SIZE))
    sizes, spaces = np.zeros(num_mixtures, dtype=np.int64), np.zeros(num_mixtures, dtype=np.int64)
    for i in range(num_mixtures):
        name = names[i % len(names)]
        rng = np.random.default_rng([seed, i, list(FAMILIES).index(name)])
        size = round(float(np.exp2(rng.uniform(*SIZES))))
        drawn = FAMILIES[name](rng, size)
        square = (drawn.weights[..., None] * drawn.means**2).sum() + drawn.weights.sum(
            1
        ) @ drawn.variances.sum(1)
        spread = np.exp2(rng.uniform(*SCALES))
        space = round(size * float(np.exp2(rng.uniform(*EMBEDDINGS))))
        scale = spread * np.sqrt(space / square)
        weights[i], sizes[i], spaces[i] = drawn.weights, size, space
        means[i, ..., :size] = drawn.means * scale
        variances[i, :, :size] = drawn.variances * scale**2
    return MixtureRowsDenoiser(weights, means, variances, sizes, spaces)


def _numbers(n: int, seed: int, num_mixtures: int) -> Tensor:
    """Which mixture each noise belongs to, ``[n, 1]``: all of them in a random order, then again."""
    rng = np.random.default_rng([seed, 0x3117])
    rounds = [rng.permutation(num_mixtures) for _ in range(-(-n // num_mixtures))]
    return torch.from_numpy(np.concatenate(rounds)[:n]).double()[:, None]


EFFORT = Effort(rows=512, episodes=1500, oracle_with_dp=False, cma_evaluations=300)


def random_mixture_problem(
    num_mixtures: int = 512,
    seed: int = 1,
    families: Sequence[str] = TRAINING_FAMILIES,
    *,
    noises_each: int = 8,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    final_sigmas_type: str = "zero",
) -> Problem:
    """A problem in which every initial noise belongs to one of many mixtures, ``random_mixtures``.

    Its errors are in units of the standard deviation of each mixture.

    Args:
        num_mixtures, seed, families: of the mixtures.
        noises_each: initial noises of each mixture that rewards are measured on.
        sigma_min, sigma_max, final_sigmas_type: as ``Problem``.

    Raises:
        ValueError: as ``random_mixtures`` and ``Problem``.
    """
    denoiser = random_mixtures(num_mixtures, seed, families)
    return Problem(
        name="random-mixtures",
        denoiser=denoiser,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        final_sigmas_type=final_sigmas_type,
        prior_std=sigma_max,
        given=partial(_numbers, num_mixtures=num_mixtures),
        given_channels=1,
        num_knots=65,
        num_noises=noises_each * num_mixtures,
        effort=EFFORT,
        solver="learned_2m",
    )
