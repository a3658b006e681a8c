"""The mean and covariance of real features: all that a Frechet distance needs to know of the real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from art_env.evaluation.metrics import Array, finite_array, frechet_between, moments
from art_env.networks.weights import read_safetensors, write_safetensors

KIND = "feature-statistics"


@dataclass(frozen=True)
class FeatureStatistics:
    """What is kept of the features of real images, so that nobody needs the images themselves.

    Attributes:
        mean: ``[d]`` float64.
        covariance: ``[d, d]`` float64.
        count: number of real images.
        floors: Frechet distances to these statistics of sets drawn with replacement from the same real images: what
            a sampler that repeats the data would score. They say nothing about new images of the same kind.
        floor_size: images in each of those sets.
        floor_seed: of the draws.
    """

    mean: Array
    covariance: Array
    count: int
    floors: tuple[float, ...] = ()
    floor_size: int = 0
    floor_seed: int = 0

    @classmethod
    def of(cls, features: ArrayLike | Tensor) -> FeatureStatistics:
        """Those of features ``[N, d]``, with N above d, without floors.

        Raises:
            ValueError: wrong dimensions, too few rows, or a value that is not finite.
        """
        a = finite_array(features, "features")
        return cls(*moments(a, "features"), len(a))

    @classmethod
    def with_floors(
        cls, features: ArrayLike | Tensor, size: int, seed: int, sets: int = 10
    ) -> FeatureStatistics:
        """Those of features ``[N, d]``, and the floors of ``sets`` sets of ``size`` images.

        Raises:
            ValueError: as ``of``; or ``size`` is not above d, or ``sets`` below 1.
        """
        if sets < 1:
            raise ValueError(f"sets = {sets} must be at least 1")
        a = finite_array(features, "features")
        plain = cls.of(a)
        rng = np.random.default_rng(seed)
        floors = tuple(plain.distance(a[rng.integers(0, len(a), size)]) for _ in range(sets))
        return cls(plain.mean, plain.covariance, plain.count, floors, size, seed)

    def distance(self, features: ArrayLike | Tensor) -> float:
        """Frechet distance of features ``[N, d]`` to these statistics.

        Raises:
            ValueError: wrong dimensions, too few rows, or a value that is not finite.
        """
        return frechet_between(
            *moments(finite_array(features, "features"), "features"), self.mean, self.covariance
        )

    def floors_of(self, size: int) -> tuple[float, ...]:
        """The floors for sets of ``size`` images.

        For another size than ``floor_size`` they are scaled by the inverse of the size, as the distance between a
        distribution and a sample of it is to first order.
        """
        return tuple(f * self.floor_size / size for f in self.floors)

    def save(self, path: str | Path, meta: dict[str, Any] | None = None) -> None:
        """Write to a safetensors file, atomically, with JSON-able notes."""
        head = {
            "kind": KIND,
            "count": self.count,
            "floors": self.floors,
            "floor_size": self.floor_size,
            "floor_seed": self.floor_seed,
            "meta": meta or {},
        }
        tensors = {"mean": torch.from_numpy(self.mean), "covariance": torch.from_numpy(self.covariance)}
        write_safetensors(path, tensors, head)

    @classmethod
    def load(cls, path: str | Path, fix: str = "") -> FeatureStatistics:
        """Read a file written by ``save``.

        Args:
            path: the file.
            fix: what error messages tell the user to do.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: truncated, of another kind, with wrong shapes or a value that is not finite.
        """
        tensors, head = read_safetensors(path, KIND, fix)
        try:
            mean, covariance = (tensors[k].double().numpy() for k in ("mean", "covariance"))
            found = cls(
                mean,
                covariance,
                int(head["count"]),
                tuple(float(f) for f in head["floors"]),
                int(head["floor_size"]),
                int(head["floor_seed"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} lacks a part of the statistics ({error}); {fix or 'write it again'}"
            ) from error
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"{path} has a mean of shape {mean.shape} and a covariance of shape {covariance.shape}, not [d] and "
                f"[d, d]; {fix or 'write it again'}"
            )
        return found
