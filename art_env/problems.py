"""Named problems: a denoiser, a range of noise, data, and the metrics that make sense for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_env.diffusion.analytic import GaussianDenoiser, GaussianMixtureDenoiser
from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.flow import ReferenceFlow
from art_env.diffusion.unet import load_digits_denoiser
from art_env.names import check_name, look_up
from art_env.schedules.handcrafted import TERMINALS, check_sigma_range


@dataclass(frozen=True)
class Problem:
    """What is to be sampled.

    Attributes:
        name: as on the command line.
        denoiser: the model.
        sigma_max: first noise level.
        sigma_min: last noise level of hand-crafted ramps; 0 means that ramps run to 0 themselves.
        terminal: ``"zero"``: schedules end at 0; ``"sigma_min"``: they end at ``sigma_min``.
        prior_std: standard deviation of the start noise.
        metrics: which of ``w2``, ``sliced_w2``, ``frechet`` make sense beside the paired RMSE.
        linear: the denoiser is linear and the data N(0, sigma_data^2): errors are exact, without sampling.
        num_knots: of reference trajectories.
        num_noises: start noises that rewards are measured on.
        device: where tensors live.
    """

    name: str
    denoiser: Denoiser
    sigma_max: float
    sigma_min: float
    terminal: str
    prior_std: float
    data: Callable[[int, int], Tensor] | None = field(default=None, repr=False)
    metrics: tuple[str, ...] = ()
    linear: bool = False
    num_knots: int = 257
    num_noises: int = 4096
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_sigma_range(self.sigma_min, self.sigma_max)
        check_name("terminal", self.terminal, TERMINALS)
        if self.terminal == "sigma_min" and self.sigma_min == 0:
            raise ValueError("terminal='sigma_min' needs sigma_min above 0; use terminal='zero' to end at 0")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.denoiser.shape)

    @property
    def sigma_end(self) -> float:
        """Last noise level of every schedule: 0 or ``sigma_min``."""
        return 0.0 if self.terminal == "zero" else self.sigma_min

    @property
    def sigma_floor(self) -> float:
        """Lowest noise level that the denoiser is asked about."""
        return self.sigma_min if self.sigma_min > 0 else 1e-4 * float(self.denoiser.sigma_data)

    def sample_noise(self, n: int, seed: int) -> Tensor:
        """``n`` start noises, ``[n, *shape]`` float64; the first rows do not depend on ``n``."""
        rng = np.random.default_rng([seed, 0x0A27])
        return self.prior_std * torch.from_numpy(rng.standard_normal((n, *self.shape))).to(self.device)

    def sample_data(self, n: int, seed: int) -> Tensor:
        """``n`` clean samples, ``[n, *shape]`` float64.

        Raises:
            ValueError: the problem has no data of its own.
        """
        if self.data is None:
            raise ValueError(f"problem {self.name!r} has no data; only paired errors can be measured")
        return self.data(n, seed)

    def reference(self, n: int | None = None, seed: int = 0, num_knots: int | None = None) -> ReferenceFlow:
        """Exact trajectories of ``sample_noise(n, seed)``; kept in memory for the next caller.

        Raises:
            ValueError: fewer than one trajectory or two knots.
        """
        n = self.num_noises if n is None else n
        if n < 1:
            raise ValueError(f"num_noises = {n} must be at least 1")
        return _reference(self, n, seed, self.num_knots if num_knots is None else num_knots)


@lru_cache(maxsize=8)
def _reference(problem: Problem, n: int, seed: int, num_knots: int) -> ReferenceFlow:
    meta = {
        "problem": problem.name,
        "seed": seed,
        "num_noises": n,
        "num_knots": num_knots,
        "sigma_max": problem.sigma_max,
        "sigma_floor": problem.sigma_floor,
        "sigma_end": problem.sigma_end,
    }
    return ReferenceFlow.integrate(
        problem.denoiser,
        problem.sample_noise(n, seed),
        problem.sigma_max,
        problem.sigma_floor,
        problem.sigma_end,
        num_knots,
        meta,
    )


def _gaussian_1d(terminal: str) -> Problem:
    """Table 1 of the paper: N(0, 1), T = 3, started from the exact marginal N(0, 10)."""
    denoiser = GaussianDenoiser(1.0)
    return Problem(
        name="gaussian-1d",
        denoiser=denoiser,
        sigma_max=3.0,
        sigma_min=0.0 if terminal == "zero" else 1e-4,
        terminal=terminal,
        prior_std=float(np.sqrt(10.0)),
        data=denoiser.sample,
        metrics=("w2",),
        linear=True,
        num_noises=1024,
    )


def _mixture_1d(terminal: str) -> Problem:
    """Three modes, two of them narrow."""
    denoiser = GaussianMixtureDenoiser([0.3, 0.4, 0.3], [-2.0, 0.5, 2.5], np.square([0.3, 0.2, 0.4]))
    return Problem(
        name="mixture-1d",
        denoiser=denoiser,
        sigma_max=80.0,
        sigma_min=0.002,
        terminal=terminal,
        prior_std=80.0,
        data=denoiser.sample,
        metrics=("w2",),
    )


def _mixture_2d(terminal: str) -> Problem:
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
    return Problem(
        name="mixture-2d",
        denoiser=denoiser,
        sigma_max=80.0,
        sigma_min=0.002,
        terminal=terminal,
        prior_std=80.0,
        data=denoiser.sample,
        metrics=("sliced_w2",),
    )


def _digits(terminal: str) -> Problem:
    """scikit-learn's 8x8 handwritten digits through the bundled U-Net."""
    return Problem(
        name="digits",
        denoiser=load_digits_denoiser(),
        sigma_max=80.0,
        sigma_min=0.002,
        terminal=terminal,
        prior_std=80.0,
        data=_digit_images,
        metrics=("frechet",),
        num_knots=65,
        num_noises=256,
    )


def _digit_images(n: int, seed: int) -> Tensor:
    """``n`` real digits, ``[n, 1, 8, 8]`` in [-1, 1], drawn without replacement while they last (1,797)."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images).to(torch.float64)[:, None] / 8.0 - 1.0
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(images)) for _ in range(-(-n // len(images)))]
    return images[torch.from_numpy(np.concatenate(rounds)[:n])]


# name -> (builder, the terminal it uses unless told)
_BUILDERS: dict[str, tuple[Callable[[str], Problem], str]] = {
    "gaussian-1d": (_gaussian_1d, "zero"),
    "mixture-1d": (_mixture_1d, "sigma_min"),
    "mixture-2d": (_mixture_2d, "sigma_min"),
    "digits": (_digits, "zero"),
}
PROBLEMS = tuple(_BUILDERS)


def check_device(device: str) -> str:
    """Return ``device`` if torch can use it.

    Raises:
        ValueError: not a device, or a CUDA device that is not there.
    """
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device = {device!r} is not a device; use 'cpu', 'cuda' or 'cuda:0'") from error
    if kind.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (kind.index or 0) >= count:
            raise ValueError(
                f"device = {device!r} is not there: torch sees {count} CUDA device(s); use 'cpu'"
            )
    return device


def make_problem(
    name: str,
    *,
    terminal: str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str = "cpu",
) -> Problem:
    """A problem by name.

    Args:
        name: one of ``PROBLEMS``.
        terminal: ``"zero"`` or ``"sigma_min"``; None: the problem's own (zero for gaussian-1d and digits).
        sigma_min, sigma_max: another noise range.
        device: ``"cpu"``, ``"cuda"``, ...

    Raises:
        ValueError: unknown name or terminal (suggests the nearest), a range that is inverted, zero or not
            finite, or a device that is not there.
    """
    _, own_terminal = look_up("problem", name, _BUILDERS)
    problem = _build(name, check_name("terminal", terminal or own_terminal, TERMINALS), check_device(device))
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
def _build(name: str, terminal: str, device: str) -> Problem:
    """One object a problem, so that environments made one by one share its reference trajectories."""
    problem = _BUILDERS[name][0](terminal)
    if device == "cpu":
        return problem
    return replace(problem, device=device, denoiser=problem.denoiser.to(device))  # type: ignore[attr-defined]


def custom_problem(
    denoiser: Denoiser,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    terminal: str = "zero",
    name: str = "custom",
    num_knots: int = 65,
    num_noises: int = 256,
    device: str = "cpu",
) -> Problem:
    """A problem around a caller's own denoiser.

    Raises:
        TypeError: it is not callable, or lacks ``shape`` or ``sigma_data``.
        ValueError: as ``make_problem``.
    """
    if not callable(denoiser):
        raise TypeError(f"denoiser is {type(denoiser).__name__}, not callable as denoiser(x, sigma)")
    for attribute in ("shape", "sigma_data"):
        if not hasattr(denoiser, attribute):
            raise TypeError(f"denoiser {type(denoiser).__name__} has no attribute {attribute!r}; set it")
    return Problem(
        name=name,
        denoiser=denoiser,
        sigma_max=float(sigma_max),
        sigma_min=float(sigma_min),
        terminal=terminal,
        prior_std=float(sigma_max),
        num_knots=num_knots,
        num_noises=num_noises,
        device=check_device(device),
    )
