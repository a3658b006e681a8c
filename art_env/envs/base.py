"""``BaseEnv``: spaces and input checks that the scalar and the vectorised environment share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name, unknown_name
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.envs.render import Frame, draw
from art_env.envs.state import State
from art_env.problems.problem import Problem

METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}


def _draw(problem: Problem, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """An initial noise from each generator, ``[n, *shape]``."""
    if problem.given is None:
        return problem.prior_std * np.stack([g.standard_normal(problem.shape) for g in generators])
    rows = [problem.sample_noise(1, int(g.integers(2**31))) for g in generators]
    return torch.cat(rows).cpu().numpy()


class BaseEnv:
    """Settings, spaces and input checks of both environments.

    A pickled environment is its settings and the state of its episodes. The pool of exact trajectories is a function
    of the settings, and is made again where the environment is used first.
    """

    render_mode: str | None
    _state: State | None
    _dynamics: Dynamics | None
    _frames: list[list[Frame]]

    def _set_up(
        self,
        config: EnvConfig | None,
        render_mode: str | None,
        settings: dict[str, Any],
        num_rows: int = 1,
        group_size: int = 1,
    ) -> tuple[gym.spaces.Box, gym.spaces.Box]:
        """Observation and action space of one row."""
        if render_mode is not None:
            check_name("render_mode", render_mode, METADATA["render_modes"])
        self.render_mode = render_mode
        self._config, self._group_size, self._evals = EnvConfig.make(config, **settings), group_size, 0
        self._dynamics = self._make_dynamics()
        self._state, self._frames = None, [[] for _ in range(num_rows)]
        observer, bound = self.dynamics.observer, self.dynamics.control_rule.bound
        return (
            gym.spaces.Box(observer.low, observer.high, dtype=np.float32),
            gym.spaces.Box(-bound, bound, (self.dynamics.num_actions,), np.float32),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dynamics": None, "_evals": self.denoiser_evals}

    @property
    def dynamics(self) -> Dynamics:
        """The control problem as pure functions."""
        if self._dynamics is None:
            self._dynamics = self._make_dynamics()
        return self._dynamics

    def _make_dynamics(self) -> Dynamics:
        return Dynamics(self._config, group_size=self._group_size)

    @property
    def num_steps(self) -> int:
        """K, the length of every episode."""
        return self._config.num_steps

    @property
    def control(self) -> str:
        """``log_speed`` or ``speed``."""
        return self._config.control

    @property
    def reward_name(self) -> str:
        """``euler``, ``local``, ``global`` or ``log_global``."""
        return self._config.reward

    @property
    def horizon(self) -> float:
        """The paper's T: ``sigma_max`` minus the last noise level."""
        return self.dynamics.horizon

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the entries of the observation."""
        return self.dynamics.observer.names

    @property
    def denoiser_evals(self) -> int:
        """Rows that have passed the network so far, rewards included, reference trajectories not."""
        return self._evals + (0 if self._dynamics is None else self._dynamics.stepper.counter.evals)

    def _actions(self, action: Any, num_rows: int) -> Tensor:
        try:
            array = np.asarray(action)
            if array.dtype.kind not in "iuf":  # NumPy makes numbers of texts and booleans
                raise TypeError(f"entries of type {array.dtype}")
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"action = {action!r} is not an array of numbers") from error
        A = self.dynamics.num_actions
        want = (A,) if num_rows == 0 else (num_rows, A)
        if array.shape != want:
            raise ValueError(f"action has shape {array.shape}; expected {want}")
        if not np.isfinite(array).all():
            place = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(
                f"action[{place // (A if num_rows else 1)}] = {array.flat[place]} is not finite; "
                "the policy has diverged, or its input was NaN"
            )
        bound = self.dynamics.control_rule.bound  # far beyond it the reward would not be finite
        array = array.clip(-bound, bound)
        return torch.from_numpy(array.reshape(-1, A)).to(self.dynamics.device)

    def _starts(
        self,
        generators: Sequence[np.random.Generator],
        options: dict[str, Any] | None,
        draw_index: Callable[[int], np.ndarray],
    ) -> tuple[Tensor | None, Tensor | None]:
        """``(x, index)`` for ``Dynamics.initial``, one row per generator; validates the options.

        ``draw_index(n)`` draws numbers below ``n`` for these rows, from the same generators.
        """
        options = dict(options or {})
        dynamics, problem = self.dynamics, self.dynamics.problem
        known = ["noise_index" if dynamics.reference is not None else "x"]
        for key in options:
            if key not in known:
                raise ValueError(unknown_name("reset option", key, known))
        n = len(generators)
        if dynamics.reference is not None:
            pool = dynamics.reference.num_noises
            if "noise_index" in options:
                value = np.asarray(options["noise_index"])
                whole = np.issubdtype(value.dtype, np.integer) and value.shape in ((), (n,))
                if not whole or value.min() < 0 or value.max() >= pool:
                    raise ValueError(
                        f"noise_index = {options['noise_index']!r} must be whole numbers from 0 to {pool - 1}"
                        f", one or {n}"
                    )
                index = np.broadcast_to(value, (n,)).astype(np.int64)
            else:
                index = draw_index(pool)
            return None, torch.from_numpy(np.array(index)).to(dynamics.device)
        if "x" in options:
            x = np.asarray(options["x"], dtype=np.float64)
            if x.shape == problem.shape:
                x = np.broadcast_to(x, (n, *problem.shape))
            if x.shape != (n, *problem.shape) or not np.isfinite(x).all():
                raise ValueError(
                    f"x has shape {x.shape}; expected {problem.shape} or {(n, *problem.shape)}, all finite"
                )
        else:
            x = _draw(problem, generators)
        rows: Tensor | None = None
        if dynamics.noise is not None:
            drawn = np.array([g.integers(dynamics.pool_size) for g in generators], dtype=np.int64)
            rows = torch.from_numpy(drawn).to(dynamics.device)
        return torch.from_numpy(np.array(x)).to(dynamics.device), rows

    def _get_obs(self) -> np.ndarray:
        """``[B, n]``."""
        assert self._state is not None
        return self.dynamics.observation(self._state).cpu().numpy()

    def _get_info(self, reward: Tensor) -> dict[str, np.ndarray]:
        """``[B]`` each; ``reward: [B]``, of the last step (0 after a reset)."""
        assert self._state is not None
        info = self.dynamics.info(self._state, reward)
        return {key: value.cpu().numpy().copy() for key, value in info.items()}  # the caller's own

    def _remember(self, rows: Sequence[int] | np.ndarray, reward: Tensor | None = None) -> None:
        """Keep the state of these rows for ``render``; ``reward: [B]``, of the step into it, None: a start."""
        if self.render_mode is None:
            return
        assert self._state is not None
        error, sigma = torch.sqrt(self._state.error).tolist(), self._state.sigma.tolist()
        for i in rows:
            if reward is None:
                self._frames[i] = []
            self._frames[i].append(
                Frame(
                    sigma[i],
                    error[i] if self.dynamics.paired else None,
                    0.0 if reward is None else float(reward[i]),
                )
            )

    def _draw(self) -> tuple[np.ndarray, ...] | None:
        """A picture of each row, with ``render_mode="rgb_array"``.

        Raises:
            RuntimeError: no episode has begun.
        """
        if self.render_mode is None:
            return None
        return tuple(draw(self.dynamics, frames) for frames in self._frames)
