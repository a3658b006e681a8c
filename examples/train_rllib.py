"""Train PPO of RLlib's new API stack with its default settings, in this process."""

import time

import numpy as np
import ray
import torch
import tyro
from ray.rllib.algorithms.ppo import PPOConfig
from report import ID, report


def main(steps: int = 12_000, seed: int = 0, num_envs: int = 64) -> None:
    """Train, and print the scores."""
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    config = (
        PPOConfig()
        .environment(ID)
        .env_runners(
            num_env_runners=0, num_envs_per_env_runner=num_envs, gym_env_vectorize_mode="vector_entry_point"
        )
        .debugging(seed=seed)
    )
    agent = config.build_algo()
    began = time.process_time()
    for _ in range(max(steps // config.train_batch_size_per_learner, 1)):
        agent.train()
    seconds = time.process_time() - began

    @torch.no_grad()
    def policy(observation: np.ndarray) -> np.ndarray:
        """The mean of the Gaussian, ``[n, 1]``."""
        outputs = agent.get_module().forward_inference({"obs": torch.from_numpy(observation)})
        return outputs["action_dist_inputs"][:, :1].numpy()

    report("RLlib PPO", policy, steps, seconds)
    agent.stop()


if __name__ == "__main__":
    tyro.cli(main)
