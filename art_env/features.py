"""Feature extractors for ``frechet_distance`` and its relatives: small CNN classifiers of the bundled data.

Distances in these features compare schedules and models of one data set; they do not compare with those in
Inception features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from art_env.diffusion.unet import MODELS_DIR
from art_env.diffusion.weights import restore, write_safetensors
from art_env.metrics import finite_array

DIGIT_FEATURES = MODELS_DIR / "digits_features.safetensors"
PHOTO_FEATURES = MODELS_DIR / "photos_features.safetensors"


class Classifier(nn.Module):
    """A small CNN on square images ``[B, channels, resolution, resolution]``.

    ``features`` is its last layer but one.

    Args:
        channels: image channels.
        resolution: height and width in pixels, a multiple of 8; the last convolution sees 4x4 cells.
        dim: number of features.
        classes: number of classes.
        width: channels of the first convolution, half of those of the others.

    Raises:
        ValueError: a size below 1, or a resolution that is no multiple of 8.
    """

    KIND = "features"
    scale: Tensor

    def __init__(
        self, channels: int = 1, resolution: int = 8, dim: int = 32, classes: int = 10, width: int = 24
    ) -> None:
        super().__init__()
        if min(channels, resolution, dim, classes, width) < 1 or resolution % 8:
            raise ValueError(
                f"channels = {channels}, resolution = {resolution}, dim = {dim}, classes = {classes}, "
                f"width = {width}: each must be at least 1, and resolution a multiple of 8"
            )
        self.config = {
            "channels": channels,
            "resolution": resolution,
            "dim": dim,
            "classes": classes,
            "width": width,
        }
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, stride=resolution // 8, padding=1)
        self.hidden = nn.Linear(2 * width * 16, dim)
        self.logits = nn.Linear(dim, classes)
        # Brings the features to mean variance 1 on real images, so that distances compare between trainings.
        self.register_buffer("scale", torch.ones(()))

    def features(self, x: Tensor) -> Tensor:
        """``[B, dim]``, before the activation: closer to Gaussian than after it."""
        h = F.relu(self.conv1(x))
        h = F.relu(self.conv3(F.relu(self.conv2(h))))
        out: Tensor = self.hidden(h.flatten(1)) * self.scale
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``[B, classes]``."""
        out: Tensor = self.logits(F.relu(self.features(x) / self.scale))
        return out

    def save(self, path: str | Path, meta: dict[str, object] | None = None) -> None:
        """Write to a safetensors file, atomically."""
        head = {"kind": self.KIND, "config": self.config, "meta": meta or {}}
        write_safetensors(path, self.state_dict(), head)


class Features:
    """Maps images to the features and the class probabilities of a trained ``Classifier``.

    Args:
        path: its weights, such as ``DIGIT_FEATURES`` or ``PHOTO_FEATURES``.
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
        name = "photos" if "photos" in Path(path).stem else "digits"
        fix = (
            "restore it from the repository or train it: "
            f"python -m art_env.diffusion.train_models {name}-features --seed 0"
        )

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
