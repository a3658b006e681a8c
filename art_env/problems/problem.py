"""``Problem``: a denoiser, a range of noise, data, and the metrics that make sense for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.adapters.counting import counting
from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.levels import FINAL_SIGMAS_TYPES, SPACES, check_sigma_range
from art_env.diffusion.ode import ReferenceFlow, norm


@dataclass(frozen=True)
class Effort:
    """How much computation a problem is worth, so that nobody else has to ask what kind it is.

    Attributes:
        rows, episodes: of a training: rows that step together, and episodes of each.
        group_rows, group_episodes: the same where the reward compares groups of samples.
        more_from: K from which trainings are longer, in proportion to K; None: never.
        more_for_weights: each weight of a step makes a training longer by this many times its length without.
        score_noises: held-out initial noises that scores take by default, at most; None: as many as ``num_noises``.
        check_noises: trajectories on which the reference's own error is measured; None: all of them.
        rho_noises: trajectories on which rho of EDM's family is tuned, at most; None: all pilot noises.
        oracle_searches, oracle_screen_noises: starts that the search for the oracle follows, and the noises that it
            ranks them on.
        oracle_with_dp: start that search from dynamic programming too, which takes many evaluations.
        cma_noises, cma_evaluations: trajectories (None: all) and final errors of CMA-ES.
        gradient_noises: trajectories (None: all) of the search by gradients that knows the training noises only.
        pictures: samples in a picture.
    """

    rows: int = 256
    episodes: int = 300
    group_rows: int = 4096
    group_episodes: int = 75
    more_from: int | None = None
    more_for_weights: float = 1.0
    score_noises: int | None = None
    check_noises: int | None = None
    rho_noises: int | None = None
    oracle_searches: int = 3
    oracle_screen_noises: int = 512
    oracle_with_dp: bool = True
    cma_noises: int | None = None
    cma_evaluations: int = 1000
    gradient_noises: int | None = None
    pictures: int = 4096

    def training(self, in_groups: bool, num_steps: int, num_weights: int = 0) -> tuple[int, int]:
        """Rows, and episodes of each, of a training with up to ``num_steps`` steps of ``num_weights`` weights."""
        if in_groups:
            return self.group_rows, self.group_episodes
        longer = 1.0 if self.more_from is None else max(num_steps / self.more_from, 1.0)
        return self.rows, round(self.episodes * longer * (1 + self.more_for_weights * num_weights))


ANALYTIC = Effort()
# Learning needs large batches where a few noises make most of the error; a covariance over the steps has K squared
# entries to learn.
HEAVY_TAILED = Effort(
    rows=1024, episodes=1000, more_from=10, more_for_weights=3.0, cma_noises=2048, cma_evaluations=500
)
# Where an episode is expensive, many small updates are worth more than few large ones. Groups must stand for a
# distribution: W2 between small samples favours one that is too narrow.
NETWORK = Effort(
    rows=64,
    episodes=1200,
    group_rows=1024,
    group_episodes=300,
    score_noises=256,
    check_noises=64,
    rho_noises=64,
    oracle_searches=2,
    oracle_screen_noises=64,
    oracle_with_dp=False,
    cma_noises=256,
    cma_evaluations=300,
    gradient_noises=256,
    pictures=12,
)
# Where a row of an evaluation takes half a millisecond or more: so few noises that the oracle takes no longer than a
# training.
LARGE_NETWORK = replace(
    NETWORK,
    score_noises=128,
    check_noises=32,
    oracle_screen_noises=32,
    cma_noises=128,
    gradient_noises=128,
)
# A network of unknown size gets few.
UNKNOWN_NETWORK = replace(NETWORK, episodes=100, group_rows=256, group_episodes=100)


Integrator = Callable[["Problem", Tensor, int], ReferenceFlow]


@dataclass(frozen=True)
class Problem:
    """A sampling problem: a denoiser, its range of noise, data and metrics.

    Attributes:
        name: as on the command line.
        denoiser: the model.
        sigma_max: first noise level.
        sigma_min: last noise level of hand-crafted ramps; 0 means that ramps run to 0 themselves.
        final_sigmas_type: ``"zero"``: schedules end at 0; ``"sigma_min"``: they end at ``sigma_min``.
        prior_std: standard deviation of the initial noise.
        data: ``(n, seed) -> [n, ...]``, clean samples in the space of ``images``.
        metrics: distances to the data beside the paired RMSE: ``w2``, ``sliced_w2``, ``frechet``.
        features: weights of the classifier behind the metrics of images.
        statistics: mean and covariance of the features of real images (a file of
            ``art_env.evaluation.FeatureStatistics``), for a problem whose images are not here; its one metric is
            ``frechet``.
        num_data: how many clean samples there are; None: as many as asked for.
        given: ``(n, seed) -> [n, channels, ...]``, the conditions of the initial noises: the last channels of a
            sample, which the flow leaves alone.
        given_channels: how many channels they are.
        num_classes: the condition is one of so many classes, its number in the last channel; 0: it is not a class.
        decode: from the space of the flow (without conditions) to images.
        linear: the denoiser is linear and the data N(0, sigma_data^2): errors are exact, without sampling.
        num_knots: of reference trajectories.
        num_noises: initial noises that rewards are measured on.
        effort: how much computation it is worth.
        solver: the solver that evaluations take by default.
        device: where tensors live.
        integrator: ``(problem, x, num_knots) -> ReferenceFlow``: who integrates exact trajectories, such as several
            processes; None: ``integrate``, here.
    """

    name: str
    denoiser: Denoiser
    sigma_max: float
    sigma_min: float
    final_sigmas_type: str
    prior_std: float
    data: Callable[[int, int], Tensor] | None = field(default=None, repr=False)
    metrics: tuple[str, ...] = ()
    features: Path | None = None
    statistics: Path | None = None
    num_data: int | None = None
    given: Callable[[int, int], Tensor] | None = field(default=None, repr=False)
    given_channels: int = 0
    num_classes: int = 0
    decode: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    linear: bool = False
    num_knots: int = 257
    num_noises: int = 4096
    effort: Effort = ANALYTIC
    solver: str = "heun"
    device: str = "cpu"
    integrator: Integrator | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_sigma_range(self.sigma_min, self.sigma_max)
        check_name("final_sigmas_type", self.final_sigmas_type, FINAL_SIGMAS_TYPES)
        if self.final_sigmas_type == "sigma_min" and self.sigma_min == 0:
            raise ValueError(
                "final_sigmas_type='sigma_min' needs sigma_min above 0; use final_sigmas_type='zero' to end at 0"
            )
        if self.statistics is not None:
            if self.data is not None:
                raise ValueError(
                    f"data and statistics = {str(self.statistics)!r} are both given; give one of them"
                )
            if self.features is None or self.metrics != ("frechet",):
                raise ValueError(
                    f"statistics = {str(self.statistics)!r} with features = {self.features} and metrics = "
                    f"{self.metrics}: statistics serve the Frechet distance alone; give features, and "
                    "metrics=('frechet',)"
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.denoiser.shape)

    @property
    def space(self) -> str:
        """``"ve"`` or ``"flow"``: what the model's own programs sample in (see ``Schedule``)."""
        return check_name("space of the denoiser", getattr(self.denoiser, "space", "ve"), SPACES)

    @property
    def sigma_end(self) -> float:
        """Last noise level of every schedule: 0 or ``sigma_min``."""
        return 0.0 if self.final_sigmas_type == "zero" else self.sigma_min

    @property
    def sigma_floor(self) -> float:
        """Lowest noise level that the denoiser is asked about."""
        return self.sigma_min if self.sigma_min > 0 else 1e-4 * float(self.denoiser.sigma_data)

    def sample_noise(self, n: int, seed: int) -> Tensor:
        """``n`` initial noises, ``[n, *shape]`` float64; the first rows do not depend on ``n``."""
        rng = np.random.default_rng([seed, 0x0A27])
        channels, *rest = self.shape
        noise = torch.from_numpy(rng.standard_normal((n, channels - self.given_channels, *rest)))
        noise = self.prior_std * noise.to(self.device)
        if self.given is None:
            return noise
        x = torch.cat([noise, self.given(n, seed).to(noise)], 1)
        # Where samples have unlike sizes they are filled up with 0.
        project = getattr(self.denoiser, "project", None)
        return x if project is None else cast("Tensor", project(x))

    def extent(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Coordinates of each of the samples ``[B, *shape]``, and the standard deviation of their data.

        Those of a condition do not count. Both are ``[B]`` where each row has a data distribution of its own.
        """
        extent = getattr(self.denoiser, "extent", None)
        if extent is not None:
            return cast("tuple[Tensor, Tensor]", extent(x))
        channels, *rest = self.shape
        return float((channels - self.given_channels) * math.prod(rest)), float(self.denoiser.sigma_data)

    def error(self, x: Tensor, exact: Tensor) -> Tensor:
        """Mean squared differences of samples, over their own coordinates: ``[B, *shape] -> [B]``."""
        return norm(x - exact).square() / self.extent(exact)[0]

    def visible(self, x: Tensor) -> Tensor:
        """Samples ``[n, *shape]`` without the channels of the condition."""
        return x[:, : x.shape[1] - self.given_channels] if self.given_channels else x

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

    def integrate(self, x: Tensor, num_knots: int) -> ReferenceFlow:
        """Exact trajectories of the initial noises ``x: [n, *shape]``."""
        return ReferenceFlow.integrate(
            self.denoiser, x, self.sigma_max, self.sigma_floor, self.sigma_end, num_knots
        )


@lru_cache(maxsize=8)
def _reference(problem: Problem, n: int, seed: int, num_knots: int) -> ReferenceFlow:
    with counting(problem.denoiser, "references"):
        x = problem.sample_noise(n, seed)
        if problem.integrator is not None:
            return problem.integrator(problem, x, num_knots)
        return problem.integrate(x, num_knots)


def check_device(device: str) -> str:
    """Return ``device`` if denoisers can run on it: a CPU, or a CUDA device that is there.

    Raises:
        ValueError: not a device, one without float64 or without values, or a CUDA device that is not there.
    """
    try:
        kind = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device = {device!r} is not a device; use 'cpu', 'cuda' or 'cuda:0'") from error
    if kind.type not in ("cpu", "cuda"):
        why = {"mps": "it has no float64", "meta": "its tensors have no values"}.get(
            kind.type, "it is not tested"
        )
        raise ValueError(f"device = {device!r} is not supported ({why}); use 'cpu', 'cuda' or 'cuda:0'")
    if kind.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not 0 <= (kind.index or 0) < count:
            raise ValueError(
                f"device = {device!r} is not there: torch sees {count} CUDA device(s); use 'cpu'"
            )
    return device
