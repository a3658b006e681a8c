"""How the bundled networks are trained: recipes, losses and the training loop."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from art_env._util.files import atomic_path
from art_env._util.names import check_name
from art_env.networks.autoencoder import Autoencoder, AutoencoderConfig
from art_env.networks.bundled import MODELS
from art_env.networks.classifier import Classifier
from art_env.networks.data import PATCH, patch_columns, photo_patches, photos
from art_env.networks.unet import MODELS_DIR, UNetConfig, UNetDenoiser

TRAIN_PATCHES = 50_000
LABEL_DROP = 0.15


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

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
    "digits-features": Recipe(1500, 128, 2e-3),
    "photos-features": Recipe(1500, 128, 2e-3),
}


@dataclass
class Config:
    """Train one bundled model and write it, its measured quality and the model card."""

    name: tyro.conf.Positional[str]
    """digits-small, digits-base, digits-large, digits-cond, photos-base, photos-latent, photos-autoencoder,
    digits-features or photos-features."""
    seed: int = 0
    """Seed of the initial weights, the batches and the noise."""
    out: Path = field(default_factory=lambda: MODELS_DIR)
    """Folder for the weights and README.md."""
    log_dir: Path | None = None
    """Folder for the checkpoint and TensorBoard's events; default runs/models/NAME."""
    resume: bool = False
    """Go on from the checkpoint in log_dir."""
    steps: int | None = None
    """Optimiser steps; default: the model's own."""
    batch: int | None = None
    """Images per step; default: the model's own."""
    lr: float | None = None
    """Peak learning rate (200 steps of warm-up, then cosine decay to 0); default: the model's own."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    sample_every: int = 1000
    """Steps between pictures in TensorBoard."""
    eval_images: int = 2000
    """Sampled images behind the Frechet distances of the model card."""
    threads: int = 2
    """CPU threads; more or fewer change the last bits of the weights."""

    def __post_init__(self) -> None:
        check_name("model", self.name, MODELS)
        for key, least in (
            ("seed", 0),
            ("steps", 1),
            ("batch", 1),
            ("checkpoint_every", 1),
            ("sample_every", 1),
            ("eval_images", 64),
            ("threads", 1),
        ):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"{key} = {value} is too small; give at least {least}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            default = RECIPES[self.name].lr
            raise ValueError(f"lr = {self.lr} must be positive and finite; the default is {default:g}")

    @property
    def recipe(self) -> Recipe:
        """The model's recipe, with what the command line changed."""
        given = {k: getattr(self, k) for k in ("steps", "batch", "lr") if getattr(self, k) is not None}
        return replace(RECIPES[self.name], **given)

    @property
    def folder(self) -> Path:
        """Where checkpoint and events go."""
        return self.log_dir or Path("runs/models") / self.name

    @property
    def command(self) -> str:
        """The command that trains this model again."""
        text = f"python -m benchmarks.model_card {self.name} --seed {self.seed}"
        for f in fields(self):
            value = getattr(self, f.name)
            fixed = ("name", "seed", "out", "log_dir", "resume", "checkpoint_every", "sample_every")
            if f.name not in fixed and value != f.default:
                text += f" --{f.name.replace('_', '-')} {value}"
        return text


# What is trained: model, loss, random streams, and a picture of what it can do.


@dataclass
class Job:
    """A model in training.

    Attributes:
        model: what is optimised.
        optimiser: of its parameters; the learning rate is set at each step.
        loss: step -> scalar loss on a fresh batch.
        generators: every random stream that ``loss`` draws from, by name.
        average: a copy that follows the model's weights, the result; None: the model itself is the result.
        picture: model -> ``[C, H, W]`` in [0, 1] for TensorBoard.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    generators: dict[str, torch.Generator]
    average: nn.Module | None = None
    picture: Callable[[nn.Module], Tensor] | None = None

    @property
    def result(self) -> nn.Module:
        """The model to save."""
        return self.model if self.average is None else self.average


def score_job(
    images: Tensor,
    labels: Tensor | None,
    cfg: Config,
    picture: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor] | None = None,
) -> Job:
    """Denoising of images.

    Args:
        images: ``[N, C, R, R]``.
        labels: ``[N]`` for a conditional model, else None.
        cfg: settings.
        picture: of a denoiser, from standard normal noise ``[64, C, R, R]``: ``[C, H, W]`` in [0, 1].
    """
    recipe = cfg.recipe
    assert recipe.net is not None
    gen = torch.Generator().manual_seed(cfg.seed)
    # A stream of its own: the other draws are those of a model without labels.
    gen_labels = torch.Generator().manual_seed(cfg.seed + 3)
    torch.manual_seed(cfg.seed)
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
        noise = torch.randn(64, *model.shape, generator=_generator(0), dtype=torch.float64)
        given = None if labels is None else torch.arange(64) % model.config.classes
        return picture(lambda x, s: net(x, s, given), noise)

    return Job(
        model,
        torch.optim.Adam(model.parameters(), lr=recipe.lr, betas=(0.9, 0.99)),
        loss,
        {"batches": gen, "labels": gen_labels},
        copy.deepcopy(model).requires_grad_(False),
        None if picture is None else draw,
    )


def autoencoder_job(images: Tensor, cfg: Config) -> Job:
    """Reconstruction of images ``[N, 3, 16, 16]`` from noisy latents."""
    recipe = cfg.recipe
    gen = torch.Generator().manual_seed(cfg.seed)
    torch.manual_seed(cfg.seed)
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
        {"batches": gen},
        copy.deepcopy(model).requires_grad_(False),
        picture,
    )


def classifier_job(
    model: Classifier, images: Tensor, labels: Tensor, gen: torch.Generator, cfg: Config, shift: bool
) -> Job:
    """Classification of slightly noisy images; ``shift``: every other batch is moved by up to one pixel."""
    recipe = cfg.recipe

    def loss(step: int) -> Tensor:
        pick = torch.randint(len(images), (recipe.batch,), generator=gen)
        x = images[pick] + 0.1 * torch.randn(recipe.batch, *images.shape[1:], generator=gen)
        # Edges are filled with the background.
        if shift and step % 2:
            dy, dx = torch.randint(0, 3, (2,), generator=gen).tolist()
            x = F.pad(x, (1, 1, 1, 1), value=-1.0)[:, :, dy : dy + x.shape[2], dx : dx + x.shape[3]]
        return F.cross_entropy(model(x), labels[pick], label_smoothing=0.05)

    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=1e-2)
    return Job(model, optimiser, loss, {"batches": gen})


def grid(images: Tensor, columns: int = 8) -> Tensor:
    """Images ``[N, C, R, R]`` in [-1, 1] as one picture ``[C, rows (R + 1), columns (R + 1)]`` in [0, 1]."""
    n = len(images) // columns * columns
    tiles = F.pad(images[:n].clamp(-1, 1) / 2 + 0.5, (0, 1, 0, 1), value=0.5)
    _, c, h, w = tiles.shape
    return tiles.reshape(-1, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, -1, columns * w)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The training loop, the same for every model.


def _rate(step: int, steps: int) -> float:
    """Warm-up, then cosine decay, as a fraction of the peak learning rate."""
    return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))


def fit(job: Job, cfg: Config) -> tuple[float, float]:
    """Train ``job`` to the end, from its checkpoint with ``cfg.resume``.

    Returns:
        Mean loss of the last tenth of training, and seconds of all runs together.

    Raises:
        FileNotFoundError, ValueError: with ``resume``, no checkpoint, or one of other settings or broken.
        RuntimeError: the loss is not finite.
    """
    recipe = cfg.recipe
    params = [p.detach() for p in job.model.parameters()]
    averaged: list[Tensor] = [] if job.average is None else list(job.average.parameters())
    first, losses, before = _restore(job, cfg) if cfg.resume else (0, [], 0.0)
    start = time.perf_counter()
    writer = SummaryWriter(str(cfg.folder), purge_step=first if cfg.resume else None)
    bar = tqdm(range(first, recipe.steps), desc=cfg.name, initial=first, total=recipe.steps, mininterval=1.0)
    try:
        for step in bar:
            for group in job.optimiser.param_groups:
                group["lr"] = recipe.lr * _rate(step, recipe.steps)
            loss = job.loss(step)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise RuntimeError(
                    f"the loss of {cfg.name} is {losses[-1]} at step {step}; lower --lr (now {recipe.lr:g})"
                )
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
                writer.add_scalar("learning_rate", recipe.lr * _rate(step, recipe.steps), done)
            if job.picture is not None and (done % cfg.sample_every == 0 or done == recipe.steps):
                writer.add_image("samples", job.picture(job.result), done)
            if done % cfg.checkpoint_every == 0 or done == recipe.steps:
                _store(job, cfg, done, losses, before + time.perf_counter() - start)
    finally:
        writer.close()
    tail = losses[-max(1, recipe.steps // 10) :]
    return float(np.mean(tail)), before + time.perf_counter() - start


def _settings(cfg: Config) -> dict[str, Any]:
    """What must be the same before and after a break."""
    return {"name": cfg.name, "seed": cfg.seed, **asdict(cfg.recipe)}


def _store(job: Job, cfg: Config, step: int, losses: list[float], seconds: float) -> None:
    """Write the checkpoint in one piece."""
    state = {
        "settings": json.dumps(_settings(cfg)),
        "step": step,
        "losses": torch.tensor(losses, dtype=torch.float64),
        "seconds": seconds,
        "model": job.model.state_dict(),
        "average": None if job.average is None else job.average.state_dict(),
        "optimiser": job.optimiser.state_dict(),
        "generators": {k: g.get_state() for k, g in job.generators.items()},
    }
    with atomic_path(cfg.folder / "checkpoint.pt") as temporary:
        torch.save(state, temporary)


def _restore(job: Job, cfg: Config) -> tuple[int, list[float], float]:
    """Read the checkpoint into ``job``; returns the number of steps done, their losses, and the seconds."""
    path = cfg.folder / "checkpoint.pt"
    if not path.is_file():
        raise FileNotFoundError(f"resume: there is no checkpoint at {path}; start without --resume")
    try:
        state = torch.load(path, weights_only=True)
        then, now = json.loads(state["settings"]), json.loads(json.dumps(_settings(cfg)))
    except Exception as e:  # A damaged file can fail anywhere in the unpickler, with any error.
        raise ValueError(
            f"resume: {path} is no checkpoint of this program ({type(e).__name__}: {e}); "
            "start without --resume"
        ) from e
    for key, value in now.items():
        if then.get(key) != value:
            raise ValueError(
                f"resume: {key} = {value} but the checkpoint in {cfg.folder} was made with {then.get(key)}; "
                "give the same settings, or start without --resume"
            )
    job.model.load_state_dict(state["model"])
    if job.average is not None:
        job.average.load_state_dict(state["average"])
    job.optimiser.load_state_dict(state["optimiser"])
    for key, generator in job.generators.items():
        generator.set_state(state["generators"][key])
    return int(state["step"]), state["losses"].tolist(), float(state["seconds"])


@lru_cache(maxsize=1)
def _train_patches(seed: int) -> Tensor:
    return photo_patches(TRAIN_PATCHES, seed)


GRID_CELLS = 24


def grid_cell(location: Tensor) -> Tensor:
    """Class 0 to 23 of training patches: photograph, and cell of a grid of 4 columns and 3 rows.

    Args:
        location: ``[N, 3]`` as ``photo_patches`` returns it.
    """
    photo, row, column = location.T
    rows, columns = photos().shape[2] - PATCH + 1, patch_columns("train")[1] + 1
    return photo * 12 + row * 3 // rows * 4 + column * 4 // columns
