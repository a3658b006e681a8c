"""The one thing a diffusion model must offer: a denoiser ``D(x; sigma) -> x0``."""

from __future__ import annotations

import math
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    """Best guess of the clean sample inside ``x = x0 + sigma * noise`` (variance-exploding coordinates).

    Attributes:
        shape: shape of one sample, without the batch.
        sigma_data: standard deviation of the data, per coordinate.
    """

    shape: tuple[int, ...]
    sigma_data: float

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise.

        Args:
            x: ``[B, *shape]``; float64 by convention, networks cast inside and return the dtype of ``x``.
            sigma: noise level, a scalar or ``[B]``.

        Returns:
            ``[B, *shape]``, the dtype of ``x``.
        """
        ...


def difference(denoiser: Denoiser, x: Tensor, exact: Tensor) -> Tensor:
    """``x - exact`` without the channels of a condition, whose mean square is the squared error of a batch.

    A denoiser with another data distribution for each row says in which units its rows are compared (``relative``).
    """
    relative = getattr(denoiser, "relative", None)
    off = (x - exact)[:, : x.shape[1] - int(getattr(denoiser, "given_channels", 0))]
    return off if relative is None else cast("Tensor", relative(off, exact))


def all_finite(x: Tensor) -> bool:
    """Whether every entry is finite."""
    # A sum is finite only if every term is (NaN and inf both survive it); it may overflow though none is.
    return math.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())


class DenoiserError(ValueError):
    """A denoiser returned something that is not a denoised batch."""


def append_dims(sigma: Tensor | float, x: Tensor) -> Tensor:
    """``sigma`` (scalar or ``[B]``) as a tensor that broadcasts against ``x: [B, *shape]``."""
    s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if s.ndim == 0:
        return s
    return s.reshape(-1, *([1] * (x.ndim - 1)))


class CheckedDenoiser:
    """Refuses output of a denoiser that would corrupt a run.

    Args:
        denoiser: the model.
        name: what error messages call it.

    Attributes:
        step: set by the caller, only so that errors can name the step.
    """

    def __init__(self, denoiser: Denoiser, name: str = "denoiser") -> None:
        self.denoiser = denoiser
        self.name = name
        self.shape: tuple[int, ...] = tuple(denoiser.shape)
        self.sigma_data = float(denoiser.sigma_data)
        self.nfe_per_call = int(getattr(denoiser, "nfe_per_call", 1))
        self.given_channels = int(getattr(denoiser, "given_channels", 0))
        self.step: int | None = None

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise, as the wrapped denoiser does.

        Raises:
            DenoiserError: wrong type, shape or dtype, or a value that is not finite; names sigma and step.
        """
        out = self.denoiser(x, sigma)
        if not isinstance(out, Tensor):
            raise DenoiserError(f"{self._where(sigma)} returned {type(out).__name__}; return a torch.Tensor")
        if out.shape != x.shape:
            raise DenoiserError(
                f"{self._where(sigma)} returned shape {tuple(out.shape)} for an input of shape {tuple(x.shape)}; "
                "return one denoised sample per row, of the same shape"
            )
        if out.dtype != x.dtype:
            raise DenoiserError(
                f"{self._where(sigma)} returned dtype {out.dtype} for an input of {x.dtype}; "
                "cast inside the denoiser and return out.to(x.dtype)"
            )
        if not all_finite(out):
            row = int((~torch.isfinite(out.detach()).flatten(1).all(1)).nonzero()[0])
            s = torch.as_tensor(sigma).detach()
            s_row = float(s if s.ndim == 0 else s.flatten()[row])
            raise DenoiserError(
                f"{self._where(s_row)} returned a value that is not finite in row {row}; "
                "check the model's weights and its range of sigma"
            )
        return out

    def _where(self, sigma: Tensor | float) -> str:
        s = torch.as_tensor(sigma).detach().flatten()
        text = f"{float(s[0]):.6g}" if s.numel() else "?"
        at = f"sigma={text}" + (f", step {self.step}" if self.step is not None else "")
        return f"{self.name} at {at}"
