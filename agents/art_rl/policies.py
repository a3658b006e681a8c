"""Networks of ART-RL: a Gaussian over the clock speed, and a critic of what is still to be lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from torch import Tensor, nn

from art_env.dynamics import norm_from_feature


def mlp(inputs: int, net_arch: Sequence[int]) -> nn.Sequential:
    """Softplus layers and one output, which starts at 0 if ``net_arch`` is followed by nothing else."""
    layers: list[nn.Module] = []
    for width in net_arch:
        layers += [nn.Linear(inputs, width), nn.Softplus()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


class StepTable(nn.Module):
    """One number per step, linear in between: a function of time that may jump from step to step.

    A smooth network of (time, budget) misses the sharp turns of the best schedules.
    """

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(num_steps))

    def forward(self, time: Tensor) -> Tensor:
        """``[B]`` times k / K in, ``[B]`` values out."""
        K = len(self.values)
        place = (time * K).clamp(0, K - 1)
        left = place.floor().long()
        right = (left + 1).clamp_max(K - 1)
        part = place - left
        return self.values[left] * (1 - part) + self.values[right] * part


class ARTPolicy(BasePolicy):
    """Actor and critic of ``ARTRL``.

    Args:
        observation_space: ``[time, budget, *features]``.
        action_space: one number.
        lr_schedule: of the actor.
        num_steps: K, the length of an episode.
        noise_groups: groups of rows that share their exploration; 1: every row explores by itself.
        stiffness_tied: the paper's policy ``N(mu, lambda / max(|Q|, eps))``, its mean a network of
            (time, x, budget); else ``mu`` is a step table plus a network of the features, and the width is a number.
        log_q_index: where the observation holds ``log_q`` (needed if ``stiffness_tied``).
        temperature: lambda.
        net_arch: hidden widths of the networks.
        critic_learning_rate: of the critic's Adam.
    """

    columns: Tensor
    std: Tensor
    value_scale: Tensor

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: LearningRate,
        num_steps: int = 1,
        noise_groups: int = 1,
        stiffness_tied: bool = False,
        log_q_index: int = -1,
        temperature: float = 0.1,
        net_arch: Sequence[int] = (64, 64),
        critic_learning_rate: float = 1e-3,
        adam_betas: tuple[float, float] = (0.9, 0.95),
        use_sde: bool = False,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.num_steps, self.noise_groups = num_steps, noise_groups
        self.stiffness_tied, self.log_q_index, self.temperature = stiffness_tied, log_q_index, temperature
        self.net_arch = tuple(net_arch)
        self.critic_learning_rate = critic_learning_rate
        self.adam_betas = (float(adam_betas[0]), float(adam_betas[1]))
        width = observation_space.shape[0]
        self.table: StepTable | None = None
        self.actor_net: nn.Module | None = None
        if stiffness_tied:
            # The networks see (t, x, psi): everything but the stiffness itself.
            columns = [i for i in range(width) if i != log_q_index]
            self.actor_net = mlp(len(columns), self.net_arch)
        else:
            columns = list(range(width))
            self.table = StepTable(num_steps)
            if width > 2:
                self.actor_net = mlp(width, self.net_arch)
                # Starts as the table alone: all zeros, the grid of the clock.
                last = self.actor_net[-1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.critic_net = mlp(len(columns), self.net_arch)
        # Exploration of this update, [groups, K], if the algorithm draws it for whole episodes.
        self.offsets: Tensor | None = None
        # Width of the exploration and scale of the returns: set by the algorithm, saved with the weights.
        self.register_buffer("std", torch.tensor(0.3))
        self.register_buffer("value_scale", torch.tensor(1.0))
        actor = [p for n, p in self.named_parameters() if not n.startswith("critic_net")]
        self.optimizer = torch.optim.Adam(actor, lr=lr_schedule(1), betas=self.adam_betas)
        self.critic_optimizer = torch.optim.Adam(self.critic_net.parameters(), lr=critic_learning_rate)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        names = ("num_steps", "noise_groups", "stiffness_tied", "log_q_index", "temperature", "net_arch")
        data.update({name: getattr(self, name) for name in names})
        data.update(
            critic_learning_rate=self.critic_learning_rate,
            adam_betas=self.adam_betas,
            lr_schedule=self._dummy_schedule,
        )
        return data

    @property
    def sees_time_only(self) -> bool:
        """Whether the mean is the table alone: one episode is then a vector of K numbers."""
        return self.table is not None and self.actor_net is None

    def distribution(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the action, ``[B]`` each, for ``obs: [B, n]``."""
        if self.table is None:
            assert self.actor_net is not None
            mean = self.actor_net(obs[:, self.columns])[:, 0]
            stiffness = norm_from_feature(obs[:, self.log_q_index])
            return mean, torch.sqrt(self.temperature / stiffness)
        mean = self.table(obs[:, 0])
        if self.actor_net is not None:
            mean = mean + self.actor_net(obs)[:, 0]
        return mean, self.std.expand_as(mean)

    def predict_values(self, obs: Tensor) -> Tensor:
        """Critic, ``[B, 1]``: reward still to come (0 from a policy of time alone, which needs none)."""
        if self.sees_time_only:
            return obs.new_zeros(len(obs), 1)
        return self.critic_net(obs[:, self.columns]) * self.value_scale

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Log-density of ``actions: [B, 1]``, ``[B]``."""
        mean, std = self.distribution(obs)
        return torch.distributions.Normal(mean, std).log_prob(actions[:, 0])

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[B, 1]``, values ``[B, 1]`` and log-densities ``[B]``."""
        mean, std = self.distribution(obs)
        if deterministic:
            actions = mean
        elif self.offsets is not None and len(mean) % len(self.offsets) == 0:
            step = (obs[:, 0] * self.num_steps).round().long()[:, None]
            offsets = self.offsets.to(mean).repeat_interleave(len(mean) // len(self.offsets), 0)
            actions = mean + offsets.gather(1, step)[:, 0]
        else:
            actions = mean + std * self._noise(len(mean)).to(mean)
        if self.sees_time_only:  # judged by whole episodes: not used
            log_prob = torch.zeros_like(mean)
        else:
            log_prob = torch.distributions.Normal(mean, std).log_prob(actions)
        return actions[:, None], self.predict_values(obs), log_prob

    def _noise(self, rows: int) -> Tensor:
        """Standard normal, the same within a group, in antithetic pairs of groups."""
        groups = self.noise_groups
        if groups == 1 or rows % groups:
            return torch.randn(rows)
        z = torch.randn(groups if groups % 2 else groups // 2)
        if groups % 2 == 0:
            z = torch.cat([z, -z])
        return z.repeat_interleave(rows // groups)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        mean, std = self.distribution(observation)
        return (mean if deterministic else torch.normal(mean, std))[:, None]
