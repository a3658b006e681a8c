"""The small CNN classifier whose last layer but one gives the features of images."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_env.networks.unet import MODELS_DIR
from art_env.networks.weights import write_safetensors

DIGIT_FEATURES = MODELS_DIR / "digits_features.safetensors"
PHOTO_FEATURES = MODELS_DIR / "photos_features.safetensors"
MNIST_FEATURES = MODELS_DIR / "mnist_features.safetensors"
# Mean and covariance of the features of real digits, in place of the digits.
MNIST_STATISTICS = MODELS_DIR / "mnist_statistics.safetensors"


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
