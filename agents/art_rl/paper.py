"""Algorithm 1 of Huang, Tang and Zhou (2026) to the letter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from torch import Tensor

from agents.art_rl.art_rl import ARTRL
from agents.art_rl.policy import mlp
from art_env.envs.observation import norm_from_feature


class PaperPolicy(BasePolicy):
    """The paper's policy ``N(mu(t, x, psi), lambda / max(|Q|, eps))`` and critic: networks of (t, x, psi).

    Args:
        observation_space: ``[time, budget, *features]``, ``log_curvature`` among them.
        action_space: one number, the speed theta.
        lr_schedule: of the actor.
        curvature_index: where the observation holds ``log_curvature``; the networks see everything else.
        temperature: lambda.
        net_arch: hidden widths of both networks.
        critic_learning_rate: of the critic's Adam.
        adam_betas: of both.
    """

    columns: Tensor

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: LearningRate,
        curvature_index: int,
        temperature: float = 0.1,
        net_arch: Sequence[int] = (128, 128, 128),
        critic_learning_rate: float = 1e-4,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        use_sde: bool = False,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.curvature_index, self.temperature = curvature_index, temperature
        self.net_arch, self.critic_learning_rate = tuple(net_arch), critic_learning_rate
        self.adam_betas = (float(adam_betas[0]), float(adam_betas[1]))
        columns = [i for i in range(observation_space.shape[0]) if i != curvature_index]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.actor_net = mlp(len(columns), self.net_arch)
        self.critic_net = mlp(len(columns), self.net_arch)
        self.optimizer = torch.optim.Adam(
            self.actor_net.parameters(), lr=lr_schedule(1), betas=self.adam_betas
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic_net.parameters(), lr=critic_learning_rate, betas=self.adam_betas
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("observation_space", "action_space", "curvature_index", "temperature", "net_arch")
        data = {name: getattr(self, name) for name in (*names, "critic_learning_rate", "adam_betas")}
        return {**data, "lr_schedule": self._dummy_schedule}

    def distribution(self, obs: Tensor) -> torch.distributions.Normal:
        """Of the action, ``[B]``, for ``obs: [B, n]``."""
        stiffness = norm_from_feature(obs[:, self.curvature_index])
        mean = self.actor_net(obs[:, self.columns])[:, 0]
        return torch.distributions.Normal(mean, torch.sqrt(self.temperature / stiffness))

    def predict_values(self, obs: Tensor) -> Tensor:
        """The critic's network, ``[B, 1]``."""
        return self.critic_net(obs[:, self.columns])

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Log-density of ``actions: [B, 1]``, ``[B]``."""
        return self.distribution(obs).log_prob(actions[:, 0])

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[B, 1]``, values ``[B, 1]`` and log-densities ``[B]``."""
        pi = self.distribution(obs)
        actions = pi.mean if deterministic else pi.mean + pi.stddev * torch.randn(len(obs)).to(pi.mean)
        return actions[:, None], self.predict_values(obs), pi.log_prob(actions)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        pi = self.distribution(observation)
        return (pi.mean if deterministic else torch.normal(pi.mean, pi.stddev))[:, None]


class PaperARTRL(ARTRL):
    """The literal Algorithm 1 of the paper (https://arxiv.org/abs/2601.18681) with its published settings.

    One trajectory an iteration (an environment of one row), actor and critic of 3 layers of 128 with Softplus,
    lambda = 0.1, eps = 1e-6, Adam 1e-4 for both, multiplier step 1e-4; 5,000 iterations are
    ``learn(5000 * num_steps)``. Two deviations: inputs are scaled to the observation's bounds, and psi is held in
    [0, T] by the environment.

    Args:
        policy: ``"PaperPolicy"`` or a subclass of it.
        env: with ``control="speed"``, ``reward="euler"`` and ``log_curvature`` among its features.
        learning_rate, critic_learning_rate: of the two Adams.
        temperature: lambda.
        multiplier_step: step of the budget's multiplier gamma.
        tensorboard_log, policy_kwargs, verbose, seed, device: as in every SB3 algorithm.

    Raises:
        ValueError: a setting out of range, or an environment of another kind.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"PaperPolicy": PaperPolicy}
    policy: PaperPolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[PaperPolicy],
        env: GymEnv | str,
        learning_rate: float = 1e-4,
        critic_learning_rate: float = 1e-4,
        temperature: float = 0.1,
        multiplier_step: float = 1e-4,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature = {temperature} must be a positive number")
        self.temperature, self.multiplier_step = temperature, multiplier_step
        self.multiplier = 0.0
        self.horizon = 1.0
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            learning_rate=learning_rate,
            critic_learning_rate=critic_learning_rate,
            average_last=0.0,
            starts=1,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _read_environment(self) -> dict[str, Any]:
        super()._read_environment()
        control, reward = self._env_attr("control", ""), self._env_attr("reward_name", "")
        names = tuple(self._env_attr("feature_names", ()))
        if control != "speed" or reward != "euler" or "log_curvature" not in names:
            raise ValueError(
                "PaperARTRL needs an env with control='speed', reward='euler' and 'log_curvature' among its "
                f"features; got control={control!r}, reward={reward!r}, features={names!r}"
            )
        self.horizon = float(self._env_attr("horizon"))
        return {
            "curvature_index": names.index("log_curvature"),
            "temperature": self.temperature,
            "critic_learning_rate": self.critic_learning_rate,
        }

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As SB3's: Algorithm 1 is one run."""
        return OnPolicyAlgorithm._setup_learn(self, *args, **kwargs)

    def own_state(self) -> dict[str, Any]:
        """See ``ARTRL``; and the multiplier."""
        return {**super().own_state(), "multiplier": self.multiplier}

    def restore_own_state(self, state: dict[str, Any]) -> None:
        """See ``ARTRL``."""
        super().restore_own_state(state)
        self.multiplier = state["multiplier"]

    def train(self) -> None:
        """One iteration: moments of the one-step TD error with the gradients as test functions."""
        buffer, policy = self.rollout_buffer, self.policy
        policy.set_training_mode(True)
        self.num_updates += 1
        obs = torch.as_tensor(np.asarray(buffer.observations), device=self.device)
        actions = torch.as_tensor(buffer.actions, device=self.device)
        reward = torch.as_tensor(buffer.rewards, device=self.device)  # -|Q| theta^2 dt
        K, B = obs.shape[:2]
        horizon, lam, gamma = self.horizon, self.temperature, self.multiplier
        dt = horizon / K
        theta = actions[..., 0]

        # TD errors of V = NN_c + lambda t, whose value at the end is known: V(T) = (gamma + lambda) T.
        values = policy.predict_values(obs.flatten(0, 1)).reshape(K, B)
        shifted = values + lam * horizon * obs[..., 0]
        ahead = torch.cat([shifted[1:], torch.full((1, B), (gamma + lam) * horizon, device=self.device)])
        delta = (ahead - shifted - gamma * theta * dt + reward).detach()

        # Adam ascends the moments sum_k grad NN_c(k) delta_k and sum_k grad log pi(theta_k) delta_k.
        critic_moment = (values * delta).sum() / B
        log_prob = policy.log_prob(obs.flatten(0, 1), actions.flatten(0, 1)).reshape(K, B)
        actor_moment = (log_prob * delta).sum() / B
        policy.optimizer.zero_grad()
        policy.critic_optimizer.zero_grad()
        (-(critic_moment + actor_moment)).backward()
        policy.optimizer.step()
        policy.critic_optimizer.step()

        # The budget's price: gamma += a (psi(T) - T), with psi(T) = sum of theta dt.
        spent = float(theta.sum(0).mean()) * dt
        self.multiplier += self.multiplier_step * (spent - horizon)
        self.logger.record("train/actor_moment", actor_moment.item())
        self.logger.record("train/critic_moment", critic_moment.item())
        self.logger.record("train/learning_rate", policy.optimizer.param_groups[0]["lr"])
        self.logger.record("train/multiplier", self.multiplier)
        self.logger.record("train/budget_spent", spent)
        self.logger.record("train/n_updates", self.num_updates, exclude="tensorboard")

    def use_average(self) -> None:
        """Nothing: the last actor is the result."""
