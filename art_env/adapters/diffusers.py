"""Networks and schedulers of diffusers as denoisers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.adapters.base import LATENT_SIGMA_DATA, PIXEL_SIGMA_DATA, _check_shape, _dtype_of, _sub_range
from art_env.adapters.callables import _Flow
from art_env.adapters.guidance import Condition, _Conditional, _join
from art_env.diffusion.denoiser import append_dims

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
MODEL_CLASSES = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel")
WEIGHTS = "diffusion_pytorch_model"
SMALLEST_ALPHA = 2.0**-24  # diffusers' own stand-in for a terminal signal of zero


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
    """The kind of training that a diffusers scheduler describes."""
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
        self.space = "flow" if isinstance(scheme, _Flow) else "ve"
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
        s = append_dims(sigma, x)
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
