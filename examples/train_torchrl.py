"""Train PPO of TorchRL with the default settings of its loss and its Tanh-Normal policy."""

import time

import gymnasium as gym
import numpy as np
import torch
import tyro
from report import ID, report
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import ExplorationType, GymWrapper, set_exploration_type
from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


def main(steps: int = 98_304, seed: int = 0) -> None:
    """Train, and print the scores."""
    torch.manual_seed(seed)
    env = GymWrapper(gym.make_vec(ID, num_envs=64, autoreset_mode="DISABLED"))
    env.set_seed(seed)
    body = nn.Sequential(MLP(6, 2, num_cells=[64, 64]), NormalParamExtractor())
    parameters = TensorDictModule(body, ["observation"], ["loc", "scale"])
    actor = ProbabilisticActor(
        parameters, ["loc", "scale"], distribution_class=TanhNormal, return_log_prob=True
    )
    critic = ValueOperator(MLP(6, 1, num_cells=[64, 64]), ["observation"])
    gae, loss = GAE(gamma=0.99, lmbda=0.95, value_network=critic), ClipPPOLoss(actor, critic)
    optimiser = torch.optim.Adam(loss.parameters(), 3e-4)
    began = time.process_time()
    for batch in Collector(env, actor, frames_per_batch=2048, total_frames=steps):
        for _ in range(10):
            gae(batch)
            for rows in batch.reshape(-1)[torch.randperm(batch.numel())].split(64):
                losses = loss(rows)
                optimiser.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                optimiser.step()
    seconds = time.process_time() - began

    @torch.no_grad()
    @set_exploration_type(ExplorationType.DETERMINISTIC)
    def policy(observation: np.ndarray) -> np.ndarray:
        """The mode of the distribution, ``[n, 1]``."""
        return actor(TensorDict({"observation": observation}, [len(observation)]))["action"].numpy()

    report("TorchRL PPO", policy, steps, seconds)


if __name__ == "__main__":
    tyro.cli(main)
