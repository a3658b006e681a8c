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
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import Tensor

from agents.art_rl.policy import ARTPolicy
from agents.schedule_search.search import SearchSettings, TableSearch
from art_env.envs.sb3 import VectorEnvToSB3
from art_env.envs.vector_env import ARTVectorEnv

SelfARTRL = TypeVar("SelfARTRL", bound="ARTRL")


class ARTRL(OnPolicyAlgorithm):
    """Adaptive Reparameterized Time by reinforcement learning (ART-RL).

    Paper: https://arxiv.org/abs/2601.18681 (Algorithm 1). ``ARTRL.paper(env)`` is the literal algorithm; this
    default is the same method made stable. What differs, and why:

    - *Control.* The Gaussian is on the log of the speed, not on the speed. At the optimum
      ``|Q| theta^2`` is constant, so the paper's width ``lambda / |Q|`` on theta is a constant width on
      log theta, without the tail where ``|Q|`` is 0: the literal algorithm lets the clock leave its range there.
      The budget then holds by construction, and no multiplier is needed.
    - *Groups.* Rows form groups, and all groups meet the same initial noises. The final error is heavy-tailed over
      initial noises, and comparing groups on equal noises removes that from the gradient.
    - *Policy.* The mean is a table, one number per step, plus, if there are features, a network of the observation.
      A smooth network of (time, budget) misses the sharp turns of the best schedules.

    The table is a policy of time alone (``features=()``, what a schedule is): it plays the same K actions in every
    row of a group. An episode is then one sample of a Gaussian over K numbers, the mean of the groups takes the
    place of the critic, and the moments are taken over whole episodes (to credit each step with what came after it
    was no better):

    - *Ranks.* Groups are weighted by the rank of their return. Returns themselves follow the few noises with huge
      errors: Heun at K = 10 on ``mixture-1d`` then ends in a local minimum 1.25 times above the oracle.
    - *Tournament.* The final error has many local minima. ``starts`` short runs begin at smooth random clocks (the
      first at even spending) with exploration of a falling width, smooth over the steps before it is white. The
      best third go on, each for a while, and the best of them to the end, with a covariance over the steps that is
      learned with the mean by natural gradient (see ``exploration``). One long start ends at 1.3 times the oracle
      in seven of eight trainings of iPNDM at K = 5, and Heun at K = 10 in four of ten at 1.26.
    - *Initial noises by cost.* After the first runs noises are drawn by what they cost the present schedule, and
      weighted accordingly (see ``start_noises``): DPM-Solver++ at K = 20 goes from 1.5 to 1.1. What each costs is
      surveyed with rollouts of the mean, which count as training. It needs ``ARTVectorEnv.play``; behind other
      wrappers updates take more rollouts instead.
    - *Growing batches.* An update takes one rollout at first and more later: small batches leave bad basins, large
      ones settle. How many depends on the length of training (``updates``), and beyond K = 10 on K: a covariance over
      n steps takes some n squared updates to learn.

    Until the winner is known the policy is the best run so far, which is what is logged and saved.

    An environment with several ``num_steps`` gives one policy for all of them: a table for each K, explored side by
    side (a rollout is one episode of each K), and for any other K what is linear in log K between them. The second
    half of the starts begins near what lies between the best tables of the K on either side. Exploring all K
    jointly, with a kernel over time and log K, was no better.

    With features the table is found first, then the network learns what to add to it for each trajectory. Every row
    then explores by itself and has its own advantage, and the update is the paper's with these changes:

    - *Baseline.* The mean over groups of the advantage at the same step and initial noise is subtracted.
    - *Traces.* Test functions are eligibility traces, ``gae_lambda`` (1: the whole return), which the paper's
      moment conditions allow. A one-step TD error needs a critic that knows the budget well before the actor
      can use it.
    - *Octaves.* The networks see sines and cosines of the observation beside it: without them the error of Euler at
      K = 5 on ``mixture-1d`` stays within 2% of the table's, with them it falls by a fifth.
    - *Annealing.* The width falls from ``std_adapted`` to ``std_end`` and the network's step linearly to 0.

    In both the deployed policy is the average over the last fifth of the last run.

    Args:
        policy: ``"ARTPolicy"`` or a subclass of it.
        env: with an attribute ``num_steps`` (``art_env``'s environments have it), best a native vector
            environment with ``noise_groups``, through ``art_env.sb3.to_sb3``.
        learning_rate: of the table's Adam, in units of the action (of the actor's in the literal algorithm); falls
            to 0.
        network_learning_rate: of the Adam of the features' network; falls to 0.
        critic_learning_rate: of the critic's Adam.
        n_steps: steps per row and update; None: one episode, of each K if there are several.
        gae_lambda: trace of the TD errors.
        critic_updates: passes of the critic over each rollout.
        std_start, std_end: width of the exploration at the start and the end, in units of the action. In a tournament
            ``std_start`` is how far apart the starts begin, and they explore with half of it.
        std_adapted: width at which the second round starts, and the network of the features.
        table_share: part of training that goes to the table, if there are features.
        starts: short runs of the tournament; fewer if they would have less than 30 rollouts each.
        updates: late in training an update takes at most half a rollout for every ``updates`` of the whole training
            (8 at most). If that is less than 2, there is no tournament: one run, with exploration of falling width.
        average_last: part of a run over which the deployed policy is averaged.
        noise_groups: None: what the environment says, else 1.
        temperature: lambda of the literal algorithm.
        multiplier_step: step of the budget's multiplier in the literal algorithm.
        literal: use the update of Algorithm 1 (see ``ARTRL.paper``).
        tensorboard_log, policy_kwargs, verbose, seed, device: as in every SB3 algorithm.

    Raises:
        ValueError: a setting out of range, or an environment without ``num_steps``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"ARTPolicy": ARTPolicy}
    policy: ARTPolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[ARTPolicy],
        env: GymEnv | str,
        learning_rate: float = 0.03,
        network_learning_rate: float = 0.006,
        critic_learning_rate: float = 1e-3,
        n_steps: int | None = None,
        gae_lambda: float = 1.0,
        critic_updates: int = 2,
        std_start: float = 0.18,
        std_end: float = 0.012,
        std_adapted: float = 0.03,
        table_share: float = 0.5,
        starts: int = 12,
        updates: int = 140,
        average_last: float = 0.2,
        noise_groups: int | None = None,
        temperature: float = 0.1,
        multiplier_step: float = 1e-4,
        literal: bool = False,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        positive = {"std_start": std_start, "std_end": std_end, "std_adapted": std_adapted}
        positive.update(temperature=temperature, updates=updates, network_learning_rate=network_learning_rate)
        if starts < 1:
            raise ValueError(f"starts = {starts} must be at least 1")
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value} must be a positive number")
        shares = {"gae_lambda": gae_lambda, "average_last": average_last, "table_share": table_share}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} = {value} must lie between 0 and 1")
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            learning_rate=learning_rate,
            n_steps=n_steps or 1,
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
        self._n_steps_given = n_steps is not None
        self.network_learning_rate, self.critic_learning_rate = network_learning_rate, critic_learning_rate
        self.critic_updates = critic_updates
        self.std_start, self.std_end, self.average_last = std_start, std_end, average_last
        self.std_adapted, self.updates, self.table_share = std_adapted, updates, table_share
        self.starts = starts
        self.noise_groups = noise_groups
        self.temperature, self.multiplier_step = temperature, multiplier_step
        self.literal = literal
        self.multiplier = 0.0
        self.horizon = 1.0
        self.num_updates = 0
        # While the table is learned.
        self.search: TableSearch | None = None
        self._played = False
        self._average: dict[str, Tensor] = {}
        self._averaged = 0
        if _init_setup_model:
            self._setup_model()

    @classmethod
    def paper(cls: type[SelfARTRL], env: GymEnv, **kwargs: Any) -> SelfARTRL:
        """Algorithm 1 with the published settings; ``env`` with ``control="speed"`` and ``reward="euler"``.

        One trajectory an iteration (``env`` of one row), actor and critic of 3 layers of 128 with Softplus,
        lambda = 0.1, eps = 1e-6, Adam 1e-4 for both, multiplier step 1e-4; 5,000 iterations
        are ``learn(5000 * num_steps)``. The observation needs ``log_curvature``. Two deviations: inputs
        are scaled to the observation's bounds, and psi is held in [0, T] by the environment.
        """
        settings: dict[str, Any] = {
            "learning_rate": 1e-4,
            "critic_learning_rate": 1e-4,
            "temperature": 0.1,
            "multiplier_step": 1e-4,
            "literal": True,
            "policy_kwargs": {"net_arch": (128, 128, 128), "adam_betas": (0.9, 0.999)},
        }
        return cls("ARTPolicy", env, **{**settings, **kwargs})

    def _setup_model(self) -> None:
        if self.env is not None:
            self._read_environment()
        super()._setup_model()
        assert isinstance(self.rollout_buffer, RolloutBuffer)
        table = self.policy.table
        if table is None or self.num_updates > 0:
            return
        episodes = sum(self.policy.budgets)
        if self.n_steps % episodes:
            raise ValueError(
                f"n_steps = {self.n_steps} must be a multiple of {episodes}, the steps of one episode of each K: the "
                "table of the policy is judged by whole episodes"
            )
        if self.num_groups < 2:
            if self.policy.sees_time_only:
                raise ValueError(
                    "num_envs = 1: a policy of time alone learns by comparing rows; use a vector environment such as "
                    "ARTVectorEnv(256, noise_groups=16, ...), or give the environment features"
                )
            return  # nothing to compare: the network alone learns
        self._begin_search()

    def _begin_search(self) -> None:
        """A search for the table, from what it is now."""
        table = self.policy.table
        assert table is not None
        settings = SearchSettings(
            float(self.lr_schedule(1.0)),
            self.policy.adam_betas,
            self.std_start,
            self.std_end,
            self.std_adapted,
            self.starts,
            self.updates,
            self.average_last,
        )
        groups, members = self.num_groups, self.n_envs // self.num_groups
        pool = _pool_size(self.env)
        self.search = TableSearch(table.values, table.budgets, groups, members, pool, settings)

    def _read_environment(self) -> None:
        """Take from the environment what the networks must know."""
        assert self.env is not None
        try:
            num_steps = int(self.env.get_attr("num_steps")[0])
            budgets = tuple(self._env_attr("budgets", (num_steps,)))
        except AttributeError as error:
            raise ValueError(
                "env has no attribute num_steps, the length of its episodes; use an art_env environment"
            ) from error
        if not self._n_steps_given:
            self.n_steps = sum(budgets)
        if self.noise_groups is None:
            self.noise_groups = self._env_attr("noise_groups", 1)
        if self.noise_groups < 1 or self.env.num_envs % self.noise_groups:
            raise ValueError(f"noise_groups = {self.noise_groups} must divide num_envs = {self.env.num_envs}")
        self.horizon = float(self._env_attr("horizon", 1.0))
        own = {
            "num_steps": budgets,
            "critic_learning_rate": self.critic_learning_rate,
            "stiffness_tied": self.literal,
            "temperature": self.temperature,
        }
        if self.literal:
            names = self._env_attr("feature_names", ())
            fits = self._env_attr("control", "") == "speed" and self._env_attr("reward_name", "") == "euler"
            if len(budgets) > 1:
                raise ValueError(
                    f"num_steps = {budgets}: ARTRL.paper needs an environment with one number of steps"
                )
            if not fits or "log_curvature" not in names:
                raise ValueError(
                    "ARTRL.paper needs an env with control='speed', reward='euler' and 'log_curvature' among its "
                    f"features; got control={self._env_attr('control', None)!r}, "
                    f"reward={self._env_attr('reward_name', None)!r}, features={tuple(names)!r}"
                )
            own["log_q_index"] = list(names).index("log_curvature")
        self.policy_kwargs = {**own, **self.policy_kwargs}

    def _env_attr(self, name: str, default: Any) -> Any:
        assert self.env is not None
        try:
            return self.env.get_attr(name)[0]
        except AttributeError:
            return default

    def train(self) -> None:
        """One update from the rollout that was just collected."""
        self.policy.set_training_mode(True)
        if self.literal:
            self._train_literal()
        elif self.search is not None:
            self._train_table(self.search)
            if not self.policy.sees_time_only and self._table_progress >= 1:
                self._end_table()
        else:
            self._train_network()

    def _rollout(self) -> tuple[Tensor, Tensor]:
        """Observations ``[T, B, n]`` and actions ``[T, B, 1]`` of the rollout."""
        buffer = self.rollout_buffer
        obs = torch.as_tensor(np.asarray(buffer.observations), device=self.device)
        return obs, torch.as_tensor(buffer.actions, device=self.device)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """As its parent; for the table one offset a step and group is explored.

        Its actions are known beforehand: where the environment can play whole episodes, it does.
        """
        search = self.search
        self._played = search is not None and _pool(env) is not None
        if search is None:
            self.policy.offsets = None
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if search.pool and search.pool != _pool_size(env):
            search.leave_pool()
        search.start(
            self._table_progress, self._table_part * self._total_timesteps / (self.n_steps * self.n_envs)
        )
        self.policy.offsets = search.offsets
        self.policy.std.fill_(search.width)
        if not self._played:
            self._show(search.values)
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        callback.on_rollout_start()
        each = (search.values + search.offsets.float()).clamp(-1.0, 1.0)  # [G, T]
        actions = each.repeat_interleave(env.num_envs // self.num_groups, 0).numpy()
        for _ in range(n_rollout_steps // actions.shape[1]):
            returns = env.env_method("play", actions, search.index(), indices=0)[0]
            search.add(torch.from_numpy(returns).T)
        for _ in range(n_rollout_steps):
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
        callback.on_rollout_end()
        return True

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """As its parent, but a policy of time alone logs its returns itself: no loop over the rows."""
        if not self.policy.sees_time_only:
            super()._update_info_buffer(infos, dones)

    @property
    def _table_part(self) -> float:
        """Part of training that goes to the table: all of it without features, none without rows to compare."""
        if self.policy.sees_time_only:
            return 1.0
        return self.table_share if self.num_groups > 1 else 0.0

    @property
    def _table_progress(self) -> float:
        """How much is done of the part of training that goes to the table; beyond 1 the network learns."""
        return (1.0 - self._current_progress_remaining) / max(self._table_part, 1e-9)

    @property
    def num_groups(self) -> int:
        """Groups of rows that share their exploration."""
        assert self.noise_groups is not None
        return self.noise_groups if self.noise_groups > 1 else self.n_envs

    def _train_table(self, search: TableSearch) -> None:
        """The search for the table learns from the rollout."""
        table = self.policy.table
        assert table is not None
        if not self._played:
            # The rows run through the K in turn, and a rollout holds that a whole number of times.
            rounds = self.n_steps // len(table.values)
            rewards = torch.as_tensor(self.rollout_buffer.rewards, dtype=torch.float64)  # [T, B]
            for by_step in rewards.reshape(rounds, len(table.values), -1):
                search.add(torch.stack([by_step[table.of(i)].sum(0) for i in range(len(table.budgets))]))
        log = search.step(self._table_progress)
        self._show(search.best())
        if log is None:
            return
        self.num_updates += 1
        for name, value in log.items():
            self.logger.record(name, value)
        self.logger.record("train/n_updates", self.num_updates, exclude="tensorboard")

    @torch.no_grad()
    def _show(self, values: Tensor) -> None:
        assert self.policy.table is not None
        self.policy.table.values.copy_(values)

    def _end_table(self) -> None:
        """The table is what it was on average; from here on the network of the features learns."""
        self.use_average()
        self.search = None
        self.policy.std.fill_(self.std_adapted)

    def _train_network(self) -> None:
        buffer, policy = self.rollout_buffer, self.policy
        self.num_updates += 1
        # Below 0 in the last rollout, if the total is not a multiple of its length.
        left = max(self._current_progress_remaining, 0.0)
        remaining = min(left / max(1.0 - self._table_part, 1e-9), 1.0)
        obs, actions = self._rollout()
        T, B = obs.shape[:2]
        flat_obs, flat_actions = obs.flatten(0, 1), actions.flatten(0, 1)
        advantages = torch.as_tensor(buffer.advantages, device=self.device).double()  # [T, B]
        returns = torch.as_tensor(buffer.returns, device=self.device)

        # Actor: E[grad log pi * advantage], the advantage centred over groups that met the same noise.
        groups = self.num_groups
        by_group = advantages.reshape(T, groups, B // groups)
        if groups > 1:
            by_group = by_group - by_group.mean(1, keepdim=True)
        weights = (by_group / by_group.std().clamp_min(1e-300)).reshape(T * B).float()
        for group in policy.optimizer.param_groups:
            group["lr"] = self.network_learning_rate * remaining
        actor_loss = -(policy.log_prob(flat_obs, flat_actions) * weights).mean()
        policy.optimizer.zero_grad()
        actor_loss.backward()
        policy.optimizer.step()

        # Critic: the martingale moment condition with traces, that is least squares on the traced returns.
        spread = returns.square().mean().sqrt()
        first = policy.value_scale == 1.0
        policy.value_scale.copy_(torch.where(first, spread, 0.9 * policy.value_scale + 0.1 * spread))
        policy.value_scale.clamp_min_(1e-30)
        target = (returns / policy.value_scale).reshape(-1).float()
        for _ in range(self.critic_updates):
            value = policy.predict_values(flat_obs)[:, 0] / policy.value_scale
            critic_loss = torch.nn.functional.mse_loss(value, target)
            policy.critic_optimizer.zero_grad()
            critic_loss.backward()
            policy.critic_optimizer.step()

        decay = (self.std_end / self.std_adapted) ** (1.0 - remaining)
        policy.std.fill_(self.std_adapted * decay)
        if remaining <= self.average_last:
            self._accumulate()
        self.logger.record("train/actor_loss", actor_loss.item())
        self.logger.record("train/critic_loss", critic_loss.item())
        self.logger.record("train/std", policy.std.item())
        self.logger.record(
            "train/explained_variance",
            float(explained_variance(buffer.values.flatten(), buffer.returns.flatten())),
        )
        self.logger.record("train/n_updates", self.num_updates, exclude="tensorboard")

    @torch.no_grad()
    def _accumulate(self) -> None:
        """Running mean of the actor over the last part of training."""
        self._averaged += 1
        for name, value in self.policy.named_parameters():
            if name.startswith("critic_net"):
                continue
            mean = self._average.setdefault(name, torch.zeros_like(value))
            mean += (value - mean) / self._averaged

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
            if self.search is not None:
                self._begin_search()
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        if self._current_progress_remaining <= 0:
            self.use_average()
            if self.search is not None:
                self.search.noises = []  # as large as the pool, and of no further use
        return self

    @torch.no_grad()
    def use_average(self) -> None:
        """Replace the actor by its average over the last part of training, if that has begun."""
        if self.search is not None and self.policy.table is not None:
            self._show(self.search.average())
            return
        parameters = dict(self.policy.named_parameters())
        for name, mean in self._average.items():
            parameters[name].copy_(mean)

    def _train_literal(self) -> None:
        """Algorithm 1: moments of the one-step TD error with the gradients as test functions."""
        self.num_updates += 1
        buffer, policy = self.rollout_buffer, self.policy
        obs, actions = self._rollout()
        T, B = obs.shape[:2]
        K, horizon, lam, gamma = policy.budgets[0], self.horizon, self.temperature, self.multiplier
        dt = horizon / K
        values = policy.predict_values(obs.flatten(0, 1)).reshape(T, B)  # NN_c
        reward = torch.as_tensor(buffer.rewards, device=self.device)  # -|Q| theta^2 dt
        theta = actions[..., 0]
        shifted = values + lam * horizon * obs[..., 0]  # V = NN_c + lambda t
        anchored = torch.full((1, B), (gamma + lam) * horizon, device=self.device)  # V(T), known
        ahead = torch.cat([shifted[1:], anchored])
        ends = (torch.arange(T, device=self.device) + 1) % K == 0
        ahead = torch.where(ends[:, None], anchored, ahead)
        delta = (ahead - shifted - gamma * theta * dt + reward).detach()

        # Adam ascends the moments sum_k grad NN_c(k) delta_k and sum_k grad log pi(theta_k) delta_k.
        critic_moment = (values * delta).sum() / B
        log_prob = policy.log_prob(obs.flatten(0, 1), actions.flatten(0, 1)).reshape(T, B)
        actor_moment = (log_prob * delta).sum() / B
        policy.optimizer.zero_grad()
        policy.critic_optimizer.zero_grad()
        (-(critic_moment + actor_moment)).backward()
        policy.optimizer.step()
        policy.critic_optimizer.step()
        # The budget's price: gamma += a (psi(T) - T), with psi(T) = sum of theta dt.
        spent = float(theta.sum(0).mean()) * dt * K / T
        self.multiplier += self.multiplier_step * (spent - horizon)
        self.logger.record("train/actor_moment", actor_moment.item())
        self.logger.record("train/critic_moment", critic_moment.item())
        self.logger.record("art/multiplier", self.multiplier)
        self.logger.record("art/budget_spent", spent)
        self.logger.record("train/n_updates", self.num_updates, exclude="tensorboard")

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "policy.critic_optimizer"], []


def _pool(env: VecEnv | None) -> ARTVectorEnv | None:
    """The ``ARTVectorEnv`` with a pool of initial noises, if there is nothing but a monitor around it."""
    while isinstance(env, VecMonitor):
        env = env.venv
    vector = getattr(env, "env", None)
    if not (isinstance(env, VectorEnvToSB3) and isinstance(vector, ARTVectorEnv)):
        return None
    return vector if vector.dynamics.reference is not None else None


def _pool_size(env: VecEnv | None) -> int:
    """Initial noises that can be chosen one by one; 0 where rows are not compared with trajectories of their own."""
    vector = _pool(env)
    return vector.dynamics.pool_size if vector is not None and vector.dynamics.paired else 0
