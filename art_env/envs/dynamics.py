"""The environment as pure batched functions: initial, transition, observation, reward.

Both environment classes are thin over this; a batch of B rows costs one denoiser call a stage.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.diffusion.denoiser import CheckedDenoiser, per_row
from art_env.diffusion.noise import StepNoise
from art_env.diffusion.ode import ReferenceFlow, curvature, norm
from art_env.diffusion.solvers import NOTHING, Carry, Solver, get_solver, require_deterministic
from art_env.envs.clock import MIN_SHARE, _resolve_clock, make_clock
from art_env.envs.observation import DEFAULT_FEATURES, FEATURES, LOG_STEPS, MAX_X_FEATURES, _log_feature
from art_env.envs.wasserstein import MIN_GROUP, GroupDistance
from art_env.evaluation.features import Features
from art_env.problems.problem import Problem
from art_env.schedules.schedule import Schedule, check_num_steps

REWARDS = ("euler", "local", "global")
CONTROLS = ("log_speed", "speed")


class State(NamedTuple):
    """B trajectories. All float64 but the whole numbers ``k``, ``num_steps``, ``nfe`` and ``index``.

    Attributes:
        x: ``[B, *shape]``, the sampler's iterate.
        sigma: ``[B]``, its noise level.
        t: ``[B]``, the part of the budget that is spent, in the clock's coordinate, in [0, 1].
        k: ``[B]``, steps done.
        num_steps: ``[B]``, K of the episode.
        d: ``[B, *shape]``, slope ``dx/dsigma`` at ``(x, sigma)``; the next step's first evaluation, with
            ``edm_churn`` after the noise of that step.
        q: ``[B]``, ``|Q|`` where ``d`` is: exact with ``reward="euler"``, else the secant of the last two
            slopes; NaN before there are two.
        cosine: ``[B]``, cosine between the last two slopes, 0 before there are two.
        error: ``[B]``, squared distance to the exact trajectory, per coordinate, over
            ``sigma^2 + sigma_data^2``; 0 with a noisy solver, which does not follow it.
        nfe: ``[B]``, network evaluations so far, as samplers count them.
        index: ``[B]``, row of the pools of start noises and of step noise; -1 if there is neither.
        past: ``[B, m, *shape]``, what a multistep solver keeps of its last m steps, the latest first.
        past_sigma: ``[B, m]``, their noise levels; 0 where there was no such step.
    """

    x: Tensor
    sigma: Tensor
    t: Tensor
    k: Tensor
    num_steps: Tensor
    d: Tensor
    q: Tensor
    cosine: Tensor
    error: Tensor
    nfe: Tensor
    index: Tensor  # type: ignore[assignment]
    past: Tensor
    past_sigma: Tensor


@dataclass(frozen=True)
class Outcome:
    """What one transition produced, ``[B]`` each: reward, and what ``info`` shows."""

    reward: Tensor
    local_error: Tensor | None


def compares_groups(solver: Solver, reward: str) -> bool:
    """Whether the reward compares groups of final samples with exact ones: there are no pairs to compare."""
    return solver.noisy and reward == "global"


class Dynamics:
    """The control problem as pure functions of ``(state, action)``.

    Args:
        problem: what is sampled.
        solver: name of the solver.
        num_steps: K, the length of every episode; or several K, of which an episode has one.
        reward: ``"euler"``, ``"local"`` or ``"global"`` (see ``reward``).
        control: ``"log_speed"`` or ``"speed"`` (see ``transition``).
        features: what is observed besides time and budget: names from ``FEATURES``; ``()`` for time only.
        clock: the coordinate of even spending (see ``make_clock``).
        action_range: octaves of speed, ``c`` in ``2^(c a)``.
        num_noises: size of the pool of start noises whose exact trajectories are known.
        noise_seed: seed of that pool.
        reference: exact trajectories to use instead (its noises are the pool).
        group_size: rows whose final samples are compared with exact ones as one set, for the ``"global"``
            reward of a noisy solver; consecutive rows are a group. None: that reward cannot be computed.

    The noise of a noisy solver is a table with one row of standard normal numbers for each step and start noise,
    drawn from ``noise_seed`` and addressed by ``State.index``: a transition stays a pure function, and rows of one
    index meet the same noise.

    Attributes:
        budgets: every K, ascending.
        num_steps: the largest of them.

    Raises:
        ValueError: unknown reward, control, feature, solver (with the nearest name), ``num_steps < 1``, a noisy
            solver with ``reward="local"`` or with several ``num_steps``, or too small a group.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        solver: str | Solver = "heun",
        num_steps: int | Sequence[int] = 5,
        reward: str = "global",
        control: str = "log_speed",
        features: Sequence[str] = DEFAULT_FEATURES,
        clock: float | str | Schedule = 7.0,
        action_range: float = 5.0,
        num_noises: int | None = None,
        noise_seed: int = 0,
        reference: ReferenceFlow | None = None,
        group_size: int | None = None,
    ) -> None:
        self.problem = problem
        self.solver = get_solver(solver)
        self.budgets = check_budgets(num_steps)
        self.num_steps = self.budgets[-1]
        if self.solver.noisy and len(self.budgets) > 1:
            raise ValueError(
                f"num_steps = {self.budgets} with the noisy solver {self.solver.name!r}: give one number of steps"
            )
        self.reward_name = check_name("reward", reward, REWARDS)
        if self.reward_name == "local":
            require_deterministic(self.solver, "reward = 'local'")
        self.compares_groups = compares_groups(self.solver, self.reward_name)
        if self.compares_groups and group_size is not None and group_size < MIN_GROUP:
            rows = "1 row" if group_size == 1 else f"{group_size} rows"
            raise ValueError(
                f"reward = 'global' with solver = {self.solver.name!r} compares the final samples of a group with "
                f"exact ones, and here a group is {rows}; use ARTVectorEnv with num_envs / noise_groups of at least "
                f"{MIN_GROUP}, or reward='euler'"
            )
        self.control = check_name("control", control, CONTROLS)
        if isinstance(features, str):
            features = (features,)
        self.features = tuple(check_name("feature", f, FEATURES) for f in features)
        if "x" in self.features and math.prod(problem.shape) > MAX_X_FEATURES:
            raise ValueError(
                f"feature 'x' needs at most {MAX_X_FEATURES} coordinates; "
                f"{problem.name!r} has {math.prod(problem.shape)}"
            )
        if not (math.isfinite(action_range) and action_range > 0):
            raise ValueError(f"action_range = {action_range} must be a positive number of octaves")
        self.action_range = float(action_range)
        self._clock = _resolve_clock(clock, problem)
        self._clocks = {K: make_clock(self._clock, problem, K) for K in self.budgets}
        self.denoiser = CheckedDenoiser(problem.denoiser, f"denoiser of {problem.name!r}")
        self.horizon = problem.sigma_max - problem.sigma_end  # the paper's T
        self.sigma_data = float(problem.denoiser.sigma_data)
        self.reference: ReferenceFlow | None = None
        if self.reward_name != "euler":
            self.reference = reference or problem.reference(num_noises, noise_seed)
        elif reference is not None:
            self.reference = reference
        if reference is not None:
            _check_reference(reference, problem)
        self.device = torch.device(problem.device)
        self.pool_size = problem.num_noises if num_noises is None else num_noises
        if self.reference is not None:
            self.pool_size = self.reference.num_noises
        self.noise: StepNoise | None = None
        if self.solver.noisy:
            self.noise = StepNoise(problem.shape, noise_seed, problem.given_channels)
        self._classifier: Features | None = None
        self.distance: GroupDistance | None = None
        if self.compares_groups and group_size is not None:
            assert self.reference is not None
            if problem.features is not None:
                self._classifier = Features(problem.features)
            self.distance = GroupDistance(self._compared(self.reference.x_end), group_size)

    # Observations

    def observation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value of each entry, float32."""
        width = sum(math.prod(self.problem.shape) if f == "x" else 1 for f in self.features)
        first = 2 + (len(self.budgets) > 1)
        low = np.concatenate([np.zeros(first), -np.ones(width)]).astype(np.float32)
        return low, np.ones(first + width, dtype=np.float32)

    @torch.no_grad()
    def observation(self, state: State) -> Tensor:
        """``[B, n]`` float32: time k/K, remaining budget, ``log2 K / 8`` if there are several K, then the features,
        each within its bounds.
        """
        spread = torch.sqrt(state.sigma**2 + self.sigma_data**2)
        root_n = math.sqrt(math.prod(self.problem.shape))
        columns = [(state.k / state.num_steps).to(state.x), 1.0 - state.t]
        if len(self.budgets) > 1:
            columns.append(torch.log2(state.num_steps.to(state.x)).clamp_max(LOG_STEPS) / LOG_STEPS)
        for name in self.features:
            if name == "log_f":
                columns.append(_log_feature(norm(state.d) / root_n))
            elif name == "log_q":
                columns.append(torch.nan_to_num(_log_feature(state.q), nan=0.0))
            elif name == "size":
                size = norm(state.x) / root_n / spread
                columns.append((torch.log2(size.clamp_min(1e-9)) / 4).clamp(-1, 1))
            elif name == "cosine":
                columns.append(state.cosine.clamp(-1, 1))
            else:
                scaled = state.x.flatten(1) / spread[:, None] / 4
                columns.extend(scaled.clamp(-1, 1).unbind(1))
        return torch.stack(columns, dim=1).to(torch.float32)

    # Episodes

    @torch.no_grad()
    def initial(
        self, x: Tensor | None = None, index: Tensor | None = None, num_steps: int | Tensor | None = None
    ) -> State:
        """Start of an episode, from start noises ``x: [B, *shape]`` or rows ``index: [B]`` of the pool.

        ``num_steps``: K of all rows or ``[B]``, any of at least 1; default the largest of ``budgets``. A noisy solver
        without exact trajectories takes both ``x`` and ``index``, which then picks the noise of the steps (default
        0, 1, ...).
        """
        if self.noise is not None and self.reference is None and x is not None:
            if index is None:
                index = torch.arange(len(x), device=x.device)
        elif index is not None:
            if self.reference is None:
                raise ValueError("index needs a reference; with reward='euler' pass start noises x")
            x = self.reference.start[index]
        elif x is None:
            raise ValueError("pass x or index")
        elif self.reference is not None:
            raise ValueError(
                f"reward={self.reward_name!r} starts from the pool of known trajectories: pass index"
            )
        B = x.shape[0]
        zeros = torch.zeros(B, dtype=x.dtype, device=x.device)
        long = torch.zeros(B, dtype=torch.int64, device=x.device)
        sigma = torch.full_like(zeros, self.problem.sigma_max)
        self.denoiser.step = 0
        rows = long - 1 if index is None else index
        budget = long + (self.num_steps if num_steps is None else num_steps)
        d, q = self._first_slope(x, sigma, long, rows)
        return State(
            x=x,
            sigma=sigma,
            t=zeros,
            k=long,
            num_steps=budget,
            d=d,
            q=torch.full_like(zeros, float("nan")) if q is None else q,
            cosine=zeros,
            error=zeros,
            nfe=long,
            index=rows,
            past=x.new_zeros(B, self.solver.memory, *x.shape[1:]),
            past_sigma=x.new_zeros(B, self.solver.memory),
        )

    @torch.no_grad()
    def transition(self, state: State, action: Tensor) -> State:
        """One solver step; ``action: [B]``.

        ``log_speed``: with n steps left the step takes the share ``m / (m + n - 1)`` of the remaining budget,
        ``m = 2^(c a)``: its speed is ``m`` times the mean speed of the steps after it. ``a = 0`` spends
        evenly, and the last step spends what is left, whatever the action.
        ``speed``: the paper's raw theta: sigma falls by ``theta dt`` and is held within the range.
        """
        problem = self.problem
        last = state.k >= state.num_steps - 1
        if self.control == "log_speed":
            t_next = self._spend(state.t, (state.num_steps - state.k).to(state.t), action)
            t_next = torch.where(last, torch.ones_like(t_next), t_next)
            sigma_next = self._level(t_next, state.num_steps)
            sigma_next = torch.where(last, torch.full_like(sigma_next, problem.sigma_end), sigma_next)
        else:
            sigma_next = (state.sigma - action * self._dt(state)).clamp(problem.sigma_end, problem.sigma_max)
            t_next = (problem.sigma_max - sigma_next) / self.horizon
        self.denoiser.step = int(state.k.max())
        x, past, past_sigma = self._step(state, sigma_next, last)
        self._check_finite(x, sigma_next)
        calls = torch.where(self._is_euler(sigma_next, last), 1, self.solver.evals_per_step)
        nfe = state.nfe + calls * self.denoiser.nfe_per_call
        # The last state needs no slope: nobody steps from it. Rows may end at different times.
        d, exact = torch.zeros_like(x), None
        if not bool(last.any()):
            self.denoiser.step += 1
            d, exact = self._first_slope(x, sigma_next, state.k + 1, state.index)
        elif not bool(last.all()):
            going = ~last
            self.denoiser.step = int(state.k[going].max()) + 1
            steps = state.k[going] + 1
            d[going], part = self._first_slope(x[going], sigma_next[going], steps, state.index[going])
            if part is not None:
                exact = torch.zeros_like(sigma_next).masked_scatter(going, part)
        gap = (sigma_next - state.sigma).abs().clamp_min(1e-12)
        q = norm(d - state.d) / gap
        if exact is not None:
            q = torch.where(last, q, exact)
        lengths = (norm(d) * norm(state.d)).clamp_min(1e-30)
        cosine = (d * state.d).flatten(1).sum(1) / lengths
        error = state.error
        if self.paired:
            assert self.reference is not None
            off = norm(x - self.reference.at(sigma_next, state.index)) ** 2 / math.prod(problem.shape)
            error = off / (sigma_next**2 + self.sigma_data**2)
        return State(
            x=x,
            sigma=sigma_next,
            t=t_next,
            k=state.k + 1,
            num_steps=state.num_steps,
            d=d,
            q=q,
            cosine=cosine,
            error=error,
            nfe=nfe,
            index=state.index,
            past=past,
            past_sigma=past_sigma,
        )

    @torch.no_grad()
    def reward(self, state: State, action: Tensor, after: State) -> Outcome:
        """What the step from ``state`` to ``after`` earned.

        ``euler``: the paper's ``-|Q(x, sigma)| theta^2 dt`` at the sampler's own iterate.
        ``local``: minus the norm of the true error of this solver's step, started on the exact trajectory.
        ``global``: minus the growth of ``State.error``; the return is minus the final squared error exactly. With a
        noisy solver: 0 but for the last step, which earns minus the row's part of the squared Wasserstein-2 distance
        between its group's samples and the exact ones (see ``GroupDistance``), sliced in more than one dimension.

        Raises:
            ValueError: groups are compared, and there is no ``group_size``, or only a part of a group has ended;
                or these are dynamics ``without_rewards``.
        """
        if self.reference is None and self.reward_name != "euler":
            raise ValueError(
                f"reward = {self.reward_name!r} needs exact trajectories; these are without rewards"
            )
        if self.compares_groups:
            return Outcome(self._group_reward(after), None)
        if self.reward_name == "global":
            return Outcome(state.error - after.error, None)
        if self.reward_name == "euler":
            dt = self._dt(state)
            theta = action if self.control == "speed" else (state.sigma - after.sigma) / dt
            value = -state.q * theta**2 * dt
            return Outcome(value, -value * dt / 2)
        assert self.reference is not None
        exact = self.reference.at(state.sigma, state.index)
        self.denoiser.step = int(state.k.max())
        d, _ = self._slope(exact, state.sigma)
        on_path = state._replace(x=exact, d=d, past=self._exact_past(state))
        end, _, _ = self._step(on_path, after.sigma, state.k >= state.num_steps - 1)
        error = norm(end - self.reference.at(after.sigma, state.index))
        return Outcome(-error, error)

    @torch.no_grad()
    def returns(self, index: Tensor, actions: Tensor) -> Tensor:
        """Returns ``[B]`` of whole episodes whose actions are known beforehand.

        The sums of what ``reward`` gives, to rounding. What only an observation needs is left out, and with the
        ``"global"`` reward of a solver that follows the ODE everything but the sampling itself: several times faster.

        Args:
            index: ``[B]``, rows of the pool.
            actions: ``[B, K]``; K is the length of the episodes.

        Raises:
            ValueError: as ``transition`` and ``reward``.
        """
        K = actions.shape[1]
        if not (self.paired and self.reward_name == "global" and self.control == "log_speed"):
            state, total = self.initial(index=index, num_steps=K), torch.zeros_like(actions[:, 0])
            for k in range(K):
                after = self.transition(state, actions[:, k])
                total = total + self.reward(state, actions[:, k], after).reward
                state = after
            return total
        assert self.reference is not None
        problem = self.problem
        t = torch.zeros_like(actions[:, 0])
        steps = torch.full_like(index, K)
        levels = torch.full((K + 1, len(index)), problem.sigma_max, dtype=t.dtype, device=t.device)
        for k in range(K - 1):
            t = self._spend(t, torch.full_like(t, K - k), actions[:, k])
            levels[k + 1] = self._level(t, steps)
        levels[K] = problem.sigma_end
        x, carry = self.reference.start[index], NOTHING
        for k in range(K):
            self.denoiser.step = k
            step = self.solver.last_step if k == K - 1 else self.solver.step
            slope, _ = self._slope(x, levels[k])
            x, carry = step(self.denoiser, x, levels[k], levels[k + 1], carry._replace(d=slope))
            self._check_finite(x, levels[k + 1])
        off = norm(x - self.reference.x_end[index]) ** 2 / math.prod(problem.shape)
        return -off / (problem.sigma_end**2 + self.sigma_data**2)

    def without_rewards(self) -> Dynamics:
        """The same for sampling alone: starts from any noise ``x``, follows no exact trajectory, has no rewards."""
        bare = copy.copy(self)
        bare.reference, bare.distance = None, None
        return bare

    def terminated(self, state: State) -> Tensor:
        """``[B]`` bool: all K steps are done."""
        return state.k >= state.num_steps

    @property
    def paired(self) -> bool:
        """Whether the sampler is compared with the exact trajectory of its own start noise."""
        return self.reference is not None and not self.solver.noisy

    # Pieces

    def _spend(self, t: Tensor, left: Tensor, action: Tensor) -> Tensor:
        """``t`` after a step with ``left`` steps left, all ``[B]`` (see ``transition``)."""
        m = torch.exp2(self.action_range * action.clamp(-1, 1))
        t_next = t + (1.0 - t) * m / (m + left - 1.0)
        # Extreme actions must not round to a step of no length, nor to the end before the last step.
        return torch.clamp(t_next, t + MIN_SHARE, 1.0 - MIN_SHARE * (left - 1.0))

    def _check_finite(self, x: Tensor, sigma: Tensor) -> None:
        if not torch.isfinite(x).all():
            raise ValueError(
                f"sample of {self.problem.name!r} is not finite after step {self.denoiser.step} "
                f"(sigma={float(sigma.max()):.6g}); the start noise or the step is out of range"
            )

    def _dt(self, state: State) -> Tensor:
        """``[B]``, the length of a tick."""
        return self.horizon / state.num_steps.to(state.x.dtype)

    def clock(self, t: np.ndarray, num_steps: int | None = None) -> np.ndarray:
        """Noise levels at ``t`` of the budget spent evenly in an episode of ``num_steps`` (see ``make_clock``)."""
        K = self.num_steps if num_steps is None else num_steps
        if K not in self._clocks:
            self._clocks[K] = make_clock(self._clock, self.problem, K)
        return self._clocks[K](t)

    def _level(self, t: Tensor, num_steps: Tensor) -> Tensor:
        """``clock`` with a K for each row."""
        steps, at = num_steps.cpu().numpy(), t.cpu().numpy()
        first = int(steps[0])
        if bool((steps == first).all()):
            return torch.from_numpy(self.clock(at, first)).to(t)
        levels = np.empty_like(at)
        for K in np.unique(steps):
            levels[steps == K] = self.clock(at[steps == K], int(K))
        return torch.from_numpy(levels).to(t)

    def _compared(self, x: Tensor) -> Tensor:
        """Samples ``[B, *shape]`` as the distance between groups sees them, ``[B, d]``.

        Images as the features of the problem's classifier, if it has one: among pixels, small groups win by too
        little spread (on the digits both the Frechet and the sliced pixel distance then end up worse).
        """
        images = self.problem.images(x)
        if self._classifier is None:
            return images.flatten(1)
        return torch.from_numpy(self._classifier(images)).to(x)

    def _group_reward(self, after: State) -> Tensor:
        if self.distance is None:
            raise ValueError(
                f"group_size = None: reward = 'global' with solver = {self.solver.name!r} needs it; use "
                "ARTVectorEnv, or give Dynamics the number of rows that share exploration"
            )
        size = self.distance.group_size
        ended = self.terminated(after)
        if len(ended) % size or bool((ended.reshape(-1, size) != ended[::size, None]).any()):
            raise ValueError(f"rows of a group end together: step and reset whole groups of {size} rows")
        reward = torch.zeros_like(after.t)
        if bool(ended.any()):
            reward[ended] = -self.distance.parts(self._compared(after.x[ended]))
        return reward

    def _carry(self, d: Tensor | None, past: Tensor, past_sigma: Tensor, k: Tensor, index: Tensor) -> Carry:
        """What a solver's step is given besides ``x`` and its noise levels."""
        known = tuple(zip(past.unbind(1), past_sigma.unbind(1), strict=True))
        if self.noise is None:
            return Carry(d, known)
        noise = self.noise.rows(k, index % self.pool_size).to(past)
        return Carry(d, known, noise, self.num_steps, self.problem.sigma_max)

    def _first_slope(
        self, x: Tensor, sigma: Tensor, k: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """``_slope`` where the solver makes the first evaluation of step ``k``."""
        if self.solver.churn is not None:
            nothing = x.new_zeros(len(x), 0)
            x, sigma = self.solver.lift(x, sigma, self._carry(None, nothing, nothing, k, index))
        return self._slope(x, sigma)

    def _slope(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor | None]:
        """``dx/dsigma`` and, for the paper's reward, exact ``|Q|``."""
        # At 0 the slope is the limit: the denoiser is not asked below its range.
        level = sigma.clamp_min(self.problem.sigma_floor)
        if self.reward_name == "euler":
            F, Q = curvature(self.denoiser, x, level)
            return -F, norm(Q)
        return (x - self.denoiser(x, level)) / per_row(level, x), None

    def _is_euler(self, sigma_next: Tensor, last: Tensor) -> Tensor:
        """``[B]`` bool: which rows take an Euler step instead of the solver's."""
        if not self.solver.ends_with_euler:
            return torch.zeros_like(last)
        if self.control == "speed":
            # The raw clock may reach the end early: a stage at the final noise level could not be evaluated.
            return last | (sigma_next < self.problem.sigma_floor)
        return last

    def _step(self, state: State, sigma_next: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next ``x``, ``past`` and ``past_sigma``."""

        def advance(rows: Tensor | None, step: Callable[..., tuple[Tensor, Carry]]) -> tuple[Tensor, Carry]:
            pick = (lambda v: v) if rows is None else (lambda v: v[rows])
            kept = (state.d, state.past, state.past_sigma, state.k, state.index)
            carry = self._carry(*(pick(v) for v in kept))
            return step(self.denoiser, pick(state.x), pick(state.sigma), pick(sigma_next), carry)

        euler = self._is_euler(sigma_next, last)
        if bool(euler.all()):
            x, carry = advance(None, self.solver.last_step)
        elif not bool(euler.any()):
            x, carry = advance(None, self.solver.step)
        else:
            x = torch.empty_like(state.x)
            x[euler], _ = advance(euler, self.solver.last_step)
            x[~euler], carry = advance(~euler, self.solver.step)
        if not self.solver.memory:
            return x, state.past, state.past_sigma
        values, levels = zip(*carry.past, strict=True)
        return x, torch.stack(values, 1), torch.stack(levels, 1)

    def _exact_past(self, state: State) -> Tensor:
        """``State.past`` as it would be on the exact trajectories."""
        assert self.reference is not None
        past = torch.zeros_like(state.past)
        for j in range(self.solver.memory):
            level = state.past_sigma[:, j]
            level = torch.where(level > 0, level, torch.full_like(level, self.problem.sigma_max))
            x = self.reference.at(level, state.index)
            past[:, j] = self.solver.remember(x, level, self._slope(x, level)[0])
        return past


def check_budgets(num_steps: int | Sequence[int]) -> tuple[int, ...]:
    """One K or several, as an ascending tuple.

    Raises:
        ValueError: none, one twice, one below 1, or with several one above 256.
    """
    if isinstance(num_steps, (int, np.integer)) or not isinstance(num_steps, Sequence):
        return (check_num_steps(num_steps),)
    budgets = tuple(sorted(check_num_steps(K) for K in num_steps))
    if not budgets or len(set(budgets)) < len(budgets):
        raise ValueError(f"num_steps = {tuple(num_steps)}: give one number of steps, or several that differ")
    if len(budgets) > 1 and budgets[-1] > 2**LOG_STEPS:
        raise ValueError(
            f"num_steps = {budgets}: several numbers of steps go up to {2**LOG_STEPS:.0f}; leave out {budgets[-1]}"
        )
    return budgets


def _check_reference(reference: ReferenceFlow, problem: Problem) -> None:
    """Raise a ValueError unless the trajectories are of this problem's shape and range of noise."""
    shape = tuple(reference.x.shape[2:])
    if shape != problem.shape:
        raise ValueError(
            f"reference has samples of shape {shape}, problem {problem.name!r} of {problem.shape}"
        )
    have = (float(reference.sigmas[0]), float(reference.sigmas[-1]), reference.sigma_end)
    want = (problem.sigma_max, problem.sigma_floor, problem.sigma_end)
    if not np.allclose(have, want, rtol=1e-6, atol=0.0):
        raise ValueError(
            f"reference runs over sigma (first, last knot, end) = {have}, problem {problem.name!r} over "
            f"{want}; integrate it again for this range"
        )
