"""The native vector environment as a stable-baselines3 VecEnv, without a process or a Python loop per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn


class VectorEnvToSB3(VecEnv):
    """Adapter from a Gymnasium ``VectorEnv`` with ``AutoresetMode.SAME_STEP`` to SB3's ``VecEnv``.

    ``infos[i]`` holds ``terminal_observation`` and ``TimeLimit.truncated`` when row ``i`` has ended, as SB3's
    own vectorised environments do. Rewards are float32.

    Args:
        env: the vector environment; continuous or discrete actions, Box observations.

    Raises:
        ValueError: the environment resets in another mode.
    """

    def __init__(self, env: VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"autoreset_mode = {mode!r}; SB3 expects AutoresetMode.SAME_STEP: make the environment with "
                "autoreset_mode=AutoresetMode.SAME_STEP"
            )
        self.env = env
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Reset every row; seeds and options set before are used once."""
        options = next((o for o in self._options if o), None)
        # The first seed alone: the environment knows itself which rows shall meet the same noise.
        obs, infos = self.env.reset(seed=self._seeds[0], options=options)
        self.reset_infos = self._rows(infos, np.arange(self.num_envs))
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step every row at once."""
        assert self._actions is not None, "call step_async first"
        obs, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = terminated | truncated
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            final = infos["final_obs"]
            last = infos.get("final_info", {})
            ended = np.flatnonzero(dones)
            cut = (truncated & ~terminated).tolist()
            for i, row in zip(ended.tolist(), self._rows(last, ended), strict=True):
                rows[i] = row
                row["terminal_observation"] = final[i]
                row["TimeLimit.truncated"] = cut[i]
        return obs, rewards.astype(np.float32), dones, rows

    @staticmethod
    def _rows(infos: dict[str, Any], indices: np.ndarray) -> list[dict[str, Any]]:
        """Gymnasium's batched info as one dict a row."""
        rows: list[dict[str, Any]] = [{} for _ in indices]
        for key, value in infos.items():
            if key.startswith("_") or not isinstance(value, np.ndarray):
                continue
            mask = infos.get(f"_{key}")
            known = [True] * len(rows) if mask is None else mask[indices].tolist()
            for row, item, there in zip(rows, value[indices], known, strict=True):
                if there:
                    row[key] = item
        return rows

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the one environment behind all rows, once per index."""
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environment (it is shared by all rows)."""
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environment once; its result, once per index."""
        value = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """No row is wrapped by itself."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Frames of the rows that render."""
        return list(self.env.render() or [])  # type: ignore[arg-type]


def to_sb3(env: VectorEnv, monitor: bool = True) -> VecEnv:
    """A Gymnasium vector environment for SB3's agents, with episode statistics (``rollout/ep_rew_mean``).

    Args:
        env: made with ``autoreset_mode=AutoresetMode.SAME_STEP``.
        monitor: wrap it in ``VecMonitor``.
    """
    vec_env = VectorEnvToSB3(env)
    return VecMonitor(vec_env) if monitor else vec_env
