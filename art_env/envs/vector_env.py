"""``ARTVectorEnv``: many copies of the environment that step together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from art_env._util.names import check_name
from art_env.envs.base import METADATA, BaseEnv
from art_env.envs.config import EnvConfig
from art_env.envs.render import draw
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
        config, render_mode, settings: as ``ARTEnv``.

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
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"num_envs = {num_envs!r} must be a whole number of at least 1")
        if noise_groups < 1 or num_envs % noise_groups:
            raise ValueError(f"noise_groups = {noise_groups} must divide num_envs = {num_envs}")
        self.num_envs = int(num_envs)
        self.noise_groups = int(noise_groups)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        members = self.num_envs // self.noise_groups
        self.single_observation_space, self.single_action_space = self._set_up(
            config, render_mode, settings, group_size=members
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators: list[np.random.Generator] = []
        self._state: State | None = None
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
        fresh = self._begin(rows, options)
        self._state = fresh if len(rows) == self.num_envs else self._merge(fresh, rows)
        self._done[rows] = False
        if mask[0]:
            self._remember(self._state, 0.0, first=True)
        return self._get_obs(), self._masked(self._arrays(self.dynamics.state_info(self._state)), mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one solver step in every row; ``actions: [num_envs, A]``.

        Raises:
            ValueError: actions of the wrong shape, or not finite.
            RuntimeError: ``reset`` has not been called, or (``DISABLED``) a row has ended and was not reset.
            DenoiserError: the model returned something that is not finite; names problem, sigma and step.
        """
        if self._state is None:
            raise RuntimeError("step without an episode: call reset() first")
        tensor = self._actions(actions, self.num_envs)
        ended = self._done.copy()
        if ended.any() and self.autoreset_mode == AutoresetMode.DISABLED:
            raise RuntimeError(
                f"step after the end of row {int(np.flatnonzero(ended)[0])}: "
                'reset it first, reset(options={"reset_mask": terminated})'
            )
        live = np.flatnonzero(~ended)
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        infos: dict[str, Any] = {}
        if len(live):
            whole = len(live) == self.num_envs
            pick = torch.from_numpy(live).to(self.dynamics.device)
            before = self._state if whole else State(*(v[pick] for v in self._state))
            acted = tensor if whole else tensor[pick]
            after = self.dynamics.transition(before, acted)
            earned = self.dynamics.reward(before, acted, after)
            self._state = after if whole else self._merge(after, live)
            rewards[live] = earned.cpu().numpy()
            terminated[live] = self.dynamics.terminal(after).cpu().numpy()
            if not ended[0]:
                self._remember(self._state, float(rewards[0]), first=False)
            info = self._arrays(self.dynamics.state_info(self._state))
            for name, value in self._arrays(self.dynamics.transition_info(before, earned)).items():
                info[name] = np.zeros(self.num_envs)
                info[name][live] = value
            infos = self._masked(info, ~ended)
            if terminated.any():
                infos.update(self._masked(self._arrays(self.dynamics.final_info(self._state)), terminated))
        if ended.any():  # NEXT_STEP: the step after the end starts the next episode
            rows = np.flatnonzero(ended)
            self._state = self._merge(self._begin(rows, {}), rows)
            if ended[0]:
                self._remember(self._state, 0.0, first=True)
            for key, value in self._masked(
                self._arrays(self.dynamics.state_info(self._state)), ended
            ).items():
                if key in infos:
                    infos[key] = np.where(ended, value, infos[key])
                else:
                    infos[key] = value
        self._done = terminated.copy()
        obs = self._get_obs()
        if terminated.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(terminated):
                final[i] = obs[i].copy()
            last = {k: v for k, v in infos.items() if not k.startswith("_")}
            rows = np.flatnonzero(terminated)
            self._state = self._merge(self._begin(rows, {}), rows)
            self._done[:] = False
            if terminated[0]:
                self._remember(self._state, 0.0, first=True)
            started = self._arrays(self.dynamics.state_info(self._state))
            infos = {
                **self._masked(
                    {k: np.where(terminated, started[k], v) for k, v in last.items() if k in started},
                    np.ones(self.num_envs, dtype=np.bool_),
                ),
                "final_obs": final,
                "_final_obs": terminated.copy(),
                "final_info": self._masked(last, terminated),
                "_final_info": terminated.copy(),
            }
            if "local_error" in last and not terminated.all():
                infos.update(self._masked({"local_error": last["local_error"]}, ~terminated))
            obs = self._get_obs()
        return obs, rewards, terminated, truncated, infos

    def save_state(self) -> dict[str, Any]:
        """All that later episodes and the one under way depend on: numbers, arrays and tensors by name."""
        return {
            "generators": [generator.bit_generator.state for generator in self._generators],
            "trajectories": None if self._state is None else self._state._asdict(),
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
        self._done = state["done"]
        self.dynamics.denoiser.evals = state["denoiser_evals"]

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame, of row 0, with ``render_mode="rgb_array"``."""
        return (draw(self.dynamics, self._frames),) if self.render_mode == "rgb_array" else None

    def _begin(self, rows: np.ndarray, options: dict[str, Any]) -> State:
        x, index = self._starts([self._generators[i] for i in rows], options)
        return self.dynamics.initial(x, index)

    def _merge(self, part: State, rows: np.ndarray) -> State:
        """The state with ``rows`` replaced by those of ``part``."""
        if len(rows) == self.num_envs:
            return part
        assert self._state is not None
        pick = torch.from_numpy(rows).to(self.dynamics.device)
        return State(*(old.index_copy(0, pick, new) for old, new in zip(self._state, part, strict=True)))

    def _get_obs(self) -> np.ndarray:
        assert self._state is not None
        return self.dynamics.observation(self._state).cpu().numpy()

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        members = self.num_envs // self.noise_groups
        if isinstance(seed, (int, np.integer)):
            seeds: list[int | None] = [int(seed) + i % members for i in range(self.num_envs)]
        elif seed is None:
            if self._generators:
                return
            first = seeding.np_random(None)[1] % 2**31
            seeds = [first + i % members for i in range(self.num_envs)]
        else:
            seeds = list(seed)
            if len(seeds) != self.num_envs:
                raise ValueError(
                    f"seed has {len(seeds)} entries; give one int, or num_envs = {self.num_envs}"
                )
        if not self._generators:
            self._generators = [seeding.np_random(s)[0] for s in seeds]
            return
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._generators[i] = seeding.np_random(seeds[i])[0]

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

    @staticmethod
    def _masked(info: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
        """Gymnasium's batched info: each key with its mask, zeros where it is not set."""
        out: dict[str, Any] = {}
        for key, value in info.items():
            out[key] = np.where(mask, value, np.zeros_like(value))
            out[f"_{key}"] = mask.copy()
        return out


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    names = {m.name: m for m in AutoresetMode} | {m.value: m for m in AutoresetMode}
    check_name("autoreset_mode", mode, names)
    return names[mode]
