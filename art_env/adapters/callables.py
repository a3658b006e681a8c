"""Plain functions and flow-matching velocities as denoisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from art_env.adapters.base import (
    DEFAULT_SIGMA_MAX,
    DEFAULT_SIGMA_MIN,
    PIXEL_SIGMA_DATA,
    _Adapter,
    _check_output,
    _dtype_of,
    _positive,
)
from art_env.diffusion.denoiser import append_dims


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

    space = "flow"

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
        s = append_dims(sigma, x)
        z, t = self._scheme.inputs(x, s)
        v = self.velocity_fn(z.to(dtype), t.reshape(-1).expand(len(x)).to(dtype))
        return self._scheme.output(x, s, _check_output(v, x, "velocity_fn").to(x.dtype))


class _Flow:
    """Straight lines between data and noise."""

    sigma_data: float | None = None

    def __init__(self, time_scale: float, sigma_min: float, sigma_max: float) -> None:
        self.time_scale, self.sigma_min, self.sigma_max = time_scale, sigma_min, sigma_max

    def inputs(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return x / (1 + s), self.time_scale * s / (1 + s)

    def output(self, x: Tensor, s: Tensor, out: Tensor) -> Tensor:
        return (x - s * out) / (1 + s)
