"""ART-RL: the actor-critic of Huang, Tang and Zhou (2026) for the speed of the sampling clock."""

from __future__ import annotations

import math
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.art_rl.initial_noises import InitialNoises
from agents.art_rl.policy import ARTPolicy
from agents.art_rl.restarts import Restarts

# Of an attribute that an environment must have; and settings of a policy that sees many data distributions.
REQUIRED: Any = object()
GENERAL = {"octaves": 0, "whiten": True}
SelfARTRL = TypeVar("SelfARTRL", bound="ARTRL")


class ARTRL(OnPolicyAlgorithm):
    """Adaptive Reparameterized Time by reinforcement learning (ART-RL): an actor-critic of the sampling clock.

    Paper: https://arxiv.org/abs/2601.18681, whose Algorithm 1 is ``PaperARTRL``. A Gaussian policy acts step by step
    through ``env.step`` of any SB3 ``VecEnv``. A critic is fitted to the martingale condition with TD(lambda) traces,
    and the actor climbs E[grad log pi * delta], delta the critic's TD(lambda) error. Rows form groups that meet the
    same initial noises (common random numbers), and delta is taken relative to the mean over groups, as in RLOO
    (Ahmadian et al. 2024) and GRPO (Shao et al. 2024). An update takes one episode of every row. But for which rows
    explore alike, the algorithm is the same with and without features, groups and wrappers. Of the environment it
    reads ``num_steps``, ``noise_groups`` (1 if there is none), ``num_initial_noises`` (0 if there is none) and
    ``distributions`` (None if there are none).

    What differs from the paper, and why. Figures are ratios (RMSE over the oracle's, held-out initial noises) of two
    short trainings each, seeds 0 and 1, ``starts`` = 1, with DPM-Solver++ at K = 7: first on a mixture of five modes
    (256 rows, 300 episodes), then on ``mixture-1d`` (1,024 rows, 150 episodes). As it is: 1.03, 1.01 and 1.09, 1.06.
    Two seeds do not tell differences of 0.03 from nothing. "Long" figures are of ``mixture-1d``, 2,048 rows and 1,130
    episodes, in an emulation without critic whose every step is credited with the whole return.

    - *Control.* The Gaussian is on the log of the speed (the environment sets it). At the optimum ``|Q| theta^2``
      is constant, so the paper's width ``lambda / |Q|`` on theta is a constant width on log theta, without the tail
      where ``|Q|`` is 0. The budget then holds by construction, and no multiplier is needed.
    - *Groups.* The error is heavy-tailed over initial noises, and comparing equal noises removes that from the
      gradient. Without groups: 1.24, 1.04 and 1.04, 1.05.
    - *Features.* With a network, what limits training is the number of updates and of different explorations. So each
      row explores by itself, and training takes many small rollouts (``train.py``: 256 rows in 4 groups).
      ``mixture-1d``, Heun at K = 10, feature ``x``, seed 100, on top of a search, 3.5 million env steps: 256 rows
      0.37, 512 rows 0.42, 2,048 rows 1.03. With exploration shared within a group: 512 rows 0.78, 2,048 rows 0.85.
      512 rows without *reward so far*: 0.49. Minibatches of large rollouts with PPO's clipped ratio: 0.66 at best.
      On top of a search the width begins at 0.03 and the table's step at 0.005; with 0.05 and 0.05 (2,048 rows):
      1.24. Those are 16 groups; with 4 of 256 rows, Heun at K = 5, 5.1 million env steps from the base schedule, it
      is 0.25 instead of 0.32, and with the four other features 0.21 instead of 0.54. With weights the error is more
      sensitive: ``mixture-2d``, ``learned_2m`` at K = 5, on top of the best list, 5.1 million env steps: 0.70 with a
      width from 0.02 to 0.008 and steps of 0.002 (table) and 0.001 (network); with half that width 0.80, with half
      the network's step 0.75. ``mixture-1d`` is an exception: there wide exploration from the base schedule ends
      lower than any start on top of the best list.
    - *Exploration shared within a group* without features, in antithetic pairs of groups. With exploration of each
      row's own: 1.02, 1.02 and 1.09, 1.11; long, with Heun at K = 10, it ends in a local minimum: 1.40, 1.36 against
      1.02, 1.02.
    - *Reward so far.* No action has a part in the reward before it, so a multiple of that may be subtracted too; at
      each step it is the multiple that leaves the least variance. The environment's rewards are the growth of the
      error, so what is still to come depends on an error that earlier actions made. Without: 1.35, 1.33 and 1.02,
      1.07.
    - *Initial noises by cost.* Those that cost the present policy much are met more often, weighted by the inverse
      probability (see ``InitialNoises``). Without: 1.03, 1.04 and 1.11, 1.10; long, at K = 10 and with
      advantages by rank: 1.12, 1.13 against 1.01, 0.99.
    - *Traces.* ``gae_lambda`` = 1 takes the whole return; the moment conditions allow any trace. A TD error is worth
      what its critic knows, and from time and budget alone little is known. With 0.9: 1.60, 1.78 and 1.03, 1.07; with
      0, the paper's, it diverges: 101, 101 and 8.6, 8.6.
    - *Policy.* The mean is a table with a vector for each step, and a network of the observation, with its sines and
      cosines, is added if there are features. Not measured here: a smooth network of (time, budget) misses the sharp
      turns of the best schedules.
    - *Annealing.* The width falls from ``std_start`` to ``std_end`` and the actor's step linearly to 0. With a
      constant width of 0.06: 1.13, 1.08 and 1.05, 1.06. The deployed policy is the average over the last part of
      training. Without: 1.02, 1.02 and 1.08, 1.11.
    - *Many data distributions.* Where initial noises belong to several, each distribution counts by its own cost (see
      ``InitialNoises``), and the networks see whitened observations without sines. A policy that is trained by
      gradients on random mixtures ends at 0.77 of the universal list's error on new ones; without whitening at 0.89;
      where squared errors are averaged over mixtures, also without whitening, at 0.99.
    - *Short runs.* The error has local minima, so training begins with ``starts`` short runs (see ``Restarts``). With
      one run from start to end on ``mixture-1d`` (1,024 rows, seed 0; 400 and 500 episodes): DPM-Solver++ at K = 3
      1.28 against 1.00, Heun at K = 7 1.12 against 1.01.

    Args:
        policy: ``"ARTPolicy"`` or a subclass of it.
        env: episodes of exactly ``num_steps`` steps; rows ordered group after group.
        learning_rate: of the table's Adam, in units of the action; falls to 0. That of the actor's network is among
            ``policy_kwargs``.
        critic_learning_rate: of the critic's Adam.
        gae_lambda: trace of the TD errors; 1: the whole return.
        critic_updates: passes of the critic over each rollout.
        std_start: width of the exploration at the start, in units of the action.
        std_end: its width at the end.
        average_last: part of training over which the deployed policy is averaged.
        starts: short runs, the best of which goes on (see ``Restarts``); 1: one run from start to end.
        noise_groups: groups of rows that meet the same initial noises; 1: the critic alone is the baseline. None:
            what the environment says.
        tensorboard_log: as in every SB3 algorithm, like the four below.
        policy_kwargs: arguments of the policy.
        verbose: 1: print progress.
        seed: of the agent and its exploration.
        device: of the networks.

    Raises:
        ValueError: a setting out of range, or an environment without ``num_steps``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"ARTPolicy": ARTPolicy}
    policy: ARTPolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[ARTPolicy],
        env: GymEnv | str,
        learning_rate: float = 0.05,
        critic_learning_rate: float = 3e-3,
        gae_lambda: float = 1.0,
        critic_updates: int = 2,
        std_start: float = 0.18,
        std_end: float = 0.012,
        average_last: float = 0.2,
        starts: int = 4,
        noise_groups: int | None = None,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        for name, value in (("std_start", std_start), ("std_end", std_end)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value} must be a positive number")
        for name, value in (("gae_lambda", gae_lambda), ("average_last", average_last)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} = {value} must lie between 0 and 1")
        for name, count in (("critic_updates", critic_updates), ("starts", starts)):
            if count < 1:
                raise ValueError(f"{name} = {count} must be at least 1")
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            learning_rate=learning_rate,
            n_steps=1,  # one episode, once its length is known
            gamma=1.0,
            gae_lambda=gae_lambda,
            ent_coef=0.0,
            vf_coef=1.0,
            max_grad_norm=float("inf"),
            use_sde=False,
            sde_sample_freq=-1,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Box,),
            _init_setup_model=False,
        )
        self.critic_learning_rate, self.critic_updates = critic_learning_rate, critic_updates
        self.std_start, self.std_end, self.average_last = std_start, std_end, average_last
        self.starts, self.noise_groups = starts, noise_groups
        self.num_updates = 0
        self.restarts: Restarts | None = None
        self.initial_noises: InitialNoises | None = None
        self._average: dict[str, Tensor] = {}
        self._averaged = 0
        # Whether the initial noises of the rollout under way are drawn and its episodes begun.
        self._drawn = False
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.env is not None:
            own = self._read_environment()
            self.policy_kwargs = {**own, **self.policy_kwargs}
        super()._setup_model()

    def _read_environment(self) -> dict[str, Any]:
        """Rollouts of one episode, and what the policy must know of the environment."""
        self.n_steps = int(self._env_attr("num_steps"))
        if self.noise_groups is None:
            self.noise_groups = int(self._env_attr("noise_groups", 1))
        if self.noise_groups < 1 or self.n_envs % self.noise_groups:
            raise ValueError(f"noise_groups = {self.noise_groups} must divide num_envs = {self.n_envs}")
        pool = int(self._env_attr("num_initial_noises", 0))
        known = self.initial_noises
        if known is None or len(known.costs) != pool:  # else training goes on
            distributions = self._env_attr("distributions", None)
            self.initial_noises = InitialNoises(pool, distributions) if pool > 0 else None
        # A policy for many models must not hang on small differences of what it sees.
        general = {} if self.initial_noises is None or self.initial_noises.distributions is None else GENERAL
        return {
            **general,
            "num_steps": self.n_steps,
            "noise_groups": self.noise_groups,
            "critic_learning_rate": self.critic_learning_rate,
            "std": self.std_start,
        }

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As its parent, from initial noises that are drawn by their cost, where the environment takes them."""
        if self.initial_noises is not None and not self._drawn:
            assert self.noise_groups is not None
            groups = self.noise_groups
            index = self.initial_noises.draw(self.n_envs // groups)
            env.set_options({"noise_index": np.tile(index, groups)})
            self._last_obs = env.reset()  # type: ignore[assignment]
        # Callbacks may take the state now, and a training that goes on from it must not draw again.
        self._drawn = True
        going_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        self._drawn = False
        return going_on

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """As its parent, without a loop over the rows of a step that ends no episode."""
        if dones is None or dones.any():
            super()._update_info_buffer(infos, dones)

    def _env_attr(self, name: str, default: Any = REQUIRED) -> Any:
        """An attribute of the environment; if it has none, ``default``.

        Raises:
            ValueError: neither is there.
        """
        assert self.env is not None
        try:
            return self.env.get_attr(name)[0]
        except AttributeError as error:
            if default is REQUIRED:
                raise ValueError(
                    f"env has no attribute {name}; use an art_env environment, or give yours {name}"
                ) from error
            return default

    def train(self) -> None:
        """One update of actor and critic from the rollout that was just collected: one episode of each row."""
        buffer, policy = self.rollout_buffer, self.policy
        policy.set_training_mode(True)
        self.num_updates += 1
        progress = 1.0 - self._current_progress_remaining
        assert self.restarts is not None
        remaining = self.restarts.remaining(progress)  # of annealing, from 1 to 0
        obs = torch.as_tensor(np.asarray(buffer.observations), device=self.device).flatten(0, 1)
        actions = torch.as_tensor(buffer.actions, device=self.device).flatten(0, 1)

        assert self.noise_groups is not None
        K, B, groups = *buffer.rewards.shape, self.noise_groups
        members = B // groups  # row g * members + m is member m of group g
        weight = self._importance(buffer.rewards.reshape(K, groups, members))
        if self.num_updates == 1:
            policy.fit_whitening(obs.reshape(K, B, -1))

        # 1. TD(lambda) errors of the martingale critic: at each step the sum of lambda^j (r + V' - V) from there on.
        delta = torch.as_tensor(buffer.advantages, device=self.device).double().reshape(K, groups, members)

        # 2. The baseline: the mean over groups, which met the same initial noise, at the same step and member; and a
        # multiple of the reward before that step, which no later action has a part in.
        rewards = torch.as_tensor(buffer.rewards, device=self.device).double().reshape(K, groups, members)
        before = rewards.cumsum(0) - rewards
        if groups > 1:
            delta, before = (x - x.mean(1, keepdim=True) for x in (delta, before))
        delta, before = delta * weight, before * weight
        # Rows that share their exploration are one sample of it, else every row is.
        samples, past = (x.mean(2) if policy.shares_exploration else x.flatten(1) for x in (delta, before))
        slope = (samples * past).sum(1) / past.square().sum(1).clamp_min(1e-300)  # least squares
        delta, samples = delta - slope[:, None, None] * before, samples - slope[:, None] * past
        delta = (delta / samples.std().clamp_min(1e-300)).flatten().float()

        # 3. The actor's moment E[grad log pi * delta].
        for group in policy.optimizer.param_groups:
            group["lr"] = group["first_lr"] * remaining
        actor_loss = -(policy.log_prob(obs, actions) * delta).mean()
        policy.optimizer.zero_grad()
        actor_loss.backward()
        policy.optimizer.step()
        policy.clip_table()

        # 4. The critic's moment E[grad V * delta] = 0: least squares on the traced returns.
        returns = torch.as_tensor(buffer.returns, device=self.device).flatten()
        self._update_value_scale(returns)
        target, each = returns / policy.value_scale, weight.float().expand(K, groups, -1).flatten()
        for _ in range(self.critic_updates):
            critic_loss = (each * (policy.scaled_values(obs) - target).square()).mean()
            policy.critic_optimizer.zero_grad()
            critic_loss.backward()
            policy.critic_optimizer.step()

        # 5. The width of the exploration falls; a short run may end here; late in training the actor is averaged.
        mean_return = float((rewards.sum(0) * weight).mean())
        self.restarts.update(policy, progress, mean_return)
        left = self.restarts.remaining(progress)
        policy.std.fill_(self.std_start * (self.std_end / self.std_start) ** (1.0 - left))
        if progress >= 1.0 - self.average_last:
            self._accumulate()

        self.logger.record("rollout/ep_rew_mean", float(rewards.sum(0).mean()))
        self.logger.record("train/actor_loss", actor_loss.item())
        self.logger.record("train/critic_loss", critic_loss.item())
        self.logger.record("train/std", policy.std.item())
        self.logger.record("train/learning_rate", policy.optimizer.param_groups[0]["lr"])
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", float(explained))
        self.logger.record("train/n_updates", self.num_updates, exclude="tensorboard")

    def _importance(self, rewards: np.ndarray) -> Tensor:
        """Weights ``[members]`` of the initial noises of this rollout, whose costs are noted; 1 without choice."""
        noises = self.initial_noises
        if noises is None:
            return torch.ones(rewards.shape[2], dtype=torch.float64, device=self.device)
        noises.update(rewards.sum(0).mean(0))
        return torch.as_tensor(noises.weights, device=self.device)

    def _update_value_scale(self, returns: Tensor) -> None:
        """Follow the size of the returns, which falls by orders of magnitude."""
        size, scale = returns.square().mean().sqrt().clamp_min(1e-30), self.policy.value_scale
        scale.copy_(size if self.num_updates == 1 else 0.9 * scale + 0.1 * size)

    @torch.no_grad()
    def _accumulate(self) -> None:
        """Running mean of the actor."""
        self._averaged += 1
        for name, value in self.policy.actor_parameters():
            mean = self._average.setdefault(name, torch.zeros_like(value))
            mean += (value - mean) / self._averaged

    @torch.no_grad()
    def use_average(self) -> None:
        """Replace the actor by its average over the last part of training, if that has begun."""
        for name, value in self.policy.actor_parameters():
            value.copy_(self._average.get(name, value))

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As its parent; a training that does not go on with another one plans its short runs."""
        total, callback = super()._setup_learn(*args, **kwargs)
        if self.restarts is None or self.num_timesteps == 0:
            rollouts = total / (self.n_steps * self.n_envs)
            self.restarts = Restarts(self.policy, self.starts, rollouts, self.std_start)
        return total, callback

    def learn(
        self: SelfARTRL,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "ARTRL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfARTRL:
        """Train; at the end the actor is replaced by its average over the last part."""
        if reset_num_timesteps:
            self._average, self._averaged = {}, 0
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        if self._current_progress_remaining <= 0:
            self.use_average()
        return self

    def own_state(self) -> dict[str, Any]:
        """What changes during training beside what every SB3 algorithm has, as plain values, tensors and arrays."""
        noises = self.initial_noises
        return {
            "num_updates": self.num_updates,
            "average": self._average,
            "averaged": self._averaged,
            "drawn": self._drawn,
            "restarts": None if self.restarts is None else vars(self.restarts),
            "initial_noises": None if noises is None else {n: getattr(noises, n) for n in noises.CHANGING},
        }

    def restore_own_state(self, state: dict[str, Any]) -> None:
        """Put back what ``own_state`` gave.

        Raises:
            ValueError, KeyError: of another algorithm, or of an environment with other initial noises.
        """
        self.num_updates, self._drawn = state["num_updates"], state["drawn"]
        self._average, self._averaged = state["average"], state["averaged"]
        if state["restarts"] is not None:
            self.restarts = Restarts(self.policy, 1, 0.0, 0.0)
            vars(self.restarts).update(state["restarts"])
        if (self.initial_noises is None) != (state["initial_noises"] is None):
            raise ValueError(
                "the environment offers another choice of initial noises than in the training so far"
            )
        if self.initial_noises is not None:
            vars(self.initial_noises).update(state["initial_noises"])

    def _excluded_save_params(self) -> list[str]:
        # It is about the environment's episodes, which SB3 does not save.
        return [*super()._excluded_save_params(), "_drawn"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "policy.critic_optimizer"], []
