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
        q: ``[B]``, the exact ``|Q|`` where ``d`` is, with ``reward="euler"``; NaN with others and at the end.
        x_before, sigma_before, d_before: where the last step began; ``x``, ``sigma`` and ``d`` before the first.
        off: ``[B]``, squared distance to the exact trajectory, per coordinate; 0 with a stochastic solver, which does
            not follow it.
        error: ``[B]``, the same over ``sigma^2 + sigma_data^2``.
        nfe: ``[B]``, network evaluations so far, as samplers count them.
        index: ``[B]``, row of the pools of initial noises and of step noise; -1 if there is neither.
        past: ``[B, m, *shape]``, what a multistep solver keeps of its last m steps, the latest first.
        past_sigma: ``[B, m]``, their noise levels; 0 where there was no such step.
        dt: ``[B]``, the part of the budget that the last step took; 0 before the first.
        seen: ``[B, history, n]`` float32, the features of earlier observations, the latest first; 0 where there was
            none.
    """

    x: Tensor
    sigma: Tensor
    t: Tensor
    k: Tensor
    d: Tensor
    q: Tensor
    x_before: Tensor
    sigma_before: Tensor
    d_before: Tensor
    off: Tensor
    error: Tensor
    nfe: Tensor
    index: Tensor  # type: ignore[assignment]
    past: Tensor
    past_sigma: Tensor
    dt: Tensor
    seen: Tensor

    def pick(self, rows: Tensor) -> State:
        """The trajectories ``rows``: their numbers, or ``[B]`` bool."""
        return State(*(value[rows] for value in self))

    def put(self, rows: Tensor, part: State) -> State:
        """The same with the trajectories ``rows``, their numbers, replaced by those of ``part``."""
        return State(*(old.index_copy(0, rows, new) for old, new in zip(self, part, strict=True)))
