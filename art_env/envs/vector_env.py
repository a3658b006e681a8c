"""``ARTVectorEnv``: many copies of the environment that step together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from art_env._util.names import check_name
from art_env.envs.base import METADATA, BaseEnv
from art_env.envs.config import EnvConfig
from art_env.envs.index_streams import IndexStreams
from art_env.envs.state import State


class ARTVectorEnv(BaseEnv, VectorEnv):
    """``num_envs`` copies of ``ARTEnv`` that step together, in one denoiser call a stage.

    Row ``i`` with ``reset(seed=s)`` is ``ARTEnv`` with ``reset(seed=s + i)``.

    Args:
        num_envs: rows.
        autoreset_mode: ``NEXT_STEP`` (default), ``SAME_STEP`` or ``DISABLED`` (then reset with
            ``options={"reset_mask": bool[num_envs]}``), as a member or its name.
        noise_groups: the rows are that many groups that meet the same initial noises: row ``i`` is seeded with
            ``s + i % (num_envs / noise_groups)``, so groups differ by their actions only. The ``"global"`` reward
            of a stochastic solver is that of a group.
        max_episode_steps: rows are ``truncated`` after so many steps, as by Gymnasium's ``TimeLimit``; None: never.
        config: as ``ARTEnv``.
        render_mode: as ``ARTEnv``.
        **settings: as ``ARTEnv``.

    Raises:
        ValueError, TypeError: a setting that is not understood; names it, its value and the fix.
    """

    metadata: dict[str, Any] = {**METADATA, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        config: EnvConfig | None = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        noise_groups: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"num_envs = {num_envs!r} must be a whole number of at least 1")
        if noise_groups < 1 or num_envs % noise_groups:
            raise ValueError(f"noise_groups = {noise_groups} must divide num_envs = {num_envs}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps = {max_episode_steps} must be at least 1, or None")
        self.num_envs = int(num_envs)
        self.max_episode_steps = max_episode_steps
        self.noise_groups = int(noise_groups)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        members = self.num_envs // self.noise_groups
        self.single_observation_space, self.single_action_space = self._set_up(
            config, render_mode, settings, num_rows=self.num_envs, group_size=members
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators: list[np.random.Generator] = []
        self._streams: IndexStreams | None = None
        self._rewards = torch.zeros(self.num_envs, dtype=torch.float64)
        self._done = np.zeros(self.num_envs, dtype=np.bool_)

    @property
    def num_initial_noises(self) -> int:
        """How many initial noises ``options={"noise_index": int[num_envs]}`` chooses from; 0: there is no choice.

        There is none without exact trajectories, nor where samples are judged as one set.
        """
        return self.dynamics.pool_size if self.dynamics.paired else 0

    @property
    def distributions(self) -> np.ndarray | None:
        """``[num_initial_noises]``, the number of the data distribution of each; None: all have the same."""
        dynamics = self.dynamics
        which = getattr(dynamics.problem.denoiser, "which", None)
        if which is None or not dynamics.paired or dynamics.reference is None:
            return None
        return np.asarray(which(dynamics.reference.start).cpu().numpy())

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every row, or in those of ``options["reset_mask"]: bool[num_envs]``.

        Raises:
            ValueError, TypeError: seeds, mask or options that are not understood.
        """
        options = dict(options or {})
        mask = self._reset_mask(options.pop("reset_mask", None))
        self._seed(seed, mask)
        rows = np.flatnonzero(mask)
        if self.dynamics.compares_groups:
            by_group = mask.reshape(self.noise_groups, -1)
            if (by_group != by_group[:, :1]).any():
                name = self.dynamics.solver.name
                raise ValueError(
                    f"options['reset_mask'] takes a part of a group; with solver = {name!r} and reward = 'global' "
                    f"the {by_group.shape[1]} rows of a group must be reset together"
                )
        if self._state is None and len(rows) < self.num_envs:
            raise ValueError("reset_mask before the first reset: reset every row once first")
        self._start(rows, options)
        self._done[rows] = False
        return self._get_obs(), _masked(self._get_info(self._rewards), mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every row; ``actions: [num_envs, A]``.

        Raises:
            ValueError: actions of the wrong shape, or not finite.
            RuntimeError: no episode is under way, or (``DISABLED``) a row has ended and was not reset.
            DenoiserError: the model returned something that is not finite; names problem, sigma and step.
        """
        if self._state is None:
            raise RuntimeError("step without an episode: call reset() first")
        tensor = self._actions(actions, self.num_envs)
        ended = np.flatnonzero(self._done)
        if len(ended) and self.autoreset_mode == AutoresetMode.DISABLED:
            raise RuntimeError(
                f"step after the end of row {ended[0]}: "
                'reset it first, reset(options={"reset_mask": terminated | truncated})'
            )
        if len(ended) < self.num_envs:
            self._advance(np.flatnonzero(~self._done), tensor)
        if len(ended):  # NEXT_STEP: the step after the end starts the next episode
            self._start(ended, {})
        rewards = self._rewards.cpu().numpy()
        terminated = self.dynamics.terminal(self._state).cpu().numpy()
        truncated = self._truncated()
        self._done = terminated | truncated
        obs, infos = self._get_obs(), _masked(self._get_info(self._rewards))
        if self._done.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            obs, infos = self._restart(self._done, obs, infos)
            self._done = np.zeros_like(self._done)
        return obs, rewards, terminated, truncated, infos

    def save_state(self) -> dict[str, Any]:
        """All that later episodes and the one under way depend on: numbers, arrays and tensors by name."""
        return {
            "generators": [generator.bit_generator.state for generator in self._generators],
            "trajectories": None if self._state is None else self._state._asdict(),
            "streams": None if self._streams is None else self._streams.save_state(),
            "rewards": self._rewards,
            "done": self._done,
            "denoiser_evals": self.denoiser_evals,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``save_state`` of an environment with the same settings gave; it has been reset before.

        Raises:
            ValueError: of another number of rows.
        """
        if len(state["done"]) != self.num_envs or len(state["generators"]) != len(self._generators):
            raise ValueError(
                f"the state is of {len(state['done'])} rows, the environment has {self.num_envs}"
            )
        for generator, kept in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = kept
        kept = state["trajectories"]
        self._state = (
            None if kept is None else State(**{k: v.to(self.dynamics.device) for k, v in kept.items()})
        )
        self._rewards = state["rewards"].to(self.dynamics.device)
        self._done = state["done"]
        self._streams = None
        if state["streams"] is not None:
            self._indices(self.dynamics.pool_size).load_state(state["streams"])
        self._evals = state["denoiser_evals"] - self.dynamics.stepper.counter.evals

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A frame of each row, ``[H, W, 3]`` uint8, with ``render_mode="rgb_array"``, else None."""
        return self._draw()

    def _advance(self, rows: np.ndarray, actions: Tensor) -> None:
        """One solver step of these rows; the others earn 0."""
        assert self._state is not None
        before, pick = self._state, self._pick(rows)
        if pick is not None:
            before, actions = before.pick(pick), actions[pick]
        after = self.dynamics.transition(before, actions)
        earned = self.dynamics.reward(before, actions, after)
        if pick is None:
            self._state, self._rewards = after, earned
        else:
            self._state = self._state.put(pick, after)
            self._rewards = torch.zeros_like(self._state.t).index_copy(0, pick, earned)
        self._remember(rows, self._rewards)

    def _start(self, rows: np.ndarray, options: dict[str, Any]) -> None:
        """Begin an episode in these rows."""
        generators = [self._generators[i] for i in rows]
        x, index = self._starts(generators, options, lambda n: self._indices(n).draw(rows))
        fresh, pick = self.dynamics.initial(x, index), self._pick(rows)
        if self._state is None or pick is None:
            self._state, self._rewards = fresh, torch.zeros_like(fresh.t)
        else:
            self._state = self._state.put(pick, fresh)
            self._rewards = self._rewards.index_fill(0, pick, 0.0)
        self._remember(rows)

    def _indices(self, bound: int) -> IndexStreams:
        """Numbers below ``bound``, the size of the pool, for each row."""
        if self._streams is None:
            self._streams = IndexStreams(self._generators, bound)
        return self._streams

    def _restart(
        self, done: np.ndarray, obs: np.ndarray, infos: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """``SAME_STEP``: begin again where ``done``; what these rows ended with goes along in ``infos``."""
        final = np.full(self.num_envs, None, dtype=object)
        rows = np.flatnonzero(done)
        for i, row in zip(rows, obs[rows], strict=True):
            final[i] = row
        last = {key: value for key, value in infos.items() if not key.startswith("_")}
        self._start(rows, {})
        infos = _masked(self._get_info(self._rewards))
        infos |= {
            "final_obs": final,
            "_final_obs": done,
            "final_info": _masked(last, done),
            "_final_info": done,
        }
        return self._get_obs(), infos

    def _truncated(self) -> np.ndarray:
        """``[num_envs]`` bool: rows that have taken ``max_episode_steps``."""
        assert self._state is not None
        if self.max_episode_steps is None or self.max_episode_steps > self.num_steps:
            return np.zeros(self.num_envs, dtype=np.bool_)
        return (self._state.k >= self.max_episode_steps).cpu().numpy()

    def _pick(self, rows: np.ndarray) -> Tensor | None:
        """``rows`` on the device; None: all of them."""
        return None if len(rows) == self.num_envs else torch.from_numpy(rows).to(self.dynamics.device)

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        members = self.num_envs // self.noise_groups
        if seed is None:
            if self._generators:
                return
            first = int(self.np_random.integers(2**31))
            seeds: list[int | None] = [first + i % members for i in range(self.num_envs)]
        elif isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
            seeds = [int(seed) + i % members for i in range(self.num_envs)]
        else:
            seeds = list(seed)
            if len(seeds) != self.num_envs:
                raise ValueError(
                    f"seed has {len(seeds)} entries; give one int, or num_envs = {self.num_envs}"
                )
            super().reset(seed=seeds[0])
        if not self._generators:
            self._generators = [seeding.np_random(s)[0] for s in seeds]
            return
        rows = np.array([i for i in np.flatnonzero(mask) if seeds[i] is not None], dtype=np.int64)
        for i in rows:
            self._generators[i] = seeding.np_random(seeds[i])[0]
        if self._streams is not None:
            self._streams.restart(rows)

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] must be a numpy array of bool, not {type(mask).__name__}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have shape ({self.num_envs},) and a True in it; "
                f"got {mask.shape}, {int(mask.sum())} True"
            )
        return mask


def _masked(info: dict[str, np.ndarray], mask: np.ndarray | None = None) -> dict[str, Any]:
    """Gymnasium's batched info: each key with its mask (None: every row), zeros where it is not set."""
    if mask is not None:
        info = {key: np.where(mask, value, 0) for key, value in info.items()}
    known = np.ones(len(info["sigma"]), dtype=np.bool_) if mask is None else mask.copy()
    return info | {f"_{key}": known for key in info}


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    names = {m.name: m for m in AutoresetMode} | {m.value: m for m in AutoresetMode}
    check_name("autoreset_mode", mode, names)
    return names[mode]
