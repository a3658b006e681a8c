"""The control problem as pure batched functions, under the names of Gymnasium's ``FuncEnv``.

Both environment classes are thin over this; a batch of B rows costs one denoiser call a stage.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_env.diffusion.noise import StepNoise
from art_env.diffusion.solvers import sample
from art_env.envs.base_schedule import BaseSchedule
from art_env.envs.clock import Control, LogSpeed, Speed
from art_env.envs.config import EnvConfig
from art_env.envs.observation import Observer
from art_env.envs.rewards import (
    EulerReward,
    GlobalReward,
    LocalReward,
    LogGlobalReward,
    Reward,
    WassersteinReward,
)
from art_env.envs.state import State
from art_env.envs.stepping import Stepper
from art_env.envs.weights import SlopeWeights


class Dynamics:
    """The environment without its state: every method is a pure function of what it is given.

    The noise of a stochastic solver is a table with one row of standard normal numbers for each step and initial
    noise, drawn from ``noise_seed`` and addressed by ``State.index``: a transition stays a pure function, and rows of
    one index meet the same noise.

    Args:
        config: every setting; default ``EnvConfig()``.
        group_size: consecutive rows whose final samples are compared with exact ones as one set, for the
            ``"global"`` reward of a stochastic solver. None: that reward cannot be computed.
        settings: fields of ``EnvConfig`` that differ from ``config``.

    Attributes:
        config: the settings.
        problem: what is sampled.
        solver: the rule.
        num_steps: K, the length of every episode.
        reference: exact trajectories of the pool of initial noises; None with ``reward="euler"``.
        pool_size: how many initial noises there are.
        horizon: the paper's T, ``sigma_max`` minus the last noise level.
        with_gradients: whether states remember how they came about (see ``differentiable``).

    Raises:
        ValueError, TypeError: a setting that is not understood; names it, its value and the fix.
    """

    def __init__(
        self, config: EnvConfig | None = None, *, group_size: int | None = None, **settings: Any
    ) -> None:
        self.config = EnvConfig.make(config, **settings)
        self.problem = problem = self.config.make_problem()
        self.solver, self.num_steps = self.config.rule, self.config.num_steps
        self.reward_name = self.config.reward
        self.with_gradients = False
        self.horizon = problem.sigma_max - problem.sigma_end
        self.device = torch.device(problem.device)
        self.observer = Observer(
            problem,
            self.config.features,
            self.num_steps,
            exact_curvature=self.reward_name == "euler",
            history=self.config.history,
        )
        self.base = BaseSchedule(self.config.base_schedule, problem, self.num_steps, self.solver)
        self.control_rule: Control
        if self.config.control == "log_speed":
            self.control_rule = LogSpeed(self.base, self.config.action_range)
        else:
            self.control_rule = Speed(problem, self.num_steps)
        self.weight_rule: SlopeWeights | None = None
        if self.solver.num_weights:
            self.weight_rule = SlopeWeights(self.solver, self.num_steps, self.base.weights)
        self.reference = self.config.make_reference(problem)
        self.pool_size = self.config.num_noises or problem.num_noises
        if self.reference is not None:
            self.pool_size = self.reference.num_noises
        self.noise: StepNoise | None = None
        if self.solver.stochastic:
            self.noise = StepNoise(problem.shape, self.config.noise_seed, problem.given_channels)
        self.stepper = Stepper(
            problem,
            self.solver,
            with_curvature=self.reward_name == "euler",
            may_end_early=self.control_rule.may_end_early,
            noise=self.noise,
            pool_size=self.pool_size,
            num_steps=self.num_steps,
        )
        self.denoiser = self.stepper.denoiser
        self.reward_rule: Reward | None = self._reward_rule(group_size)

    def _reward_rule(self, group_size: int | None) -> Reward:
        if self.reward_name == "euler":
            return EulerReward(self.control_rule, self.horizon / self.num_steps)
        assert self.reference is not None
        if self.reward_name == "local":
            return LocalReward(self.reference, self.stepper, self.weight_rule)
        if self.reward_name == "log_global":
            return LogGlobalReward()
        if self.solver.stochastic:
            return WassersteinReward(self.problem, self.solver, self.reference, self.num_steps, group_size)
        return GlobalReward()

    @property
    def control(self) -> str:
        """``log_speed`` or ``speed``."""
        return self.config.control

    @property
    def num_actions(self) -> int:
        """Entries of an action: the clock speed, and the weights of a learned solver."""
        return 1 + self.solver.num_weights

    @property
    def used_actions(self) -> np.ndarray:
        """``[K, A]`` bool: the entries that an episode reads; the last speed and weights without a past are not."""
        used = np.ones((self.num_steps, 1), dtype=np.bool_)
        if isinstance(self.control_rule, LogSpeed):
            used[-1] = False
        return np.concatenate([used, self.solver.used_weights(self.num_steps)], 1)

    @property
    def features(self) -> tuple[str, ...]:
        """Features observed besides time and remaining budget."""
        return self.observer.features

    @property
    def compares_groups(self) -> bool:
        """Whether the reward compares groups of final samples with exact ones."""
        return isinstance(self.reward_rule, WassersteinReward)

    @property
    def paired(self) -> bool:
        """Whether the sampler is compared with the exact trajectory of its own initial noise."""
        return self.reference is not None and not self.solver.stochastic

    @property
    def has_final_errors(self) -> bool:
        """Whether the return is minus a sum of squares that ``final_errors`` gives."""
        return type(self.reward_rule) is GlobalReward and isinstance(self.control_rule, LogSpeed)

    def without_rewards(self) -> Dynamics:
        """The same for sampling alone: starts from any noise ``x``, follows no exact trajectory, has no rewards."""
        bare = copy.copy(self)
        bare.reference, bare.reward_rule = None, None
        return bare

    def differentiable(self) -> Dynamics:
        """The same with gradients of states and observations with respect to actions.

        The denoiser must be differentiable. Episodes are those of the original.
        """
        other = copy.copy(self)
        other.with_gradients = True
        return other

    # The functions of Gymnasium's FuncEnv

    @torch.no_grad()
    def initial(self, x: Tensor | None = None, index: Tensor | None = None) -> State:
        """Start of an episode, from initial noises ``x: [B, *shape]`` or rows ``index: [B]`` of the pool.

        A stochastic solver without exact trajectories takes both ``x`` and ``index``, which then picks the noise of
        the steps (default 0, 1, ...).

        Raises:
            ValueError: neither ``x`` nor ``index``, or the one that these settings do not take.
        """
        if self.noise is not None and self.reference is None and x is not None:
            if index is None:
                index = torch.arange(len(x), device=x.device)
        elif index is not None:
            if self.reference is None:
                raise ValueError("index needs a reference; with reward='euler' pass initial noises x")
            x = self.reference.start[index]
        elif x is None:
            raise ValueError("pass x or index")
        elif self.reference is not None:
            raise ValueError(
                f"reward={self.reward_name!r} starts from the pool of known trajectories: pass index"
            )
        zeros = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
        long = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        sigma = torch.full_like(zeros, self.problem.sigma_max)
        self.denoiser.step = 0
        rows = long - 1 if index is None else index
        d, q = self.stepper.first_slope(x, sigma, long, rows)
        return State(
            x=x,
            sigma=sigma,
            t=zeros,
            k=long,
            d=d,
            q=torch.full_like(zeros, float("nan")) if q is None else q,
            x_before=x,
            sigma_before=sigma,
            d_before=d,
            off=zeros,
            error=zeros,
            nfe=long,
            index=rows,
            past=x.new_zeros(x.shape[0], self.solver.memory, *x.shape[1:]),
            past_sigma=x.new_zeros(x.shape[0], self.solver.memory),
            dt=zeros,
            seen=self.observer.nothing_seen(x),
        )

    def transition(self, state: State, action: Tensor) -> State:
        """One solver step.

        Args:
            state: before it.
            action: ``[B, A]``, or ``[B]`` if A is 1: the clock speed (see ``LogSpeed`` and ``Speed``), then the
                weights of a learned solver (see ``SlopeWeights``).

        Raises:
            ValueError: the sample overflows.
            DenoiserError: the model returned something that is not finite.
        """
        with torch.set_grad_enabled(self.with_gradients):
            return self._transition(state, action.reshape(len(action), -1))

    def _transition(self, state: State, action: Tensor) -> State:
        step = int(state.k.max())
        last = self.stepper.last_rows(state.k, step)
        t_next, sigma_next = self.control_rule.next(state, action[:, 0], last)
        dt = t_next - state.t
        self.denoiser.step = step
        weights = None
        if self.weight_rule is not None:
            weights = self.weight_rule.weights(action[:, 1:], dt, state.dt, state.k)
        euler = self.stepper.euler_rows(sigma_next, last)
        x, past, past_sigma = self.stepper.advance(state, sigma_next, euler, weights)
        self.stepper.check_finite(x, sigma_next)
        k_next = state.k + 1
        d, q = self._first_slope(x, sigma_next, k_next, state.index, last)
        off, error = state.off, state.error
        if self.paired:
            assert self.reference is not None
            off = self.problem.error(x, self.reference.at(sigma_next, state.index))
            error = off / (sigma_next.square() + self.problem.extent(x)[1] ** 2)
        return State(
            x=x,
            sigma=sigma_next,
            t=t_next,
            k=k_next,
            d=d,
            q=state.q if q is None else q,
            x_before=state.x,
            sigma_before=state.sigma,
            d_before=state.d,
            off=off,
            error=error,
            nfe=state.nfe + self.stepper.evaluations(euler),
            index=state.index,
            past=past,
            past_sigma=past_sigma,
            dt=dt,
            seen=self.observer.remember(state),
        )

    def observation(self, state: State) -> Tensor:
        """``[B, n]`` float32: time k/K, remaining budget, then the features (see ``Observer``)."""
        with torch.set_grad_enabled(self.with_gradients):
            return self.observer(state)

    def reward(self, state: State, action: Tensor, after: State) -> Tensor:
        """Reward of the step from ``state`` to ``after``, ``[B]`` (see the classes of ``rewards``).

        Raises:
            ValueError: groups are compared, and there is no ``group_size``, or only a part of a group has ended;
                or these are dynamics ``without_rewards``.
        """
        if self.reward_rule is None:
            raise ValueError(
                f"reward = {self.reward_name!r} needs exact trajectories; these are without rewards"
            )
        with torch.no_grad():
            return self.reward_rule(state, action.reshape(len(action), -1), after)

    def terminal(self, state: State) -> Tensor:
        """``[B]`` bool: all K steps are done."""
        return state.k >= self.num_steps

    def info(self, state: State, reward: Tensor) -> dict[str, Tensor]:
        """``info`` of a state, ``[B]`` each, the same entries at every step.

        Args:
            state: after a step or a reset.
            reward: ``[B]``, of the step into it; 0 after a reset.
        """
        info = {
            "sigma": state.sigma,
            "sigma_mismatch": state.sigma - self.problem.sigma_end,
            "nfe": state.nfe,
        }
        if self.paired:
            info |= {"error": torch.sqrt(state.error), "rmse": torch.sqrt(state.off)}
        local = None if self.reward_rule is None else self.reward_rule.local_error(reward)
        return info if local is None else info | {"local_error": local}

    # Whole episodes

    @torch.no_grad()
    def returns(self, index: Tensor, actions: Tensor) -> Tensor:
        """Returns ``[B]`` of whole episodes whose actions are known beforehand.

        The sums of what ``reward`` gives, to rounding. What only an observation needs is left out, and with the
        ``"global"`` and ``"log_global"`` rewards of a solver that follows the ODE everything but the sampling itself:
        several times faster.

        Args:
            index: ``[B]``, rows of the pool.
            actions: ``[B, K, A]``, or ``[B, K]`` if A is 1.

        Raises:
            ValueError: as ``transition`` and ``reward``.
        """
        actions = actions.reshape(*actions.shape[:2], -1)
        rule = self.reward_rule
        if not isinstance(rule, GlobalReward) or not isinstance(self.control_rule, LogSpeed):
            state, total = self.initial(index=index), torch.zeros_like(actions[:, 0, 0])
            for action in actions.unbind(1):
                after = self.transition(state, action)
                total = total + self.reward(state, action, after)
                state = after
            return total
        return -rule.cost(self.final_errors(index, actions).square().sum(1))

    @torch.no_grad()
    def final_errors(self, index: Tensor, actions: Tensor) -> Tensor:
        """Final samples minus the exact ones, ``[B, D]``, in units in which the sum of squares is ``State.error``.

        Of the ``"global"`` and ``"log_global"`` rewards of a solver that follows the ODE: minus the return of the
        first. The channels of a condition are left out.

        Args:
            index, actions: as ``returns``.

        Raises:
            ValueError: the sample overflows.
        """
        assert self.reference is not None
        assert isinstance(self.control_rule, LogSpeed)
        actions = actions.reshape(*actions.shape[:2], -1)
        times = self.control_rule.times(actions[..., 0])
        start, exact = self.reference.start[index], self.reference.x_end[index]
        levels = self.control_rule.levels(times, start)
        weights = None if self.weight_rule is None else self.weight_rule.table(actions[..., 1:], times)
        x = sample(
            self.denoiser,
            start,
            levels,
            self.solver,
            callback=lambda k, x: self.stepper.check_finite(x, levels[k + 1]),
            slope=lambda x, sigma: self.stepper.slope(x, sigma)[0],
            weights=weights,
        )
        size, spread = self.problem.extent(x)
        square = size * (self.problem.sigma_end**2 + spread**2)
        unit = torch.as_tensor(square, dtype=x.dtype, device=x.device).sqrt()
        return self.problem.visible(x - exact).flatten(1) / unit.reshape(-1, 1)

    def _first_slope(
        self, x: Tensor, sigma: Tensor, k: Tensor, index: Tensor, ended: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The first slope of step ``k``, and the exact ``|Q|`` if asked for; 0 and NaN where nobody steps on.

        ``ended: [B]`` says where; None: nowhere.
        """
        if ended is None:
            self.denoiser.step = int(k.max())
            return self.stepper.first_slope(x, sigma, k, index)
        d = torch.zeros_like(x)
        q = torch.full_like(sigma, float("nan")) if self.stepper.with_curvature else None
        if not bool(ended.all()):  # rows may end at different times
            going = ~ended
            d[going], part = self._first_slope(x[going], sigma[going], k[going], index[going], None)
            if q is not None and part is not None:
                q = q.masked_scatter(going, part)
        return d, q
