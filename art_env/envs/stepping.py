"""Solver steps of a batch whose rows may be at different steps of their episodes."""

from __future__ import annotations

import torch
from torch import Tensor

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion.denoiser import CheckedDenoiser, all_finite
from art_env.diffusion.noise import StepNoise
from art_env.diffusion.ode import ReferenceFlow, curvature, norm
from art_env.diffusion.solvers import Solver
from art_env.diffusion.steps import SolverState, Step, to_d
from art_env.envs.state import State
from art_env.problems.problem import Problem


class Stepper:
    """Takes steps of one solver on one problem.

    Args:
        problem: what is sampled.
        solver: the rule.
        with_curvature: compute the exact ``|Q|`` beside each first slope.
        may_end_early: whether a step before the last one may reach the final noise level.
        noise: the noise of a stochastic solver's steps.
        pool_size: rows of that noise.
        num_steps: K of the episodes, which a stochastic solver spreads its noise over.

    Attributes:
        counter: of the evaluations of these steps.
        denoiser: the problem's, counted and checked.
    """

    def __init__(
        self,
        problem: Problem,
        solver: Solver,
        *,
        with_curvature: bool = False,
        may_end_early: bool = False,
        noise: StepNoise | None = None,
        pool_size: int = 0,
        num_steps: int = 1,
    ) -> None:
        self.problem, self.solver, self.num_steps = problem, solver, num_steps
        self.with_curvature, self.may_end_early = with_curvature, may_end_early
        self.noise, self.pool_size = noise, pool_size
        self.counter = CountedDenoiser(problem.denoiser)
        self.denoiser = CheckedDenoiser(self.counter, f"denoiser of {problem.name!r}")

    def slope(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor | None]:
        """``dx/dsigma`` and, if it was asked for, the exact ``|Q|``."""
        # At 0 the slope is the limit: the denoiser is not asked below its range.
        level = sigma.clamp_min(self.problem.sigma_floor)
        if self.with_curvature:
            F, Q = curvature(self.denoiser, x, level)
            return -F, norm(Q)
        return to_d(self.denoiser, x, level), None

    def first_slope(self, x: Tensor, sigma: Tensor, k: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """``slope`` where the solver makes the first evaluation of step ``k``."""
        if self.solver.churn is not None:
            nothing = x.new_zeros(len(x), 0)
            x, sigma = self.solver.add_churn(x, sigma, self._solver_state(None, nothing, nothing, k, index))
        return self.slope(x, sigma)

    def last_rows(self, k: Tensor, latest: int) -> Tensor | None:
        """``[B]`` bool: the rows whose step ``k`` is their last; None: no row's. ``latest`` is the largest ``k``."""
        return k >= self.num_steps - 1 if latest >= self.num_steps - 1 else None

    def euler_rows(self, sigma_next: Tensor, last: Tensor | None) -> Tensor | None:
        """``[B]`` bool: the rows that take an Euler step instead of the solver's; None: no row does.

        Args:
            sigma_next: ``[B]``, where the step leads.
            last: ``[B]``, which rows take their last step; None: no row does.
        """
        if not self.solver.ends_with_euler:
            return None
        if self.may_end_early:
            # A stage at the final noise level could not be evaluated.
            early = sigma_next < self.problem.sigma_floor
            return early if last is None else last | early
        return last

    def evaluations(self, euler: Tensor | None) -> Tensor | int:
        """Network evaluations of a step, ``[B]`` or the same for all rows; ``euler`` as ``euler_rows`` says."""
        once, often = self.denoiser.nfe_per_call, self.solver.evals_per_step * self.denoiser.nfe_per_call
        return often if euler is None else torch.where(euler, once, often)

    def advance(
        self,
        state: State,
        sigma_next: Tensor,
        euler: Tensor | None,
        weights: Tensor | None = None,
        *,
        exact: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next ``x``, ``past`` and ``past_sigma``.

        Args:
            state: before the step.
            sigma_next: ``[B]``, where it leads.
            euler: as ``euler_rows`` says.
            weights: ``[B, m]``, of a learned solver's step.
            exact: ``state.x`` lies on the exact trajectory (``SolverState.exact``).
        """
        count = 0 if euler is None else int(euler.sum())
        if euler is None or count in (0, len(euler)):
            step = self.solver.last_step if count else self.solver.step
            x, solver_state = self._take(step, state, sigma_next, weights, exact)
        else:
            x = torch.empty_like(state.x)
            x[euler], _ = self._take(self.solver.last_step, state.pick(euler), sigma_next[euler], None, exact)
            x[~euler], solver_state = self._take(
                self.solver.step, state.pick(~euler), sigma_next[~euler], None, exact
            )
        if not self.solver.memory:
            return x, state.past, state.past_sigma
        values, levels = zip(*solver_state.past, strict=True)
        return x, torch.stack(values, 1), torch.stack(levels, 1)

    def _take(
        self, step: Step, state: State, sigma_next: Tensor, weights: Tensor | None, exact: bool
    ) -> tuple[Tensor, SolverState]:
        known = self._solver_state(state.d, state.past, state.past_sigma, state.k, state.index)
        return step(
            self.denoiser, state.x, state.sigma, sigma_next, known._replace(weights=weights, exact=exact)
        )

    def exact_past(self, reference: ReferenceFlow, state: State) -> Tensor:
        """``State.past`` as it would be on the exact trajectories."""
        past = torch.zeros_like(state.past)
        for j in range(self.solver.memory):
            level = state.past_sigma[:, j]
            level = torch.where(level > 0, level, torch.full_like(level, self.problem.sigma_max))
            x = reference.at(level, state.index)
            past[:, j] = self.solver.remember(x, level, self.slope(x, level)[0])
        return past

    def check_finite(self, x: Tensor, sigma: Tensor) -> None:
        """Refuse samples that have overflowed.

        Raises:
            ValueError: names the problem, the step and the noise level.
        """
        if not all_finite(x):
            raise ValueError(
                f"sample of {self.problem.name!r} is not finite after step {self.denoiser.step} "
                f"(sigma={float(sigma.max()):.6g}); the initial noise or the step is out of range"
            )

    def _solver_state(
        self, d: Tensor | None, past: Tensor, past_sigma: Tensor, k: Tensor, index: Tensor
    ) -> SolverState:
        """The solver's own state before step ``k``."""
        known = tuple(zip(past.unbind(1), past_sigma.unbind(1), strict=True)) if self.solver.memory else ()
        state = SolverState(d, known, steps_left=self.num_steps - k if self.solver.memory else None)
        if self.noise is None:
            return state
        noise = self.noise.rows(k, index % self.pool_size).to(past)
        return state._replace(noise=noise, num_steps=self.num_steps, sigma_max=self.problem.sigma_max)
