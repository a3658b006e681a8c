"""Train PPO in a single file, after CleanRL's ppo_continuous_action.py and with its settings.

Two things are left out: normalised observations, since these are bounded, and clipped value losses.
"""

import time

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.wrappers.vector import NormalizeReward
from report import ID, report
from torch import Tensor, nn
from torch.distributions import Normal


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers; orthogonal weights, those of the output times ``gain``."""
    layers = nn.Linear(inputs, 64), nn.Linear(64, 64), nn.Linear(64, outputs)
    for layer, scale in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def main(steps: int = 153_600, seed: int = 0, num_envs: int = 8, num_steps: int = 256) -> None:
    """Train, and print the scores."""
    torch.manual_seed(seed)
    env = NormalizeReward(gym.make_vec(ID, num_envs=num_envs, autoreset_mode="SAME_STEP"))
    actor, critic, log_std = network(6, 1, 0.01), network(6, 1, 1.0), nn.Parameter(torch.zeros(1))
    parameters = [*actor.parameters(), *critic.parameters(), log_std]
    optimiser = torch.optim.Adam(parameters, lr=3e-4, eps=1e-5)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, max(steps // (num_envs * num_steps), 1))
    began, observation = time.process_time(), torch.from_numpy(env.reset(seed=seed)[0])
    for _ in range(decay.total_iters):
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(num_steps):
            with torch.no_grad():
                policy, value = Normal(actor(observation), log_std.exp()), critic(observation)
            action = policy.sample()
            after, reward, ended, _, _ = env.step(action.clamp(-1, 1).numpy())
            earned = torch.from_numpy(reward.clip(-10, 10)).float()[:, None]
            alive = torch.from_numpy(~ended).float()[:, None]
            rows.append((observation, action, policy.log_prob(action), value, earned, alive))
            observation = torch.from_numpy(after)
        following, trace, advantages = critic(observation).detach(), torch.zeros(num_envs, 1), []
        for *_, value, earned, alive in reversed(rows):
            trace = earned + 0.99 * alive * (following + 0.95 * trace) - value
            following = value
            advantages.append(trace)
        columns = [list(column) for column in zip(*rows, strict=True)]
        parts = [torch.cat(column) for column in (*columns[:4], advantages[::-1])]
        for _ in range(10):
            for index in torch.randperm(num_envs * num_steps).chunk(32):
                states, actions, old, values, gains = (part[index] for part in parts)
                ratio = (Normal(actor(states), log_std.exp()).log_prob(actions) - old).exp()
                scaled = (gains - gains.mean()) / (gains.std() + 1e-8)
                loss = -torch.min(scaled * ratio, scaled * ratio.clamp(0.8, 1.2)).mean()
                loss = loss + 0.25 * (critic(states) - values - gains).square().mean()
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimiser.step()
        decay.step()
    seconds = time.process_time() - began

    @torch.no_grad()
    def mean(observation: np.ndarray) -> np.ndarray:
        """The mean of the Gaussian, ``[n, 1]``."""
        return actor(torch.from_numpy(observation)).numpy()

    report("CleanRL-style PPO", mean, steps, seconds)


if __name__ == "__main__":
    tyro.cli(main)
