"""A small convolutional autoencoder of 16x16 colour patches, the first stage of latent diffusion.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022): a diffusion model in the
latent space of an autoencoder. Latents are standardised per channel, so that EDM's noise levels fit them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_env.networks.weights import restore, write_safetensors


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of an ``Autoencoder``.

    Attributes:
        channels: image channels.
        resolution: height and width of an image in pixels, a multiple of 4; latents have a quarter of it.
        latent: latent channels.
        width: feature channels at half and at quarter resolution; half of them at full resolution.
    """

    channels: int = 3
    resolution: int = 16
    latent: int = 8
    width: int = 48

    def __post_init__(self) -> None:
        if min(self.channels, self.resolution, self.latent, self.width) < 1:
            raise ValueError(f"every size in {self} must be at least 1")
        if self.resolution % 4 or self.width % 2:
            raise ValueError(
                f"resolution {self.resolution} must be a multiple of 4 and width {self.width} be even"
            )


class Autoencoder(nn.Module):
    """``decode(encode(x))`` is close to ``x``; latents have mean 0 and deviation 1 in every channel.

    A new one is untrained: its weights are random and its latents not yet standardised (``standardise``).

    Args:
        config: size of the network.
        meta: free JSON-able notes, kept in the weight file.

    Attributes:
        shape: of an image, ``(channels, resolution, resolution)``.
        latent_shape: ``(latent, resolution / 4, resolution / 4)``.
    """

    KIND = "autoencoder"
    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig | None = None, meta: dict[str, Any] | None = None) -> None:
        super().__init__()
        c = self.config = config or AutoencoderConfig()
        self.shape: tuple[int, int, int] = (c.channels, c.resolution, c.resolution)
        self.latent_shape: tuple[int, int, int] = (c.latent, c.resolution // 4, c.resolution // 4)
        self.meta: dict[str, Any] = dict(meta or {})
        w = c.width
        self.encoder = nn.Sequential(
            nn.Conv2d(c.channels, w // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(w // 2, w, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(w, w, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(w, w, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(w, c.latent, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(c.latent, w, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(w, 4 * w, 1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(w, w, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(w, 2 * w, 1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(w // 2, c.channels, 3, padding=1),
        )
        self.register_buffer("mean", torch.zeros(c.latent, 1, 1))
        self.register_buffer("std", torch.ones(c.latent, 1, 1))

    @staticmethod
    def _check(x: Tensor, shape: tuple[int, ...], name: str) -> None:
        if x.ndim != 4 or tuple(x.shape[1:]) != shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; give [B, {', '.join(str(s) for s in shape)}]"
            )

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``[B, *latent_shape]`` of images ``[B, *shape]``, in the dtype of ``x``.

        The network runs in the dtype of its weights.

        Raises:
            ValueError: wrong shape.
        """
        self._check(x, self.shape, "x")
        z = (self.encoder(x.to(self.mean.dtype)) - self.mean) / self.std
        return z.to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Images ``[B, *shape]`` of latents ``[B, *latent_shape]``; may leave ``[-1, 1]`` a little.

        Raises:
            ValueError: wrong shape.
        """
        self._check(z, self.latent_shape, "z")
        out: Tensor = self.decoder(z.to(self.mean.dtype)).to(z.dtype)
        return out

    def training_loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of ``x`` decoded from its latent plus ``noise``.

        The latent is standardised by its batch here. The noise makes the decoder forgive small errors of a
        sampled latent, and keeps near images near in the latent space.

        Args:
            x: images ``[B, *shape]``.
            noise: ``[B, *latent_shape]``.
        """
        z = F.batch_norm(self.encoder(x), None, None, training=True)
        return F.mse_loss(self.decoder(z + noise), x)

    @torch.no_grad()
    def standardise(self, images: Tensor, batch_size: int = 1024) -> None:
        """Set the constants so that the latents of ``images`` have mean 0 and deviation 1 per channel."""
        z = torch.cat([self.encoder(x.to(self.mean.dtype)) for x in images.split(batch_size)]).double()
        self.mean.copy_(z.mean((0, 2, 3))[:, None, None])
        self.std.copy_(z.std((0, 2, 3), correction=0)[:, None, None])

    def save(self, path: str | Path, meta: dict[str, Any] | None = None) -> None:
        """Write weights, size and ``meta`` (default: ``self.meta``) to a safetensors file, atomically."""
        head = {
            "kind": self.KIND,
            "config": asdict(self.config),
            "meta": self.meta if meta is None else meta,
        }
        write_safetensors(path, self.state_dict(), head)

    @classmethod
    def load(cls, path: str | Path, fix: str = "") -> Autoencoder:
        """Read a file written by ``save``; the result is frozen (no gradients for weights) and in eval mode.

        Args:
            path: the file.
            fix: what error messages tell the user to do.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: as ``UNetDenoiser.load``.
        """
        return restore(
            path, cls.KIND, lambda head: cls(AutoencoderConfig(**head["config"]), head.get("meta")), fix
        )
