"""From an action to a noise level: the base schedule, and the two controls that move along it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.envs.state import State
from art_env.problems.problem import Problem
from art_env.schedules.optimal import closed_form
from art_env.schedules.schedule import Schedule

# Least part of the budget that a step takes: far below any useful one, far above rounding.
MIN_SHARE = 1e-9
# Bound of the raw control: thirty standard deviations of the paper's widest policy, sqrt(0.1 / 1e-6).
MAX_SPEED = 1e4
# Trajectories that the closed form reads, and the steps of the schedule that is made of it.
CLOSED_FORM_NOISES, CLOSED_FORM_STEPS = 256, 256
# Of t, for the slope of a clock.
DIFFERENCE = 1e-6

Clock = Callable[[np.ndarray], np.ndarray]


class BaseSchedule:
    """The schedule that action 0 reproduces, as a monotone map from the spent budget to a noise level.

    Args:
        base: a number rho: even steps of ``sigma^(1/rho)`` as in ``edm(num_steps, rho=rho)`` (7: EDM's grid,
            1: the uniform one); ``"closed_form"``: the optimum of the paper's objective; or any ``Schedule``.
        problem: its noise range and end.
        num_steps: K.

    Raises:
        ValueError: a name or number that is not a base schedule, or a schedule for another noise range.
    """

    def __init__(self, base: float | str | Schedule, problem: Problem, num_steps: int) -> None:
        self.problem, self.num_steps = problem, num_steps
        if isinstance(base, str):
            check_name("base_schedule", base, ("closed_form",))
            reference = problem.reference(min(problem.num_noises, CLOSED_FORM_NOISES))
            base = closed_form(reference, CLOSED_FORM_STEPS)
        if isinstance(base, Schedule):
            base.check_range(problem.sigma_max, problem.sigma_end)
            self.sigma: Clock = base.interpolator()
        else:
            self.sigma = _ramp(base, problem, num_steps)

    def level(self, t: Tensor) -> Tensor:
        """Noise levels ``[B]`` at ``t: [B]``, the spent part of the budget; differentiable in it."""
        level: Tensor = _Level.apply(t, self.sigma)
        return level


class _Level(torch.autograd.Function):
    """A clock that knows no tensors, with its slope by differences."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, clock: Clock) -> Tensor:
        """``clock(t)``."""
        level = torch.from_numpy(clock(t.detach().cpu().numpy())).to(t)
        ctx.save_for_backward(t)
        ctx.clock = clock
        return level

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Central differences."""
        (t,) = ctx.saved_tensors
        places = t.detach().cpu().numpy()
        before, after = np.maximum(places - DIFFERENCE, 0.0), np.minimum(places + DIFFERENCE, 1.0)
        slope = (ctx.clock(after) - ctx.clock(before)) / (after - before)
        return grad * torch.from_numpy(slope).to(grad), None


def _ramp(rho: float, problem: Problem, num_steps: int) -> Clock:
    """Even steps of ``sigma^(1/rho)``; if the problem ends at 0, the last tick goes from ``sigma_min`` to 0."""
    try:
        value = float(rho)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"base_schedule = {rho!r} must be a positive number rho, 'closed_form' or a Schedule"
        )
    high, low = problem.sigma_max ** (1 / value), problem.sigma_min ** (1 / value)
    # K noise levels and then 0: the ramp takes all the ticks but the last.
    split = (
        (num_steps - 1) / num_steps if problem.final_sigmas_type == "zero" and problem.sigma_min > 0 else 1.0
    )

    def sigma_of(t: np.ndarray) -> np.ndarray:
        if split == 0.0:
            return np.asarray(problem.sigma_max * (1 - t))
        ramp = (high + np.minimum(t / split, 1.0) * (low - high)) ** value
        if split == 1.0:
            return np.asarray(ramp)
        return np.where(t > split, problem.sigma_min * (1 - t) / (1 - split), ramp)

    return sigma_of


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

    def next(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """``(t, sigma)`` after the step, ``[B]`` each, for ``action: [B]``."""

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

    def next(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Control``."""
        last = state.k >= self.base.num_steps - 1
        t = self._spend(state.t, (self.base.num_steps - state.k).to(state.t), action)
        t = torch.where(last, torch.ones_like(t), t)
        sigma = self.base.level(t)
        return t, torch.where(last, torch.full_like(sigma, self.problem.sigma_end), sigma)

    def speed(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Control``."""
        return (state.sigma - after.sigma) / self._dt

    def times(self, actions: Tensor) -> Tensor:
        """The spent part of the budget ``[K + 1, B]``, from 0 to 1, of whole episodes with ``actions: [B, K]``."""
        K = actions.shape[1]
        times = [torch.zeros_like(actions[:, 0])]
        for k in range(K - 1):
            times.append(self._spend(times[-1], torch.full_like(times[-1], K - k), actions[:, k]))
        return torch.stack([*times, torch.ones_like(times[0])])

    def levels(self, times: Tensor) -> Tensor:
        """Noise levels ``[K + 1, B]`` of whole episodes, for ``times: [K + 1, B]``."""
        levels = self.base.level(times.flatten()).reshape(times.shape)
        levels[0], levels[-1] = self.problem.sigma_max, self.problem.sigma_end
        return levels

    def _spend(self, t: Tensor, left: Tensor, action: Tensor) -> Tensor:
        """``t`` after a step with ``left`` steps left, all ``[B]``."""
        m = torch.exp2(self.action_range * action.clamp(-1, 1))
        t_next = t + (1.0 - t) * m / (m + left - 1.0)
        # Extreme actions must not round to a step of no length, nor to the end before the last step.
        return torch.clamp(t_next, t + MIN_SHARE, 1.0 - MIN_SHARE * (left - 1.0))


class Speed:
    """``control="speed"``: the action is the paper's raw theta.

    Sigma falls by ``theta T / K`` and is held within the range; it may miss the end, or reach it early.
    """

    name, bound, may_end_early = "speed", MAX_SPEED, True

    def __init__(self, problem: Problem, num_steps: int) -> None:
        self.problem = problem
        self._horizon = problem.sigma_max - problem.sigma_end
        self._dt = self._horizon / num_steps

    def next(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Control``."""
        sigma = (state.sigma - action * self._dt).clamp(self.problem.sigma_end, self.problem.sigma_max)
        return (self.problem.sigma_max - sigma) / self._horizon, sigma

    def speed(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Control``."""
        return action
