"""Networks of ART-RL: a Gaussian over the clock speed, and a critic of what is still to be lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from torch import Tensor, nn

from agents.schedule_search.table import StepTable
from art_env.envs.observation import norm_from_feature

LOG_STEPS = 8.0


def mlp(inputs: int, net_arch: Sequence[int]) -> nn.Sequential:
    """Softplus layers and one output, which starts at 0 if ``net_arch`` is followed by nothing else."""
    layers: list[nn.Module] = []
    for width in net_arch:
        layers += [nn.Linear(inputs, width), nn.Softplus()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


class Octaves(nn.Module):
    """``[B, n]`` numbers in [-1, 1] to themselves and their sines and cosines at ``count`` octaves of frequency.

    A network sees small differences only through these: trajectories on either side of the border between two modes
    look alike until late (Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions").
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """``[B, n (1 + 2 count)]``."""
        if self.count == 0:
            return x
        phase = (x[:, :, None] * (math.pi * 2.0 ** torch.arange(self.count, device=x.device))).flatten(1)
        return torch.cat([x, torch.sin(phase), torch.cos(phase)], 1)


class ARTPolicy(BasePolicy):
    """Actor and critic of ``ARTRL``.

    Args:
        observation_space: ``[time, budget, *features]``, with several K ``[time, budget, steps, *features]``.
        action_space: one number.
        lr_schedule: of the actor.
        num_steps: K, the length of an episode, or several.
        stiffness_tied: the paper's policy ``N(mu, lambda / max(|Q|, eps))``, its mean a network of
            (time, x, budget); else ``mu`` is a step table plus a network of the observation (if there are features),
            and the width is a number.
        log_q_index: where the observation holds ``log_curvature`` (needed if ``stiffness_tied``).
        temperature: lambda.
        net_arch: hidden widths of the networks.
        octaves: of sines and cosines that the networks see beside the observation (unless ``stiffness_tied``).
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
        num_steps: int | Sequence[int] = 1,
        stiffness_tied: bool = False,
        log_q_index: int = -1,
        temperature: float = 0.1,
        net_arch: Sequence[int] = (64, 64),
        octaves: int = 6,
        critic_learning_rate: float = 1e-3,
        adam_betas: tuple[float, float] = (0.9, 0.95),
        use_sde: bool = False,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.budgets = (num_steps,) if isinstance(num_steps, int) else tuple(sorted(num_steps))
        self.octaves = octaves
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
            self.encode = Octaves(0)
            self.actor_net = mlp(len(columns), self.net_arch)
        else:
            columns = list(range(width))
            features = width > 2 + (len(self.budgets) > 1)
            self.encode = Octaves(octaves if features else 0)
            self.table = StepTable(self.budgets)
            if features:
                self.actor_net = mlp(width * (1 + 2 * octaves), self.net_arch)
                # Starts as the table alone: all zeros, the grid of the clock.
                last = self.actor_net[-1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.critic_net = mlp(len(columns) * (1 + 2 * self.encode.count), self.net_arch)
        # Exploration of this update, [groups, sum of K], if the algorithm draws it for whole episodes.
        self.offsets: Tensor | None = None
        # Width of the exploration and scale of the returns: set by the algorithm, saved with the weights.
        self.register_buffer("std", torch.tensor(0.3))
        self.register_buffer("value_scale", torch.tensor(1.0))
        # Where there is a network, the table is learned without gradients, from whole episodes.
        actor: nn.Module | None = self.table if self.actor_net is None else self.actor_net
        assert actor is not None
        self.optimizer = torch.optim.Adam(actor.parameters(), lr=lr_schedule(1), betas=self.adam_betas)
        self.critic_optimizer = torch.optim.Adam(self.critic_net.parameters(), lr=critic_learning_rate)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        names = ("stiffness_tied", "log_q_index", "temperature", "net_arch", "octaves")
        data.update({name: getattr(self, name) for name in names})
        data.update(
            num_steps=self.budgets,
            critic_learning_rate=self.critic_learning_rate,
            adam_betas=self.adam_betas,
            lr_schedule=self._dummy_schedule,
        )
        return data

    @property
    def sees_time_only(self) -> bool:
        """Whether the mean is the table alone: one episode is then a vector of K numbers."""
        return self.table is not None and self.actor_net is None

    def _num_steps(self, obs: Tensor) -> Tensor:
        """``[B]`` K of the episodes."""
        if len(self.budgets) == 1:
            return torch.full_like(obs[:, 0], float(self.budgets[0]))
        return torch.exp2(LOG_STEPS * obs[:, 2])

    def distribution(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the action, ``[B]`` each, for ``obs: [B, n]``."""
        if self.table is None:
            assert self.actor_net is not None
            mean = self.actor_net(self.encode(obs[:, self.columns]))[:, 0]
            stiffness = norm_from_feature(obs[:, self.log_q_index])
            return mean, torch.sqrt(self.temperature / stiffness)
        mean = self.table(obs[:, 0], self._num_steps(obs))
        if self.actor_net is not None:
            mean = mean + self.actor_net(self.encode(obs))[:, 0]
        return mean, self.std.expand_as(mean)

    def predict_values(self, obs: Tensor) -> Tensor:
        """Critic, ``[B, 1]``: reward still to come (0 from a policy of time alone, which needs none)."""
        if self.sees_time_only:
            return obs.new_zeros(len(obs), 1)
        return self.critic_net(self.encode(obs[:, self.columns])) * self.value_scale

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Log-density of ``actions: [B, 1]``, ``[B]``."""
        mean, std = self.distribution(obs)
        return torch.distributions.Normal(mean, std).log_prob(actions[:, 0])

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[B, 1]``, values ``[B, 1]`` and log-densities ``[B]`` (0, 0 if whole episodes are explored)."""
        if not deterministic and self.offsets is not None and len(obs) % len(self.offsets) == 0:
            assert self.table is not None
            K = self._num_steps(obs)
            group = torch.arange(len(obs), device=obs.device) // (len(obs) // len(self.offsets))
            offset = self.offsets.to(obs)[group, self.table.place(obs[:, 0], K)]
            nothing = torch.zeros_like(offset)
            return (self.table(obs[:, 0], K) + offset)[:, None], nothing[:, None], nothing
        mean, std = self.distribution(obs)
        actions = mean if deterministic else mean + std * torch.randn(len(mean)).to(mean)
        log_prob = torch.distributions.Normal(mean, std).log_prob(actions)
        return actions[:, None], self.predict_values(obs), log_prob

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        mean, std = self.distribution(observation)
        return (mean if deterministic else torch.normal(mean, std))[:, None]
