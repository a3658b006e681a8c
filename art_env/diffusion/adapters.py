"""Other people's diffusion models as denoisers ``D(x; sigma) -> x0`` in variance-exploding coordinates.

``load_model`` reads what diffusers, NVlabs' EDM code and this package write; the classes wrap objects that the
caller has built. Every adapter takes ``x: [B, *shape]``, float64 by convention, runs the network in the network's
own dtype and returns the dtype of ``x``. Attributes: ``shape``, ``sigma_data``, ``sigma_min`` and ``sigma_max``
(the noise the model was trained for), ``nfe_per_call``, and ``decode``: None, or the function from latents to
images.

diffusers is optional: ``pip install "art-rl[diffusers]"``. Nothing here imports it until a file needs it.

``sigma_data``, where neither model nor caller says: 0.5 for pixels in [-1, 1], 1.0 for latents.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from art_env.diffusion.denoiser import Denoiser, DenoiserError, per_row
from art_env.diffusion.unet import UNetDenoiser
from art_env.names import check_name

PIXEL_SIGMA_DATA = 0.5
LATENT_SIGMA_DATA = 1.0
# EDM's own range (Karras et al. 2022), for models that accept any noise.
DEFAULT_SIGMA_MIN, DEFAULT_SIGMA_MAX = 0.002, 80.0
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
MODEL_CLASSES = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel")
WEIGHTS = "diffusion_pytorch_model"
SMALLEST_ALPHA = 2.0**-24  # diffusers' own stand-in for a terminal signal of zero
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Condition = Mapping[str, Any]


# --- what all adapters share ------------------------------------------------------------------------------


class _Adapter(nn.Module):
    """Checks the arguments, keeps the attributes, and sees that forward mode works.

    Subclasses define ``_denoise(x, sigma)``.
    """

    nfe_per_call = 1
    has_condition = False

    def __init__(self, shape: Sequence[int], sigma_data: float, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.shape = _check_shape(shape)
        self.sigma_data = _positive("sigma_data", sigma_data)
        self.sigma_min = _positive("sigma_min", sigma_min)
        self.sigma_max = _positive("sigma_max", sigma_max)
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {sigma_min:g} must be below sigma_max = {sigma_max:g}")
        self._forward_mode = True

    @property
    def decode(self) -> Callable[[Tensor], Tensor] | None:
        """Latents ``[B, *shape]`` to images ``[B, channels, height, width]``; None for a model of pixels."""
        return None

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise ``x: [B, *shape]`` at ``sigma``, a scalar or ``[B]``; the result is like ``x``.

        Raises:
            ValueError: x or sigma has another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; {self._name} takes [B, {str(self.shape)[1:]}")
        s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        if s.ndim > 1 or (s.ndim == 1 and len(s) != len(x)):
            raise ValueError(
                f"sigma has shape {tuple(s.shape)}; give a scalar or [{len(x)}], one per row of x"
            )
        if not _has_tangent(x, s):
            return self._denoise(x, s)
        if self._forward_mode:
            try:
                with sdpa_kernel(SDPBackend.MATH), _ForwardMode():
                    return self._denoise(x, s)
            except RuntimeError as error:
                failure = _brief(error)
            # The same error without tangents is not about forward mode, and comes out here.
            out = self._differences(x, s)
            self._forward_mode = False
            warnings.warn(
                f"{self._name} has no derivative in forward mode ({failure}); "
                "central differences take its place",
                RuntimeWarning,
                stacklevel=2,
            )
            return out
        return self._differences(x, s)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def _differences(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``_denoise`` of dual numbers by central differences, for networks without forward mode.

        A step moves noise and sample by about 0.3 % of sigma: in float32 the error is about 1e-5 of the
        derivative from the step and 3e-5 of D/sigma from rounding, for a network that is smooth in log sigma.
        """
        x, dx = forward_ad.unpack_dual(x)
        sigma, ds = forward_ad.unpack_dual(sigma)
        dx = torch.zeros_like(x) if dx is None else dx
        ds = torch.zeros_like(sigma) if ds is None else ds
        speed = torch.maximum(ds.abs(), dx.flatten(1).square().mean(1).sqrt())
        h = 0.003 * sigma.clamp(min=self.sigma_min) / speed.clamp(min=1e-12)
        rows = per_row(h, x)
        ahead = self._denoise(x + rows * dx, sigma + h * ds)
        behind = self._denoise(x - rows * dx, sigma - h * ds)
        return forward_ad.make_dual(self._denoise(x, sigma), (ahead - behind) / (2 * rows))


def _has_tangent(*values: Tensor) -> bool:
    return any(forward_ad.unpack_dual(v).tangent is not None for v in values)


class _ForwardMode(TorchFunctionMode):
    """Group normalisation in forward mode fails on a tangent that is not laid out like its value."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.group_norm:
            args = (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
        return func(*args, **(kwargs or {}))


def _check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(int(n) for n in shape)
    except TypeError as error:
        raise ValueError(f"shape = {shape!r} must be a sequence of sizes, such as (1, 8, 8)") from error
    if not sizes or min(sizes) < 1:
        raise ValueError(f"shape = {shape!r} must hold sizes of at least 1, without the batch")
    return sizes


def _positive(field: str, value: float) -> float:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{field} = {value} must be positive and finite")
    return float(value)


def _sub_range(
    low: float, high: float, sigma_min: float | None, sigma_max: float | None
) -> tuple[float, float]:
    """The caller's range, or the model's where the caller gives none; it must lie inside the model's."""
    for field, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max)):
        if value is not None and not low * (1 - 1e-6) <= _positive(field, value) <= high * (1 + 1e-6):
            raise ValueError(
                f"{field} = {value:g} is outside the range that the model was trained for, "
                f"{low:g} to {high:g}; choose a value inside, or leave {field} out"
            )
    return low if sigma_min is None else float(sigma_min), high if sigma_max is None else float(sigma_max)


def _dtype_of(network: object) -> torch.dtype | None:
    """Dtype of the first floating-point parameter, if there is one."""
    if isinstance(network, nn.Module):
        return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    return None


def _check_weights(module: object, where: str) -> None:
    """Raise a ValueError that names the first parameter or buffer with a value that is not finite."""
    if not isinstance(module, nn.Module):
        return
    for name, t in (*module.named_parameters(), *module.named_buffers()):
        if t.is_floating_point() and not torch.isfinite(t).all():
            raise ValueError(f"{where} has a value that is not finite in {name}; get the file again")


def _brief(error: Exception) -> str:
    """Kind and text of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _check_output(out: object, x: Tensor, what: str) -> Tensor:
    if not isinstance(out, Tensor):
        raise DenoiserError(f"{what} returned {type(out).__name__}; return a torch.Tensor")
    if out.shape != x.shape:
        raise DenoiserError(
            f"{what} returned shape {tuple(out.shape)} for an input of shape {tuple(x.shape)}; they must agree"
        )
    return out


# --- plain callables --------------------------------------------------------------------------------------


class CallableDenoiser(_Adapter):
    """Any function that denoises: ``fn(x, sigma) -> x0``, ``x: [B, *shape]``, ``sigma`` a 0-d tensor or ``[B]``.

    Args:
        fn: the function; its result has the shape of ``x``, in any floating dtype.
        shape: of one sample.
        sigma_data: standard deviation of the data.
        sigma_min, sigma_max: the noise that the model is good for.
        dtype: in which ``fn`` gets x and sigma; None: that of its parameters, if it is a module that has
            any, else that of ``x``.

    Raises:
        TypeError: fn is not callable.
        ValueError: a shape or a number that makes no sense.
    """

    def __init__(
        self,
        fn: Callable[[Tensor, Tensor], Tensor],
        shape: Sequence[int],
        sigma_data: float = PIXEL_SIGMA_DATA,
        sigma_min: float = DEFAULT_SIGMA_MIN,
        sigma_max: float = DEFAULT_SIGMA_MAX,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(shape, sigma_data, sigma_min, sigma_max)
        if not callable(fn):
            raise TypeError(f"fn is {type(fn).__name__}, not callable as fn(x, sigma)")
        self.fn = fn
        self.dtype = dtype

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        dtype = self.dtype or _dtype_of(self.fn) or x.dtype
        return _check_output(self.fn(x.to(dtype), sigma.to(dtype)), x, "fn").to(x.dtype)


class FlowDenoiser(_Adapter):
    """Flow matching: ``v(x_t, t)`` is the mean of ``noise - x0`` given ``x_t = (1 - t) x0 + t noise``.

    ``t = sigma / (1 + sigma)``, ``x_t = (1 - t) x``, ``D = x_t - t v`` (Lipman et al. 2023; Liu et al. 2023).

    Args:
        velocity_fn: ``(x_t: [B, *shape], time_scale * t: [B]) -> [B, *shape]``.
        shape: of one sample.
        sigma_data: standard deviation of the data.
        sigma_min, sigma_max: the noise that the model is good for; by default t from 0.001 to 0.999.
        time_scale: 1000 for networks that count training steps.
        dtype: as ``CallableDenoiser``.

    Raises:
        TypeError: velocity_fn is not callable.
        ValueError: a shape or a number that makes no sense.
    """

    def __init__(
        self,
        velocity_fn: Callable[[Tensor, Tensor], Tensor],
        shape: Sequence[int],
        sigma_data: float = PIXEL_SIGMA_DATA,
        sigma_min: float = 1 / 999,
        sigma_max: float = 999.0,
        time_scale: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(shape, sigma_data, sigma_min, sigma_max)
        if not callable(velocity_fn):
            raise TypeError(f"velocity_fn is {type(velocity_fn).__name__}, not callable as velocity_fn(x, t)")
        self.velocity_fn = velocity_fn
        self.dtype = dtype
        self._scheme = _Flow(_positive("time_scale", time_scale), sigma_min, sigma_max)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        dtype = self.dtype or _dtype_of(self.velocity_fn) or x.dtype
        s = per_row(sigma, x)
        z, t = self._scheme.inputs(x, s)
        v = self.velocity_fn(z.to(dtype), t.reshape(-1).expand(len(x)).to(dtype))
        return self._scheme.output(x, s, _check_output(v, x, "velocity_fn").to(x.dtype))


# --- conditions and guidance ------------------------------------------------------------------------------


class _Conditional(_Adapter):
    """A network under a condition: tensors with a leading axis of 1, repeated for every row of the batch."""

    condition: Condition

    def _evaluate(self, x: Tensor, sigma: Tensor, conditions: Sequence[Condition]) -> list[Tensor]:
        """``D`` under each condition, from one batch."""
        raise NotImplementedError

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._evaluate(x, sigma, [self.condition])[0]

    def _shares_network(self, other: _Conditional) -> bool:
        raise NotImplementedError

    def _batches_with(self, other: object) -> bool:
        """Whether one batch can hold both."""
        return (
            type(other) is type(self)
            and isinstance(other, _Conditional)
            and self._shares_network(other)
            and _layout(self.condition) == _layout(other.condition)
        )


def _layout(value: object) -> object:
    """What must agree for two conditions to be concatenated: names, shapes, and anything that is no tensor."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {k: _layout(v) for k, v in value.items()}
    return value


def _join(values: Sequence[Any], rows: int, device: torch.device, dtype: torch.dtype) -> Any:
    """Conditions as arguments of one batch: each tensor ``[1, ...]`` repeated ``rows`` times."""
    first = values[0]
    if isinstance(first, Mapping):
        return {k: _join([v[k] for v in values], rows, device, dtype) for k in first}
    if not isinstance(first, Tensor):
        return first
    parts = [v.to(device).expand(rows, *v.shape[1:]) for v in values]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined.to(dtype) if joined.is_floating_point() else joined


class GuidedDenoiser(_Adapter):
    """Classifier-free guidance (Ho and Salimans 2022): ``D = D_u + guidance (D_c - D_u)``.

    Two adapters of one network are evaluated as one batch; that still counts as two evaluations.

    Args:
        conditional, unconditional: the two denoisers.
        guidance: weight of the condition; 1 is the conditional model.

    Raises:
        ValueError: the conditional model has no condition, guidance is not finite, the shapes differ, or the
            noise ranges do not overlap.
    """

    has_condition = True

    def __init__(self, conditional: Denoiser, unconditional: Denoiser, guidance: float) -> None:
        if conditional is unconditional or not getattr(conditional, "has_condition", True):
            raise ValueError(
                f"guidance = {guidance} needs a model with a condition; leave guidance out, or give the "
                "conditional denoiser its condition (prompt_embeds, class_label)"
            )
        if not math.isfinite(guidance):
            raise ValueError(f"guidance = {guidance} must be a finite number")
        if tuple(conditional.shape) != tuple(unconditional.shape):
            raise ValueError(
                f"the conditional model has shape {tuple(conditional.shape)}, the unconditional one "
                f"{tuple(unconditional.shape)}; they must agree"
            )
        both = (conditional, unconditional)
        super().__init__(
            conditional.shape,
            conditional.sigma_data,
            max(float(getattr(d, "sigma_min", DEFAULT_SIGMA_MIN)) for d in both),
            min(float(getattr(d, "sigma_max", DEFAULT_SIGMA_MAX)) for d in both),
        )
        self.conditional, self.unconditional = conditional, unconditional
        self.guidance = float(guidance)
        self.nfe_per_call = sum(int(getattr(d, "nfe_per_call", 1)) for d in both)

    @property
    def decode(self) -> Callable[[Tensor], Tensor] | None:
        """That of the conditional model."""
        return getattr(self.conditional, "decode", None)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        c, u = self.conditional, self.unconditional
        if isinstance(c, _Conditional) and isinstance(u, _Conditional) and c._batches_with(u):
            with_it, without = c._evaluate(x, sigma, [c.condition, u.condition])
        else:
            with_it, without = c(x, sigma), u(x, sigma)
        return without + self.guidance * (with_it - without)


# --- diffusers --------------------------------------------------------------------------------------------


class _Scheme(Protocol):
    """How a network is used: its inputs and its output, in variance-exploding coordinates.

    ``s`` broadcasts against ``x: [B, *shape]``; the timestep is like ``s``.
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float | None

    def inputs(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]: ...

    def output(self, x: Tensor, s: Tensor, out: Tensor) -> Tensor: ...


class _Discrete:
    """Variance-preserving training on numbered timesteps (Ho et al. 2020); fractional timesteps in between.

    Timesteps are interpolated linearly in log sigma, as k-diffusion's ``DiscreteSchedule.sigma_to_t`` does
    without quantization.
    """

    sigma_data: float | None = None

    def __init__(self, scheduler: Any, prediction_type: str) -> None:
        self.prediction_type = prediction_type
        name = type(scheduler).__name__
        alphas = torch.as_tensor(scheduler.alphas_cumprod).detach().double().cpu()
        # Training with no signal at the end: the first timestep of (almost) none stands for all of them.
        alphas = alphas[: int((alphas > SMALLEST_ALPHA).sum()) + 1].clamp(min=SMALLEST_ALPHA)
        self.logs = ((1 - alphas) / alphas).log() / 2
        if len(alphas) < 2 or not torch.isfinite(self.logs).all() or not (self.logs.diff() > 0).all():
            raise ValueError(
                f"alphas_cumprod of {name} must fall from below 1 to above 0; check its beta_start, beta_end "
                "and beta_schedule"
            )
        self.sigma_min, self.sigma_max = float(self.logs[0].exp()), float(self.logs[-1].exp())
        self.continuous = _config(scheduler).get("timestep_type") == "continuous"
        if self.continuous:  # Stable Video Diffusion: trained on log sigma, over a range of its own
            config = _config(scheduler)
            self.sigma_min = float(config.get("sigma_min") or self.sigma_min)
            self.sigma_max = float(config.get("sigma_max") or self.sigma_max)

    def time(self, s: Tensor) -> Tensor:
        """Timestep of each noise level."""
        log_s = s.clamp(min=1e-12).log()
        if self.continuous:
            return log_s / 4
        self.logs = logs = self.logs.to(s.device)
        right = torch.searchsorted(logs, log_s.detach().double().contiguous()).clamp(1, len(logs) - 1)
        low, high = logs[right - 1].to(s.dtype), logs[right].to(s.dtype)
        t = (right - 1) + (log_s - low) / (high - low)
        # A hair beyond both ends, so that rounding at the ends does not cut off the derivative.
        return t.clamp(-1e-3, len(logs) - 1 + 1e-3)

    def inputs(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return x / (1 + s * s).sqrt(), self.time(s)

    def output(self, x: Tensor, s: Tensor, out: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return x - s * out
        if self.prediction_type == "v_prediction":
            total = 1 + s * s
            return x / total - s / total.sqrt() * out
        return out


class _Preconditioned:
    """EDM's preconditioning (Karras et al. 2022, table 1), by the functions of the scheduler itself."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        config = _config(scheduler)
        self.sigma_min, self.sigma_max = float(config["sigma_min"]), float(config["sigma_max"])
        self.sigma_data: float | None = float(config["sigma_data"])

    def inputs(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        noise: Tensor = self.scheduler.precondition_noise(s.clamp(min=1e-12))
        return self.scheduler.precondition_inputs(x, s), noise

    def output(self, x: Tensor, s: Tensor, out: Tensor) -> Tensor:
        result: Tensor = self.scheduler.precondition_outputs(x, out, s)
        return result


class _Flow:
    """Straight lines between data and noise."""

    sigma_data: float | None = None

    def __init__(self, time_scale: float, sigma_min: float, sigma_max: float) -> None:
        self.time_scale, self.sigma_min, self.sigma_max = time_scale, sigma_min, sigma_max

    def inputs(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return x / (1 + s), self.time_scale * s / (1 + s)

    def output(self, x: Tensor, s: Tensor, out: Tensor) -> Tensor:
        return (x - s * out) / (1 + s)


def _numbered_flow(steps: int, shift: float | None) -> _Flow:
    """Timesteps 1 to ``steps - 1``; diffusers' ``shift`` of t is a factor of sigma = t / (1 - t)."""
    factor = float(shift or 1.0)
    return _Flow(steps, factor / (steps - 1), factor * (steps - 1))


def _config(part: Any) -> Mapping[str, Any]:
    """Configuration of a diffusers object, as a mapping."""
    config = getattr(part, "config", None)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"{type(part).__name__} has no config as diffusers' models and schedulers have; "
            "wrap other models with CallableDenoiser or FlowDenoiser"
        )
    return config


def _scheme(scheduler: Any) -> _Scheme:
    """What kind of training a diffusers scheduler describes."""
    name, config = type(scheduler).__name__, _config(scheduler)
    kind = config.get("prediction_type")
    steps = config.get("num_train_timesteps", 1000)
    if name.startswith("FlowMatch"):
        if config.get("invert_sigmas"):
            raise ValueError(f"invert_sigmas of {name} is not supported; wrap the model with FlowDenoiser")
        return _numbered_flow(steps, 1.0 if config.get("use_dynamic_shifting") else config.get("shift"))
    if hasattr(scheduler, "precondition_outputs"):
        check_name(f"prediction_type of {name}", str(kind), PREDICTION_TYPES[:2])
        return _Preconditioned(scheduler)
    if kind == "flow_prediction":
        return _numbered_flow(steps, config.get("flow_shift"))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"scheduler {name} has no alphas_cumprod, and is neither EDM's nor flow matching; use one of the "
            "same training (DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, ...)"
        )
    if kind == "original_sample":  # an old name that EulerDiscreteScheduler still knows
        kind = "sample"
    return _Discrete(scheduler, check_name(f"prediction_type of {name}", str(kind), PREDICTION_TYPES))


class DiffusersDenoiser(_Conditional):
    """A network of diffusers, with the scheduler it was trained with.

    Known to work: ``UNet2DModel``, ``UNet2DConditionModel``, ``DiTTransformer2DModel`` and
    ``SD3Transformer2DModel``; schedulers with ``alphas_cumprod`` (DDPM, DDIM, PNDM, Euler, Heun, DPM-Solver,
    ...), EDM's, and those of flow matching. What a scheduler does to a finished prediction (``clip_sample``,
    ``thresholding``) is left out. The model is put into eval mode.

    Args:
        model: the network. If it predicts twice as many channels as it takes, the second half (a variance)
            is ignored.
        scheduler: prediction type and noise levels are taken from it.
        shape: of one sample; None: ``(in_channels, sample_size, sample_size)`` of the model's config.
        sigma_data: standard deviation of the data; None: the scheduler's, else 1.0 for latents (there is a
            ``vae``, or ``in_channels`` is not 1 or 3), else 0.5.
        sigma_min, sigma_max: a narrower range than the one of training.
        encoder_hidden_states: ``[L, D]`` or ``[1, L, D]``, the embedded prompt, for every sample.
        added_cond_kwargs: further conditions, each for one sample: ``text_embeds: [1, D]`` and
            ``time_ids: [1, 6]`` of SDXL, ``pooled_projections: [1, D]`` of SD3.
        class_labels: a class, or what else the model takes as ``class_labels``, ``[1, ...]``.
        vae: makes ``decode`` available.

    Raises:
        ValueError: unknown prediction type, a scheduler that is not supported, channels that do not fit, a
            missing or wrong condition, no sample size, or a noise range outside that of training.
    """

    def __init__(
        self,
        model: Any,
        scheduler: Any,
        *,
        shape: Sequence[int] | None = None,
        sigma_data: float | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        encoder_hidden_states: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        class_labels: Tensor | int | None = None,
        vae: Any = None,
    ) -> None:
        config = _config(model)
        scheme = _scheme(scheduler)
        shape = _model_shape(type(model).__name__, config, shape)
        if sigma_data is None:
            latent = vae is not None or shape[0] not in (1, 3)
            sigma_data = scheme.sigma_data or (LATENT_SIGMA_DATA if latent else PIXEL_SIGMA_DATA)
        low, high = _sub_range(scheme.sigma_min, scheme.sigma_max, sigma_min, sigma_max)
        super().__init__(shape, sigma_data, low, high)
        self.model = model.eval()
        self.vae: Any = None if vae is None else vae.eval()
        self.scheduler = scheduler
        self._scheme = scheme
        parameters = inspect.signature(model.forward).parameters
        self._sample_argument = "sample" if "sample" in parameters else "hidden_states"
        self.condition = _diffusers_condition(
            model, parameters, encoder_hidden_states, added_cond_kwargs, class_labels
        )
        self.has_condition = bool(self.condition)

    @property
    def decode(self) -> Callable[[Tensor], Tensor] | None:
        """Latents ``[B, *shape]`` to images in [-1, 1], without gradients; None without a VAE."""
        return None if self.vae is None else self._decode

    @torch.no_grad()
    def _decode(self, z: Tensor) -> Tensor:
        config = _config(self.vae)
        out = z / float(config.get("scaling_factor") or 1.0)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            as_row = [torch.as_tensor(v).to(out).reshape(1, -1, 1, 1) for v in (mean, std)]
            out = out * as_row[1] + as_row[0]
        out = out + float(config.get("shift_factor") or 0.0)
        dtype = _dtype_of(self.vae) or z.dtype
        image: Tensor = self.vae.decode(out.to(dtype), return_dict=False)[0]
        return image.to(z.dtype)

    def _shares_network(self, other: _Conditional) -> bool:
        return (
            isinstance(other, DiffusersDenoiser)
            and other.model is self.model
            and other.scheduler is self.scheduler
        )

    def _evaluate(self, x: Tensor, sigma: Tensor, conditions: Sequence[Condition]) -> list[Tensor]:
        n, rows = len(conditions), len(x)
        s = per_row(sigma, x)
        z, t = self._scheme.inputs(x, s)
        dtype = _dtype_of(self.model) or torch.float32
        # Half precision cannot tell one timestep from the next.
        t = t.reshape(-1).expand(rows).to(torch.promote_types(dtype, torch.float32))
        z = z.to(dtype)
        kwargs = _join(conditions, rows, x.device, dtype)
        kwargs[self._sample_argument] = z if n == 1 else torch.cat([z] * n)
        kwargs["timestep"] = t if n == 1 else torch.cat([t] * n)
        out = self.model(**kwargs, return_dict=False)[0][:, : self.shape[0]].to(x.dtype)
        return [self._scheme.output(x, s, part) for part in out.split(rows)]


def _model_shape(name: str, config: Mapping[str, Any], shape: Sequence[int] | None) -> tuple[int, ...]:
    channels, out = config.get("in_channels"), config.get("out_channels")
    if channels is None:
        raise ValueError(f"config of {name} has no in_channels; wrap the model with CallableDenoiser")
    if out is not None and out not in (channels, 2 * channels):
        raise ValueError(
            f"{name} has in_channels = {channels} and out_channels = {out}; they must agree (or out_channels "
            "be twice as many: a learned variance). Models that need more than the noisy sample, as for "
            "inpainting and upscaling, are to be wrapped with CallableDenoiser"
        )
    if shape is not None:
        if len(shape := _check_shape(shape)) != 3 or shape[0] != channels:
            raise ValueError(f"shape = {shape} does not fit {name}; it takes ({channels}, height, width)")
        return shape
    size = config.get("sample_size")
    if size is None:
        raise ValueError(f"config of {name} has no sample_size; give shape=({channels}, height, width)")
    height, width = (size, size) if isinstance(size, int) else size
    return (int(channels), int(height), int(width))


def _diffusers_condition(
    model: Any,
    parameters: Mapping[str, inspect.Parameter],
    hidden: Tensor | None,
    added: Mapping[str, Tensor] | None,
    labels: Tensor | int | None,
) -> dict[str, Any]:
    """Keyword arguments that carry the condition, every tensor with a leading axis of 1."""
    name, config = type(model).__name__, _config(model)
    condition: dict[str, Any] = {}
    if hidden is not None:
        if "encoder_hidden_states" not in parameters:
            raise ValueError(f"prompt_embeds given, but {name} takes no prompt; leave prompt_embeds out")
        hidden = hidden[None] if hidden.ndim == 2 else hidden
        width = config.get("cross_attention_dim") or config.get("joint_attention_dim")
        fits = not isinstance(width, int) or config.get("encoder_hid_dim") or hidden.shape[-1] == width
        if hidden.ndim != 3 or len(hidden) != 1 or not fits:
            raise ValueError(
                f"prompt_embeds have shape {tuple(hidden.shape)}; {name} takes [length, {width}], one prompt "
                "for all samples"
            )
        condition["encoder_hidden_states"] = hidden.detach()
    elif "encoder_hidden_states" in parameters and (
        name == "UNet2DConditionModel" or config.get("joint_attention_dim")
    ):
        raise ValueError(f"{name} needs a prompt; give prompt_embeds, [length, dimension]")
    if labels is not None:
        if "class_labels" not in parameters:
            raise ValueError(f"class_label given, but {name} takes no classes; leave class_label out")
        labels = torch.as_tensor(labels)
        condition["class_labels"] = (labels[None] if labels.ndim == 0 else labels).detach()
        classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
        if classes and not labels.is_floating_point():
            # DiT keeps one more embedding than classes, for "any class".
            last = int(classes) - (0 if name.startswith("DiT") else 1)
            if not bool(((labels >= 0) & (labels <= last)).all()):
                raise ValueError(f"class_label = {labels.tolist()} is out of range; {name} takes 0 to {last}")
    elif config.get("num_class_embeds") or config.get("class_embed_type") or name.startswith("DiT"):
        raise ValueError(f"{name} needs a class; give class_label")
    if added:
        extra = {k: v.detach() if isinstance(v, Tensor) else v for k, v in added.items()}
        for key, value in extra.items():
            if isinstance(value, Tensor) and (value.ndim == 0 or len(value) != 1):
                raise ValueError(
                    f"added_cond_kwargs[{key!r}] has shape {tuple(value.shape)}; give [1, ...], for one sample"
                )
        if "added_cond_kwargs" in parameters:
            condition["added_cond_kwargs"] = extra
        else:
            unknown = [k for k in extra if k not in parameters]
            if unknown:
                raise ValueError(f"added_cond_kwargs has {unknown[0]!r}, which {name} does not take")
            condition.update(extra)
    return condition


# --- networks that are preconditioned already -------------------------------------------------------------


class EDMDenoiser(_Conditional):
    """A network that denoises by itself: ``net(x, sigma, labels) -> x0``, as the pickles of NVlabs' EDM do.

    Args:
        net: gets ``x: [B, *shape]``, ``sigma: [B]`` and labels, ``[B, ...]`` or None.
        shape: of one sample.
        sigma_data: standard deviation of the data.
        sigma_min, sigma_max: the noise that the model is good for.
        labels: the condition of every sample, ``[1, ...]`` (EDM: one-hot).
        dtype: in which ``net`` gets x and sigma; None: that of its parameters, else float32.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        shape: Sequence[int],
        sigma_data: float = PIXEL_SIGMA_DATA,
        sigma_min: float = DEFAULT_SIGMA_MIN,
        sigma_max: float = DEFAULT_SIGMA_MAX,
        labels: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(shape, sigma_data, sigma_min, sigma_max)
        self.net = net
        self.dtype = dtype
        self.condition = {} if labels is None else {"labels": labels.detach()}
        self.has_condition = labels is not None

    def _shares_network(self, other: _Conditional) -> bool:
        return isinstance(other, EDMDenoiser) and other.net is self.net

    def _evaluate(self, x: Tensor, sigma: Tensor, conditions: Sequence[Condition]) -> list[Tensor]:
        n, rows = len(conditions), len(x)
        dtype = self.dtype or _dtype_of(self.net) or torch.float32
        z, s = x.to(dtype), sigma.expand(rows).to(dtype)
        labels = _join(conditions, rows, x.device, dtype).get("labels")
        out = self.net(*(v if n == 1 else torch.cat([v] * n) for v in (z, s)), labels)
        return [_check_output(part, x, "net").to(x.dtype) for part in out.split(rows)]


def load_edm_pickle(
    path: str | Path,
    trust_pickle: bool = False,
    *,
    class_label: int | None = None,
    guidance: float | None = None,
    sigma_data: float | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str | torch.device = "cpu",
) -> EDMDenoiser | GuidedDenoiser:
    """A network from a pickle of NVlabs' EDM (https://github.com/NVlabs/edm), the entry ``"ema"``.

    The file needs the modules of that repository: put a clone of it on ``PYTHONPATH``.

    Args:
        path: the file.
        trust_pickle: reading a pickle runs code that the file contains. True says that you trust its author.
        class_label: a class for every sample; None: no label (the network then uses zeros).
        guidance: classifier-free guidance against the network without a label; it makes sense only for
            networks that were trained with label dropout.
        sigma_data: None: the network's, else 0.5.
        sigma_min, sigma_max: a narrower range; None: the network's, cut to EDM's 0.002 to 80.
        device: where the network runs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ``trust_pickle`` is False; the file is not a pickle, needs a module that is not there, or
            holds another thing; a weight is not finite; a label or a noise range is out of range; guidance
            without a class.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; check the path")
    if not trust_pickle:
        raise ValueError(
            f"{path} is a pickle, and reading a pickle runs whatever code it contains; if you trust where it "
            "comes from, say so with trust_pickle=True (--trust-pickle)"
        )
    net = _read_pickle(path)
    for name in ("img_channels", "img_resolution"):
        if not hasattr(net, name):
            raise ValueError(
                f"{path}: the network {type(net).__name__} has no {name}, as EDM's networks have"
            )
    _check_weights(net, str(path))
    if isinstance(net, nn.Module):
        net = net.to(device).eval().requires_grad_(False)
    classes = int(getattr(net, "label_dim", 0) or 0)
    labels = null = None
    if class_label is not None:
        if not 0 <= class_label < classes:
            has = f"takes 0 to {classes - 1}" if classes else "has no classes; leave class_label out"
            raise ValueError(f"class_label = {class_label}: the model of {path} {has}")
        labels = F.one_hot(torch.tensor([class_label]), classes).float()
        null = torch.zeros_like(labels)
    elif guidance is not None:
        fix = "give class_label" if classes else "it has no classes; leave guidance out"
        raise ValueError(f"guidance = {guidance} needs a class for the model of {path}: {fix}")
    own = float(getattr(net, "sigma_min", 0.0)), float(getattr(net, "sigma_max", math.inf))
    try:
        low, high = _sub_range(*own, sigma_min, sigma_max)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if sigma_min is None:
        low = max(low, DEFAULT_SIGMA_MIN)
    if sigma_max is None:
        high = min(high, DEFAULT_SIGMA_MAX)
    shape = (int(net.img_channels), int(net.img_resolution), int(net.img_resolution))
    data = float(getattr(net, "sigma_data", PIXEL_SIGMA_DATA)) if sigma_data is None else sigma_data
    conditional = EDMDenoiser(net, shape, data, low, high, labels)
    if guidance is None:
        return conditional
    return GuidedDenoiser(conditional, EDMDenoiser(net, shape, data, low, high, null), guidance)


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as f:
            content = pickle.load(f)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} needs the module {error.name!r}; put a clone of the repository that wrote it "
            "(https://github.com/NVlabs/edm) on PYTHONPATH"
        ) from error
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(
            f"{path} is not a pickle that can be read ({_brief(error)}); get the file again, "
            "or give a folder of diffusers"
        ) from error
    if isinstance(content, Mapping):
        if "ema" not in content:
            raise ValueError(
                f"{path} has no entry 'ema', only {sorted(map(str, content))}; give an EDM pickle"
            )
        content = content["ema"]
    if not callable(content):
        raise ValueError(f"{path} holds {type(content).__name__}, not a network; give an EDM pickle")
    return content


# --- from files -------------------------------------------------------------------------------------------


def load_model(
    path_or_id: str | Path,
    *,
    trust_pickle: bool = False,
    guidance: float | None = None,
    prompt_embeds: Tensor | str | Path | None = None,
    negative_prompt_embeds: Tensor | None = None,
    added_cond_kwargs: Mapping[str, Tensor] | None = None,
    negative_added_cond_kwargs: Mapping[str, Tensor] | None = None,
    class_label: int | None = None,
    null_label: int | None = None,
    shape: Sequence[int] | None = None,
    sigma_data: float | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> _Adapter:
    """A denoiser from files; weights are checked and frozen, and the model is tried on a batch of two.

    Args:
        path_or_id: one of

            - a folder of diffusers' ``save_pretrained``: a pipeline, or a network with ``scheduler/`` in it or
              beside it; with ``vae/`` the denoiser works on latents and has ``decode``;
            - ``owner/name`` on the Hugging Face hub, which is downloaded;
            - a ``.pkl`` of NVlabs' EDM (see ``load_edm_pickle``);
            - a ``.safetensors`` that ``UNetDenoiser.save`` wrote.
        trust_pickle: allow a pickle to run the code it contains.
        guidance: classifier-free guidance, for models with a condition; None: the plain model.
        prompt_embeds: ``[L, D]`` or ``[1, L, D]``, the embedded prompt; or a safetensors file with the tensors
            ``prompt_embeds`` and, if wanted, ``negative_prompt_embeds`` and entries of the two mappings below
            (``text_embeds``, ``negative_text_embeds``, ...).
        negative_prompt_embeds: what guidance leads away from: the embedded empty prompt.
        added_cond_kwargs: as ``DiffusersDenoiser``.
        negative_added_cond_kwargs: the same beside the negative prompt; by default ``added_cond_kwargs``.
        class_label: a class for every sample.
        null_label: the class that stands for "any", for guidance; models of EDM, DiT and this package know it.
        shape: of one sample, if the model does not say or works for several sizes.
        sigma_data: standard deviation of the data; None: see this module.
        sigma_min, sigma_max: a narrower noise range than that of training.
        device: where the network runs.
        dtype: of the network; None: float32. Only for models of diffusers.

    Returns:
        The denoiser, with ``shape``, ``sigma_data``, ``sigma_min``, ``sigma_max``, ``nfe_per_call``, ``decode``.

    Raises:
        ImportError: a folder or a hub id, and diffusers is not installed.
        FileNotFoundError: there is no such file.
        ValueError: anything else that is wrong with the file or does not fit it; the text says how to go on.
    """
    path = Path(path_or_id).expanduser()
    if path.is_file() and path.suffix in (".pkl", ".pickle"):
        _only_for_diffusers(path, prompt_embeds, negative_prompt_embeds, added_cond_kwargs, shape)
        denoiser: _Adapter = load_edm_pickle(
            path,
            trust_pickle,
            class_label=class_label,
            guidance=guidance,
            sigma_data=sigma_data,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            device=device,
        )
        return _tried(denoiser, str(path), device)
    if path.is_file() and path.suffix == ".safetensors":
        _only_for_diffusers(path, prompt_embeds, negative_prompt_embeds, added_cond_kwargs, shape)
        denoiser = _load_own(path, class_label, guidance, sigma_data, sigma_min, sigma_max, device)
        return _tried(denoiser, str(path), device)
    if path.is_file():
        raise ValueError(
            f"{path} is a {path.suffix or 'file without a suffix'}; give a folder of diffusers, a .pkl of EDM "
            "or a .safetensors of UNetDenoiser.save"
        )
    folder = path if path.is_dir() else _download(str(path_or_id))
    parts = _find_parts(folder)
    prompt = _Prompt.collect(
        prompt_embeds, negative_prompt_embeds, added_cond_kwargs, negative_added_cond_kwargs
    )
    model, scheduler, vae = _load_parts(parts, device, dtype)

    def build(positive: bool) -> DiffusersDenoiser:
        return DiffusersDenoiser(
            model,
            scheduler,
            shape=shape,
            sigma_data=sigma_data,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            encoder_hidden_states=prompt.embeds if positive else prompt.negative,
            added_cond_kwargs=prompt.added if positive else prompt.negative_added,
            class_labels=class_label if positive else null_label,
            vae=vae,
        )

    try:
        conditional = build(True)
        if guidance is None:
            return _tried(conditional, str(folder), device)
        if not conditional.has_condition:
            raise ValueError(
                f"guidance = {guidance}, but {type(model).__name__} has no condition; leave it out"
            )
        if null_label is None and type(model).__name__.startswith("DiT"):
            null_label = int(model.config.num_embeds_ada_norm)
        if prompt.embeds is not None and prompt.negative is None:
            raise ValueError(f"guidance = {guidance} needs negative_prompt_embeds, the embedded empty prompt")
        if class_label is not None and null_label is None and prompt.embeds is None:
            raise ValueError(f"guidance = {guidance} needs null_label, the class that stands for 'any'")
        if null_label is None:
            null_label = class_label
        denoiser = GuidedDenoiser(conditional, build(False), guidance)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return _tried(denoiser, str(folder), device)


class _Prompt(NamedTuple):
    """An embedded prompt and the one that guidance leads away from."""

    embeds: Tensor | None
    negative: Tensor | None
    added: dict[str, Tensor]
    negative_added: dict[str, Tensor]

    @classmethod
    def collect(
        cls,
        embeds: Tensor | str | Path | None,
        negative: Tensor | None,
        added: Mapping[str, Tensor] | None,
        negative_added: Mapping[str, Tensor] | None,
    ) -> _Prompt:
        """From arguments, or from a file, whose entries the arguments replace."""
        stored: dict[str, Tensor] = {}
        if embeds is not None and not isinstance(embeds, Tensor):
            stored, embeds = _read_prompt(Path(embeds)), None
        embeds = stored.pop("prompt_embeds", embeds)
        minus = {k.removeprefix("negative_"): v for k, v in stored.items() if k.startswith("negative_")}
        plus = {k: v for k, v in stored.items() if not k.startswith("negative_")}
        own = minus.pop("prompt_embeds", None)
        plus |= added or {}
        return cls(
            embeds, own if negative is None else negative, plus, plus | minus | dict(negative_added or {})
        )


def _read_prompt(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no file at prompt_embeds = {path}; check the path")
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as error:
        raise ValueError(
            f"prompt_embeds = {path} is not a safetensors file ({error}); write it again"
        ) from error
    if "prompt_embeds" not in tensors:
        raise ValueError(f"prompt_embeds = {path} has no tensor 'prompt_embeds', only {sorted(tensors)}")
    return tensors


def _only_for_diffusers(path: Path, *values: object) -> None:
    names = ("prompt_embeds", "negative_prompt_embeds", "added_cond_kwargs", "shape")
    for name, value in zip(names, values, strict=True):
        if value is not None:
            raise ValueError(f"{name} given, but {path} is not a model of diffusers; leave {name} out")


def _load_own(
    path: Path,
    class_label: int | None,
    guidance: float | None,
    sigma_data: float | None,
    sigma_min: float | None,
    sigma_max: float | None,
    device: str | torch.device,
) -> _Adapter:
    """A ``UNetDenoiser``: trained for 0.002 to 80, and told its label as an integer."""
    fix = "give a file that UNetDenoiser.save wrote, or the folder that diffusers' save_pretrained wrote"
    net = UNetDenoiser.load(path, fix).to(device)
    classes = net.config.classes
    if class_label is not None and not 0 <= class_label < classes:
        has = f"takes 0 to {classes - 1}" if classes else "has no classes; leave class_label out"
        raise ValueError(f"class_label = {class_label}: the model of {path} {has}")
    if guidance is not None and class_label is None:
        fix = "give class_label" if classes else "it has no classes; leave guidance out"
        raise ValueError(f"guidance = {guidance} needs a class for the model of {path}: {fix}")
    try:
        low, high = _sub_range(DEFAULT_SIGMA_MIN, DEFAULT_SIGMA_MAX, sigma_min, sigma_max)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    data = net.sigma_data if sigma_data is None else sigma_data

    def build(label: int | None) -> _Adapter:
        # The network casts by itself: its preconditioning stays in float64.
        if label is None:
            return CallableDenoiser(net, net.shape, data, low, high, torch.float64)
        return EDMDenoiser(net, net.shape, data, low, high, torch.tensor([label]), torch.float64)

    if guidance is None:
        return build(class_label)
    return GuidedDenoiser(build(class_label), build(classes), guidance)


def _tried(denoiser: _Adapter, where: str, device: str | torch.device) -> _Adapter:
    """``denoiser`` after a trial at both ends of its range; what fails then would fail in the middle of a run."""
    sigma = torch.tensor([denoiser.sigma_min, denoiser.sigma_max], dtype=torch.float64, device=device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *denoiser.shape, dtype=torch.float64, generator=generator).to(device)
    try:
        with torch.no_grad():
            out = denoiser(x * per_row(sigma, x), sigma)
    except Exception as error:
        raise ValueError(
            f"{where}: the model failed on a trial batch of shape {tuple(x.shape)} "
            f"({_brief(error)}); check shape, prompt_embeds and added_cond_kwargs"
        ) from error
    for row, s in zip(out, sigma, strict=True):
        if not torch.isfinite(row).all():
            raise ValueError(
                f"{where}: the model returned a value that is not finite at sigma = {float(s):g}; give a "
                "narrower sigma_min or sigma_max, another dtype, or other weights"
            )
    return denoiser


# --- folders of diffusers ---------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """Where the parts of a model are: folders with a config each."""

    model: Path
    scheduler: Path
    vae: Path | None


def _diffusers() -> Any:
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise ImportError(
            f'models of diffusers need it: pip install "art-rl[diffusers]" ({error})'
        ) from error


def _find_parts(folder: Path) -> _Parts:
    """Network, scheduler and VAE in what ``save_pretrained`` wrote."""
    if (folder / "model_index.json").is_file() or not (folder / "config.json").is_file():
        root = folder
        kinds = [k for k in ("unet", "transformer") if (folder / k / "config.json").is_file()]
        if kinds:
            model = folder / kinds[0]
        elif (folder / "config.json").is_file():  # the oldest pipelines keep everything in one folder
            model = folder
        else:
            raise ValueError(
                f"{folder} has no config.json, nor unet/config.json or transformer/config.json; give the "
                "folder that save_pretrained of a pipeline or of a network wrote"
            )
    else:
        model, root = folder, folder.parent
    places = list(
        dict.fromkeys([model / "scheduler", folder / "scheduler", root / "scheduler", model, folder])
    )
    found = [p for p in places if (p / "scheduler_config.json").is_file()]
    if not found:
        raise ValueError(
            f"{folder} has no scheduler_config.json (looked in {', '.join(map(str, places))}); save it with "
            f"scheduler.save_pretrained({str(folder / 'scheduler')!r})"
        )
    vaes = [root / k for k in ("vae", "vqvae", "movq") if (root / k / "config.json").is_file()]
    return _Parts(model, found[0], vaes[0] if vaes else None)


def _load_parts(parts: _Parts, device: str | torch.device, dtype: torch.dtype | None) -> tuple[Any, Any, Any]:
    diffusers = _diffusers()
    name = str(_read_config(parts.model / "config.json").get("_class_name"))
    try:
        check_name("_class_name", name, MODEL_CLASSES)
    except ValueError as error:
        raise ValueError(
            f"{parts.model / 'config.json'}: {error}; wrap other networks with CallableDenoiser or FlowDenoiser"
        ) from error
    scheduler_file = parts.scheduler / "scheduler_config.json"
    scheduler_class = getattr(diffusers, str(_read_config(scheduler_file).get("_class_name")), None)
    if scheduler_class is None or not hasattr(scheduler_class, "from_pretrained"):
        raise ValueError(
            f"{scheduler_file}: _class_name = {_read_config(scheduler_file).get('_class_name')!r} is not a "
            f"scheduler of diffusers {diffusers.__version__}; correct it, or install another version"
        )
    try:
        scheduler = scheduler_class.from_pretrained(str(parts.scheduler))
    except Exception as error:
        raise ValueError(f"{scheduler_file} cannot be used ({error}); save the scheduler again") from error
    model = _load_network(getattr(diffusers, name), parts.model, device, dtype)
    vae = None
    if parts.vae is not None:
        vae_name = str(_read_config(parts.vae / "config.json").get("_class_name"))
        vae_class = getattr(diffusers, vae_name, None)
        if vae_class is None:
            raise ValueError(
                f"{parts.vae / 'config.json'}: _class_name = {vae_name!r} is not known to diffusers"
            )
        vae = _load_network(vae_class, parts.vae, device, dtype)
    return model, scheduler, vae


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); save the model again") from error
    if not isinstance(config, dict) or "_class_name" not in config:
        raise ValueError(f"{path} has no _class_name, as diffusers' configs have; save the model again")
    return config


def _load_network(
    kind: Any, folder: Path, device: str | torch.device, dtype: torch.dtype | None
) -> nn.Module:
    files = sorted(p.name for end in ("safetensors", "bin") for p in folder.glob(f"{WEIGHTS}*.{end}"))
    if not files:
        raise ValueError(
            f"{folder} has config.json but no weights ({WEIGHTS}.safetensors); copy them there or save the "
            "model again"
        )
    # Weights are whole (NAME.safetensors), in shards (NAME-00001-of-...), or only a variant (NAME.fp16...).
    plain = [f for f in files if re.fullmatch(rf"{WEIGHTS}(-[0-9]+-of-[0-9]+)?\.(safetensors|bin)", f)]
    variant = None if plain else files[0].removeprefix(WEIGHTS).split(".")[1].split("-")[0]
    try:
        # Without the meta device a missing weight is reported, not left unset.
        network, info = kind.from_pretrained(
            str(folder),
            torch_dtype=dtype or torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            use_safetensors=any(f.endswith(".safetensors") for f in plain or files),
            variant=variant,
            local_files_only=True,
        )
    except Exception as error:
        raise ValueError(
            f"{folder}: the weights cannot be loaded ({_brief(error)}); copy or save them again"
        ) from error
    if info.get("missing_keys"):
        raise ValueError(
            f"{folder}: weight {sorted(info['missing_keys'])[0]} is missing; copy or save the weights again"
        )
    _check_weights(network, str(folder))
    module: nn.Module = network.to(device).eval().requires_grad_(False)
    return module


def _download(name: str) -> Path:
    """A pipeline from the Hugging Face hub, without the parts that are not needed here."""
    if not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"no file or folder at {name}; check the path, or give a hub id, owner/name")
    _diffusers()
    folders = ("", "unet/", "transformer/", "vae/", "vqvae/")
    configs = ["*.json"]
    try:
        hub = importlib.import_module("huggingface_hub")
        for suffix in ("safetensors", "bin"):
            weights = [f"{d}{WEIGHTS}{part}.{suffix}" for d in folders for part in ("", "-[0-9]*-of-[0-9]*")]
            folder = Path(hub.snapshot_download(name, allow_patterns=configs + weights))
            if any(folder.glob(f"**/{WEIGHTS}*.{suffix}")):
                break
    except Exception as error:
        raise ValueError(
            f"there is no file or folder {name!r} here, and as a hub id it needs the network, where the download "
            f"failed ({_brief(error)}); where there is a network, run `hf download {name} --local-dir FOLDER`, "
            "and give that folder"
        ) from error
    return folder
