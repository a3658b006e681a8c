"""Score the policy of any library on all initial noises of an environment, beside fixed lists and the oracle."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

ID = "art_env:ART/Mixture1D-v1"
Policy = Callable[[np.ndarray], np.ndarray]


def play(policy: Policy, **settings: Any) -> tuple[float, float]:
    """Mean return, and RMSE to the exact solution, of one episode from each initial noise."""
    num_noises = gym.make(ID).get_wrapper_attr("dynamics").pool_size
    env = gym.make_vec(ID, num_envs=num_noises, **settings)
    observation, _ = env.reset(options={"noise_index": np.arange(num_noises)})
    total, ended = np.zeros(num_noises), np.zeros(num_noises, dtype=bool)
    while not ended.all():
        observation, reward, ended, _, info = env.step(policy(observation))
        total += reward
    return float(total.mean()), float(np.sqrt(np.mean(info["rmse"] ** 2)))


def zero(observation: np.ndarray) -> np.ndarray:
    """Action 0 everywhere, ``[n, 1]``: the base schedule."""
    return np.zeros((len(observation), 1))


def report(agent: str, policy: Policy, steps: int, seconds: float) -> None:
    """Print what training took, and the scores of a policy ``[n, observation] -> [n, action]`` beside fixed lists."""
    print(f"{agent}: {steps} steps in {seconds:.1f} s of processor time, {steps / seconds:.0f} a second")
    scores = {agent: play(policy), "action 0": play(zero), "EDM": play(zero, base_schedule=7)}
    for name, (value, rmse) in scores.items():
        print(f"{name}: mean return {value:.4g}, RMSE {rmse:.4g}")
    threshold = gym.make(ID).get_wrapper_attr("spec").reward_threshold
    if threshold is not None:
        print(f"near the oracle: mean return {threshold}")
