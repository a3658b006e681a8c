"""Policy -> Schedule: run the policy, average its clock speeds and weights, throw the policy away."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from agents.rollout import Policy, Rollout, play
from art_env.envs.dynamics import Dynamics
from art_env.schedules.schedule import Schedule

# Smallest clock speed kept, in units of the mean speed: the raw control may stand still or run backwards.
MIN_SPEED = 1e-6


@torch.no_grad()
def distill(
    policy: Policy,
    dynamics: Dynamics,
    num_noises: int = 256,
    seed: int = 0,
    name: str = "distilled",
) -> Schedule:
    """Average a policy's clock over trajectories into one list of noise levels (Huang et al. 2026).

    Each trajectory's speeds ``theta`` are normalised to sum to T, so every one of them ends exactly at the
    final noise level; the mean over trajectories then does too. With ``control="speed"`` theta is the raw
    action, and speeds below 1e-6 of the mean are raised to it first (``meta["clipped"]`` says what part).

    Args:
        policy: has ``.predict(observation, deterministic=True)``.
        dynamics: the environment that it was made for.
        num_noises: trajectories averaged: of the pool if there is one (all of it at most), else fresh noises.
        seed: picks the noises.
        name: of the schedule.

    Returns:
        a schedule whose meta has the settings and ``theta_sd``, the spread of theta over trajectories at each
        step; where it is large, the policy acts on the sample and a single list cannot.

    Raises:
        ValueError: no noises, or the policy returned the wrong shape or a value that is not finite.
    """
    if num_noises < 1:
        raise ValueError(f"num_noises = {num_noises} must be at least 1")
    problem, K = dynamics.problem, dynamics.num_steps
    if dynamics.reference is not None:
        pool = dynamics.reference.num_noises
        picked = np.random.default_rng(seed).permutation(pool)[:num_noises]
        state = dynamics.initial(index=torch.from_numpy(picked).to(dynamics.device))
    else:
        state = dynamics.initial(problem.sample_noise(num_noises, seed))
    B, dt = state.x.shape[0], dynamics.horizon / K
    done = play(policy, dynamics, state)
    theta = done.actions[..., 0] if dynamics.control == "speed" else -np.diff(done.sigmas, axis=1) / dt
    least = MIN_SPEED if dynamics.control == "speed" else 1e-12
    clipped = float((theta < least).mean())
    theta = np.maximum(theta, least)
    theta *= K / theta.sum(1, keepdims=True)  # speeds of mean 1 spend T = K dt exactly
    steps = theta.mean(0) * dt
    # Summed from the end, where the noise levels are small.
    sigmas = problem.sigma_end + np.append(np.cumsum(steps[::-1])[::-1], 0.0)
    sigmas[0] = problem.sigma_max
    meta = {
        "method": "distilled",
        "problem": problem.name,
        "solver": dynamics.solver.name,
        "num_steps": K,
        "reward": dynamics.reward_name,
        "control": dynamics.control,
        "features": list(dynamics.features),
        "num_noises": B,
        "seed": seed,
        "theta_sd": theta.std(0).tolist(),
        "clipped": clipped,
    }
    if clipped:
        meta["note"] = f"{clipped:.1%} of the speeds were below {least:g} and raised to it before averaging"
    return Schedule(sigmas, name, meta, _mean_weights(done, dynamics, meta), problem.space)


def _mean_weights(done: Rollout, dynamics: Dynamics, meta: dict[str, Any]) -> np.ndarray | None:
    """The weights ``[K, m]`` of a learned solver, averaged over trajectories; ``meta`` is told their spread."""
    if dynamics.weight_rule is None:
        return None
    times = np.concatenate([np.zeros((len(done.dt), 1)), np.cumsum(done.dt, 1)], 1).T
    table = dynamics.weight_rule.table(
        torch.from_numpy(done.actions[..., 1:]), torch.from_numpy(times)
    ).numpy()
    meta["weights_sd"] = table.std(1).tolist()
    return np.asarray(table.mean(1))
