"""The rewards of a step, one class each."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.diffusion.ode import ReferenceFlow, norm
from art_env.diffusion.solvers import Solver, require_deterministic
from art_env.envs.clock import Control
from art_env.envs.state import State
from art_env.envs.stepping import Stepper
from art_env.envs.wasserstein import MIN_GROUP, GroupDistance
from art_env.envs.weights import SlopeWeights
from art_env.evaluation.features import Features
from art_env.problems.problem import Problem

REWARDS = ("euler", "local", "global", "log_global")
# Squared error from which ``log_global`` grows like its logarithm: a tenth of the data's spread, squared.
ERROR_FLOOR = 0.01


class Reward(Protocol):
    """A reward of one step."""

    def __call__(self, state: State, action: Tensor, after: State) -> Tensor:
        """``[B]``, for the step from ``state`` to ``after`` with ``action: [B, A]``."""

    def local_error(self, reward: Tensor) -> Tensor | None:
        """``[B]``, the step's own error as ``info`` shows it, if the reward is made of it."""


class EulerReward:
    """The paper's ``-|Q(x, sigma)| theta^2 dt`` at the sampler's own iterate (Huang et al. 2026, eq. 8).

    Args:
        control: says what the clock speed theta of a step is.
        dt: length of a tick, the paper's T / K.
    """

    def __init__(self, control: Control, dt: float) -> None:
        self.control, self.dt = control, dt

    def __call__(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Reward``."""
        return -state.q * self.control.speed(state, action[:, 0], after) ** 2 * self.dt

    def local_error(self, reward: Tensor) -> Tensor:
        """``|Q| h^2 / 2`` for a step of length ``h = theta dt``."""
        return -reward * self.dt / 2


class LocalReward:
    """Minus the norm of the true error of this solver's step, started on the exact trajectory.

    Args:
        reference: exact trajectories.
        stepper: takes the step.
        weight_rule: of a learned solver.
    """

    def __init__(
        self, reference: ReferenceFlow, stepper: Stepper, weight_rule: SlopeWeights | None = None
    ) -> None:
        self.reference, self.stepper, self.weight_rule = reference, stepper, weight_rule

    def __call__(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Reward``; costs the evaluations of one more step."""
        exact = self.reference.at(state.sigma, state.index)
        step = int(state.k.max())
        self.stepper.denoiser.step = step
        d, _ = self.stepper.slope(exact, state.sigma)
        on_path = state._replace(x=exact, d=d, past=self.stepper.exact_past(self.reference, state))
        weights = None
        if self.weight_rule is not None:
            weights = self.weight_rule.weights(action[:, 1:], after.dt, state.dt, state.k)
        euler = self.stepper.euler_rows(after.sigma, self.stepper.last_rows(state.k, step))
        end, _, _ = self.stepper.advance(on_path, after.sigma, euler, weights, exact=True)
        return -norm(end - self.reference.at(after.sigma, state.index))

    def local_error(self, reward: Tensor) -> Tensor:
        """Minus the reward."""
        return -reward


class GlobalReward:
    """Minus the growth of ``State.error``: the return is minus the final squared error exactly."""

    def __call__(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Reward``."""
        return self.cost(state.error) - self.cost(after.error)

    def cost(self, error: Tensor) -> Tensor:
        """Minus the return of an episode with this final squared error, ``[B]``; 0 for none."""
        return error

    def local_error(self, reward: Tensor) -> None:
        """The error of a step by itself is not computed."""


class LogGlobalReward(GlobalReward):
    """Minus the growth of ``log(1 + State.error / ERROR_FLOOR)``.

    The return is minus that function of the final squared error. A good sample is judged like ``global`` does, in
    units of ``ERROR_FLOOR``. A bad one costs the logarithm of its error, so that a few of them do not hide what
    distinguishes the others, and the return is of the order of 1 on every problem.
    """

    def cost(self, error: Tensor) -> Tensor:
        """See ``GlobalReward``."""
        return torch.log1p(error / ERROR_FLOOR)


class WassersteinReward:
    """Minus the squared Wasserstein-2 distance of a group's final samples to exact ones, split over its rows.

    All steps but the last earn 0. Above one dimension the distance is sliced (see ``GroupDistance``). Images are
    compared by the features of the problem's classifier, if it has one: in pixel space the estimator favours groups
    with too little variance (on the digits both the Frechet and the sliced pixel distance then end up worse).

    Args:
        problem: what is sampled.
        solver: named in errors.
        reference: its ends are the exact samples.
        num_steps: K.
        group_size: consecutive rows that are compared as one set; None: rewards cannot be computed.

    Raises:
        ValueError: the group is too small.
    """

    def __init__(
        self,
        problem: Problem,
        solver: Solver,
        reference: ReferenceFlow,
        num_steps: int,
        group_size: int | None,
    ) -> None:
        if group_size is not None and group_size < MIN_GROUP:
            rows = "1 row" if group_size == 1 else f"{group_size} rows"
            raise ValueError(
                f"reward = 'global' with solver = {solver.name!r} compares the final samples of a group with "
                f"exact ones, and here a group is {rows}; use ARTVectorEnv with num_envs / noise_groups of at least "
                f"{MIN_GROUP}, or reward='euler'"
            )
        self.problem, self.solver, self.num_steps = problem, solver, num_steps
        self.distance: GroupDistance | None = None
        if group_size is not None:
            self._classifier = None if problem.features is None else Features(problem.features)
            self.distance = GroupDistance(self._compared(reference.x_end), group_size)

    def __call__(self, state: State, action: Tensor, after: State) -> Tensor:
        """See ``Reward``.

        Raises:
            ValueError: there is no ``group_size``, or only a part of a group has ended.
        """
        if self.distance is None:
            raise ValueError(
                f"group_size = None: reward = 'global' with solver = {self.solver.name!r} needs it; use "
                "ARTVectorEnv, or give Dynamics the number of rows that share exploration"
            )
        size = self.distance.group_size
        ended = after.k >= self.num_steps
        if len(ended) % size or bool((ended.reshape(-1, size) != ended[::size, None]).any()):
            raise ValueError(f"rows of a group end together: step and reset whole groups of {size} rows")
        reward = torch.zeros_like(after.t)
        if bool(ended.any()):
            reward[ended] = -self.distance.contributions(self._compared(after.x[ended]))
        return reward

    def local_error(self, reward: Tensor) -> None:
        """A distance between distributions has no error of a step."""

    def _compared(self, x: Tensor) -> Tensor:
        """Samples ``[B, *shape]`` as the distance sees them, ``[B, d]``."""
        images = self.problem.images(x)
        if self._classifier is None:
            return images.flatten(1)
        return torch.from_numpy(self._classifier(images)).to(x)


def compares_groups(solver: Solver, reward: str) -> bool:
    """Whether the reward compares groups of final samples with exact ones: there are no pairs to compare."""
    return solver.stochastic and reward == "global"


def check_reward(name: str, solver: Solver) -> str:
    """Return ``name`` if it is a reward that this solver can have.

    Raises:
        ValueError: it is not.
    """
    check_name("reward", name, REWARDS)
    if name == "local":
        require_deterministic(solver, "reward = 'local'")
    if name == "log_global":
        require_deterministic(solver, "reward = 'log_global' (unlike 'global')")
    return name
