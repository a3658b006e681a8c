"""Named problems: a denoiser, a range of noise, data, and the metrics that make sense for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_env.diffusion.adapters import load_model
from art_env.diffusion.analytic import GaussianDenoiser, GaussianMixtureDenoiser
from art_env.diffusion.bundled import load_autoencoder, load_bundled
from art_env.diffusion.conditional import InpaintingDenoiser, LabelledDenoiser
from art_env.diffusion.data import digit_images, photo_patches
from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.flow import ReferenceFlow
from art_env.features import DIGIT_FEATURES, PHOTO_FEATURES
from art_env.names import check_name, look_up
from art_env.schedules.handcrafted import TERMINALS, check_sigma_range

# Noises of the mixtures: a few that pass between two modes make most of the final error, and a schedule fitted to
# 4,096 of them can be off by half on others.
HEAVY_TAILED = 16384


@dataclass(frozen=True)
class Problem:
    """What is to be sampled.

    Attributes:
        name: as on the command line.
        denoiser: the model.
        sigma_max: first noise level.
        sigma_min: last noise level of hand-crafted ramps; 0 means that ramps run to 0 themselves.
        terminal: ``"zero"``: schedules end at 0; ``"sigma_min"``: they end at ``sigma_min``.
        prior_std: standard deviation of the start noise.
        data: ``(n, seed) -> [n, ...]``, clean samples in the space of ``images``.
        metrics: those of ``METRICS`` that make sense beside the paired RMSE.
        features: weights of the classifier behind the metrics of images.
        held_out: as ``data``, from a part that no model has seen, for ``frechet_held_out``.
        num_data: how many clean samples there are; None: as many as asked for.
        given: ``(n, seed) -> [n, channels, ...]``, the conditions of the start noises: the last channels of a
            sample, which the flow leaves alone.
        given_channels: how many channels they are.
        decode: from the space of the flow (without conditions) to images.
        linear: the denoiser is linear and the data N(0, sigma_data^2): errors are exact, without sampling.
        num_knots: of reference trajectories.
        num_noises: start noises that rewards are measured on.
        heavy_tailed: a few start noises make most of the final error, so that learning needs large batches.
        device: where tensors live.
    """

    name: str
    denoiser: Denoiser
    sigma_max: float
    sigma_min: float
    terminal: str
    prior_std: float
    data: Callable[[int, int], Tensor] | None = field(default=None, repr=False)
    metrics: tuple[str, ...] = ()
    features: Path | None = None
    held_out: Callable[[int, int], Tensor] | None = field(default=None, repr=False)
    num_data: int | None = None
    given: Callable[[int, int], Tensor] | None = field(default=None, repr=False)
    given_channels: int = 0
    decode: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    linear: bool = False
    num_knots: int = 257
    num_noises: int = 4096
    heavy_tailed: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_sigma_range(self.sigma_min, self.sigma_max)
        check_name("terminal", self.terminal, TERMINALS)
        if self.terminal == "sigma_min" and self.sigma_min == 0:
            raise ValueError("terminal='sigma_min' needs sigma_min above 0; use terminal='zero' to end at 0")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.denoiser.shape)

    @property
    def is_image(self) -> bool:
        """Whether samples are images (or latents), so that the denoiser is a network: dear to evaluate."""
        return len(self.shape) == 3

    @property
    def sigma_end(self) -> float:
        """Last noise level of every schedule: 0 or ``sigma_min``."""
        return 0.0 if self.terminal == "zero" else self.sigma_min

    @property
    def sigma_floor(self) -> float:
        """Lowest noise level that the denoiser is asked about."""
        return self.sigma_min if self.sigma_min > 0 else 1e-4 * float(self.denoiser.sigma_data)

    def sample_noise(self, n: int, seed: int) -> Tensor:
        """``n`` start noises, ``[n, *shape]`` float64; the first rows do not depend on ``n``."""
        rng = np.random.default_rng([seed, 0x0A27])
        channels, *rest = self.shape
        noise = torch.from_numpy(rng.standard_normal((n, channels - self.given_channels, *rest)))
        noise = self.prior_std * noise.to(self.device)
        if self.given is None:
            return noise
        return torch.cat([noise, self.given(n, seed).to(noise)], 1)

    def visible(self, x: Tensor) -> Tensor:
        """Samples ``[n, *shape]`` without the channels of the condition."""
        return x[:, : x.shape[1] - self.given_channels]

    def images(self, x: Tensor) -> Tensor:
        """Samples ``[n, *shape]`` in the space of the data: without conditions, and decoded."""
        x = self.visible(x)
        return x if self.decode is None else self.decode(x)

    def sample_data(self, n: int, seed: int) -> Tensor:
        """``n`` clean samples, ``[n, *shape]`` float64.

        Raises:
            ValueError: the problem has no data of its own.
        """
        if self.data is None:
            raise ValueError(f"problem {self.name!r} has no data; only paired errors can be measured")
        return self.data(n, seed)

    def reference(self, n: int | None = None, seed: int = 0, num_knots: int | None = None) -> ReferenceFlow:
        """Exact trajectories of ``sample_noise(n, seed)``; kept in memory for the next caller.

        Raises:
            ValueError: fewer than one trajectory or two knots.
        """
        n = self.num_noises if n is None else n
        if n < 1:
            raise ValueError(f"num_noises = {n} must be at least 1")
        return _reference(self, n, seed, self.num_knots if num_knots is None else num_knots)


@lru_cache(maxsize=8)
def _reference(problem: Problem, n: int, seed: int, num_knots: int) -> ReferenceFlow:
    meta = {
        "problem": problem.name,
        "seed": seed,
        "num_noises": n,
        "num_knots": num_knots,
        "sigma_max": problem.sigma_max,
        "sigma_floor": problem.sigma_floor,
        "sigma_end": problem.sigma_end,
    }
    return ReferenceFlow.integrate(
        problem.denoiser,
        problem.sample_noise(n, seed),
        problem.sigma_max,
        problem.sigma_floor,
        problem.sigma_end,
        num_knots,
        meta,
    )


def _gaussian_1d(terminal: str) -> Problem:
    """Table 1 of the paper: N(0, 1), T = 3, started from the exact marginal N(0, 10)."""
    denoiser = GaussianDenoiser(1.0)
    return Problem(
        name="gaussian-1d",
        denoiser=denoiser,
        sigma_max=3.0,
        sigma_min=0.0 if terminal == "zero" else 1e-4,
        terminal=terminal,
        prior_std=float(np.sqrt(10.0)),
        data=denoiser.sample,
        metrics=("w2",),
        linear=True,
        num_noises=1024,
    )


def _mixture(name: str, denoiser: GaussianMixtureDenoiser, metric: str, terminal: str) -> Problem:
    return Problem(
        name=name,
        denoiser=denoiser,
        sigma_max=80.0,
        sigma_min=0.002,
        terminal=terminal,
        prior_std=80.0,
        data=denoiser.sample,
        metrics=(metric,),
        num_noises=HEAVY_TAILED,
        heavy_tailed=True,
    )


def _mixture_1d(terminal: str) -> Problem:
    """Three modes, two of them narrow."""
    denoiser = GaussianMixtureDenoiser([0.3, 0.4, 0.3], [-2.0, 0.5, 2.5], np.square([0.3, 0.2, 0.4]))
    return _mixture("mixture-1d", denoiser, "w2", terminal)


def _mixture_2d(terminal: str) -> Problem:
    """Eight modes on two rings, each stretched and turned differently, of different weights."""
    angles = np.arange(8) * np.pi / 4
    radii = np.where(np.arange(8) % 2 == 0, 2.5, 1.5)
    means = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    covs = []
    for i in range(8):
        turn = angles[i] + i * np.pi / 7
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        widths = np.array([0.12 + 0.04 * i, 0.40 - 0.03 * i])
        covs.append(axes @ np.diag(widths**2) @ axes.T)
    denoiser = GaussianMixtureDenoiser(np.arange(8) + 4.0, means, np.array(covs))
    return _mixture("mixture-2d", denoiser, "sliced_w2", terminal)


IMAGE_METRICS = ("frechet", "sliced_w2", "inception_score", "precision", "recall")
METRICS = ("w2", *IMAGE_METRICS, "frechet_held_out")


def _digits(terminal: str, model: str = "digits-base") -> Problem:
    """scikit-learn's 8x8 handwritten digits through one of the bundled U-Nets."""
    return Problem(
        name="digits" if model == "digits-base" else model,
        denoiser=load_bundled(model),
        sigma_max=80.0,
        sigma_min=0.002,
        terminal=terminal,
        prior_std=80.0,
        data=_digit_images,
        metrics=IMAGE_METRICS,
        features=DIGIT_FEATURES,
        num_data=1797,
        num_knots=65,
        num_noises=1024,
    )


def _digits_class(terminal: str) -> Problem:
    """A class of digits for each trajectory, with classifier-free guidance."""
    model = load_bundled("digits-cond")
    return replace(
        _digits(terminal),
        name="digits-class",
        denoiser=LabelledDenoiser(model),
        given=lambda n, seed: _labels(n, seed)[:, None, None, None].expand(n, 1, *model.shape[1:]),
        given_channels=1,
    )


def _digits_inpaint(terminal: str) -> Problem:
    """The right half of a digit, given its left half."""
    whole = _digits(terminal)
    _, height, width = whole.shape
    known = torch.zeros(height, width, dtype=torch.bool)
    known[:, : width // 2] = True
    return replace(
        whole,
        name="digits-inpaint",
        denoiser=InpaintingDenoiser(whole.denoiser, known),
        given=lambda n, seed: _digit_images(n, seed) * known,
        given_channels=1,
    )


def _photos(terminal: str) -> Problem:
    """16x16 patches of scikit-learn's two photographs.

    The part of them that is held out shows other things than the rest: distances to it have a high floor, and say
    less about schedules than those to fresh patches of the rest.
    """
    return replace(
        _digits(terminal),
        name="photos",
        denoiser=load_bundled("photos-base"),
        data=partial(_photo_patches, split="train"),
        held_out=partial(_photo_patches, split="held_out"),
        metrics=(*IMAGE_METRICS, "frechet_held_out"),
        features=PHOTO_FEATURES,
        num_data=None,
        num_noises=256,
    )


def _photos_latent(terminal: str) -> Problem:
    """Diffusion in the latent space of an autoencoder of the same patches."""
    autoencoder = load_autoencoder()
    return replace(
        _photos(terminal),
        name="photos-latent",
        denoiser=load_bundled("photos-latent"),
        decode=torch.no_grad()(lambda z: autoencoder.decode(z.float()).double()),
    )


def _labels(n: int, seed: int) -> Tensor:
    """``n`` digits, evenly drawn; the first rows do not depend on ``n``."""
    return torch.from_numpy(np.random.default_rng([seed, 0x1ABE1]).integers(10, size=n))


def _digit_images(n: int, seed: int) -> Tensor:
    """``n`` real digits, ``[n, 1, 8, 8]`` in [-1, 1], drawn without replacement while they last (1,797)."""
    images = digit_images()[0].double()
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(images)) for _ in range(-(-n // len(images)))]
    return images[torch.from_numpy(np.concatenate(rounds)[:n])]


def _photo_patches(n: int, seed: int, split: str) -> Tensor:
    """``n`` patches, ``[n, 3, 16, 16]`` in [-1, 1]."""
    return photo_patches(n, seed, split).double()


# name -> (builder, the terminal it uses unless told)
_BUILDERS: dict[str, tuple[Callable[[str], Problem], str]] = {
    "gaussian-1d": (_gaussian_1d, "zero"),
    "mixture-1d": (_mixture_1d, "sigma_min"),
    "mixture-2d": (_mixture_2d, "sigma_min"),
    "digits": (_digits, "zero"),
    "digits-small": (partial(_digits, model="digits-small"), "zero"),
    "digits-large": (partial(_digits, model="digits-large"), "zero"),
    "digits-class": (_digits_class, "zero"),
    "digits-inpaint": (_digits_inpaint, "zero"),
    "photos": (_photos, "zero"),
    "photos-latent": (_photos_latent, "zero"),
}
PROBLEMS = tuple(_BUILDERS)


def check_device(device: str) -> str:
    """Return ``device`` if torch can use it.

    Raises:
        ValueError: not a device, or a CUDA device that is not there.
    """
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device = {device!r} is not a device; use 'cpu', 'cuda' or 'cuda:0'") from error
    if kind.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (kind.index or 0) >= count:
            raise ValueError(
                f"device = {device!r} is not there: torch sees {count} CUDA device(s); use 'cpu'"
            )
    return device


def make_problem(
    name: str,
    *,
    terminal: str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str = "cpu",
) -> Problem:
    """A problem by name.

    Args:
        name: one of ``PROBLEMS``.
        terminal: ``"zero"`` or ``"sigma_min"``; None: the problem's own (zero for gaussian-1d and digits).
        sigma_min, sigma_max: another noise range.
        device: ``"cpu"``, ``"cuda"``, ...

    Raises:
        ValueError: unknown name or terminal (suggests the nearest), a range that is inverted, zero or not
            finite, or a device that is not there.
    """
    _, own_terminal = look_up("problem", name, _BUILDERS)
    problem = _build(name, check_name("terminal", terminal or own_terminal, TERMINALS), check_device(device))
    changes: dict[str, Any] = {}
    if sigma_min is not None:
        changes["sigma_min"] = float(sigma_min)
    if sigma_max is not None:
        changes["sigma_max"] = float(sigma_max)
        if problem.linear:
            changes["prior_std"] = float(np.hypot(sigma_max, problem.denoiser.sigma_data))
        else:
            changes["prior_std"] = float(sigma_max)
    return replace(problem, **changes) if changes else problem


@lru_cache(maxsize=16)
def _build(name: str, terminal: str, device: str) -> Problem:
    """One object a problem, so that environments made one by one share its reference trajectories."""
    problem = _BUILDERS[name][0](terminal)
    if device == "cpu":
        return problem
    return replace(problem, device=device, denoiser=problem.denoiser.to(device))  # type: ignore[attr-defined]


def custom_problem(
    denoiser: Denoiser,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    terminal: str = "zero",
    name: str = "custom",
    num_knots: int = 65,
    num_noises: int = 256,
    device: str = "cpu",
) -> Problem:
    """A problem around a caller's own denoiser.

    Args:
        denoiser: the model; ``sigma_min`` and ``sigma_max`` among its attributes are the range it is trained for,
            ``decode`` maps latents to images.
        sigma_min, sigma_max: noise range; None: the denoiser's own, else 0.002 and 80.
        terminal: ``"zero"`` or ``"sigma_min"``.
        name: what tables and errors call it.
        num_knots, num_noises, device: as ``Problem``.

    Raises:
        TypeError: it is not callable, or lacks ``shape`` or ``sigma_data``.
        ValueError: as ``make_problem``, or a range beyond the denoiser's own.
    """
    if not callable(denoiser):
        raise TypeError(f"denoiser is {type(denoiser).__name__}, not callable as denoiser(x, sigma)")
    for attribute in ("shape", "sigma_data"):
        if not hasattr(denoiser, attribute):
            raise TypeError(f"denoiser {type(denoiser).__name__} has no attribute {attribute!r}; set it")
    low, high = getattr(denoiser, "sigma_min", None), getattr(denoiser, "sigma_max", None)
    sigma_min = float(0.002 if low is None else low) if sigma_min is None else float(sigma_min)
    sigma_max = float(80.0 if high is None else high) if sigma_max is None else float(sigma_max)
    if low is not None and sigma_min < low * (1 - 1e-6):
        raise ValueError(f"sigma_min = {sigma_min:g} is below {low:g}, the least noise that the model knows")
    if high is not None and sigma_max > high * (1 + 1e-6):
        raise ValueError(f"sigma_max = {sigma_max:g} is above {high:g}, the most noise that the model knows")
    return Problem(
        name=name,
        denoiser=denoiser,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        terminal=terminal,
        prior_std=sigma_max,
        decode=getattr(denoiser, "decode", None),
        num_knots=num_knots,
        num_noises=num_noises,
        device=check_device(device),
    )


def model_problem(
    path: str,
    *,
    trust_pickle: bool = False,
    terminal: str = "zero",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str = "cpu",
    **arguments: Any,
) -> Problem:
    """A problem around a model on disk or on the hub.

    A network of unknown size: an eighth of the evaluations that the bundled small ones are given for exact
    trajectories.

    Args:
        path: as ``art_env.diffusion.adapters.load_model``.
        trust_pickle: allow it to be a pickle, which may run code.
        terminal, sigma_min, sigma_max, device: as ``custom_problem``.
        arguments: further ones of ``load_model``: guidance, class_label, prompt_embeds, ...

    Raises:
        ValueError, FileNotFoundError, ImportError: as ``load_model``.
    """
    check_device(device)
    denoiser = load_model(path, trust_pickle=trust_pickle, device=device, **arguments)
    return custom_problem(
        denoiser,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        terminal=terminal,
        name=Path(path).stem,
        num_knots=33,
        num_noises=64,
        device=device,
    )
