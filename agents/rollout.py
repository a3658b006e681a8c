"""Sampling with a policy that chooses the noise levels of each trajectory by itself."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from art_env.envs.dynamics import Dynamics
from art_env.envs.state import State


class Policy(Protocol):
    """Anything that acts as Stable-Baselines3's agents do."""

    def predict(self, observation: np.ndarray, *, deterministic: bool = ...) -> tuple[np.ndarray, Any]:
        """``[B, n]`` float32 in, actions ``[B, A]`` out."""
        ...


class Rollout(NamedTuple):
    """B trajectories that a policy has sampled.

    Attributes:
        x: ``[B, *shape]``, the samples.
        actions, sigmas: ``[B, K, A]`` and ``[B, K + 1]`` float64, one row a trajectory.
        dt: ``[B, K]``, parts of the budget that the steps took.
        nfe: ``[B]``, network evaluations.
    """

    x: Tensor
    actions: np.ndarray
    sigmas: np.ndarray
    dt: np.ndarray
    nfe: np.ndarray


def sample_with_policy(policy: Policy, dynamics: Dynamics, x: Tensor) -> Rollout:
    """Samples from initial noises; the policy sees each trajectory, and no exact one is needed.

    The features cost no evaluation of the network: the slope that they show is the first stage of the next step.

    Args:
        policy: has ``.predict(observation, deterministic=True)``.
        dynamics: the environment that it was made for.
        x: ``[B, *shape]`` initial noises, such as ``problem.sample_noise(n, seed)``.

    Raises:
        ValueError: the policy returned the wrong shape or a value that is not finite.
    """
    bare = dynamics.without_rewards()
    return play(policy, bare, bare.initial(x))


@torch.no_grad()
def play(policy: Policy, dynamics: Dynamics, state: State) -> Rollout:
    """Act from ``state``, the start of episodes, to their end.

    Raises:
        ValueError: the policy returned the wrong shape or a value that is not finite.
    """
    B, K, A = len(state.x), dynamics.num_steps, dynamics.num_actions
    actions, sigmas, dt = np.empty((B, K, A)), np.empty((B, K + 1)), np.empty((B, K))
    sigmas[:, 0] = state.sigma.cpu().numpy()
    for k in range(K):
        observation = dynamics.observation(state).cpu().numpy()
        actions[:, k] = _checked(policy.predict(observation, deterministic=True), (B, A), k)
        state = dynamics.transition(state, torch.from_numpy(actions[:, k]).to(dynamics.device))
        sigmas[:, k + 1], dt[:, k] = state.sigma.cpu().numpy(), state.dt.cpu().numpy()
    return Rollout(state.x, actions, sigmas, dt, state.nfe.cpu().numpy())


def _checked(answer: Any, shape: tuple[int, int], k: int) -> np.ndarray:
    """The actions as ``[B, A]`` float64."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        kind = type(answer).__name__
        raise ValueError(f"policy.predict returned {kind} at step {k}; return (actions, state)")
    action = np.asarray(answer[0], dtype=np.float64)
    if action.shape != shape:
        raise ValueError(
            f"policy.predict returned actions of shape {action.shape} at step {k}; expected {shape}: "
            "one action for each row"
        )
    if not np.isfinite(action).all():
        row, entry = (int(i) for i in np.argwhere(~np.isfinite(action))[0])
        raise ValueError(
            f"policy.predict returned {action[row, entry]} in row {row} at step {k}; the policy has diverged, "
            "or was saved after it had"
        )
    return action
