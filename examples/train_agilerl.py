"""Train PPO of AgileRL with its default settings but one: one agent, without evolution."""

import time

import gymnasium as gym
import numpy as np
import torch
import tyro
from agilerl.algorithms import PPO
from agilerl.rollouts import collect_rollouts
from report import ID, report


def main(steps: int = 327_680, seed: int = 0, num_envs: int = 64) -> None:
    """Train, and print the scores."""
    np.random.seed(seed)  # noqa: NPY002 (AgileRL shuffles with it)
    torch.manual_seed(seed)
    env = gym.make_vec(ID, num_envs=num_envs, autoreset_mode="SAME_STEP")
    env.reset(seed=seed)
    # AgileRL's advantages by GAE take the end of an episode for one step later; those by returns do not.
    buffer = {"use_gae": False}
    spaces = env.single_observation_space, env.single_action_space
    agent = PPO(*spaces, num_envs=num_envs, rollout_buffer_config=buffer)
    began = time.process_time()
    for _ in range(max(steps // agent.learn_step, 1)):
        collect_rollouts(agent, env)
        agent.learn()
    seconds = time.process_time() - began

    @torch.no_grad()
    def policy(observation: np.ndarray) -> np.ndarray:
        """The mean of the Gaussian, ``[n, 1]``."""
        agent.actor(torch.from_numpy(observation))
        return agent.actor.head_net.dist.mu.numpy()

    report("AgileRL PPO", policy, steps, seconds)


if __name__ == "__main__":
    tyro.cli(main)
