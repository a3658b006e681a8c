"""Distances between samples: paired error, Frechet distance, Wasserstein-2.

All are pure functions of arrays or tensors, in float64. Distances between two finite sample sets have a floor
above zero even for one and the same distribution: measure it (real against real) and state it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]


def finite_array(x: ArrayLike | Tensor, name: str) -> Array:
    """``x`` as float64; empty or non-finite input would turn into a number that means nothing."""
    a = np.asarray(x.detach().cpu().numpy() if isinstance(x, Tensor) else x, dtype=np.float64)
    if a.size == 0:
        raise ValueError(f"{name} is empty (shape {a.shape})")
    if not np.isfinite(a).all():
        raise ValueError(f"{name} has {int((~np.isfinite(a)).sum())} values that are not finite")
    return a


def _same_shape(a: Array, b: Array, why: str) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ; {why}")


def rmse(x: ArrayLike | Tensor, y: ArrayLike | Tensor) -> float:
    """Root of the mean squared difference over all entries of two equally shaped arrays.

    Raises:
        ValueError: shapes differ, or an input is empty or not finite.
    """
    a, b = finite_array(x, "x"), finite_array(y, "y")
    _same_shape(a, b, "the error is paired, entry by entry")
    return float(np.sqrt(np.mean((a - b) ** 2)))


def moments(feat: Array, name: str) -> tuple[Array, Array]:
    """Mean ``[d]`` and covariance ``[d, d]`` of features ``[N, d]``, with N above d.

    Raises:
        ValueError: wrong dimensions or too few rows; ``name`` is what the message calls them.
    """
    if feat.ndim != 2:
        raise ValueError(f"{name} has shape {feat.shape}; give one row of features per sample, [N, d]")
    n, d = feat.shape
    if n <= d:
        raise ValueError(f"{name} has {n} rows of {d} features; a covariance needs at least {d + 1} rows")
    mean = feat.mean(axis=0)
    centred = feat - mean
    return mean, centred.T @ centred / (n - 1)


def frechet_distance(feat_a: ArrayLike | Tensor, feat_b: ArrayLike | Tensor) -> float:
    """``frechet_between`` Gaussians fitted to two sets of features (the F of "FID"; Heusel et al., 2017).

    Args:
        feat_a, feat_b: ``[N, d]`` and ``[M, d]``, with N and M above d.

    Raises:
        ValueError: wrong dimensions, too few rows, or a value that is not finite.
    """
    a, b = finite_array(feat_a, "feat_a"), finite_array(feat_b, "feat_b")
    return frechet_between(*moments(a, "feat_a"), *moments(b, "feat_b"))


def frechet_between(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """Squared Wasserstein-2 distance between two Gaussians of means ``[d]`` and covariances ``[d, d]``.

    ``|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``, with symmetric roots, so no complex values and no
    ``scipy.linalg.sqrtm`` (Dowson and Landau, 1982).

    Raises:
        ValueError: they differ in d.
    """
    if len(mean_a) != len(mean_b):
        raise ValueError(
            f"one set has {len(mean_a)} features and the other {len(mean_b)}; use one extractor for both"
        )
    values, vectors = np.linalg.eigh(cov_a)
    # Rounding makes zero eigenvalues slightly negative.
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(np.clip(product, 0.0, None)).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross
    return float(max(distance, 0.0))


def wasserstein_1d(x: ArrayLike | Tensor, y: ArrayLike | Tensor) -> float:
    """Wasserstein-2 distance between two empirical distributions on the line with equally many points.

    Args:
        x, y: ``[N]`` (any shape of one nontrivial dimension).

    Raises:
        ValueError: not one-dimensional, unequal sizes, empty or not finite.
    """
    a, b = np.squeeze(finite_array(x, "x")), np.squeeze(finite_array(y, "y"))
    if a.ndim > 1 or b.ndim > 1:
        raise ValueError(f"shapes {a.shape} and {b.shape} are not one-dimensional; use sliced_w2 for [N, d]")
    _same_shape(a, b, "give equally many points of each")
    # In one dimension the optimal coupling is the sorted one.
    return float(np.sqrt(np.mean((np.sort(a, axis=None) - np.sort(b, axis=None)) ** 2)))


def directions(dim: int, num_projections: int, seed: int = 0) -> Array:
    """Random directions, uniform on the sphere, in the columns of ``[dim, num_projections]``."""
    rng = np.random.default_rng(seed)
    # Drawn 64 at a time, so that the first ones do not depend on how many there are.
    chunks = [rng.standard_normal((dim, min(64, num_projections - i))) for i in range(0, num_projections, 64)]
    lines = np.concatenate(chunks, axis=1)
    return np.asarray(lines / np.linalg.norm(lines, axis=0))


def sliced_w2(
    x: ArrayLike | Tensor, y: ArrayLike | Tensor, num_projections: int = 256, seed: int = 0
) -> float:
    """Sliced Wasserstein-2: root mean square of ``wasserstein_1d`` over random directions.

    Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures" (2015).

    Args:
        x, y: ``[N, d]``, equally many points; flatten images first.
        num_projections: number of directions, uniform on the sphere.
        seed: of the directions; the same seed gives the same directions.

    Raises:
        ValueError: wrong or unequal shapes, empty or not finite, or no projection.
    """
    a, b = finite_array(x, "x"), finite_array(y, "y")
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"shapes {a.shape} and {b.shape} are not [N, d]; flatten each sample first")
    _same_shape(a, b, "give equally many points of each")
    if num_projections < 1:
        raise ValueError(f"num_projections must be at least 1, not {num_projections}")
    lines = directions(a.shape[1], num_projections, seed)
    total = 0.0
    # In chunks: [N, 64] at a time, whatever the number of projections.
    for start in range(0, num_projections, 64):
        chunk = lines[:, start : start + 64]
        ratio = np.sort(a @ chunk, axis=0) - np.sort(b @ chunk, axis=0)
        total += float(np.mean(ratio**2, axis=0).sum())
    return float(np.sqrt(total / num_projections))
