"""The two evolution strategies of the search: PGPE far from an optimum, CMA-ES near one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy.fft import dct
from scipy.linalg import block_diag


class Strategy(Protocol):
    """A Gaussian over actions that moves towards those with the higher returns.

    Attributes:
        mean: ``[n]`` actions, each within [-1, 1].
        width: of the exploration, root mean square over the steps.
    """

    @property
    def mean(self) -> np.ndarray: ...

    @property
    def width(self) -> float: ...

    def ask(self, rng: np.random.Generator, done: float) -> np.ndarray:
        """Candidates ``[population, n]`` within [-1, 1]; ``done``: part of the run, for what is annealed."""

    def tell(self, returns: np.ndarray, done: float) -> None:
        """Learn from the return ``[population]`` of each candidate."""


def ranks(returns: np.ndarray) -> np.ndarray:
    """``[G]`` returns to evenly spaced weights of mean 0 and variance about 1, the best the highest.

    Only the order counts, so one candidate that met a bad tail does not set the scale.
    """
    place = np.argsort(np.argsort(returns, kind="stable"))
    return (place / max(len(returns) - 1, 1) - 0.5) * math.sqrt(12.0)


# The n actions are those of the first control, then those of the second, and so on: steps says how many each has.


def smooth_basis(steps: Sequence[int]) -> np.ndarray:
    """``[n, n]``, orthonormal rows: each control's discrete cosine transform, from smooth to rough over steps."""
    blocks = [dct(np.eye(n), norm="ortho", axis=0) for n in steps if n > 0]
    return np.asarray(block_diag(*blocks))


def spectrum(steps: Sequence[int], colour: float) -> np.ndarray:
    """``[n]`` widths of the rows of ``smooth_basis``: power ``1 / mode^colour``, each control's mean square 1."""

    def one(n: int) -> np.ndarray:
        widths = np.arange(1, n + 1) ** (-colour / 2)
        return np.asarray(widths * math.sqrt(n) / np.linalg.norm(widths))

    return np.concatenate([one(n) for n in steps if n > 0])


def smooth_noise(steps: Sequence[int], std: float, rng: np.random.Generator) -> np.ndarray:
    """``[n]`` offsets of root mean square ``std`` that are smooth over the steps."""
    return np.asarray(std * (rng.standard_normal(sum(steps)) * spectrum(steps, 1.0)) @ smooth_basis(steps))


class PGPE:
    """Parameter-exploring policy gradients (Sehnke et al. 2010): antithetic pairs, ranks for returns, Adam.

    Exploration is smooth over the steps at first and white at the end, and the mean moves in the coordinates of
    ``smooth_basis``: early the schedule as a whole is found, late each step by itself.

    Args:
        mean: ``[n]`` actions to start from.
        steps: how many of them each control has.
        population: candidates an update.
        learning_rate: of Adam, in units of the action; falls to 0.
        std_start, std_end: width of the exploration; falls geometrically.
        betas: of Adam.
    """

    def __init__(
        self,
        mean: np.ndarray,
        steps: Sequence[int],
        population: int,
        learning_rate: float,
        std_start: float,
        std_end: float,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        n = len(mean)
        self.mean, self.width, self.population = mean.copy(), std_start, population
        self.learning_rate, self.std_start, self.std_end, self.betas = (
            learning_rate,
            std_start,
            std_end,
            betas,
        )
        self.steps, self.basis, self.scale = steps, smooth_basis(steps), np.ones(n)
        self.first, self.second, self.updates = np.zeros(n), np.zeros(n), 0
        self.z = np.zeros((population, n))

    def ask(self, rng: np.random.Generator, done: float) -> np.ndarray:
        """See ``Strategy``."""
        half = self.population - self.population // 2
        self.width = self.std_start * (self.std_end / self.std_start) ** done
        self.scale = spectrum(self.steps, 1.0 - done)
        z = rng.standard_normal((half, len(self.mean)))
        self.z = np.concatenate([z, -z])[: self.population]
        return np.clip(self.mean + self.width * (self.z * self.scale) @ self.basis, -1.0, 1.0)

    def tell(self, returns: np.ndarray, done: float) -> None:
        """See ``Strategy``."""
        moment = (ranks(returns)[:, None] * self.z).mean(0)
        self.updates += 1
        b1, b2 = self.betas
        self.first = b1 * self.first + (1 - b1) * moment
        self.second = b2 * self.second + (1 - b2) * moment**2
        first, second = self.first / (1 - b1**self.updates), self.second / (1 - b2**self.updates)
        step = self.learning_rate * (1.0 - done) * self.scale * first / (np.sqrt(second) + 1e-12)
        self.mean = np.clip(self.mean + step @ self.basis, -1.0, 1.0)


class CMAES:
    """CMA-ES in its plain form (Hansen 2016, arXiv 1604.00772): mean, width and covariance over the steps.

    Steps of a schedule trade against each other, and with many of them the error is far steeper along some directions
    than along others.

    Why not the package ``cmaes``: where the optimum lies beyond the border of the actions, its width grows without
    end, and its mean wanders. Elsewhere the two are alike.

    Args:
        mean: ``[n]`` actions to start from.
        std: width to start from.
        population: candidates an update, at least 2.
    """

    def __init__(self, mean: np.ndarray, std: float, population: int) -> None:
        n, best = len(mean), max(population // 2, 1)
        weights = math.log(population / 2 + 0.5) - np.log(np.arange(1, best + 1))
        self.share = weights / weights.sum()
        self.mass = mass = 1 / float((self.share**2).sum())
        # Rates and damping of the tutorial, in its names.
        self.c_sigma = (mass + 2) / (n + mass + 5)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + self.c_sigma
        self.c_c = (4 + mass / n) / (n + 4 + 2 * mass / n)
        self.c_1 = 2 / ((n + 1.3) ** 2 + mass)
        self.c_mu = min(1 - self.c_1, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
        self.chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        self.mean, self.std, self.population = mean.copy(), std, population
        self.covariance, self.path_c, self.path_sigma = np.eye(n), np.zeros(n), np.zeros(n)
        self.updates = 0
        # The last candidates' offsets in units of std, and the same before the covariance C stretched them.
        self.y = self.white = np.zeros((population, n))

    @property
    def width(self) -> float:
        """See ``Strategy``: the covariance has a scale of its own beside ``std``."""
        return self.std * math.sqrt(float(self.covariance.diagonal().mean()))

    def ask(self, rng: np.random.Generator, done: float) -> np.ndarray:
        """See ``Strategy``."""
        variances, axes = np.linalg.eigh(self.covariance)
        widths = np.sqrt(np.maximum(variances, 1e-20))
        z = rng.standard_normal((self.population, len(self.mean)))
        actions = np.clip(self.mean + self.std * (z * widths) @ axes.T, -1.0, 1.0)
        # Learn from what is played: beyond the border returns are flat, and the width would grow without end.
        self.y = (actions - self.mean) / self.std
        self.white = self.y @ (axes / widths) @ axes.T
        return np.asarray(actions)

    def tell(self, returns: np.ndarray, done: float) -> None:
        """See ``Strategy``."""
        order = np.argsort(-returns, kind="stable")[: len(self.share)]
        best = self.y[order]
        step, white, n = self.share @ best, self.share @ self.white[order], len(self.mean)
        self.mean = np.clip(self.mean + self.std * step, -1.0, 1.0)
        self.updates += 1
        self.path_sigma = (1 - self.c_sigma) * self.path_sigma
        self.path_sigma += math.sqrt(self.c_sigma * (2 - self.c_sigma) * self.mass) * white
        length = float(np.linalg.norm(self.path_sigma))
        settled = length / math.sqrt(1 - (1 - self.c_sigma) ** (2 * self.updates))
        self.path_c = (1 - self.c_c) * self.path_c
        if settled < (1.4 + 2 / (n + 1)) * self.chi:
            self.path_c += math.sqrt(self.c_c * (2 - self.c_c) * self.mass) * step
        self.covariance = (
            (1 - self.c_1 - self.c_mu) * self.covariance
            + self.c_1 * np.outer(self.path_c, self.path_c)
            + self.c_mu * (best.T * self.share) @ best
        )
        # At most e times wider: along a narrow valley a candidate that was cut at the border can look very far.
        self.std *= math.exp(min(self.c_sigma / self.damping * (length / self.chi - 1), 1.0))
