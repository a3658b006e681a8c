"""Train PPO of skrl with its default settings."""

import time

import gymnasium as gym
import numpy as np
import torch
import tyro
from report import ID, report
from skrl.envs.wrappers.torch import wrap_env
from skrl.utils.runner.torch import Runner

LAYERS = [{"name": "net", "input": "OBSERVATIONS", "layers": [64, 64], "activations": "elu"}]


def main(steps: int = 491_520, seed: int = 0, num_envs: int = 64) -> None:
    """Train, and print the scores."""
    vector_env = gym.make_vec(ID, num_envs=num_envs, autoreset_mode="SAME_STEP")
    settings = {
        "seed": seed,
        "models": {
            "separate": True,
            "policy": {"class": "GaussianMixin", "network": LAYERS, "output": "ACTIONS"},
            "value": {"class": "DeterministicMixin", "network": LAYERS, "output": "ONE"},
        },
        "memory": {"class": "RandomMemory", "memory_size": 16},
        "agent": {
            "class": "PPO",
            "rollouts": 16,
            "experiment": {"write_interval": 0, "checkpoint_interval": 0},
        },
        "trainer": {"class": "SequentialTrainer", "timesteps": steps // num_envs, "headless": True},
    }
    runner = Runner(wrap_env(vector_env, wrapper="gymnasium"), settings)
    began = time.process_time()
    runner.run("train")
    seconds = time.process_time() - began

    @torch.no_grad()
    def policy(observation: np.ndarray) -> np.ndarray:
        """The mean of the Gaussian, ``[n, 1]``."""
        _, outputs = runner.agent.act(torch.from_numpy(observation), None, timestep=0, timesteps=0)
        return outputs["mean_actions"].numpy()

    report("skrl PPO", policy, steps, seconds)


if __name__ == "__main__":
    tyro.cli(main)
