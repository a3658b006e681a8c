"""A schedule as a policy: the actions that walk its noise levels, with its weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from art_env.envs.base_schedule import Clock
from art_env.envs.dynamics import Dynamics
from art_env.schedules.schedule import Schedule, pad_weights


class SchedulePolicy:
    """A schedule as an agent: its actions make the environment walk down exactly this list.

    Args:
        schedule: of the environment's K and noise range.
        env: a ``Dynamics``, or an environment that has one as ``dynamics``.

    Attributes:
        actions: ``[K, A]`` float32, the action of each step. Weights that the schedule does not have are the
            solver's default.

    Raises:
        TypeError: ``env`` is neither.
        ValueError: another K or noise range, weights for another solver, or (``control="log_speed"``) a step that
            needs an action outside [-1, 1]; names the step and the ``action_range`` that would do.
    """

    def __init__(self, schedule: Schedule, env: Any) -> None:
        dynamics = env
        if not isinstance(env, Dynamics):
            dynamics = getattr(getattr(env, "unwrapped", env), "dynamics", None)
        if not isinstance(dynamics, Dynamics):
            raise TypeError(f"env is {type(env).__name__}; pass an ART environment or its dynamics")
        if dynamics.num_steps != schedule.num_steps:
            raise ValueError(
                f"schedule {schedule.name!r} has {schedule.num_steps} steps, the environment "
                f"num_steps={dynamics.num_steps}; use schedule.resample({dynamics.num_steps})"
            )
        schedule.check_range(dynamics.problem.sigma_max, dynamics.problem.sigma_end)
        self.schedule = schedule
        self.num_steps = schedule.num_steps
        if dynamics.control == "log_speed":
            targets = _invert(dynamics.base.sigma, schedule.sigmas)
            speeds = _log_speed_actions(schedule, dynamics, targets)
            self.actions = np.concatenate([speeds[:, None], _weight_actions(schedule, dynamics, targets)], 1)
        else:
            self.actions = _speed_actions(schedule, dynamics)[:, None]

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        """The call of Stable-Baselines3's agents: ``[B, n]`` in, actions ``[B, A]`` float32 out.

        Only time, the first entry, is read. A single observation ``[n]`` gives a single action ``[A]``.
        """
        time = np.asarray(observation, dtype=np.float64)[..., 0]
        k = np.clip(np.rint(time * self.num_steps), 0, self.num_steps - 1).astype(np.int64)
        return self.actions[k], None


def _invert(clock: Clock, sigmas: np.ndarray) -> np.ndarray:
    """``t`` with ``clock(t) = sigmas``, by bisection (the clock falls from t = 0 to t = 1)."""
    low, high = np.zeros(len(sigmas)), np.ones(len(sigmas))
    for _ in range(100):
        mid = (low + high) / 2
        above = clock(mid) > sigmas
        low, high = np.where(above, mid, low), np.where(above, high, mid)
    return (low + high) / 2


def _weight_actions(schedule: Schedule, dynamics: Dynamics, targets: np.ndarray) -> np.ndarray:
    """``[K, m]``, for noise levels that are reached when ``targets: [K + 1]`` of the budget are spent."""
    K, m = schedule.num_steps, dynamics.solver.num_weights
    actions = np.zeros((K, m), dtype=np.float32)
    if schedule.weights is None:
        return actions
    if dynamics.weight_rule is None or schedule.weights.shape[1] > m:
        raise ValueError(
            f"schedule {schedule.name!r} has weights for solver={schedule.solver!r}, the environment has "
            f"solver={dynamics.solver.name!r}; make it with the schedule's"
        )
    weights = pad_weights(schedule.weights, m)
    wanted = dynamics.weight_rule.table_actions(torch.from_numpy(weights), torch.from_numpy(targets)).numpy()
    used = dynamics.solver.used_weights(K)
    far = np.argwhere(used & (np.abs(wanted) > 1 + 1e-6))
    if len(far):
        k, j = (int(i) for i in far[0])
        raise ValueError(
            f"schedule {schedule.name!r}, step {k} needs weight {weights[k, j]:.4g}, whose action "
            f"{wanted[k, j]:.3f} is outside [-1, 1]; use a schedule with smaller weights"
        )
    actions[used] = np.clip(wanted[used], -1, 1)
    return actions


def _log_speed_actions(schedule: Schedule, dynamics: Dynamics, targets: np.ndarray) -> np.ndarray:
    K, c = schedule.num_steps, dynamics.config.action_range
    _check_reach(schedule, targets, c)
    actions = np.zeros(K, dtype=np.float32)
    t = 0.0
    for k in range(K - 1):  # the last step spends what is left
        actions[k] = np.clip(_octaves(t, targets[k + 1], K - k) / c, -1, 1)
        # Follow the rounded action, so that the next one makes up for the rounding.
        m = 2.0 ** (c * float(actions[k]))
        t += (1.0 - t) * m / (m + K - k - 1.0)
    return actions


def _octaves(t: float, t_next: float, left: int) -> float:
    """``log2 m``, where a step with ``left`` steps left takes the share ``m / (m + left - 1)``."""
    share = (t_next - t) / (1.0 - t)
    return math.log2(share * (left - 1) / (1.0 - share)) if 0 < share < 1 else math.inf


def _check_reach(schedule: Schedule, targets: np.ndarray, action_range: float) -> None:
    K = schedule.num_steps
    octaves = [_octaves(targets[k], targets[k + 1], K - k) for k in range(K - 1)]
    need = max((abs(o) for o in octaves), default=0.0)
    for k, o in enumerate(octaves):
        if abs(o) > action_range * (1 + 1e-6):
            span = f"{schedule.sigmas[k]:.4g} -> {schedule.sigmas[k + 1]:.4g}"
            fix = f"action_range={math.ceil(need * 10) / 10:g} or " if math.isfinite(need) else ""
            raise ValueError(
                f"schedule {schedule.name!r}, step {k} ({span}) needs action {o / action_range:.3f}, outside "
                f"[-1, 1]; make the environment with {fix}base_schedule=schedule"
            )


def _speed_actions(schedule: Schedule, dynamics: Dynamics) -> np.ndarray:
    K = schedule.num_steps
    actions = np.zeros(K, dtype=np.float32)
    sigma, dt = dynamics.problem.sigma_max, dynamics.horizon / K
    for k in range(K):
        actions[k] = (sigma - schedule.sigmas[k + 1]) / dt
        sigma -= float(actions[k]) * dt
    # A hair too fast: the clock is held at the end, and so meets it exactly.
    actions[-1] = np.nextafter(actions[-1], np.float32(np.inf))
    return actions
