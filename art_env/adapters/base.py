"""Other people's diffusion models as denoisers ``D(x; sigma) -> x0`` in variance-exploding coordinates.

``load_model`` reads what diffusers, NVlabs' EDM code and this package write; the classes wrap objects that the
caller has built. Every adapter takes ``x: [B, *shape]``, float64 by convention, runs the network in the network's
own dtype and returns the dtype of ``x``. Attributes: ``shape``, ``sigma_data``, ``sigma_min`` and ``sigma_max``
(the noise the model was trained for), ``nfe_per_call``, ``space`` (``"ve"`` or ``"flow"``: what its own programs
sample in, see ``Schedule``), and ``decode``: None, or the function from latents to
images.

diffusers is optional: ``pip install "art-rl[diffusers]"``. Nothing here imports it until a file needs it.

``sigma_data``, where neither model nor caller says: 0.5 for pixels in [-1, 1], 1.0 for latents.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from art_env.diffusion.denoiser import DenoiserError, append_dims

PIXEL_SIGMA_DATA = 0.5
LATENT_SIGMA_DATA = 1.0
# EDM's own range (Karras et al. 2022), for models that accept any noise.
DEFAULT_SIGMA_MIN, DEFAULT_SIGMA_MAX = 0.002, 80.0


class _Adapter(nn.Module):
    """Checks the arguments, keeps the attributes, sees that forward mode works, and counts.

    Subclasses define ``_denoise(x, sigma)``: one pass of the network.

    Attributes:
        evals: rows that have passed the network (see ``CountedDenoiser``).
    """

    nfe_per_call = 1
    has_condition = False
    space = "ve"

    def __init__(self, shape: Sequence[int], sigma_data: float, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.shape = _check_shape(shape)
        self.sigma_data = _positive("sigma_data", sigma_data)
        self.sigma_min = _positive("sigma_min", sigma_min)
        self.sigma_max = _positive("sigma_max", sigma_max)
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {sigma_min:g} must be below sigma_max = {sigma_max:g}")
        self._forward_mode = True
        self.evals = 0

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
            return self._pass(x, s)
        if self._forward_mode:
            try:
                with sdpa_kernel(SDPBackend.MATH), _ForwardMode():
                    return self._pass(x, s)
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

    def _pass(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``_denoise``, counted."""
        self.evals += self.nfe_per_call * len(x)
        return self._denoise(x, sigma)

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
        rows = append_dims(h, x)
        ahead = self._pass(x + rows * dx, sigma + h * ds)
        behind = self._pass(x - rows * dx, sigma - h * ds)
        return forward_ad.make_dual(self._pass(x, sigma), (ahead - behind) / (2 * rows))


def _has_tangent(*values: Tensor) -> bool:
    return any(forward_ad.unpack_dual(v).tangent is not None for v in values)


class _ForwardMode(TorchFunctionMode):
    """Makes group normalisation work in forward mode: torch needs the value and its tangent in the same layout."""

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
