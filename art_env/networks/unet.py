"""A small U-Net denoiser with EDM preconditioning, made for many cheap evaluations on a CPU core.

The preconditioning is that of Karras et al., "Elucidating the Design Space of Diffusion-Based Generative
Models" (2022), table 1. The network keeps its activations channels-last (``[B, H, W, C]``): convolutions are
fastest there, and one-group group normalisation becomes a plain layer norm. Few channels live at full
resolution; the bottom level mixes all its pixels with dense layers, the cheapest parameters on a CPU.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_env.diffusion.denoiser import append_dims
from art_env.networks.weights import restore, write_safetensors

MODELS_DIR = Path(__file__).resolve().parent.parent / "models"
# Below this noise level the network sees a constant level: log(0) must not become NaN, and c_out is 0 anyway.
MIN_NETWORK_SIGMA = 1e-5


@dataclass(frozen=True)
class UNetConfig:
    """Size of a ``UNet``.

    Attributes:
        channels: image channels.
        resolution: height and width in pixels; divisible by ``2 ** (len(widths) - 1)``.
        widths: feature channels per level, from full resolution down; each level halves the resolution.
        blocks: residual blocks per level, on the way down and again on the way up (once at the bottom).
        hidden: width of the noise-level embedding.
        frequencies: number of sine/cosine pairs that describe the noise level.
        classes: number of class labels; 0 for a model without labels.
    """

    channels: int = 1
    resolution: int = 8
    widths: tuple[int, ...] = (16, 48, 64)
    blocks: tuple[int, ...] = (0, 1, 1)
    hidden: int = 64
    frequencies: int = 12
    classes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(w) for w in self.widths))
        object.__setattr__(self, "blocks", tuple(int(b) for b in self.blocks))
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths {self.widths} and blocks {self.blocks} need the same length, at least 1"
            )
        if min(self.channels, self.resolution, self.hidden, self.frequencies, *self.widths) < 1:
            raise ValueError(f"every size in {self} must be at least 1")
        if min(self.blocks) < 0:
            raise ValueError(f"blocks {self.blocks} must not be negative")
        if self.classes < 0:
            raise ValueError(f"classes = {self.classes} must not be negative; 0 means no labels")
        if self.resolution % 2 ** (len(self.widths) - 1):
            raise ValueError(
                f"resolution {self.resolution} is not divisible by {2 ** (len(self.widths) - 1)}, "
                f"as {len(self.widths)} levels need"
            )


def _conv(layer: nn.Module, h: Tensor) -> Tensor:
    """A convolution on ``[B, H, W, C]``; both permutations are free views."""
    out: Tensor = layer(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class _Block(nn.Module):
    """``h + W2 silu(W1 silu(norm(h) * (1 + scale) + shift))``, scale and shift set by the noise level."""

    def __init__(self, width: int, hidden: int, pixels: int, dense: bool) -> None:
        super().__init__()
        self.film = nn.Linear(hidden, 2 * width)
        self.mix_in: nn.Conv2d | nn.Linear
        self.mix_out: nn.Conv2d | nn.Linear
        if dense:
            self.mix_in = nn.Linear(pixels * width, pixels * width)
            self.mix_out = nn.Linear(pixels * width, pixels * width)
        else:
            self.mix_in = nn.Conv2d(width, width, 3, padding=1)
            self.mix_out = nn.Conv2d(width, width, 3, padding=1)
        _zero(self.film)
        _zero(self.mix_out)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb)[:, None, None, :].chunk(2, dim=-1)
        # Group normalisation with one group; its affine part is the modulation.
        n = torch.addcmul(shift, F.layer_norm(h, h.shape[1:]), 1.0 + scale)
        if isinstance(self.mix_in, nn.Linear):
            flat = self.mix_out(F.silu(self.mix_in(F.silu(n).flatten(1))))
            return h + flat.reshape(h.shape)
        assert isinstance(self.mix_out, nn.Conv2d)
        return h + _conv(self.mix_out, F.silu(_conv(self.mix_in, F.silu(n))))


class _Level(nn.ModuleList):
    """Blocks one after the other."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        for block in self:
            h = block(h, emb)
        return h


class UNet(nn.Module):
    """The bare network ``F(x, c_noise, labels)``: ``[B, C, R, R]`` and ``[B]`` or ``[1]`` to ``[B, C, R, R]``.

    With classes, ``labels`` is ``[B]`` int64, or None for the null class in every row.
    """

    frequencies: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        w, n, hid = config.widths, len(config.widths), config.hidden
        pixels = [(config.resolution // 2**i) ** 2 for i in range(n)]

        def level(i: int) -> _Level:
            dense = i == n - 1
            return _Level(_Block(w[i], hid, pixels[i], dense) for _ in range(config.blocks[i]))

        # log(sigma)/4 spans about -1.6..1.1: from a sixth of a period to seven. Smooth in sigma by choice.
        self.register_buffer("frequencies", torch.logspace(-0.4, 1.2, config.frequencies), persistent=False)
        self.embed = nn.Linear(2 * config.frequencies, hid)
        self.stem = nn.Conv2d(config.channels, w[0], 3, padding=1)
        self.down = nn.ModuleList(level(i) for i in range(n))
        self.shrink = nn.ModuleList(nn.Conv2d(w[i], w[i + 1], 2, stride=2) for i in range(n - 1))
        self.grow = nn.ModuleList(nn.Linear(w[i + 1], 4 * w[i]) for i in range(n - 1))
        self.up = nn.ModuleList(level(i) for i in range(n - 1))
        self.head = nn.Conv2d(w[0], config.channels, 3, padding=1)
        _zero(self.head)
        # Last, and only with labels: a model without them draws the same initial weights as ever.
        self.classes = nn.Embedding(config.classes + 1, hid) if config.classes else None
        for p in self.parameters():
            if p.ndim == 4:
                p.data = p.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        angles = c_noise[:, None] * self.frequencies
        emb = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        if self.classes is not None:
            emb = emb + (self.classes.weight[-1] if labels is None else self.classes(labels))
        emb = F.silu(emb)
        h = _conv(self.stem, x.permute(0, 2, 3, 1))
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            if i:
                skips.append(h)
                h = _conv(self.shrink[i - 1], h)
            h = level(h, emb)
        for i in reversed(range(len(self.up))):
            skip = skips[i]
            b, r, _, w = skip.shape
            g = self.grow[i](h).reshape(b, r // 2, r // 2, 2, 2, w)
            h = skip + g.permute(0, 1, 3, 2, 4, 5).reshape(b, r, r, w)
            h = self.up[i](h, emb)
        return _conv(self.head, F.silu(h)).permute(0, 3, 1, 2)


class UNetDenoiser(nn.Module):
    """``D(x; sigma) = c_skip x + c_out F(c_in x, log(sigma)/4)``, the preconditioning of EDM's table 1.

    A new one is untrained: ``F`` starts at 0, so ``D = c_skip x``, the best linear denoiser of data with
    mean 0. Differentiable in ``x`` and ``sigma``, in forward mode (``torch.func.jvp``) and in reverse mode.
    The network runs in the dtype of its weights (float32; ``.double()`` gives float64), the preconditioning
    in the dtype of ``x``.

    Args:
        config: size of the network.
        sigma_data: standard deviation of the data over all entries.
        meta: free JSON-able notes, kept in the weight file.

    Attributes:
        shape: ``(channels, resolution, resolution)``.
        sigma_data: as given.
    """

    KIND = "unet-denoiser"

    def __init__(self, config: UNetConfig, sigma_data: float, meta: dict[str, Any] | None = None) -> None:
        super().__init__()
        if not 0.0 < sigma_data < float("inf"):
            raise ValueError(f"sigma_data must be positive and finite, not {sigma_data}")
        self.config = config
        self.shape: tuple[int, ...] = (config.channels, config.resolution, config.resolution)
        self.sigma_data = float(sigma_data)
        self.meta: dict[str, Any] = dict(meta or {})
        self.net = UNet(config)

    def forward(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise.

        Args:
            x: ``[B, *shape]``, any floating dtype.
            sigma: noise level, a scalar or ``[B]``; at 0 the result is ``x``.
            labels: classes ``[B]`` int64, 0 to ``config.classes``, the last of which is the null class
                ("any"); None: the null class for every row.

        Returns:
            ``[B, *shape]``, the dtype of ``x``.

        Raises:
            ValueError: labels for a model without classes, of another shape or type, or out of range.
        """
        if labels is not None:
            self._check_labels(labels, x.shape[0])
        s = append_dims(sigma, x)
        # One embedding for the whole batch when sigma is a scalar.
        c_noise = s.clamp(min=MIN_NETWORK_SIGMA).log().reshape(-1) / 4
        total = s * s + self.sigma_data**2
        root = total.sqrt()
        dtype = self.net.head.weight.dtype
        f = self.net((x / root).to(dtype), c_noise.to(dtype), labels).to(x.dtype)
        return torch.addcmul(x * (self.sigma_data**2 / total), f, s * self.sigma_data / root)

    def _check_labels(self, labels: Tensor, rows: int) -> None:
        n = self.config.classes
        if n == 0:
            raise ValueError(
                "labels given to a model without classes; leave labels out, or use a model trained with "
                "UNetConfig(classes=...), such as the bundled digits-cond"
            )
        if labels.shape != (rows,) or labels.dtype != torch.int64:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; give [{rows}] int64, "
                "one per row of x"
            )
        if rows and not 0 <= int(labels.min()) <= int(labels.max()) <= n:
            raise ValueError(
                f"labels lie in {int(labels.min())}..{int(labels.max())}; give 0 to {n - 1}, "
                f"or {n} for the null class"
            )

    def save(
        self, path: str | Path, meta: dict[str, Any] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Write weights, size and ``meta`` (default: ``self.meta``) to a safetensors file, atomically.

        Args:
            path: the file.
            meta: notes.
            dtype: of the stored weights; ``torch.float16`` halves the file. None: as they are.
        """
        head = {
            "kind": self.KIND,
            "config": asdict(self.config),
            "sigma_data": self.sigma_data,
            "meta": self.meta if meta is None else meta,
        }
        write_safetensors(path, {k: v.to(dtype) for k, v in self.state_dict().items()}, head)

    @classmethod
    def load(cls, path: str | Path, fix: str = "") -> UNetDenoiser:
        """Read a file written by ``save``; float32, frozen (no gradients for weights) and in eval mode.

        Args:
            path: the file.
            fix: what error messages tell the user to do.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: truncated, not a safetensors file, of another model, wrong or missing weights, or a
                weight that is not finite; the message names the file and says what to do.
        """
        return restore(
            path,
            cls.KIND,
            lambda head: cls(UNetConfig(**head["config"]), float(head["sigma_data"]), head.get("meta")),
            fix,
        )
