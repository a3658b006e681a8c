"""Actor and critic of ART-RL: a Gaussian over the action, and a network of the reward still to come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from torch import Tensor, nn

from art_env.envs.observation import PLAIN_WIDTH

# Of whitened observations: the least spread that they are divided by, and how many spreads from the mean they count.
LEAST_SPREAD, MOST_UNUSUAL = 1e-3, 4.0


def mlp(inputs: int, net_arch: Sequence[int], outputs: int = 1) -> nn.Sequential:
    """A network of ``Linear`` and ``Softplus`` layers with a linear output."""
    layers: list[nn.Module] = []
    for width in net_arch:
        layers += [nn.Linear(inputs, width), nn.Softplus()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


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


class StepTable(nn.Module):
    """One action vector per step, ``values: [K, A]``: a function of time that may jump from step to step.

    A smooth network of (time, budget) misses the sharp turns of the best schedules.
    """

    def __init__(self, num_steps: int, num_actions: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(num_steps, num_actions))

    def forward(self, time: Tensor) -> Tensor:
        """``[B]`` times k/K in, ``[B, A]`` out; linear between the steps."""
        last = len(self.values) - 1
        place = (time * len(self.values)).clamp(0, last)
        left = place.floor().long()
        right = (left + 1).clamp_max(last)
        part = (place - left)[:, None]
        return self.values[left] * (1 - part) + self.values[right] * part


class ARTPolicy(BasePolicy):
    """Gaussian policy and critic of ``ARTRL``.

    The mean of the action is a table with one vector for each step, plus, if the observation holds features of the
    trajectory, a network of the observation that starts at 0. The width is one number, which the algorithm sets.

    Args:
        observation_space: ``[time, budget, *features]``.
        action_space: ``[A]``, any number of controls.
        lr_schedule: of the table, in units of the action.
        num_steps: K, the length of an episode.
        noise_groups: groups of rows, in pairs whose explorations are opposite. Without features the rows of a group
            share their exploration. 1: no groups, each row explores by itself.
        net_arch, critic_arch: hidden widths of the actor's and the critic's network.
        octaves: of sines and cosines that the networks see beside the features.
        whiten: networks see each entry of the observation relative to its mean and spread at that step in the first
            rollout. Differences between models are small beside the range of a feature.
        network_learning_rate: of the actor's network.
        critic_learning_rate: of the critic.
        adam_betas: of all three.
        std: width of the exploration until the algorithm sets another.
    """

    std: Tensor
    value_scale: Tensor
    seen_mean: Tensor
    seen_spread: Tensor

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: LearningRate,
        num_steps: int = 1,
        noise_groups: int = 1,
        net_arch: Sequence[int] = (64, 64),
        critic_arch: Sequence[int] = (32, 32),
        octaves: int = 6,
        whiten: bool = False,
        network_learning_rate: float = 0.006,
        critic_learning_rate: float = 1e-3,
        adam_betas: tuple[float, float] = (0.9, 0.95),
        std: float = 0.2,
        use_sde: bool = False,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.num_steps, self.noise_groups = num_steps, noise_groups
        self.net_arch, self.critic_arch, self.octaves = tuple(net_arch), tuple(critic_arch), octaves
        self.network_learning_rate, self.critic_learning_rate = network_learning_rate, critic_learning_rate
        self.adam_betas = (float(adam_betas[0]), float(adam_betas[1]))
        width, num_actions = observation_space.shape[0], action_space.shape[0]
        self.whiten = whiten
        has_features = width > PLAIN_WIDTH
        self.encode = Octaves(octaves if has_features else 0)
        inputs = width * (1 + 2 * self.encode.count)
        self.table = StepTable(num_steps, num_actions)
        self.actor_net = mlp(inputs, self.net_arch, num_actions) if has_features else None
        self.critic_net = mlp(inputs, self.critic_arch)
        # Width of the exploration and scale of the returns: set by the algorithm, saved with the weights.
        self.register_buffer("std", torch.tensor(float(std)))
        self.register_buffer("value_scale", torch.tensor(0.0))
        if whiten:
            self.register_buffer("seen_mean", torch.zeros(num_steps, width))
            self.register_buffer("seen_spread", torch.ones(num_steps, width))
        # Each group of parameters has a step of its own, which the algorithm anneals.
        groups = [{"params": self.table.parameters(), "lr": lr_schedule(1), "first_lr": lr_schedule(1)}]
        if self.actor_net is not None:
            nn.init.zeros_(self.actor_net[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.actor_net[-1].bias)  # type: ignore[arg-type]
            own = {"lr": network_learning_rate, "first_lr": network_learning_rate}
            groups.append({"params": self.actor_net.parameters(), **own})
        self.optimizer = torch.optim.Adam(groups, betas=self.adam_betas)
        self.critic_optimizer = torch.optim.Adam(
            self.critic_net.parameters(), lr=critic_learning_rate, betas=self.adam_betas
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = (
            "observation_space",
            "action_space",
            "num_steps",
            "noise_groups",
            "net_arch",
            "critic_arch",
            "octaves",
            "whiten",
        )
        rates = ("network_learning_rate", "critic_learning_rate", "adam_betas")
        data = {name: getattr(self, name) for name in (*names, *rates)}
        return {**data, "lr_schedule": self._dummy_schedule}

    @property
    def shares_exploration(self) -> bool:
        """Whether all rows of a group explore alike: only where the policy cannot tell them apart."""
        return self.noise_groups > 1 and self.actor_net is None

    def actor_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of the actor: everything but the critic."""
        return [(n, p) for n, p in self.named_parameters() if not n.startswith("critic_net")]

    @torch.no_grad()
    def set_table(self, actions: np.ndarray | Tensor) -> None:
        """Begin with the actions ``[K, A]``, another algorithm's result (``[K]`` if there is one control).

        Raises:
            ValueError: of another shape, not finite, or outside the action space.
        """
        table = self.table.values
        given = torch.as_tensor(actions, dtype=table.dtype, device=table.device)
        given = given[:, None] if given.ndim == 1 else given
        if given.shape != table.shape:
            raise ValueError(f"actions have shape {tuple(given.shape)}; expected {tuple(table.shape)}")
        if not torch.equal(given, self._clipped(given)):  # nan differs from itself
            raise ValueError("actions must lie within the action space")
        table.copy_(given)

    @torch.no_grad()
    def clip_table(self) -> None:
        """Keep the table within the action space."""
        self.table.values.copy_(self._clipped(self.table.values))

    def _clipped(self, actions: Tensor) -> Tensor:
        assert isinstance(self.action_space, spaces.Box)
        low, high = (torch.as_tensor(b).to(actions) for b in (self.action_space.low, self.action_space.high))
        return torch.minimum(torch.maximum(actions, low), high)

    @torch.no_grad()
    def fit_whitening(self, obs: Tensor) -> None:
        """Take mean and spread of the observations ``[K, B, n]`` of a first rollout, if the policy whitens."""
        if self.whiten:
            self.seen_mean.copy_(obs.mean(1))
            self.seen_spread.copy_(obs.std(1).clamp_min(LEAST_SPREAD))

    def inputs(self, obs: Tensor) -> Tensor:
        """What the networks see of ``obs: [B, n]``."""
        if self.whiten:
            k = (obs[:, 0] * self.num_steps).round().long().clamp(0, self.num_steps - 1)
            spread = (obs - self.seen_mean[k]) / self.seen_spread[k]
            # Time and budget as they are: a table of their own is added.
            obs = torch.cat(
                [obs[:, :PLAIN_WIDTH], spread[:, PLAIN_WIDTH:].clamp(-MOST_UNUSUAL, MOST_UNUSUAL)], 1
            )
        return self.encode(obs)

    def mean(self, obs: Tensor) -> Tensor:
        """Mean action ``[B, A]`` for ``obs: [B, n]``."""
        mean = self.table(obs[:, 0])
        return mean if self.actor_net is None else mean + self.actor_net(self.inputs(obs))

    def predict_values(self, obs: Tensor) -> Tensor:
        """Critic, ``[B, 1]``: reward still to come."""
        return self.scaled_values(obs)[:, None] * self.value_scale

    def scaled_values(self, obs: Tensor) -> Tensor:
        """The critic's network, ``[B]``: in units of ``value_scale``."""
        return self.critic_net(self.inputs(obs))[:, 0]

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Log-density of ``actions: [B, A]``, ``[B]``."""
        return torch.distributions.Normal(self.mean(obs), self.std).log_prob(actions).sum(1)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[B, A]``, values ``[B, 1]`` and log-densities ``[B]``."""
        mean = self.mean(obs)
        actions = mean if deterministic else mean + self.std * self._noise(mean)
        log_prob = torch.distributions.Normal(mean, self.std).log_prob(actions).sum(1)
        return actions, self.predict_values(obs), log_prob

    def _noise(self, mean: Tensor) -> Tensor:
        """Standard normal numbers ``[B, A]``: a draw for each group, or row, and its opposite in the twin group."""
        rows, num_actions = mean.shape
        groups = self.noise_groups
        if groups == 1 or rows % groups:
            return torch.randn(rows, num_actions).to(mean)
        members = rows // groups
        draws = 1 if self.shares_exploration else members
        z = torch.randn((groups + 1) // 2, draws, num_actions)
        z = torch.cat([z, -z])[:groups]
        return z.expand(groups, members, num_actions).flatten(0, 1).to(mean)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        mean = self.mean(observation)
        return mean if deterministic else torch.normal(mean, self.std.expand_as(mean))
