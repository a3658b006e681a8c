"""From an action to a noise level: the two controls that move along the base schedule."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from art_env.envs.base_schedule import BaseSchedule
from art_env.envs.state import State
from art_env.problems.problem import Problem

# Least part of the budget that a step takes: far below any useful one, far above rounding.
MIN_SHARE = 1e-9
# Bound of the raw control: thirty standard deviations of the paper's widest policy, sqrt(0.1 / 1e-6).
MAX_SPEED = 1e4


class Control(Protocol):
    """The meaning of an action.

    Attributes:
        name: as in the settings.
        bound: actions lie in ``[-bound, bound]``.
        may_end_early: whether the end can be reached before the last step.
    """

    name: str
    bound: float
    may_end_early: bool

    def next(self, state: State, action: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(t, sigma)`` after the step, ``[B]`` each, for ``action: [B]``.

        ``last: [B]`` bool says which rows take their last step; None: no row does.
        """

    def speed(self, state: State, action: Tensor, after: State) -> Tensor:
        """Clock speed theta of the step on the uniform clock, ``[B]``."""


class LogSpeed:
    """``control="log_speed"``: the action is log2 of the step's speed, relative to even spending of what is left.

    With n steps left the step takes the share ``m / (m + n - 1)`` of the remaining budget, ``m = 2^(c a)``: its
    speed is ``m`` times the mean speed of the steps after it. Action 0 everywhere reproduces the base schedule,
    and the last step spends what is left, whatever the action.

    Args:
        base: the schedule in whose coordinate the budget is measured.
        action_range: octaves of speed, ``c``.
    """

    name, bound, may_end_early = "log_speed", 1.0, False

    def __init__(self, base: BaseSchedule, action_range: float) -> None:
        self.base, self.problem, self.action_range = base, base.problem, action_range
        self._dt = (base.problem.sigma_max - base.problem.sigma_end) / base.num_steps
        self._end = torch.ones((), dtype=torch.float64, device=base.problem.device)

    def next(self, state: State, action: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``Control``."""
        after = torch.rsub(state.k, self.base.num_steps - 1).to(state.t)
        t = self._spend(state.t, after, action)
        if last is None:
            return t, self.base.level(t, state.x)
        t = t.masked_fill(last, 1.0)  # without a gradient too
        return t, self.base.level(t, state.x).masked_fill(last, self.problem.sigma_end)

    def speed(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Control``."""
        return (state.sigma - after.sigma) / self._dt

    def times(self, actions: Tensor) -> Tensor:
        """The spent part of the budget ``[K + 1, B]``, from 0 to 1, of whole episodes with ``actions: [B, K]``."""
        K = actions.shape[1]
        times = [torch.zeros_like(actions[:, 0])]
        for k in range(K - 1):
            times.append(self._spend(times[-1], torch.full_like(times[-1], K - 1 - k), actions[:, k]))
        return torch.stack([*times, torch.ones_like(times[0])])

    def levels(self, times: Tensor, x: Tensor) -> Tensor:
        """Noise levels ``[K + 1, B]`` of whole episodes from ``x: [B, *shape]``, for ``times: [K + 1, B]``."""
        levels = torch.stack([self.base.level(t, x) for t in times])
        levels[0], levels[-1] = self.problem.sigma_max, self.problem.sigma_end
        return levels

    def _spend(self, t: Tensor, after: Tensor, action: Tensor) -> Tensor:
        """``t`` after a step that ``after`` others follow, all ``[B]``; exactly 1 if none does."""
        m = torch.exp2(action.clamp(-1, 1) * self.action_range)
        t_next = torch.lerp(t, self._end, m / (m + after))
        # Extreme actions must not round to a step of no length, nor to the end before the last step.
        return torch.clamp(t_next, t + MIN_SHARE, torch.sub(self._end, after, alpha=MIN_SHARE))


class Speed:
    """``control="speed"``: the action is the paper's raw theta.

    Sigma falls by ``theta T / K`` and is held within the range; it may miss the end, or reach it early.
    """

    name, bound, may_end_early = "speed", MAX_SPEED, True

    def __init__(self, problem: Problem, num_steps: int) -> None:
        self.problem = problem
        self._horizon = problem.sigma_max - problem.sigma_end
        self._dt = self._horizon / num_steps

    def next(self, state: State, action: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``Control``."""
        sigma = (state.sigma - action * self._dt).clamp(self.problem.sigma_end, self.problem.sigma_max)
        return (self.problem.sigma_max - sigma) / self._horizon, sigma

    def speed(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Control``."""
        return action
