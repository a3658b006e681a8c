"""A sampler with k-diffusion's signature for schedules with weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from art_env.export.formats import _tensor, check_weighted, levels_of
from art_env.schedules.schedule import Schedule


def learned_sampler(
    schedule: Schedule,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    *,
    flow: bool | None = None,
) -> tuple[Callable[..., torch.Tensor], torch.Tensor]:
    """A sampler for k-diffusion's models, and the ``sigmas`` that belong to it.

    ``sampler, sigmas = learned_sampler(schedule)``, then ``sampler(model, torch.randn(...) * sigmas[0], sigmas)``,
    which is the call of every ``k_diffusion.sampling.sample_*``. It gives the samples of this package's own solver,
    ``schedule.solver``.

    Args:
        dtype: of ``sigmas``; float32 by default.
        device: where ``sigmas`` go.
        flow: ``sigmas`` are times of a flow model (``sample_learned``). A schedule of a flow model needs True or
            False; None is False for others.

    Returns:
        ``sample_learned`` with the schedule's weights, and ``[num_steps + 1]``.

    Raises:
        ValueError: the schedule has no weights, two levels are the same number in this dtype, or it is one of a flow
            model and ``flow`` is None.
    """
    weights = check_weighted(schedule, "to_k_diffusion").tolist()
    levels = _tensor(levels_of(schedule, flow), dtype, device)
    return partial(sample_learned, weights=weights, flow=bool(flow)), levels


# scripts.py copies this function into programs where this package is not installed: it needs nothing but torch.
@torch.no_grad()
def sample_learned(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    *,
    weights: Sequence[Sequence[float]],
    flow: bool = False,
) -> torch.Tensor:
    """Sample with the multistep rule whose weights were learned: one evaluation a step.

    The slope of step k is ``d_k + sum_j w_kj (d_k - d_{k-j})`` with ``d = (x - denoised) / sigma``; earlier steps
    that were not made are left out.

    Args:
        model: ``model(x, sigma, **extra_args) -> denoised``, with ``sigma: [B]``, as k-diffusion's wrappers are.
        x: ``[B, *shape]``, noise of standard deviation ``sigmas[0]``.
        sigmas: ``[K + 1]``, descending; those that the weights were learned with.
        callback: called in each step with a dict of x, i, sigma, sigma_hat and denoised.
        disable: for the signature's sake; there is no progress bar.
        weights: ``[K, m]``.
        flow: ``x = (1 - t) data + t noise``, and ``sigmas`` are the times ``t = sigma / (1 + sigma)``. The slopes are
            still those of ``x / (1 - t)`` in sigma, which the weights were learned for.

    Returns:
        ``[B, *shape]``.

    Raises:
        ValueError: not as many rows of weights as steps.
    """
    levels = [float(s) for s in sigmas]
    if len(weights) != len(levels) - 1:
        raise ValueError(
            f"weights for {len(weights)} steps, but sigmas has {len(levels) - 1}: use the sigmas of the same "
            "schedule, all of them"
        )
    past: list[torch.Tensor] = []
    for i, row in enumerate(weights):
        t, dt = levels[i], levels[i + 1] - levels[i]
        denoised = model(x, x.new_full((x.shape[0],), t), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        velocity = (x - denoised) / t
        slope = x + (1 - t) * velocity if flow else velocity
        for w, before in zip(row, past, strict=False):
            velocity = velocity + float(w) / ((1 - t) if flow else 1) * (slope - before)
        past = [slope, *past][: len(row)]
        x = x + dt * velocity
    return x
