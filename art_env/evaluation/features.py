"""Feature extractors for ``frechet_distance``: small CNN classifiers of the bundled data.

Distances in these features compare schedules and models of one data set; they do not compare with those in
Inception features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from art_env.evaluation.metrics import finite_array
from art_env.networks.bundled import FEATURE_MODELS, fix_weights, weights_path
from art_env.networks.classifier import Classifier
from art_env.networks.weights import restore


class Features:
    """Maps images to the features and the class probabilities of a trained ``Classifier``.

    Args:
        path: its weights, such as ``DIGIT_FEATURES``, ``PHOTO_FEATURES`` or ``MNIST_FEATURES``.
        batch_size: images per forward pass.

    Attributes:
        dim: number of features.
        classes: number of classes.
        shape: shape of one image.
        meta: notes of the training, such as the accuracy.

    Raises:
        FileNotFoundError, ValueError: the file is missing or broken; the message says how to make it again.
    """

    def __init__(self, path: str | Path, batch_size: int = 1024) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        own = [name for name in FEATURE_MODELS if weights_path(name).name == Path(path).name]
        fix = fix_weights(own[0] if own else FEATURE_MODELS[0])

        def build(head: dict[str, Any]) -> Classifier:
            self.meta = dict(head.get("meta", {}))
            return Classifier(**{k: int(v) for k, v in dict(head["config"]).items()})

        self.model = restore(path, Classifier.KIND, build, fix)
        self.dim = self.model.config["dim"]
        self.classes = self.model.config["classes"]
        resolution = self.model.config["resolution"]
        self.shape: tuple[int, int, int] = (self.model.config["channels"], resolution, resolution)
        self.batch_size = batch_size

    def _batches(self, images: ArrayLike | Tensor) -> tuple[Tensor, ...]:
        a = finite_array(images, "images")
        if a.ndim != 4 or a.shape[1:] != self.shape:
            raise ValueError(f"images have shape {a.shape}; give [N, {', '.join(map(str, self.shape))}]")
        return torch.from_numpy(a).float().clamp(-1.0, 1.0).split(self.batch_size)

    def __call__(self, images: ArrayLike | Tensor) -> NDArray[np.float64]:
        """Features ``[N, dim]``, float64, of images ``[N, *shape]`` in ``[-1, 1]``.

        Values outside are clamped, as storing an image would.

        Raises:
            ValueError: wrong shape, no images, or a value that is not finite.
        """
        with torch.no_grad():
            out = torch.cat([self.model.features(c) for c in self._batches(images)])
        return np.asarray(out.double().numpy())

    def probabilities(self, images: ArrayLike | Tensor) -> NDArray[np.float64]:
        """Class probabilities ``[N, classes]``, float64; each row sums to 1. Errors as of a call."""
        with torch.no_grad():
            out = torch.cat([self.model(c).double().softmax(1) for c in self._batches(images)])
        return np.asarray(out.numpy())
