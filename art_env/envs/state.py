"""``State``: what the environment knows of a batch of trajectories."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class State(NamedTuple):
    """B trajectories. All float64 but the whole numbers ``k``, ``nfe`` and ``index``.

    Attributes:
        x: ``[B, *shape]``, the sampler's iterate.
        sigma: ``[B]``, its noise level.
        t: ``[B]``, the part of the budget that is spent, in the coordinate of the base schedule, in [0, 1].
        k: ``[B]``, steps done.
        d: ``[B, *shape]``, cached first evaluation of the next step: the slope ``dx/dsigma`` at ``(x, sigma)``, or
            after churn if the solver adds it.
        q: ``[B]``, ``|Q|`` where ``d`` is: exact with ``reward="euler"``, else the secant of the last two
            slopes; NaN before there are two.
        change: ``[B, *shape]``, the last slope minus the one before, 0 before there are two.
        turn: ``[B]``, cosine between the last two slopes, 0 before there are two.
        denoised_change: ``[B]``, norm of the last change of the denoised sample, 0 before there are two.
        error: ``[B]``, squared distance to the exact trajectory, per coordinate, over
            ``sigma^2 + sigma_data^2``; 0 with a stochastic solver, which does not follow it.
        nfe: ``[B]``, network evaluations so far, as samplers count them.
        index: ``[B]``, row of the pools of initial noises and of step noise; -1 if there is neither.
        past: ``[B, m, *shape]``, what a multistep solver keeps of its last m steps, the latest first.
        past_sigma: ``[B, m]``, their noise levels; 0 where there was no such step.
        dt: ``[B]``, the part of the budget that the last step took; 0 before the first.
    """

    x: Tensor
    sigma: Tensor
    t: Tensor
    k: Tensor
    d: Tensor
    q: Tensor
    change: Tensor
    turn: Tensor
    denoised_change: Tensor
    error: Tensor
    nfe: Tensor
    index: Tensor  # type: ignore[assignment]
    past: Tensor
    past_sigma: Tensor
    dt: Tensor
