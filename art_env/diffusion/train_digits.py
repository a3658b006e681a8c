"""Train the bundled digits model: ``python -m art_env.diffusion.train_digits --seed 0``.

The score model is trained with the loss weighting of Karras et al. (2022), ``lambda(sigma) = 1 / c_out^2``,
and noise levels whose logarithm is normal, wide enough to cover sigma = 80. A small classifier of the same
digits gives the features of the Frechet distance. A run is deterministic for a seed and a number of threads.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from tqdm import tqdm

from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.unet import MODELS_DIR, UNetConfig, UNetDenoiser
from art_env.metrics import DigitClassifier, DigitFeatures, frechet_distance


@dataclass
class Config:
    """Train the score model and the feature extractor of the 8x8 digits."""

    seed: int = 0
    """Seed of the initial weights, the batches and the noise."""
    out: Path = field(default_factory=lambda: MODELS_DIR)
    """Folder for digits.safetensors, digits_features.safetensors and README.md."""
    steps: int = 7000
    """Optimiser steps of the score model."""
    batch: int = 256
    """Images per step."""
    lr: float = 2e-3
    """Peak learning rate (Adam, 200 steps of warm-up, then cosine decay to 0)."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones saved."""
    p_mean: float = -0.8
    """Mean of log(sigma) in training."""
    p_std: float = 1.6
    """Standard deviation of log(sigma) in training; sigma = 80 lies 3.2 of them above the mean."""
    classifier_steps: int = 1500
    """Optimiser steps of the feature extractor."""
    eval_images: int = 2000
    """Sampled images behind the Frechet distance of the model card."""
    threads: int = 2
    """CPU threads."""


def load_digits_images() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images ``[1797, 1, 8, 8]`` float32 in ``[-1, 1]``, labels ``[1797]``."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images / 8.0 - 1.0).float()[:, None]
    return images, torch.from_numpy(np.asarray(raw.target, dtype=np.int64))


def heun_edm(
    denoiser: Denoiser, noise: Tensor, nodes: int, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """Heun's method on EDM's grid: ``nodes`` levels from ``sigma_max`` to 0.002, then 0.

    Karras et al. (2022), algorithm 1 and equation 5.

    Args:
        denoiser: the model.
        noise: standard normal ``[B, *shape]``, float64.
        nodes: number of levels K; costs 2K - 1 evaluations.
        sigma_max: first level.
        rho: exponent of the grid.

    Returns:
        Samples ``[B, *shape]``.
    """
    ramp = torch.linspace(0, 1, nodes, dtype=torch.float64)
    grid = (sigma_max ** (1 / rho) + ramp * (0.002 ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    sigmas = [*grid.tolist(), 0.0]
    x = noise * sigma_max
    with torch.no_grad():
        for s, t in pairwise(sigmas):
            slope = (x - denoiser(x, s)) / s
            euler = x + (t - s) * slope
            if t > 0:
                slope = (slope + (euler - denoiser(euler, t)) / t) / 2
            x = x + (t - s) * slope
    return x


def _rate(step: int, steps: int) -> float:
    """Warm-up, then cosine decay, as a fraction of the peak learning rate."""
    return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train_score(images: Tensor, cfg: Config) -> tuple[UNetDenoiser, float]:
    """Train on images ``[N, 1, 8, 8]``; returns the averaged model and the mean loss of the last tenth."""
    gen = torch.Generator().manual_seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    model = UNetDenoiser(UNetConfig(), float(images.double().std(correction=0)))
    average = copy.deepcopy(model).requires_grad_(False)
    params: list[Tensor] = list(model.parameters())
    averaged: list[Tensor] = list(average.parameters())
    optimiser = torch.optim.Adam(params, lr=cfg.lr, betas=(0.9, 0.99))
    strata = torch.arange(cfg.batch) / cfg.batch
    losses: list[float] = []
    bar = tqdm(range(cfg.steps), desc="score model", mininterval=1.0)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = cfg.lr * _rate(step, cfg.steps)
        x0 = images[torch.randint(len(images), (cfg.batch,), generator=gen)]
        # One level per stratum of the distribution: the same law with less variance.
        u = (strata + torch.rand(cfg.batch, generator=gen) / cfg.batch).clamp(1e-5, 1 - 1e-5)
        sigma = (cfg.p_mean + cfg.p_std * torch.special.ndtri(u)).exp()
        noise = torch.randn(x0.shape, generator=gen)
        s = sigma[:, None, None, None]
        c_out = s * model.sigma_data / (s * s + model.sigma_data**2).sqrt()
        loss = ((model(x0 + s * noise, sigma) - x0) / c_out).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        decay = min(cfg.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [p.detach() for p in params], 1 - decay)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"the loss is {losses[-1]} at step {step}; lower --lr (now {cfg.lr})")
        if step % 100 == 99:
            bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}")
    return average.eval(), float(np.mean(losses[-max(1, cfg.steps // 10) :]))


def train_classifier(images: Tensor, labels: Tensor, cfg: Config) -> tuple[DigitClassifier, float]:
    """Train on four fifths of the digits; returns the classifier and its accuracy on the other fifth."""
    gen = torch.Generator().manual_seed(cfg.seed + 1)
    torch.manual_seed(cfg.seed + 1)
    order = torch.randperm(len(images), generator=gen)
    held, train = order[: len(order) // 5], order[len(order) // 5 :]
    model = DigitClassifier()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    for step in tqdm(range(cfg.classifier_steps), desc="classifier", mininterval=1.0):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * _rate(step, cfg.classifier_steps)
        pick = train[torch.randint(len(train), (128,), generator=gen)]
        x = images[pick] + 0.1 * torch.randn(128, 1, 8, 8, generator=gen)
        # Half of the batches shifted by one pixel, edges filled with the background.
        if step % 2:
            dy, dx = torch.randint(0, 3, (2,), generator=gen).tolist()
            x = F.pad(x, (1, 1, 1, 1), value=-1.0)[:, :, dy : dy + 8, dx : dx + 8]
        loss = F.cross_entropy(model(x), labels[pick], label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    accuracy = float((model(images[held]).argmax(1) == labels[held]).double().mean())
    model.scale.copy_(model.features(images).double().var(0).mean().rsqrt())
    return model, accuracy


def evaluate(
    model: UNetDenoiser, features: DigitFeatures, images: Tensor, cfg: Config
) -> tuple[dict[int, float], tuple[float, float]]:
    """Frechet distance of samples to all ``images`` by number of levels K, and the two floors of the card."""
    real = features(images)
    gen = torch.Generator().manual_seed(cfg.seed + 2)
    noise = torch.randn(cfg.eval_images, *model.shape, generator=gen, dtype=torch.float64)
    distance = {
        k: frechet_distance(features(heun_edm(model, noise, k)), real)
        for k in tqdm((3, 5, 7, 10, 18, 40), desc="samples")
    }
    rng = np.random.default_rng(cfg.seed)
    half = len(real) // 2
    orders = [rng.permutation(len(real)) for _ in range(10)]
    halves = [frechet_distance(real[o[:half]], real[o[half:]]) for o in orders]
    # The samples are compared with the set they were trained on, as draws from that very set would be.
    draws = [rng.integers(0, len(real), cfg.eval_images) for _ in range(10)]
    redrawn = [frechet_distance(real[d], real) for d in draws]
    return distance, (float(np.mean(halves)), float(np.mean(redrawn)))


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tmp.write_text(text, encoding="utf-8")
    os.replace(tmp, path)


def card(
    model: UNetDenoiser,
    features: DigitFeatures,
    distance: dict[int, float],
    floors: tuple[float, float],
    cfg: Config,
    command: str,
    loss: float,
    seconds: float,
    classifier_seconds: float,
    accuracy: float,
) -> str:
    """The model card, in Markdown."""
    rows = "\n".join(f"| {k} | {2 * k - 1} | {v:.4f} |" for k, v in distance.items())
    return f"""# Models of the 8x8 digits

Made by `{command}` (PyTorch {torch.__version__.split("+")[0]}, CPU, {cfg.threads} threads).

## `digits.safetensors`: score model

- Data: the 1797 grey 8x8 images of `sklearn.datasets.load_digits` (Optical Recognition of Handwritten Digits,
  E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0), values 0..16 scaled to [-1, 1].
  All of them are used in training. Deviation over all pixels: sigma_data = {model.sigma_data:.6f}.
- Model: U-Net with EDM preconditioning, {model.num_parameters():,} parameters, float32;
  `{json.dumps(asdict(model.config))}`.
- Training: {cfg.steps} steps of {cfg.batch} images, Adam, peak learning rate {cfg.lr:g}, averaged weights
  (decay {cfg.ema:g}), log(sigma) normal with mean {cfg.p_mean:g} and deviation {cfg.p_std:g};
  {seconds:.0f} seconds.
- Loss (weighted as in EDM, mean over the last tenth of training): {loss:.4f}.
- Use: sigma from 80 down to 0.002.

Frechet distance between {cfg.eval_images} samples (Heun, EDM grid with rho = 7, K levels from 80 to 0.002,
then 0) and the 1797 real digits:

| K | evaluations | Frechet distance |
|---|---|---|
{rows}

Floors, mean of 10 each: one random half of the real digits against the other half, {floors[0]:.4f} (sets
half as large, so a higher floor); {cfg.eval_images} draws with replacement from the real digits against all,
{floors[1]:.4f}. The real set is the training set: a distance near the floor says nothing about new digits.

## `digits_features.safetensors`: feature extractor

A CNN classifier of the same digits, trained for {classifier_seconds:.0f} seconds on four fifths of them;
accuracy on the other fifth: {accuracy:.4f}. Its last layer but one ({features.dim} values, scaled to mean
variance 1 on the real digits) is the feature space of the Frechet distance above. The numbers do not compare
with Inception-based FID.
"""


def main(cfg: Config) -> dict[str, float]:
    """Train both models, write them and the model card to ``cfg.out``; returns the measured numbers."""
    torch.set_num_threads(cfg.threads)
    cfg.out.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits_images()
    start = time.perf_counter()
    classifier, accuracy = train_classifier(images, labels, cfg)
    classifier_seconds = time.perf_counter() - start
    classifier.save(cfg.out / "digits_features.safetensors", {"accuracy": accuracy, "seed": cfg.seed})

    start = time.perf_counter()
    model, loss = train_score(images, cfg)
    seconds = time.perf_counter() - start
    command = f"python -m art_env.diffusion.train_digits --seed {cfg.seed}"
    defaults = asdict(Config())
    for key, value in asdict(cfg).items():
        if value != defaults[key] and key not in ("seed", "out"):
            command += f" --{key.replace('_', '-')} {value}"
    model.save(
        cfg.out / "digits.safetensors",
        {"data": "scikit-learn load_digits, scaled to [-1, 1]", "command": command, "loss": loss},
    )

    features = DigitFeatures(cfg.out / "digits_features.safetensors")
    distance, floors = evaluate(model, features, images, cfg)

    text = card(model, features, distance, floors, cfg, command, loss, seconds, classifier_seconds, accuracy)
    write_text(cfg.out / "README.md", text)
    numbers = {
        "loss": loss,
        "seconds": seconds,
        "accuracy": accuracy,
        "floor": floors[0],
        "floor_redrawn": floors[1],
    }
    return numbers | {f"frechet_k{k}": v for k, v in distance.items()}


if __name__ == "__main__":
    for _name, _value in main(tyro.cli(Config)).items():
        print(f"{_name:13} {_value:.5g}")
