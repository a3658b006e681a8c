"""The training of the bundled networks: recipes, losses and one loop for all of them.

A run repeats bit by bit for a seed and a number of threads.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from art_env.networks.autoencoder import Autoencoder, AutoencoderConfig
from art_env.networks.classifier import Classifier
from art_env.networks.data import PATCH, patch_columns, photos
from art_env.networks.unet import UNetConfig, UNetDenoiser

LABEL_DROP = 0.15


@dataclass(frozen=True)
class Recipe:
    """The settings of one model's training.

    Attributes:
        steps, batch: optimiser steps, and images in each.
        lr: peak learning rate (200 steps of warm-up, then cosine decay to 0).
        net: size of a score model.
        ema: decay of the averaged weights of score models and the autoencoder, which are the ones saved.
        p_mean, p_std: mean and deviation of log(sigma) in training; sigma = 80 lies 3.2 deviations above.
        half: weights are rounded to float16, which halves the file.
    """

    steps: int
    batch: int
    lr: float
    net: UNetConfig | None = None
    ema: float = 0.999
    p_mean: float = -0.8
    p_std: float = 1.6
    half: bool = False


RECIPES: dict[str, Recipe] = {
    "digits-small": Recipe(5000, 256, 2e-3, UNetConfig(widths=(12, 24, 40))),
    "digits-base": Recipe(7000, 256, 2e-3, UNetConfig()),
    "digits-large": Recipe(4500, 128, 1.5e-3, UNetConfig(widths=(16, 48, 112), blocks=(0, 1, 3)), half=True),
    "digits-cond": Recipe(6000, 128, 2e-3, UNetConfig(classes=10)),
    "photos-base": Recipe(
        4000,
        128,
        1.5e-3,
        UNetConfig(channels=3, resolution=16, widths=(16, 32, 80, 112), blocks=(0, 1, 1, 2)),
        half=True,
    ),
    "photos-autoencoder": Recipe(4000, 64, 2e-3),
    "photos-latent": Recipe(
        4000, 128, 1.5e-3, UNetConfig(channels=8, resolution=4, widths=(64, 96), blocks=(1, 2)), half=True
    ),
    "mnist": Recipe(
        10_000,
        64,
        1.5e-3,
        UNetConfig(resolution=32, widths=(16, 32, 48, 64, 64), blocks=(0, 1, 1, 1, 2)),
        half=True,
    ),
    "digits-features": Recipe(1500, 128, 2e-3),
    "photos-features": Recipe(1500, 128, 2e-3),
    "mnist-features": Recipe(3000, 128, 2e-3),
}


@dataclass
class Job:
    """A model in training: its loss on fresh batches, and a picture of what it can do.

    Attributes:
        model: what is optimised.
        optimiser: of its parameters; ``fit`` sets the learning rate at each step.
        loss: step -> scalar loss on a fresh batch.
        average: a copy that follows the model's weights, the result; None: the model itself is the result.
        picture: model -> ``[C, H, W]`` in [0, 1] for TensorBoard.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    average: nn.Module | None = None
    picture: Callable[[nn.Module], Tensor] | None = None

    @property
    def result(self) -> nn.Module:
        """The model to save."""
        return self.model if self.average is None else self.average


def score_job(
    images: Tensor,
    labels: Tensor | None,
    recipe: Recipe,
    seed: int,
    picture: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor] | None = None,
) -> Job:
    """Make the job of a score model, which learns to denoise images; sets torch's global seed.

    The loss has the weights ``lambda(sigma) = 1 / c_out^2`` of Karras et al. (2022).

    Args:
        images: ``[N, C, R, R]``.
        labels: ``[N]`` for a conditional model, else None.
        recipe: settings; ``recipe.net`` is the size of the model.
        seed: of the initial weights, the batches and the noise.
        picture: from a denoiser and standard normal noise ``[64, C, R, R]`` to ``[C, H, W]`` in [0, 1].

    Raises:
        ValueError: the recipe is not one of a score model.
    """
    if recipe.net is None:
        raise ValueError("recipe.net is None; a score model needs a UNetConfig")
    gen = torch.Generator().manual_seed(seed)
    # A stream of its own: the other draws are those of a model without labels.
    gen_labels = torch.Generator().manual_seed(seed + 3)
    torch.manual_seed(seed)
    model = UNetDenoiser(recipe.net, float(images.double().std(correction=0)))
    strata = torch.arange(recipe.batch) / recipe.batch

    def loss(step: int) -> Tensor:
        pick = torch.randint(len(images), (recipe.batch,), generator=gen)
        x0 = images[pick]
        # One level per stratum of the distribution: the same law with less variance.
        u = (strata + torch.rand(recipe.batch, generator=gen) / recipe.batch).clamp(1e-5, 1 - 1e-5)
        sigma = (recipe.p_mean + recipe.p_std * torch.special.ndtri(u)).exp()
        noise = torch.randn(x0.shape, generator=gen)
        s = sigma[:, None, None, None]
        c_out = s * model.sigma_data / (s * s + model.sigma_data**2).sqrt()
        given = None
        if labels is not None:
            drop = torch.rand(recipe.batch, generator=gen_labels) < LABEL_DROP
            given = labels[pick].masked_fill(drop, model.config.classes)
        out: Tensor = ((model(x0 + s * noise, sigma, given) - x0) / c_out).square().mean()
        return out

    def draw(net: nn.Module) -> Tensor:
        assert picture is not None
        noise = torch.randn(64, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        given = None if labels is None else torch.arange(64) % model.config.classes
        return picture(lambda x, s: net(x, s, given), noise)

    return Job(
        model,
        torch.optim.Adam(model.parameters(), lr=recipe.lr, betas=(0.9, 0.99)),
        loss,
        copy.deepcopy(model).requires_grad_(False),
        None if picture is None else draw,
    )


def autoencoder_job(images: Tensor, recipe: Recipe, seed: int) -> Job:
    """Make the job of an autoencoder, which learns to restore images ``[N, 3, 16, 16]`` from noisy latents.

    It sets torch's global seed.
    """
    gen = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Autoencoder(AutoencoderConfig())

    def loss(step: int) -> Tensor:
        x = images[torch.randint(len(images), (recipe.batch,), generator=gen)]
        noise = 0.05 * torch.randn(recipe.batch, *model.latent_shape, generator=gen)
        return model.training_loss(x, noise)

    def picture(net: nn.Module) -> Tensor:
        assert isinstance(net, Autoencoder)
        net.standardise(images[:2048])
        with torch.no_grad():
            again = net.decode(net.encode(images[:32]))
        return grid(torch.stack([images[:32], again], 1).flatten(0, 1))

    return Job(
        model,
        torch.optim.Adam(model.parameters(), lr=recipe.lr, betas=(0.9, 0.99)),
        loss,
        copy.deepcopy(model).requires_grad_(False),
        picture,
    )


def classifier_job(
    model: Classifier, images: Tensor, labels: Tensor, gen: torch.Generator, recipe: Recipe, shift: bool
) -> Job:
    """Make the job of a classifier, which learns the labels ``[N]`` of slightly noisy images ``[N, C, R, R]``.

    ``gen`` draws the batches and the noise. With ``shift``, every other batch is moved by up to one pixel.
    """

    def loss(step: int) -> Tensor:
        pick = torch.randint(len(images), (recipe.batch,), generator=gen)
        x = images[pick] + 0.1 * torch.randn(recipe.batch, *images.shape[1:], generator=gen)
        if shift and step % 2:  # edges are filled with the background
            dy, dx = torch.randint(0, 3, (2,), generator=gen).tolist()
            x = F.pad(x, (1, 1, 1, 1), value=-1.0)[:, :, dy : dy + x.shape[2], dx : dx + x.shape[3]]
        return F.cross_entropy(model(x), labels[pick], label_smoothing=0.05)

    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=1e-2)
    return Job(model, optimiser, loss)


def grid(images: Tensor, columns: int = 8) -> Tensor:
    """Images ``[N, C, R, R]`` in [-1, 1] as one picture ``[C, rows (R + 1), columns (R + 1)]`` in [0, 1]."""
    n = len(images) // columns * columns
    tiles = F.pad(images[:n].clamp(-1, 1) / 2 + 0.5, (0, 1, 0, 1), value=0.5)
    _, c, h, w = tiles.shape
    return tiles.reshape(-1, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, -1, columns * w)


def _rate(step: int, steps: int) -> float:
    """Warm-up, then cosine decay, as a fraction of the peak learning rate."""
    return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))


def fit(job: Job, recipe: Recipe, folder: Path, sample_every: int = 1000) -> tuple[float, float]:
    """Train ``job`` to the end; losses and pictures go to TensorBoard's events in ``folder``.

    Args:
        job: what is trained, in place.
        recipe: the one that ``job`` was made with.
        folder: made if absent.
        sample_every: steps between pictures; the last step has one too.

    Returns:
        Mean loss of the last tenth of training, and seconds.

    Raises:
        RuntimeError: the loss is not finite.
    """
    params = [p.detach() for p in job.model.parameters()]
    averaged: list[Tensor] = [] if job.average is None else list(job.average.parameters())
    losses: list[float] = []
    start = time.perf_counter()
    with SummaryWriter(str(folder)) as writer:
        bar = tqdm(range(recipe.steps), desc="training", mininterval=1.0)
        for step in bar:
            lr = recipe.lr * _rate(step, recipe.steps)
            for group in job.optimiser.param_groups:
                group["lr"] = lr
            loss = job.loss(step)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise RuntimeError(f"the loss is {losses[-1]} at step {step}; lower lr (now {recipe.lr:g})")
            job.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            job.optimiser.step()
            if averaged:
                decay = min(recipe.ema, (1 + step) / (10 + step))
                torch._foreach_lerp_(averaged, params, 1 - decay)
            done = step + 1
            if done % 100 == 0:
                mean = float(np.mean(losses[-100:]))
                bar.set_postfix(loss=f"{mean:.4f}")
                writer.add_scalar("loss", mean, done)
                writer.add_scalar("learning_rate", lr, done)
            if job.picture is not None and (done % sample_every == 0 or done == recipe.steps):
                writer.add_image("samples", job.picture(job.result), done)
    return float(np.mean(losses[-max(1, recipe.steps // 10) :])), time.perf_counter() - start


GRID_CELLS = 24


def grid_cell(location: Tensor) -> Tensor:
    """Class 0 to 23 of training patches: photograph, and cell of a grid of 4 columns and 3 rows.

    Args:
        location: ``[N, 3]`` as ``photo_patches`` returns it.
    """
    photo, row, column = location.T
    rows, columns = photos().shape[2] - PATCH + 1, patch_columns("train")[1] + 1
    return photo * 12 + row * 3 // rows * 4 + column * 4 // columns
