"""The native vector environment as a vector environment of Tianshou, without a Python loop over its workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from tianshou.env import BaseVectorEnv

Rows = int | Sequence[int] | np.ndarray | None


class VectorEnvToTianshou(BaseVectorEnv):
    """Adapter from a Gymnasium ``VectorEnv`` with ``AutoresetMode.DISABLED`` to Tianshou's ``BaseVectorEnv``.

    A ``Collector`` resets the rows that have ended. ``infos[i]["env_id"]`` is the row, as Tianshou expects.

    Args:
        env: the vector environment.

    Raises:
        ValueError: the environment resets in another mode.
    """

    def __init__(self, env: VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise ValueError(
                f"autoreset_mode = {mode!r}; Tianshou resets rows itself: make the environment with "
                "autoreset_mode=AutoresetMode.DISABLED"
            )
        # The base class would make a worker for each row.
        self.env, self.env_num = env, env.num_envs
        self.is_async, self.is_closed = False, False
        self.waiting_id: list[int] = []
        self._seed: int | list[int] | None = None

    def reset(self, env_id: Rows = None, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Start an episode in these rows; their observations ``[n, ...]`` and infos ``[n]``.

        Args:
            env_id: rows; None: all.
            kwargs: ``seed`` and ``options`` of the environment's ``reset``.
        """
        rows = self._rows(env_id)
        mask = np.zeros(self.env_num, dtype=np.bool_)
        mask[rows] = True
        seed, self._seed = kwargs.pop("seed", self._seed), None
        options = {**(kwargs.pop("options", None) or {}), "reset_mask": mask}
        observations, infos = self.env.reset(seed=seed, options=options, **kwargs)
        return observations[rows].copy(), self._split(infos, rows)

    def step(self, action: np.ndarray | None, id: Rows = None) -> tuple[np.ndarray, ...]:
        """Step every row; observations, rewards, terminated, truncated, infos, each ``[num_envs, ...]``.

        Raises:
            ValueError: ``id`` leaves out a row. Collect a multiple of ``num_envs`` steps or episodes: all episodes
                have one length, so that no row waits for another.
        """
        rows, given = self._rows(id), np.asarray(action, dtype=np.float32)
        if len(rows) < self.env_num:
            raise ValueError(
                f"id has {len(rows)} of {self.env_num} rows, which step together; collect a multiple of "
                f"{self.env_num} steps or episodes"
            )
        actions = np.empty((self.env_num, *given.shape[1:]), dtype=np.float32)
        actions[rows] = given
        *results, infos = self.env.step(actions)
        return *(result[rows].copy() for result in results), self._split(infos, rows)

    def seed(self, seed: int | list[int] | None = None) -> list[int | None]:
        """Seed the rows at the next reset: row i with ``seed + i``, or with entry i of a list."""
        self._seed = seed
        if isinstance(seed, int):
            return [seed + row for row in range(self.env_num)]
        return [None] * self.env_num if seed is None else list(seed)

    def get_env_attr(self, key: str, id: Rows = None) -> list[Any]:
        """The attribute of one row's environment, once for each row; spaces are those of one row."""
        value = getattr(self.env, f"single_{key}" if key.endswith("_space") else key)
        return [value for _ in self._rows(id)]

    def set_env_attr(self, key: str, value: Any, id: Rows = None) -> None:
        """Set an attribute of the environment, which all rows share."""
        setattr(self.env, key, value)

    def render(self, **kwargs: Any) -> list[Any]:
        """Frames of the rows, if the environment renders."""
        return list(self.env.render() or [])

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
        self.is_closed = True

    def _rows(self, rows: Rows) -> np.ndarray:
        return np.arange(self.env_num) if rows is None else np.atleast_1d(np.asarray(rows, dtype=np.int64))

    @staticmethod
    def _split(infos: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        """Gymnasium's batched info as one dict a row."""
        values = {key: value[rows] for key, value in infos.items() if not key.startswith("_")}
        split = [{"env_id": int(row)} for row in rows]
        for i, info in enumerate(split):
            info.update({key: value[i] for key, value in values.items()})
        return np.array(split, dtype=object)


def to_tianshou(env: VectorEnv) -> VectorEnvToTianshou:
    """A Gymnasium vector environment for Tianshou's collectors.

    Args:
        env: made with ``autoreset_mode=AutoresetMode.DISABLED``.

    Raises:
        ValueError: the environment resets in another mode.
    """
    return VectorEnvToTianshou(env)
