"""The Gaussian of a whole episode: what ART-RL explores with when its policy sees nothing but the time."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor


def ranks(returns: Tensor) -> Tensor:
    """``[G]`` returns to evenly spaced weights of mean 0 and variance about 1, the best the highest.

    Only the order counts, so one group that met a bad tail does not set the scale.
    """
    G = len(returns)
    place = torch.argsort(torch.argsort(returns)).to(torch.float64)
    return (place / max(G - 1, 1) - 0.5) * math.sqrt(12.0)


def smooth_basis(n: int) -> Tensor:
    """``[n, n]``, orthonormal rows from smooth to rough over the steps: the discrete cosine transform."""
    return torch.from_numpy(dct(np.eye(max(n, 1)), norm="ortho", axis=0)[:n, :n])


class AnnealedGaussian:
    """Exploration of a given width that is smooth over the steps at first and white at the end.

    The mean climbs by Adam in the coordinates of ``smooth_basis``: early in training the clock as a whole is
    found, late each step by itself.

    Args:
        mean: ``[n]``, actions to start from.
        betas: of Adam.
    """

    def __init__(self, mean: Tensor, betas: tuple[float, float]) -> None:
        n = len(mean)
        self.betas = betas
        self.basis = smooth_basis(n)
        self.weights = self.basis @ mean.double()
        self.first, self.second = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        self.updates = 0
        self.z = torch.zeros(0, n, dtype=torch.float64)
        self.width = torch.ones(n, dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """``[n]`` actions."""
        return self.weights @ self.basis

    def explore(self, groups: int, std: float, colour: float) -> Tensor:
        """Offsets ``[groups, n]`` of root mean square ``std``, in antithetic pairs; spectrum ``1 / mode^colour``."""
        n = len(self.weights)
        spectrum = torch.arange(1, n + 1, dtype=torch.float64) ** (-colour / 2)
        self.width = spectrum * math.sqrt(n) / spectrum.norm()
        z = torch.randn(groups - groups // 2, n, dtype=torch.float64)
        self.z = torch.cat([z, -z])[:groups]
        return std * (self.z * self.width) @ self.basis

    def improve(self, returns: Tensor, learning_rate: float) -> None:
        """One step along the score-function moment, from the return ``[groups]`` of each group."""
        moment = (ranks(returns)[:, None] * self.z).mean(0)
        self.updates += 1
        b1, b2 = self.betas
        self.first = b1 * self.first + (1 - b1) * moment
        self.second = b2 * self.second + (1 - b2) * moment**2
        first = self.first / (1 - b1**self.updates)
        second = self.second / (1 - b2**self.updates)
        weights = self.weights + learning_rate * self.width * first / (second.sqrt() + 1e-12)
        self.weights = self.basis @ (weights @ self.basis).clamp(-1.0, 1.0)


class AdaptedGaussian:
    """Exploration whose covariance over the steps is learned with the mean: natural gradient.

    Time steps of a schedule trade against each other, and with many steps the error is far steeper along some
    directions than along others. The updates are those of CMA-ES (Hansen 2016, https://arxiv.org/abs/1604.00772),
    which is the natural policy gradient of mean and covariance with rank weights (Akimoto et al. 2010).

    Args:
        mean: ``[n]``, actions to start from.
        std: width to start from.
        groups: samples an update, at least 2.
    """

    def __init__(self, mean: Tensor, std: float, groups: int) -> None:
        n = max(len(mean), 1)
        best = max(groups // 2, 1)
        weights = math.log(groups / 2 + 0.5) - torch.log(torch.arange(1, best + 1, dtype=torch.float64))
        self.share = weights / weights.sum()
        mass = 1 / float((self.share**2).sum())
        self.mass = mass
        # Rates and damping of the tutorial, in its names.
        self.c_sigma = (mass + 2) / (n + mass + 5)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + self.c_sigma
        self.c_c = (4 + mass / n) / (n + 4 + 2 * mass / n)
        self.c_1 = 2 / ((n + 1.3) ** 2 + mass)
        self.c_mu = min(1 - self.c_1, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
        self.chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        self.mean, self.std = mean.double().clone(), std
        self.covariance = torch.eye(len(mean), dtype=torch.float64)
        self.path_c = torch.zeros_like(self.mean)
        self.path_sigma = torch.zeros_like(self.mean)
        self.updates = 0
        # The last exploration, and the same before the covariance C stretched it.
        self.z = torch.zeros(0, len(mean), dtype=torch.float64)  # C^(-1/2) y
        self.y = torch.zeros(0, len(mean), dtype=torch.float64)

    def explore(self, groups: int) -> Tensor:
        """Offsets ``[groups, n]``, cut off where mean and offset leave the range of actions."""
        variances, axes = torch.linalg.eigh(self.covariance)
        widths = variances.clamp_min(1e-20).sqrt()
        z = torch.randn(groups, len(self.mean), dtype=torch.float64)
        self.z = z @ axes.T
        self.y = z @ (axes * widths).T
        offsets = self.std * self.y
        actions = self.mean + offsets
        outside = actions.abs() > 1.0
        if outside.any():
            # Learn from what is played: beyond the border returns are flat, and the width would grow without end.
            offsets = torch.where(outside, actions.sign() - self.mean, offsets)
            self.y = offsets / self.std
            self.z = self.y @ (axes / widths) @ axes.T
        return offsets

    @property
    def width(self) -> float:
        """Of the exploration, over all steps: the covariance has a scale of its own beside ``std``."""
        return self.std * math.sqrt(float(self.covariance.diagonal().mean())) if len(self.mean) else self.std

    def improve(self, returns: Tensor) -> None:
        """One natural-gradient step of mean, width and covariance, from the return ``[groups]`` of each group."""
        order = torch.argsort(returns, descending=True)[: len(self.share)]
        best = self.y[order]
        step, white = self.share @ best, self.share @ self.z[order]
        self.mean = (self.mean + self.std * step).clamp(-1.0, 1.0)
        self.updates += 1
        self.path_sigma = (1 - self.c_sigma) * self.path_sigma
        self.path_sigma += math.sqrt(self.c_sigma * (2 - self.c_sigma) * self.mass) * white
        length = float(self.path_sigma.norm())
        settled = length / math.sqrt(1 - (1 - self.c_sigma) ** (2 * self.updates))
        going = settled < (1.4 + 2 / (len(self.mean) + 1)) * self.chi
        self.path_c = (1 - self.c_c) * self.path_c
        if going:
            self.path_c = self.path_c + math.sqrt(self.c_c * (2 - self.c_c) * self.mass) * step
        self.covariance = (
            (1 - self.c_1 - self.c_mu) * self.covariance
            + self.c_1 * torch.outer(self.path_c, self.path_c)
            + self.c_mu * (best.T * self.share) @ best
        )
        # At most e times wider: along a narrow valley a sample that was cut at the border can look very far.
        self.std *= math.exp(min(self.c_sigma / self.damping * (length / self.chi - 1), 1.0))
