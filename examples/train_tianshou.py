"""Train PPO of Tianshou with its default settings, on the native vector environment or on scalar ones."""

import time

import gymnasium as gym
import numpy as np
import torch
import tyro
from report import ID, report
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from torch.distributions import Independent, Normal

from art_env.envs.tianshou import to_tianshou


def main(steps: int = 30_720, seed: int = 0, vector: bool = True) -> None:
    """Train, and print the scores."""
    np.random.seed(seed)  # noqa: NPY002 (Tianshou shuffles with it)
    torch.manual_seed(seed)
    if vector:
        env = to_tianshou(gym.make_vec(ID, num_envs=64, autoreset_mode="DISABLED"))
    else:
        env = DummyVectorEnv([lambda: gym.make(ID)] * 8)
    env.seed(seed)
    spaces = {"observation_space": env.observation_space[0], "action_space": env.action_space[0]}
    body, critic_body = (
        Net(state_shape=(6,), hidden_sizes=(64, 64), activation=torch.nn.Tanh) for _ in range(2)
    )
    agent = PPO(
        policy=ProbabilisticActorPolicy(
            actor=ContinuousActorProbabilistic(preprocess_net=body, action_shape=(1,), unbounded=True),
            dist_fn=lambda parameters: Independent(Normal(*parameters), 1),
            deterministic_eval=True,
            **spaces,
        ),
        critic=ContinuousCritic(preprocess_net=critic_body),
        optim=AdamOptimizerFactory(lr=1e-3),
    )
    collector = Collector(agent, env, VectorReplayBuffer(2048, len(env)))
    epochs = {"max_epochs": 1, "epoch_num_steps": steps, "update_step_num_repetitions": 10}
    began = time.process_time()
    agent.run_training(OnPolicyTrainerParams(training_collector=collector, **epochs, verbose=False))
    seconds = time.process_time() - began

    @torch.no_grad()
    def policy(observation: np.ndarray) -> np.ndarray:
        """The mean of the Gaussian, ``[n, 1]``."""
        return agent.policy.map_action(agent.policy(Batch(obs=observation, info={})).act)

    report("Tianshou PPO", policy, steps, seconds)


if __name__ == "__main__":
    tyro.cli(main)
