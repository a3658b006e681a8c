"""Sampling under a condition: a class with guidance, or the known part of an image.

Every trajectory has a condition of its own. It travels as further channels of the sample that the flow leaves
alone: the denoiser returns them as they are, so their slope is exactly 0 for any solver. It says how many they are
(``given_channels``): stochastic solvers add no noise to them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from art_env.diffusion.denoiser import Denoiser


class ClassConditional(Protocol):
    """A network that takes labels: ``model(x, sigma, labels)``, labels None for the null class."""

    shape: tuple[int, ...]
    sigma_data: float

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor: ...


class LabelledDenoiser(nn.Module):
    """Classifier-free guidance (Ho and Salimans 2022): ``D = D_null + guidance (D_label - D_null)``.

    The last channel of ``x`` holds the label, the same number in every pixel. A call makes two evaluations
    (``nfe_per_call``); with a guidance of 1, the plain conditional model, one.

    Args:
        model: class-conditional, without the label channel.
        guidance: weight of the condition.

    Raises:
        ValueError: guidance is not a positive number.
    """

    def __init__(self, model: ClassConditional, guidance: float = 2.0) -> None:
        super().__init__()
        if not 0 < guidance < float("inf"):
            raise ValueError(f"guidance = {guidance} must be a positive number; 1 is the plain model")
        self.model, self.guidance = model, float(guidance)
        channels, *size = model.shape
        self.shape: tuple[int, ...] = (channels + 1, *size)
        self.sigma_data = float(model.sigma_data)
        self.nfe_per_call = 1 if guidance == 1 else 2
        self.given_channels = 1
        self.space = getattr(model, "space", "ve")

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise ``x: [B, C + 1, H, W]``."""
        image, label = x[:, :-1], x[:, -1:]
        labels = label.detach()[:, 0, 0, 0].round().long()
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        conditional = self.model(image, levels, labels)
        if self.nfe_per_call == 1:
            return torch.cat([conditional, label], 1)
        plain = self.model(image, levels)
        return torch.cat([plain + self.guidance * (conditional - plain), label], 1)


class InpaintingDenoiser(nn.Module):
    """The missing part of an image, given the rest: what is known is denoised to what is known.

    Its pixels then run down a straight line, ``known + sigma * noise`` with a fixed noise, beside which the
    network fills in the others (the replacement method of Song et al. 2021, as a deterministic flow).
    The first half of the channels of ``x`` is the sample, the second half the known image.

    Args:
        denoiser: of whole images ``[C, H, W]``.
        known: ``[H, W]`` bool, the given pixels.

    Raises:
        ValueError: the mask has another size, or nothing is missing.
    """

    known: Tensor

    def __init__(self, denoiser: Denoiser, known: Tensor) -> None:
        super().__init__()
        channels, *size = denoiser.shape
        if tuple(known.shape) != tuple(size):
            raise ValueError(f"known has shape {tuple(known.shape)}, the images {tuple(size)}")
        if bool(known.all()):
            raise ValueError("known is True everywhere; leave something to fill in")
        self.denoiser = denoiser
        self.register_buffer("known", known.bool())
        self.shape: tuple[int, ...] = (2 * channels, *size)
        self.sigma_data = float(denoiser.sigma_data)
        self.nfe_per_call = int(getattr(denoiser, "nfe_per_call", 1))
        self.given_channels = channels
        self.space = getattr(denoiser, "space", "ve")

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise ``x: [B, 2 C, H, W]``."""
        image, given = x.chunk(2, 1)
        return torch.cat([torch.where(self.known, given, self.denoiser(image, sigma)), given], 1)
