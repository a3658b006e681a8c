"""Distances between samples: paired error, Frechet distance, one-dimensional and sliced Wasserstein-2.

All are pure functions of arrays or tensors, in float64. Distances between two finite sample sets have a floor
above zero even for one and the same distribution: measure it (real against real) and state it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from art_env.diffusion.unet import MODELS_DIR, RETRAIN, load_weights, read_safetensors, write_safetensors

DIGIT_FEATURES_WEIGHTS = MODELS_DIR / "digits_features.safetensors"
Array = NDArray[np.float64]


def _array(x: ArrayLike | Tensor, name: str) -> Array:
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
    a, b = _array(x, "x"), _array(y, "y")
    _same_shape(a, b, "the error is paired, entry by entry")
    return float(np.sqrt(np.mean((a - b) ** 2)))


def _moments(feat: Array, name: str) -> tuple[Array, Array]:
    if feat.ndim != 2:
        raise ValueError(f"{name} has shape {feat.shape}; give one row of features per sample, [N, d]")
    n, d = feat.shape
    if n <= d:
        raise ValueError(f"{name} has {n} rows of {d} features; a covariance needs at least {d + 1} rows")
    mean = feat.mean(axis=0)
    centred = feat - mean
    return mean, centred.T @ centred / (n - 1)


def frechet_distance(feat_a: ArrayLike | Tensor, feat_b: ArrayLike | Tensor) -> float:
    """Squared Wasserstein-2 distance between Gaussians fitted to two sets of features (the F of "FID").

    ``|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``, with symmetric roots, so no complex values and no
    ``scipy.linalg.sqrtm`` (Dowson and Landau, 1982; Heusel et al., 2017).

    Args:
        feat_a, feat_b: ``[N, d]`` and ``[M, d]``, with N and M above d.

    Raises:
        ValueError: wrong dimensions, too few rows, or a value that is not finite.
    """
    a, b = _array(feat_a, "feat_a"), _array(feat_b, "feat_b")
    mean_a, cov_a = _moments(a, "feat_a")
    mean_b, cov_b = _moments(b, "feat_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"feat_a has {a.shape[1]} features and feat_b {b.shape[1]}; use one extractor for both"
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
    a, b = np.squeeze(_array(x, "x")), np.squeeze(_array(y, "y"))
    if a.ndim > 1 or b.ndim > 1:
        raise ValueError(f"shapes {a.shape} and {b.shape} are not one-dimensional; use sliced_w2 for [N, d]")
    _same_shape(a, b, "give equally many points of each")
    # In one dimension the optimal coupling is the sorted one.
    return float(np.sqrt(np.mean((np.sort(a, axis=None) - np.sort(b, axis=None)) ** 2)))


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
    a, b = _array(x, "x"), _array(y, "y")
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"shapes {a.shape} and {b.shape} are not [N, d]; flatten each sample first")
    _same_shape(a, b, "give equally many points of each")
    if num_projections < 1:
        raise ValueError(f"num_projections must be at least 1, not {num_projections}")
    rng = np.random.default_rng(seed)
    total = 0.0
    # In chunks: [N, 64] at a time, whatever the number of projections.
    for start in range(0, num_projections, 64):
        directions = rng.standard_normal((a.shape[1], min(64, num_projections - start)))
        directions /= np.linalg.norm(directions, axis=0)
        gap = np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)
        total += float(np.mean(gap**2, axis=0).sum())
    return float(np.sqrt(total / num_projections))


class DigitClassifier(nn.Module):
    """A small CNN on 8x8 grey digits ``[B, 1, 8, 8]``; ``features`` is its last layer but one.

    Args:
        dim: number of features.
    """

    KIND = "digit-features"
    scale: Tensor

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.conv2 = nn.Conv2d(24, 48, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(48, 48, 3, padding=1)
        self.hidden = nn.Linear(48 * 16, dim)
        self.logits = nn.Linear(dim, 10)
        # Brings the features to mean variance 1 on real digits, so that distances compare between trainings.
        self.register_buffer("scale", torch.ones(()))

    def features(self, x: Tensor) -> Tensor:
        """``[B, dim]``, before the activation: closer to Gaussian than after it."""
        h = F.relu(self.conv1(x))
        h = F.relu(self.conv3(F.relu(self.conv2(h))))
        out: Tensor = self.hidden(h.flatten(1)) * self.scale
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``[B, 10]``."""
        out: Tensor = self.logits(F.relu(self.features(x) / self.scale))
        return out

    def save(self, path: str | Path, meta: dict[str, object] | None = None) -> None:
        """Write to a safetensors file, atomically."""
        head = {"kind": self.KIND, "config": {"dim": self.hidden.out_features}, "meta": meta or {}}
        write_safetensors(path, self.state_dict(), head)


class DigitFeatures:
    """Maps digit images to the features of the bundled classifier, for ``frechet_distance``.

    Args:
        path: weights; default the bundled ones.
        batch_size: images per forward pass.

    Attributes:
        dim: number of features.
        meta: notes of the training, such as the held-out accuracy.

    Raises:
        FileNotFoundError, ValueError: the file is missing or broken; the message says how to make it again.
    """

    def __init__(self, path: str | Path = DIGIT_FEATURES_WEIGHTS, batch_size: int = 1024) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        fix = f"restore it from the repository or train it: {RETRAIN}"
        tensors, head = read_safetensors(path, DigitClassifier.KIND, fix)
        try:
            self.dim = int(head["config"]["dim"])
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"{path} has a broken header ({type(e).__name__}: {e}); {fix}") from e
        self.meta = dict(head.get("meta", {}))
        self.batch_size = batch_size
        self.model = DigitClassifier(self.dim)
        load_weights(self.model, tensors, path, fix)
        self.model.eval().requires_grad_(False)

    def __call__(self, images: ArrayLike | Tensor) -> Array:
        """Features ``[N, dim]``, float64, of images ``[N, 1, 8, 8]`` in ``[-1, 1]``.

        Values outside are clamped, as storing an image would.

        Raises:
            ValueError: wrong shape, no images, or a value that is not finite.
        """
        a = _array(images, "images")
        if a.ndim != 4 or a.shape[1:] != (1, 8, 8):
            raise ValueError(f"images have shape {a.shape}; give [N, 1, 8, 8]")
        x = torch.from_numpy(a).float().clamp(-1.0, 1.0)
        with torch.no_grad():
            out = torch.cat([self.model.features(c) for c in x.split(self.batch_size)])
        return out.double().numpy()
