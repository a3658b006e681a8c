"""Stand-ins for other programs' networks, and the loops of their samplers."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from art_env.diffusion import GaussianMixtureDenoiser
from art_env.schedules import Schedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def grid(K: int, top: float, bottom: float, zero: bool = True) -> Schedule:
    """An uneven grid: K levels and a 0, or K + 1 levels."""
    t = np.linspace(0.0, 1.0, K + (not zero)) if K + (not zero) > 1 else np.zeros(1)
    levels = np.exp(np.interp(t**1.3 + 0.04 * np.sin(9 * t) * t * (1 - t), [0, 1], np.log([top, bottom])))
    return Schedule(np.append(levels, 0.0) if zero else levels, "mine")


def denoiser() -> GaussianMixtureDenoiser:
    return GaussianMixtureDenoiser(
        [0.5, 0.3, 0.2],
        [[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]],
        [np.diag([0.05, 0.2]), np.eye(2) * 0.02, np.eye(2)],
    )


D = denoiser()


def noise(sigma: float, n: int = 64) -> Tensor:
    return sigma * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def training_sigmas(scheduler) -> np.ndarray:
    a = scheduler.alphas_cumprod.double()
    return torch.sqrt((1 - a) / a).numpy()


class Network:
    """A network of a diffusers scheduler: knows its scaled input and the timestep, nothing else.

    Args:
        kind: ``epsilon``, ``sample`` or ``v_prediction`` of a variance-preserving model, ``edm`` or ``flow``.
        sigma_of: timestep -> noise level.
    """

    def __init__(self, kind, sigma_of):
        self.kind, self.sigma_of, self.asked = kind, sigma_of, []

    def __call__(self, scaled: Tensor, t: Tensor) -> Tensor:
        scaled = scaled.double()
        s = float(self.sigma_of(float(t)))
        self.asked.append(s)
        if self.kind == "edm":
            total = np.hypot(s, 0.5)
            x = scaled * total
            return (D(x, s) - 0.25 / total**2 * x) / (s * 0.5 / total)
        if self.kind == "flow":
            x = scaled * (1 + s)  # x_t / (1 - t)
            return (scaled - D(x, s)) * (1 + s) / s  # v = (x_t - x0) / t
        x = scaled * np.sqrt(s**2 + 1)
        if self.kind == "epsilon":
            return (x - D(x, s)) / s
        if self.kind == "sample":
            return D(x, s)
        return (x / (s**2 + 1) - D(x, s)) * np.sqrt(s**2 + 1) / s


def loop(scheduler, network: Network, x: Tensor) -> Tensor:
    """The loop of a diffusers pipeline."""
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(scaled, t), t, x).prev_sample
    return x


def k_module(name: str) -> types.ModuleType:
    """k-diffusion's own ``sampling.py`` or ``external.py``, as installed.

    The package's ``__init__`` asks for wandb, clip, kornia and more, and ``sampling.py`` and ``utils.py`` for three
    packages that no sampler here uses. So only these files are loaded, with empty modules for the three.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("needs: pip install --no-deps k-diffusion==0.1.1.post1")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    unused = {name: types.ModuleType(name) for name in ("torchdiffeq", "torchsde", "torchvision")}
    unused["torchdiffeq"].odeint = None
    unused["torchvision.transforms"] = types.ModuleType("torchvision.transforms")
    unused["torchvision.transforms"].functional = None
    with patch.dict(sys.modules, {"k_diffusion": package, **unused}):
        return importlib.import_module(f"k_diffusion.{name}")


def unet(channels: int = 1, **settings):
    """A small network of diffusers for images of 8x8 pixels."""
    import diffusers

    torch.manual_seed(0)
    return (
        diffusers.UNet2DModel(
            sample_size=8,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            **settings,
        )
        .eval()
        .requires_grad_(False)
    )
