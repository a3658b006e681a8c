"""Train PPO of stable-baselines3 with its default settings, on the native vector environment."""

import time

import gymnasium as gym
import numpy as np
import tyro
from report import ID, report
from stable_baselines3 import PPO

from art_env import to_sb3


def main(steps: int = 163_840, seed: int = 0) -> None:
    """Train, and print the scores."""
    env = to_sb3(gym.make_vec(ID, num_envs=8, autoreset_mode="SAME_STEP"))
    agent = PPO("MlpPolicy", env, seed=seed, device="cpu")
    began = time.process_time()
    agent.learn(steps)
    seconds = time.process_time() - began

    def policy(observation: np.ndarray) -> np.ndarray:
        """The mean of the policy, ``[n, 1]``."""
        return agent.predict(observation, deterministic=True)[0]

    report("stable-baselines3 PPO", policy, agent.num_timesteps, seconds)


if __name__ == "__main__":
    tyro.cli(main)
