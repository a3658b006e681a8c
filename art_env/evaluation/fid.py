"""FID in Inception features (Heusel et al. 2017), by torchmetrics: for those who have the weights or a network.

Needs the extra: ``pip install "art-rl[fid]"``. Numbers of different tools do not compare, nor those of different
numbers of images; published ones are of 50,000.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor, nn

EXTRA = 'pip install "art-rl[fid]"'


class InceptionFID:
    """Frechet Inception Distance between two sets of images.

    Args:
        weights: file of torch-fidelity's Inception weights; None: it downloads them at first use.
        extractor: another network, from ``uint8`` images ``[B, 3, H, W]`` to features ``[B, d]``.
        batch_size: images at once.

    Raises:
        ImportError: the extra is not installed.
        FileNotFoundError: no file at ``weights``.
        ValueError: the weights cannot be loaded, or, without a file, not be downloaded.
    """

    def __init__(
        self, weights: str | Path | None = None, extractor: nn.Module | None = None, batch_size: int = 256
    ) -> None:
        try:
            fid = importlib.import_module("torchmetrics.image.fid")
        except ImportError as error:
            raise ImportError(f"the metric fid needs torchmetrics: {EXTRA}") from error
        if weights is not None and not Path(weights).is_file():
            raise FileNotFoundError(f"no Inception weights at {str(weights)!r}; check the path")
        path = None if weights is None else str(weights)
        feature = 2048 if extractor is None else extractor
        try:
            self.metric = fid.FrechetInceptionDistance(feature, feature_extractor_weights_path=path)
        except ModuleNotFoundError as error:
            raise ImportError(f"the metric fid needs torch-fidelity: {EXTRA}") from error
        except (OSError, RuntimeError) as error:
            where = "could not be downloaded" if weights is None else f"at {path} could not be loaded"
            raise ValueError(
                f"the Inception weights {where} ({error}); give a file of torch-fidelity's weights"
            ) from error
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, samples: Tensor, data: Tensor) -> float:
        """FID of ``samples`` to ``data``, both ``[N, C, H, W]`` in [-1, 1], C = 1 or 3.

        Raises:
            ValueError: other shapes, fewer than two images, or a value that is not finite.
        """
        self.metric.reset()
        for name, images, real in (("samples", samples, False), ("data", data, True)):
            for part in self._bytes(name, images).split(self.batch_size):
                self.metric.update(part, real=real)
        return float(self.metric.compute())

    @staticmethod
    def _bytes(name: str, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) < 2:
            raise ValueError(f"{name} has shape {tuple(images.shape)}; give [N, 1 or 3, H, W] with N above 1")
        if not torch.isfinite(images).all():
            raise ValueError(f"{name} has values that are not finite")
        scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
        return scaled.expand(-1, 3, -1, -1).contiguous()
