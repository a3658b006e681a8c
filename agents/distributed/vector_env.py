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

# A step does not read where the last one began, so that does not travel.
UNREAD = ("x_before", "sigma_before", "d_before")


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
        self._held = workers.hold(dynamics, dynamics.stepper.counter)

    def initial(self, x: Tensor | None = None, index: Tensor | None = None) -> State:
        """See ``Dynamics``."""
        if x is not None and index is None and self.noise is not None:
            index = torch.arange(len(x), device=x.device)
        rows = x if index is None else index
        if rows is None:
            return super().initial()  # says what is missing
        places = places_of(len(rows), self._count)
        return _joined(
            self._held.map("initial", [tuple(v if v is None else v[p] for v in (x, index)) for p in places])
        )

    def transition(self, state: State, action: Tensor) -> State:
        """See ``Dynamics``."""
        travelling = state._replace(**{name: getattr(state, name)[:, None][:, :0] for name in UNREAD})
        places = places_of(len(action), self._count)
        after = _joined(self._held.map("transition", [(_part(travelling, p), action[p]) for p in places]))
        return after._replace(x_before=state.x, sigma_before=state.sigma, d_before=state.d)

    def reward(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Dynamics``; only a reward that costs evaluations is asked of the workers."""
        if not isinstance(self.reward_rule, LocalReward):
            return super().reward(state, action, after)
        places = places_of(len(action), self._count)
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


def _part(state: State, place: slice) -> State:
    return State(*(value[place] for value in state))


def _joined(parts: list[State]) -> State:
    """The rows of all parts, one after the other."""
    return State(*(torch.cat(values) for values in zip(*parts, strict=True)))
