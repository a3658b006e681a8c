"""Classifier-free guidance of a denoiser that takes a condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from art_env.adapters.base import DEFAULT_SIGMA_MAX, DEFAULT_SIGMA_MIN, _Adapter
from art_env.diffusion.denoiser import Denoiser

Condition = Mapping[str, Any]


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
    """The parts that must agree for two conditions to be joined: names, shapes, and all that is no tensor."""
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
        self.space = getattr(conditional, "space", "ve")
        self.nfe_per_call = sum(int(getattr(d, "nfe_per_call", 1)) for d in both)

    @property
    def decode(self) -> Callable[[Tensor], Tensor] | None:
        """That of the conditional model."""
        return getattr(self.conditional, "decode", None)

    def _pass(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._denoise(x, sigma)  # which counts one model after the other

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        c, u = self.conditional, self.unconditional
        if isinstance(c, _Conditional) and isinstance(u, _Conditional) and c._batches_with(u):
            self.evals += self.nfe_per_call * len(x)
            with_it, without = c._evaluate(x, sigma, [c.condition, u.condition])
        else:
            with_it, without = self._once(c, x, sigma), self._once(u, x, sigma)
        return without + self.guidance * (with_it - without)

    def _once(self, denoiser: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
        """One of the two, by one pass: what takes the place of derivatives is this adapter's own business."""
        self.evals += int(getattr(denoiser, "nfe_per_call", 1)) * len(x)
        return denoiser._denoise(x, sigma) if isinstance(denoiser, _Adapter) else denoiser(x, sigma)
