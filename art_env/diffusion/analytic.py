"""Denoisers known in closed form: Gaussian data and Gaussian mixtures."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from art_env.diffusion.denoiser import append_dims


class GaussianDenoiser:
    """Exact denoiser of ``N(mean, std^2 I)``: ``D(x; s) = mean + (x - mean) std^2 / (std^2 + s^2)``.

    Args:
        std: standard deviation of the data, above 0.
        mean: mean of every coordinate.
        shape: shape of one sample.
    """

    def __init__(self, std: float = 1.0, mean: float = 0.0, shape: tuple[int, ...] = (1,)) -> None:
        if not (math.isfinite(std) and std > 0):
            raise ValueError(f"std = {std} must be a positive number")
        self.std, self.mean, self.shape = float(std), float(mean), tuple(shape)
        self.sigma_data = float(std)

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``[B, *shape]`` in, the posterior mean out."""
        # std^2 / (std^2 + s^2) as a sigmoid: torch's forward-mode AD takes a hundred times longer for a sum or
        # product of which only one side has a tangent.
        shrink = torch.sigmoid(torch.rsub(torch.log(append_dims(sigma, x).square()), 2 * math.log(self.std)))
        if self.mean == 0:
            return x * shrink
        return self.mean + (x - self.mean) * shrink

    def sample(self, n: int, seed: int) -> Tensor:
        """``n`` clean samples, ``[n, *shape]`` float64."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, *self.shape, generator=generator, dtype=torch.float64)
        return self.mean + self.std * noise

    def to(self, device: torch.device | str) -> GaussianDenoiser:
        """Nothing to move: the parameters are Python numbers."""
        return self


class GaussianMixtureDenoiser:
    """Exact denoiser of a mixture of Gaussians with full covariances, in any dimension.

    With ``C_i`` diagonalised once, ``C_i + s^2 I`` costs nothing to invert at any noise level.

    Args:
        weights: ``[M]``, positive; normalised to sum to 1.
        means: ``[M, d]``, or ``[M]`` in one dimension.
        covs: ``[M, d, d]``, or ``[M]`` variances in one dimension.

    Raises:
        ValueError: shapes disagree, a weight is not positive, or a covariance is not symmetric and positive.
    """

    def __init__(self, weights: ArrayLike, means: ArrayLike, covs: ArrayLike) -> None:
        w = np.asarray(weights, dtype=np.float64)
        mu = np.asarray(means, dtype=np.float64)
        cov = np.asarray(covs, dtype=np.float64)
        if mu.ndim == 1:
            mu = mu[:, None]
        if cov.ndim == 1:
            cov = cov[:, None, None]
        M, d = mu.shape
        if w.shape != (M,) or cov.shape != (M, d, d):
            raise ValueError(
                f"weights {w.shape}, means {mu.shape} and covs {cov.shape} disagree; "
                "expected [M], [M, d] and [M, d, d]"
            )
        if not (np.isfinite(w).all() and (w > 0).all()):
            raise ValueError(f"weights = {w.tolist()} must all be positive")
        if not np.allclose(cov, np.swapaxes(cov, 1, 2)):
            raise ValueError("covs must be symmetric")
        variances, axes = np.linalg.eigh(cov)
        if not (variances > 0).all():
            i = int(np.argmin(variances.min(1)))
            raise ValueError(
                f"covs[{i}] is not positive definite (smallest eigenvalue {variances[i].min():g})"
            )
        self.shape: tuple[int, ...] = (d,)
        self.weights = torch.from_numpy(w / w.sum())
        self.means = torch.from_numpy(mu.copy())
        self.variances = torch.from_numpy(variances)  # [M, d]
        self.axes = torch.from_numpy(axes.copy())  # [M, d, d], eigenvectors in columns
        centre = (self.weights[:, None] * self.means).sum(0)
        spread = self.weights @ (self.variances.sum(1) + ((self.means - centre) ** 2).sum(1))
        self.sigma_data = float(torch.sqrt(spread / d))
        # Components first: a softmax over the last of few entries is several times slower.
        self._log_weights = torch.log(self.weights)[:, None, None]
        self._means, self._variances = self.means[:, None], self.variances[:, None]

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``[B, d]`` in, the posterior mean out."""
        s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(1, -1, 1)  # [1, B or 1, 1]
        total = self._variances + s.square()  # [M, B, d]
        y = x - self._means  # [M, B, d]
        if self.shape != (1,):
            y = y @ self.axes
        off = (y.square() / total + torch.log(total)).sum(-1, keepdim=True)
        resp = torch.softmax(torch.sub(self._log_weights, off, alpha=0.5), dim=0)  # [M, B, 1]
        shrunk = self._variances / total * y
        if self.shape != (1,):
            shrunk = shrunk @ self.axes.mT
        return (resp * (self._means + shrunk)).sum(0)

    def sample(self, n: int, seed: int) -> Tensor:
        """``n`` clean samples, ``[n, d]`` float64."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights.cpu(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.shape[0], generator=generator, dtype=torch.float64)
        means, variances, axes = self.means.cpu()[which], self.variances.cpu()[which], self.axes.cpu()[which]
        return means + torch.einsum("nde,ne->nd", axes, noise * torch.sqrt(variances))

    def to(self, device: torch.device | str) -> GaussianMixtureDenoiser:
        """Move the parameters to a device."""
        for name in ("weights", "means", "variances", "axes", "_log_weights", "_means", "_variances"):
            setattr(self, name, getattr(self, name).to(device))
        return self
