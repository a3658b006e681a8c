"""The vector environment whose rows are stepped by workers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.distributed.shares import places_of
from agents.distributed.workers import Workers
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.envs.rewards import LocalReward
from art_env.envs.state import State
from art_env.envs.vector_env import ARTVectorEnv

# Where a step began: a worker does not read it, and the caller knows it.
BEGINS = ("x_before", "sigma_before", "d_before")


class Steps:
    """What a worker does of ``Dynamics``; states come and go without where their last step began.

    Args:
        dynamics: the worker's copy.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics, self.reward = dynamics, dynamics.reward

    def initial(self, x: Tensor | None, index: Tensor | None) -> State:
        """See ``Dynamics``."""
        return _light(self.dynamics.initial(x, index))

    def transition(self, state: State, action: Tensor) -> State:
        """See ``Dynamics``."""
        return _light(self.dynamics.transition(state, action))


class ShardedDynamics(Dynamics):
    """``Dynamics`` whose steps are taken by workers.

    They are pure functions of states and actions, so that a worker keeps nothing from one step to the next. What
    travels is the state of each row, there and back. What costs no evaluation is computed here.

    Args:
        dynamics: every worker gets a copy of them.
        workers: they step.
    """

    def __init__(self, dynamics: Dynamics, workers: Workers) -> None:
        vars(self).update(vars(dynamics))
        self._count = workers.count
        self._held = workers.hold(Steps(dynamics), dynamics.stepper.counter)

    def initial(self, x: Tensor | None = None, index: Tensor | None = None) -> State:
        """See ``Dynamics``."""
        if x is not None and index is None and self.noise is not None:
            index = torch.arange(len(x), device=x.device)
        rows = x if index is None else index
        if rows is None:
            return super().initial()  # says what is missing
        places = places_of(len(rows), self._count)
        shares = [tuple(v if v is None else v[p] for v in (x, index)) for p in places]
        start = _joined(self._held.map("initial", shares))
        return start._replace(x_before=start.x, sigma_before=start.sigma, d_before=start.d)

    def transition(self, state: State, action: Tensor) -> State:
        """See ``Dynamics``."""
        light, places = _light(state), places_of(len(action), self._count)
        after = _joined(self._held.map("transition", [(_part(light, p), action[p]) for p in places]))
        return after._replace(x_before=state.x, sigma_before=state.sigma, d_before=state.d)

    def reward(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Dynamics``; only a reward that costs evaluations is asked of the workers."""
        if not isinstance(self.reward_rule, LocalReward):
            return super().reward(state, action, after)
        places = places_of(len(action), self._count)
        state, after = _light(state), _light(after)
        shares = [(_part(state, p), action[p], _part(after, p)) for p in places]
        return torch.cat(self._held.map("reward", shares))


class ShardedVectorEnv(ARTVectorEnv):
    """``ARTVectorEnv`` whose rows are stepped by workers, each its share.

    Args:
        workers: they step.
        num_envs, config, settings: as ``ARTVectorEnv``.
    """

    def __init__(self, workers: Workers, num_envs: int, config: EnvConfig, **settings: Any) -> None:
        self._workers = workers
        super().__init__(num_envs, config, **settings)

    def _make_dynamics(self) -> Dynamics:
        return ShardedDynamics(super()._make_dynamics(), self._workers)


def _light(state: State) -> State:
    """The same without where the last step began."""
    return state._replace(**dict.fromkeys(BEGINS, state.sigma[:, None][:, :0]))


def _part(state: State, place: slice) -> State:
    return State(*(value[place] for value in state))


def _joined(parts: list[State]) -> State:
    """The rows of all parts, one after the other."""
    return State(*(torch.cat(values) for values in zip(*parts, strict=True)))
