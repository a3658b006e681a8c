"""Train a bundled model: ``python -m benchmarks.model_card digits-base --seed 0``.

Score models are trained with the loss weighting of Karras et al. (2022), ``lambda(sigma) = 1 / c_out^2``, and
noise levels whose logarithm is normal, wide enough to cover sigma = 80. A run is deterministic for a seed and a
number of threads. Train ``*-features`` before the score models of the same data, and ``photos-autoencoder`` before
``photos-latent``.

The images of MNIST do not ship with this project: ``python -m benchmarks.model_card mnist --data PATH`` reads them
from a folder with MNIST's own files, or from an npz archive. ``mnist-features`` also writes the statistics of the
features of these images.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from art_env._util.cli import run_command
from art_env._util.files import write_text
from art_env._util.names import check_name
from art_env.diffusion.solvers import sample
from art_env.evaluation.feature_statistics import FeatureStatistics
from art_env.evaluation.features import Features
from art_env.evaluation.metrics import frechet_distance
from art_env.networks.autoencoder import Autoencoder
from art_env.networks.bundled import AUTOENCODER, MODELS, fix_weights, load_autoencoder, weights_path
from art_env.networks.classifier import MNIST_STATISTICS, Classifier
from art_env.networks.data import PATCH, digit_images, photo_patches
from art_env.networks.mnist import HOW, PADDING, SIDE, read_mnist
from art_env.networks.training import (
    GRID_CELLS,
    LABEL_DROP,
    RECIPES,
    Recipe,
    autoencoder_job,
    classifier_job,
    fit,
    grid,
    grid_cell,
    score_job,
)
from art_env.networks.unet import MODELS_DIR, UNetDenoiser
from art_env.schedules.handcrafted import edm

PROGRAM = "python -m benchmarks.model_card"
TRAIN_PATCHES = 50_000
REAL_PATCHES = 10_000
LEVELS = (3, 5, 10, 18)
# One set alone is off by a quarter.
FLOOR_SETS = 50


@dataclass(frozen=True)
class Config:
    """Train one bundled model and write it, its measured quality and the model card."""

    name: tyro.conf.Positional[str]
    """digits-small, digits-base, digits-large, digits-cond, photos-base, photos-latent, photos-autoencoder, mnist,
    digits-features, photos-features or mnist-features."""
    data: Path | None = None
    """Images of mnist and mnist-features: a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte (with .gz
    or without), or an .npz with the arrays images and labels."""
    seed: int = 0
    """Seed of the initial weights, the batches and the noise."""
    out: Path = field(default_factory=lambda: MODELS_DIR)
    """Folder for the weights and README.md."""
    log_dir: Path | None = None
    """Folder for TensorBoard's events; default runs/models/NAME."""
    steps: int | None = None
    """Optimiser steps; default: the model's own."""
    batch: int | None = None
    """Images per step; default: the model's own."""
    lr: float | None = None
    """Peak learning rate (200 steps of warm-up, then cosine decay to 0); default: the model's own."""
    sample_every: int = 1000
    """Steps between pictures in TensorBoard."""
    eval_images: int = 2000
    """Sampled images behind the Frechet distances of the model card."""
    threads: int = 2
    """CPU threads; more or fewer change the last bits of the weights."""

    def __post_init__(self) -> None:
        check_name("model", self.name, MODELS)
        least = {"seed": 0, "steps": 1, "batch": 1, "sample_every": 1, "eval_images": 64, "threads": 1}
        for key, low in least.items():
            value = getattr(self, key)
            if value is not None and value < low:
                raise ValueError(f"{key} = {value} is too small; give at least {low}")
        if self.needs_data and self.data is None:
            raise ValueError(f"data = None: the images of {self.name} do not ship with this project; {HOW}")
        if not self.needs_data and self.data is not None:
            raise ValueError(
                f"data = {str(self.data)!r}: {self.name} is trained on images of scikit-learn; leave --data out"
            )
        if self.lr is not None and not 0 < self.lr < math.inf:
            default = RECIPES[self.name].lr
            raise ValueError(f"lr = {self.lr} must be positive and finite; the default is {default:g}")

    @property
    def needs_data(self) -> bool:
        """Whether the images come from the user."""
        return self.name.startswith("mnist")

    @property
    def recipe(self) -> Recipe:
        """The model's recipe, with what the command line changed."""
        given = {k: getattr(self, k) for k in ("steps", "batch", "lr") if getattr(self, k) is not None}
        return replace(RECIPES[self.name], **given)

    @property
    def folder(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.log_dir or Path("runs/models") / self.name

    @property
    def command(self) -> str:
        """The command that trains this model again."""
        data = " --data PATH" if self.needs_data else ""
        text = f"python -m benchmarks.model_card {self.name}{data} --seed {self.seed}"
        for f in fields(self):
            value = getattr(self, f.name)
            if (
                f.name not in ("name", "data", "seed", "out", "log_dir", "sample_every")
                and value != f.default
            ):
                text += f" --{f.name.replace('_', '-')} {value}"
        return text


def heun_edm(denoiser: Callable[[Tensor, Tensor], Tensor], noise: Tensor, num_steps: int) -> Tensor:
    """Heun's method on EDM's grid (Karras et al. 2022): ``num_steps`` levels from 80 to 0.002, then 0.

    ``noise`` is standard normal, ``[B, *shape]`` float64.
    """
    with torch.no_grad():
        return sample(denoiser, 80.0 * noise, edm(num_steps, 0.002, 80.0).sigmas, "heun")  # type: ignore[arg-type]


# One function per kind of model: train, measure, save.


def _notes(cfg: Config, model: nn.Module, loss: float, seconds: float) -> dict[str, Any]:
    """Notes that the card prints of every model."""
    return {
        "command": cfg.command,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": cfg.recipe.steps,
        "batch": cfg.recipe.batch,
        "lr": cfg.recipe.lr,
        "loss": loss,
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {cfg.threads} CPU thread{'s' if cfg.threads > 1 else ''}",
        "torch": torch.__version__.split("+")[0],
    }


def _need(name: str, cfg: Config) -> Path:
    """The file of a model that this one needs: the one in ``out``, else the bundled one."""
    own = weights_path(name, cfg.out)
    return own if own.is_file() else weights_path(name)


def _real_digits(cfg: Config, features: Features) -> FeatureStatistics | None:
    """What samples of digits are compared with; None for photographs."""
    if cfg.name.startswith("digits"):
        return FeatureStatistics.with_floors(features(digit_images()[0]), cfg.eval_images, cfg.seed)
    if cfg.name == "mnist":
        # Beside the features that it was made with.
        path = _need("mnist-features", cfg).with_name(MNIST_STATISTICS.name)
        return FeatureStatistics.load(path, fix_weights("mnist-features"))
    return None


def _mnist(cfg: Config) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Images, labels, and notes by which one can tell whether two trainings saw the same images."""
    assert cfg.data is not None
    images, labels = read_mnist(cfg.data)
    inside = slice(PADDING, PADDING + SIDE)
    pixels = ((images[:, 0, inside, inside] + 1) * 127.5).round().byte().numpy()
    notes = {"data_images": len(images), "data_sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
    return images, labels, notes


def train_features(cfg: Config) -> dict[str, Any]:
    """Train and save a classifier; returns its notes."""
    gen = torch.Generator().manual_seed(cfg.seed + 1)
    torch.manual_seed(cfg.seed + 1)
    about: dict[str, Any] = {}
    if cfg.name in ("digits-features", "mnist-features"):
        if cfg.needs_data:
            images, labels, about = _mnist(cfg)
        else:
            images, labels = digit_images()
        order = torch.randperm(len(images), generator=gen)
        held, train = order[: len(order) // 5], order[len(order) // 5 :]
        model = Classifier(resolution=images.shape[-1])
        job = classifier_job(model, images[train], labels[train], gen, cfg.recipe, shift=True)
        test, answers, said = images[held], labels[held], "the other fifth of the digits"
    else:
        images, where = photo_patches(TRAIN_PATCHES, cfg.seed, return_location=True)
        test, where_test = photo_patches(5000, cfg.seed + 1, return_location=True)
        labels, answers = grid_cell(where), grid_cell(where_test)
        model = Classifier(channels=3, resolution=PATCH, classes=GRID_CELLS, width=24)
        job = classifier_job(model, images, labels, gen, cfg.recipe, shift=False)
        said = "other patches of the same area (which overlap)"
    loss, seconds = fit(job, cfg.recipe, cfg.folder, cfg.sample_every)
    model.eval().requires_grad_(False)
    right = torch.cat([model(x).argmax(1) for x in test.split(5000)]) == answers
    accuracy = float(right.double().mean())
    real = torch.cat([model.features(x) for x in images.split(5000)])
    model.scale.copy_(real.double().var(0).mean().rsqrt())
    notes = _notes(cfg, model, loss, seconds) | {"accuracy": accuracy, "accuracy_on": said, "seed": cfg.seed}
    notes |= about
    path = weights_path(cfg.name, cfg.out)
    model.save(path, notes)
    if cfg.name == "mnist-features":
        found = FeatureStatistics.with_floors(Features(path)(images), cfg.eval_images, cfg.seed, FLOOR_SETS)
        found.save(cfg.out / MNIST_STATISTICS.name, {"command": cfg.command, **about})
    return notes


def train_autoencoder(cfg: Config) -> dict[str, Any]:
    """Train and save the autoencoder; returns its notes."""
    features = Features(_need("photos-features", cfg))
    images = photo_patches(TRAIN_PATCHES, cfg.seed)
    job = autoencoder_job(images, cfg.recipe, cfg.seed)
    loss, seconds = fit(job, cfg.recipe, cfg.folder, cfg.sample_every)
    model = job.result
    assert isinstance(model, Autoencoder)
    model.eval().standardise(images)
    held = photo_patches(REAL_PATCHES, cfg.seed + 2, "held_out")
    with torch.no_grad():
        again = torch.cat([model.decode(model.encode(x)) for x in held.split(1000)])
    notes = _notes(cfg, model, loss, seconds) | {
        "held_out_rmse": float((again - held).square().mean().sqrt()),
        "held_out_frechet": frechet_distance(features(again), features(held)),
    }
    model.save(weights_path(cfg.name, cfg.out), notes)
    return notes


def train_score(cfg: Config) -> dict[str, Any]:
    """Train, measure and save a score model; returns its notes."""
    labels = None
    about: dict[str, Any] = {}

    def decode(z: Tensor) -> Tensor:
        return z

    if cfg.name.startswith("digits"):
        features = Features(_need("digits-features", cfg))
        images, targets = digit_images()
        labels = targets if cfg.name == "digits-cond" else None
    elif cfg.name == "mnist":
        features = Features(_need("mnist-features", cfg))
        images, _, about = _mnist(cfg)
    else:
        features = Features(_need("photos-features", cfg))
        images = photo_patches(TRAIN_PATCHES, cfg.seed)
        if cfg.name == "photos-latent":
            autoencoder = load_autoencoder(_need(AUTOENCODER, cfg).parent)
            images = torch.cat([autoencoder.encode(x) for x in images.split(5000)])
            decode = autoencoder.decode
    digits = _real_digits(cfg, features)
    job = score_job(
        images, labels, cfg.recipe, cfg.seed, lambda d, noise: grid(decode(heun_edm(d, noise, 10)))
    )
    loss, seconds = fit(job, cfg.recipe, cfg.folder, cfg.sample_every)
    model = job.result.eval()
    assert isinstance(model, UNetDenoiser)
    dtype = torch.float16 if cfg.recipe.half else torch.float32
    model.to(dtype).float()  # measured as it will be read
    notes = _notes(cfg, model, loss, seconds)
    notes |= {"sigma_data": model.sigma_data, "p_mean": cfg.recipe.p_mean, "p_std": cfg.recipe.p_std}
    notes |= about | measure(model, features, cfg, decode, digits)
    model.save(weights_path(cfg.name, cfg.out), notes, dtype)
    return notes


def measure(
    model: UNetDenoiser,
    features: Features,
    cfg: Config,
    decode: Callable[[Tensor], Tensor],
    digits: FeatureStatistics | None,
) -> dict[str, Any]:
    """Frechet distances of samples by K to each set of real images, and of real images to them (floors)."""
    n = cfg.eval_images
    given: Tensor | None = None
    if digits is not None:
        real = {"real digits": digits}
        floors = {"real digits": float(np.mean(digits.floors_of(n)))}
        floor_of = f"{n} draws with replacement from the real digits"
    else:
        # Fresh seeds: none of these sets is the training set, though patches of one area overlap.
        real = {
            "held-out patches": FeatureStatistics.of(
                features(photo_patches(REAL_PATCHES, cfg.seed + 2, "held_out"))
            ),
            "training area": FeatureStatistics.of(features(photo_patches(REAL_PATCHES, cfg.seed + 2))),
        }
        fresh = features(photo_patches(n, cfg.seed + 3))
        floors = {k: v.distance(fresh) for k, v in real.items()}
        floor_of = f"{n} fresh patches of the training area"
    if model.config.classes:
        given = torch.arange(n) % model.config.classes
    generator = torch.Generator().manual_seed(cfg.seed + 2)
    noise = torch.randn(n, *model.shape, generator=generator, dtype=torch.float64)
    frechet: dict[str, dict[str, float]] = {name: {} for name in real}
    notes: dict[str, Any] = {}
    for k in tqdm(LEVELS, desc="samples"):
        parts = []
        for i in range(0, n, 500):
            rows = None if given is None else given[i : i + 500]
            parts.append(
                decode(heun_edm(lambda x, s, rows=rows: model(x, s, rows), noise[i : i + 500], k))  # type: ignore[misc]
            )
        samples = torch.cat(parts)
        for name, known in real.items():
            frechet[name][str(k)] = known.distance(features(samples))
    if given is not None:
        agree = features.probabilities(samples).argmax(1) == given.numpy()
        notes["label_agreement"] = float(agree.mean())
    return notes | {"frechet": frechet, "floors": floors, "floor_of": floor_of, "eval_images": n}


# The model card, made from the headers of the weight files.

_DATA = {
    "digits": "the 1797 grey 8x8 images of `sklearn.datasets.load_digits`, scaled to [-1, 1]; all of them",
    "photos": "16x16 colour patches of the left four fifths of the two photographs of "
    "`sklearn.datasets.load_sample_images`, halved in size, scaled to [-1, 1], half of them mirrored",
    "mnist": "grey 28x28 images of MNIST in a border of two pixels of background, scaled to [-1, 1]",
}
_TITLES = {
    "digits-small": "score model of digits, small",
    "digits-base": "score model of digits",
    "digits-large": "score model of digits, large",
    "digits-cond": "score model of digits, conditional on the class",
    "photos-base": "score model of photo patches",
    "photos-latent": "score model in the latent space of photo patches",
    "photos-autoencoder": "autoencoder of photo patches",
    "digits-features": "feature extractor of digits",
    "photos-features": "feature extractor of photo patches",
    "mnist": "score model of MNIST",
    "mnist-features": "feature extractor of MNIST",
}
_ABOUT = {
    "digits-cond": f"Ten classes and a null class: labels are dropped with probability {LABEL_DROP} in training. "
    "Samples below: conditional, no guidance, the ten classes in turn.",
    "photos-latent": "Works in the latent space of `photos_autoencoder.safetensors`; train it again after that "
    "one. Samples below are decoded.",
    "photos-autoencoder": "Images [3, 16, 16] to latents [8, 4, 4] of mean 0 and deviation 1 and back. Trained on "
    "the squared error, with noise of deviation 0.05 on the latents.",
    "digits-features": "A CNN classifier, trained on four fifths of the digits.",
    "mnist-features": "A CNN classifier, trained on four fifths of the images. `mnist_statistics.safetensors` has "
    "mean and covariance of the features of all of them, and floors, so that distances need no image.",
    "photos-features": f"A CNN that tells from which of {GRID_CELLS} cells (2 photographs, 4 columns, 3 rows) a "
    "patch comes.",
}


def _header(path: Path) -> dict[str, Any]:
    """The metadata of a weight file; empty if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as f:
            return {k: json.loads(v) for k, v in (f.metadata() or {}).items()}
    except (SafetensorError, OSError, json.JSONDecodeError):
        return {}


def _section(name: str, path: Path) -> str:
    """The card of one model, in Markdown."""
    head = _header(path)
    notes: dict[str, Any] = dict(head.get("meta") or {})
    lines = [f"## `{path.name}`: {_TITLES[name]}", ""]
    if name in _ABOUT:
        lines += [_ABOUT[name], ""]
    data = _DATA[name.split("-")[0]]
    if "data_images" in notes:
        data += f"; {notes['data_images']:,} of them (SHA-256 of their bytes: `{notes['data_sha256']}`)"
    lines.append(f"- Data: {data}.")
    if "command" in notes:
        # A file may have been made when the program had another name.
        options = notes["command"].split(" ", 3)[3]
        lines.append(f"- Command: `python -m benchmarks.model_card {options}`.")
    if "parameters" in notes:
        size = json.dumps(head.get("config", {}))
        stored = "float16" if RECIPES[name].half else "float32"
        lines.append(f"- Model: {notes['parameters']:,} parameters, stored in {stored}; `{size}`.")
        averaged = "" if name.endswith("features") else ", averaged weights (decay 0.999)"
        lines.append(
            f"- Training: {notes['steps']} steps of {notes['batch']} images, peak learning rate "
            f"{notes['lr']:g}{averaged}; {notes['seconds']:.0f} seconds ({notes['machine']}, "
            f"PyTorch {notes['torch']})."
        )
    if "sigma_data" in notes:
        lines.append(
            f"- Deviation over all entries: sigma_data = {notes['sigma_data']:.6f}. log(sigma) in training: mean "
            f"{notes['p_mean']:g}, deviation {notes['p_std']:g}. Use: sigma from 80 down to 0.002."
        )
    if "loss" in notes:
        lines.append(f"- Loss, mean over the last tenth of training: {notes['loss']:.4f}.")
    if "accuracy" in notes:
        where = notes.get("accuracy_on", "other images")
        lines.append(f"- Accuracy on {where}: {notes['accuracy']:.4f}.")
    if "held_out_rmse" in notes:
        lines.append(
            f"- On held-out patches: root mean squared error {notes['held_out_rmse']:.4f}, Frechet distance of "
            f"reconstructions to originals {notes['held_out_frechet']:.4f}."
        )
    if "label_agreement" in notes:
        lines.append(
            f"- Share of samples (K = {LEVELS[-1]}) that the classifier of `digits_features.safetensors` puts "
            f"into their class: {notes['label_agreement']:.4f}."
        )
    if "frechet" in notes:
        frechet = notes["frechet"]
        lines += [
            "",
            f"Frechet distance of {notes['eval_images']} samples (Heun, EDM grid with rho = 7, K levels from 80 to "
            f"0.002, then 0); floor: that of {notes['floor_of']}.",
            "",
            f"| K | evaluations | {' | '.join(f'to {k}' for k in frechet)} |",
            "|---|---|" + "---|" * len(frechet),
        ]
        for k in LEVELS:
            cells = " | ".join(f"{v[str(k)]:.4f}" for v in frechet.values())
            lines.append(f"| {k} | {2 * k - 1} | {cells} |")
        cells = " | ".join(f"{notes['floors'][k]:.4f}" for k in frechet)
        lines.append(f"| floor | | {cells} |")
    return "\n".join(lines)


_CARD_HEAD = """# Models

Trained by `python -m benchmarks.model_card NAME`; this page is written from the headers of the weight files. The
images of digits and photographs ship with scikit-learn; those of MNIST are read from files that you give
(`--data PATH`).

- Digits: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
  CC BY 4.0.
- Photographs: `china.jpg` and `flower.jpg`; the licences are in scikit-learn's `sklearn/datasets/images/README.txt`.
  The right-hand fifth of each is in no training patch.
- MNIST: Yann LeCun and Corinna Cortes, "The MNIST database of handwritten digits", CC BY-SA 3.0. None of its
  images is part of this package.

Score models are U-Nets with EDM preconditioning. Frechet distances are between features of the CNNs below (their
last layer but one, 32 values, scaled to mean variance 1 on real images) and do not compare with Inception-based
FID. Digits and MNIST are compared with the images the models were trained on: a distance near the floor says
nothing about new digits. The held-out part of the photographs shows other things than the rest, hence its high floor.
"""


def write_card(folder: str | Path) -> Path:
    """Write README.md from the weight files in ``folder``; returns its path."""
    files = [(name, weights_path(name, folder)) for name in MODELS]
    sections = [_section(name, path) for name, path in files if path.is_file()]
    path = Path(folder) / "README.md"
    write_text(path, "\n\n".join([_CARD_HEAD.rstrip(), *sections]) + "\n")
    return path


def _check_writable(field_name: str, folder: Path) -> None:
    """Fail before the training, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise type(e)(
            e.errno,
            f"{field_name} = {str(folder)!r} cannot be written ({e.strerror}); give another --{field_name}",
        ) from e


def main(cfg: Config) -> dict[str, Any]:
    """Train the model, write it and the model card to ``cfg.out``; returns the measured numbers."""
    torch.set_num_threads(cfg.threads)
    _check_writable("out", cfg.out)
    _check_writable("log-dir", cfg.folder)
    if cfg.name.endswith("features"):
        notes = train_features(cfg)
    elif cfg.name == AUTOENCODER:
        notes = train_autoencoder(cfg)
    else:
        notes = train_score(cfg)
    write_card(cfg.out)
    return notes


def run(cfg: Config) -> None:
    """Train, and print what was measured.

    Raises:
        ValueError, OSError: a bad setting, or a training that came to nothing.
    """
    try:
        notes = main(cfg)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    for key, value in notes.items():
        print(f"{key:16} {json.dumps(value)}")


def cli() -> int:
    """The command line; a bad setting is one line on stderr and exit code 2."""
    return run_command(PROGRAM, lambda: run(tyro.cli(Config, prog=PROGRAM, description=__doc__)))


if __name__ == "__main__":
    sys.exit(cli())
