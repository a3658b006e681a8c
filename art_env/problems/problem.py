"""``Problem``: a denoiser, a range of noise, data, and the metrics that make sense for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.levels import TERMINALS, check_sigma_range
from art_env.diffusion.ode import ReferenceFlow


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
        data: ``(n, seed) -> [n, ...]``, clean samples in the space of ``images``.
        metrics: distances to the data beside the paired RMSE: ``w2``, ``sliced_w2``, ``frechet``.
        features: weights of the classifier behind the metrics of images.
        num_data: how many clean samples there are; None: as many as asked for.
        given: ``(n, seed) -> [n, channels, ...]``, the conditions of the start noises: the last channels of a
            sample, which the flow leaves alone.
        given_channels: how many channels they are.
        decode: from the space of the flow (without conditions) to images.
        linear: the denoiser is linear and the data N(0, sigma_data^2): errors are exact, without sampling.
        num_knots: of reference trajectories.
        num_noises: start noises that rewards are measured on.
        heavy_tailed: a few start noises make most of the final error, so that learning needs large batches.
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
    features: Path | None = None
    num_data: int | None = None
    given: Callable[[int, int], Tensor] | None = field(default=None, repr=False)
    given_channels: int = 0
    decode: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    linear: bool = False
    num_knots: int = 257
    num_noises: int = 4096
    heavy_tailed: bool = False
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
    def is_image(self) -> bool:
        """Whether samples are images (or latents), so that the denoiser is a network: dear to evaluate."""
        return len(self.shape) == 3

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
        channels, *rest = self.shape
        noise = torch.from_numpy(rng.standard_normal((n, channels - self.given_channels, *rest)))
        noise = self.prior_std * noise.to(self.device)
        if self.given is None:
            return noise
        return torch.cat([noise, self.given(n, seed).to(noise)], 1)

    def visible(self, x: Tensor) -> Tensor:
        """Samples ``[n, *shape]`` without the channels of the condition."""
        return x[:, : x.shape[1] - self.given_channels]

    def images(self, x: Tensor) -> Tensor:
        """Samples ``[n, *shape]`` in the space of the data: without conditions, and decoded."""
        x = self.visible(x)
        return x if self.decode is None else self.decode(x)

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
    return ReferenceFlow.integrate(
        problem.denoiser,
        problem.sample_noise(n, seed),
        problem.sigma_max,
        problem.sigma_floor,
        problem.sigma_end,
        num_knots,
    )


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
