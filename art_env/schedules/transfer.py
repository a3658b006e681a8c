"""Schedules that were learned on random mixtures, for a new model: as they are, on its clock, or adapted to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from art_env.diffusion.denoiser import difference
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.shared_steps import Slopes, sample_many
from art_env.diffusion.solvers import Solver, get_solver, sample
from art_env.problems.problem import Problem
from art_env.schedules.gradient import from_numbers, to_numbers
from art_env.schedules.optimal import closed_form
from art_env.schedules.schedule import Array, Schedule, pad_weights
from art_env.schedules.universal import WEIGHTS

# Trajectories, and knots of each, that the clock of ``universal_clock`` is made of (1,040 evaluations), and the steps
# of the list that the table's times are looked up in.
CLOCK_NOISES, CLOCK_KNOTS, CLOCK_STEPS = 16, 17, 256
# Evaluations of ``adapted``, unless told.
EVALUATIONS = 1000
# Its clock is made of less. On that clock this rule takes so many steps to the exact sample: what is then missing is
# 0.004 of the data's standard deviation in the geometric mean of random mixtures, where K = 5 leaves 0.05.
SHORT_NOISES, SHORT_KNOTS = 4, 9
EXACT_STEPS, EXACT_SOLVER = 24, "deis_3"
# Fewer initial noises than ENOUGH_NOISES say too little, and more iterations than these gain less than more noises.
FEWEST_NOISES, ENOUGH_NOISES, MOST_ITERATIONS = 2, 8, 5
# How strongly the numbers are held at those of the start: a part of the start's squared error, the less the more
# initial noises there are.
PRIOR = 0.8
# Of a derivative; and the gain that is worth another iteration.
DIFFERENCE, FLAT = 1e-3, 1e-3


def universal(
    problem: Problem,
    num_steps: int,
    solver: str | Solver,
    on_clock: bool = False,
    noises: float = CLOCK_NOISES,
) -> Schedule:
    """``Schedule.universal`` for a problem and a learned solver.

    Args:
        problem, num_steps: as ``make_schedule``.
        solver: a learned one; weights that the table does not have are 0.
        on_clock: on the problem's own clock; the meta says how many evaluations of the denoiser that took.
        noises: trajectories that the clock is made of.
    """
    clock, spent = None, 0
    if on_clock:
        known = problem.reference(int(noises), num_knots=CLOCK_KNOTS)
        clock, spent = closed_form(known, CLOCK_STEPS), known.evaluations * _nfe_per_call(problem)
    return _from_table(problem, num_steps, get_solver(solver), clock, spent)


def _from_table(
    problem: Problem, num_steps: int, rule: Solver, clock: Schedule | None, spent: int
) -> Schedule:
    found = Schedule.universal(
        num_steps,
        clock=clock,
        sigma_data=float(problem.denoiser.sigma_data),
        sigma_max=problem.sigma_max,
        sigma_end=problem.sigma_end,
        num_weights=min(rule.num_weights, WEIGHTS[-1]),
    )
    assert found.weights is not None
    weights = pad_weights(found.weights, rule.num_weights)
    return Schedule(found.sigmas, found.name, {**found.meta, "evaluations": spent}, weights)


def _nfe_per_call(problem: Problem) -> int:
    return int(getattr(problem.denoiser, "nfe_per_call", 1))


class Plan(NamedTuple):
    """How ``adapted`` spends a budget: initial noises, and what an iteration evaluates on each."""

    noises: int
    iteration: int


def plan(evaluations: int, solver: str | Solver, num_steps: int) -> Plan:
    """Noises for a budget, such that five iterations fit in, or fewer where noises would be less than eight.

    Args:
        evaluations: rows that the denoiser may be called with.
        solver, num_steps: as ``adapted``.

    Raises:
        ValueError: not enough for one iteration on two noises.
    """
    K = num_steps
    later = np.arange(K - 1, -1, -1)[:, None]  # steps after each
    # A level changes the slope there and all later ones, a weight the later ones. A trial is a whole run.
    iteration = int(later[:-1].sum() + (later * get_solver(solver).used_weights(K)).sum()) + K
    fixed = EXACT_STEPS + 2 * K  # the exact sample and the two starts
    clock = SHORT_NOISES * (4 * (SHORT_KNOTS - 1) + 1)
    left = evaluations - clock
    iterations = min(max((left // ENOUGH_NOISES - fixed) // iteration, 1), MOST_ITERATIONS)
    noises = left // (fixed + iterations * iteration)
    if noises < FEWEST_NOISES:
        raise ValueError(
            f"evaluations = {evaluations} is less than one iteration of K = {K} takes; use at least "
            f"{clock + FEWEST_NOISES * (fixed + iteration)}, or 'universal', which needs none"
        )
    return Plan(noises, iteration)


def adapted(
    problem: Problem,
    num_steps: int,
    solver: str | Solver,
    evaluations: float = EVALUATIONS,
    seed: int = 0,
    starts: Sequence[Schedule] = (),
) -> Schedule:
    """The universal schedule, moved to where the model's own final error is least.

    The error is that to the exact ends of a few trajectories. It is a sum of squares, whose Jacobian comes from
    differences of final samples, and ``scipy.optimize.least_squares`` minimises it. Levels and weights are held near
    the start, since few trajectories say little.

    Args:
        problem: of the model.
        num_steps: K.
        solver: a learned one.
        evaluations: rows of the network at most, all that is done here included.
        seed: of the initial noises.
        starts: one or two schedules, with weights, of which the better one is moved; default the universal list and
            the universal table on the model's own clock.

    Returns:
        a schedule whose meta has the ``evaluations`` that were spent.

    Raises:
        ValueError: ``evaluations`` are too few, or a solver without weights.
    """
    rule, each = get_solver(solver), _nfe_per_call(problem)
    budget = int(evaluations) // each
    noises, iteration = plan(budget, rule, num_steps)
    x = problem.sample_noise(max(noises, SHORT_NOISES), seed)
    span = (problem.sigma_max, problem.sigma_floor, problem.sigma_end)
    coarse = ReferenceFlow.integrate(problem.denoiser, x[:SHORT_NOISES], *span, SHORT_KNOTS)
    x = x[:noises]
    exact = sample(problem.denoiser, x, closed_form(coarse, EXACT_STEPS).sigmas, EXACT_SOLVER)
    spent = coarse.evaluations + noises * EXACT_STEPS
    fit = _Fit(problem, rule, x, exact, budget - spent, iteration)
    found = fit.run(list(starts) or _starts(problem, num_steps, rule, closed_form(coarse, CLOCK_STEPS)))
    meta = {**found.meta, "evaluations": (budget - fit.left) * each, "noises": noises}
    return Schedule(found.sigmas, "adapted", meta, found.weights)


def _starts(problem: Problem, num_steps: int, rule: Solver, clock: Schedule) -> list[Schedule]:
    """The universal table on a clock, and the universal list where the noise range has room for it."""
    found = [_from_table(problem, num_steps, rule, clock, 0)]
    with suppress(ValueError):
        found.append(_from_table(problem, num_steps, rule, None, 0))
    return found


class _Spent(Exception):
    """The budget does not allow another evaluation."""


class _Fit:
    """A least-squares problem: step sizes and weights as numbers, final errors as residuals.

    Args:
        problem, rule: what is sampled.
        x, exact: initial noises and exact samples, ``[M, *shape]``.
        left: rows that may be evaluated.
        iteration: rows of an iteration on one noise.
    """

    def __init__(
        self, problem: Problem, rule: Solver, x: Tensor, exact: Tensor, left: int, iteration: int
    ) -> None:
        self.problem, self.rule, self.x, self.exact = problem, rule, x, exact
        self.left, self.iteration = left, iteration
        # Where the coordinate turns from log to linear (see ``search_scale``).
        at_zero = 0.05 * float(problem.denoiser.sigma_data)
        self.scale = at_zero if problem.sigma_end == 0 else problem.sigma_floor

    def run(self, starts: list[Schedule]) -> Schedule:
        """Minimise, from the best start until the budget is spent."""
        errors = [self._errors([s], {})[0] for s in starts]
        self.start = starts[int(np.argmin([(e**2).sum() for e in errors]))]
        self.origin = to_numbers(self.start, self.rule, self.scale)
        square = min((e**2).sum() for e in errors)
        self.hold = np.sqrt(PRIOR / len(self.x) * square) * np.ones_like(self.origin)
        self.best: tuple[float, Schedule] = (np.inf, self.start)
        with suppress(_Spent):
            least_squares(self.residuals, self.origin, self.jacobian, x_scale="jac", ftol=FLAT)
        return self.best[1]

    def residuals(self, numbers: Array) -> Array:
        """``[R]``: the final errors, and how far the numbers are from the start."""
        schedule = from_numbers(numbers, self.start, self.rule, self.scale)
        if schedule is None:
            return np.full(self.exact.numel() + len(numbers), 1e6)
        if self.left < len(self.x) * schedule.num_steps:
            raise _Spent
        self.slopes: Slopes = {}
        self.now = schedule, self._errors([schedule], self.slopes)[0]
        found = np.concatenate([self.now[1], self.hold * (numbers - self.origin)])
        self.best = min(self.best, (float((found**2).sum()), schedule), key=lambda pair: pair[0])
        return found

    def jacobian(self, numbers: Array) -> Array:
        """``[R, n]``, at the numbers of the last call of ``residuals``."""
        if self.left < len(self.x) * self.iteration:
            raise _Spent
        (schedule, base), used = self.now, self.rule.used_weights(self.start.num_steps)
        moved = []
        places = np.arcsinh(schedule.sigmas / self.scale)
        for j in range(1, schedule.num_steps):
            sigmas = schedule.sigmas.copy()
            sigmas[j] = self.scale * np.sinh(places[j] + DIFFERENCE)
            moved.append(replace(schedule, sigmas=sigmas))
        assert schedule.weights is not None
        for entry in zip(*np.nonzero(used), strict=True):
            weights = schedule.weights.copy()
            weights[entry] += DIFFERENCE
            moved.append(replace(schedule, weights=weights))
        columns = (self._errors(moved, self.slopes) - base) / DIFFERENCE
        return np.concatenate([columns.T @ self._chain(numbers), np.diag(self.hold)])

    def _chain(self, numbers: Array) -> Array:
        """Derivatives of the levels, in the coordinate, and weights by the numbers."""

        def values(z: Array) -> Array:
            schedule = from_numbers(z, self.start, self.rule, self.scale)
            assert schedule is not None
            return np.append(np.arcsinh(schedule.sigmas[1:-1] / self.scale), z[schedule.num_steps :])

        base, small = values(numbers), 1e-6
        return np.stack([(values(numbers + small * e) - base) / small for e in np.eye(len(numbers))], 1)

    def _errors(self, schedules: list[Schedule], known: Slopes) -> Array:
        """Final errors ``[G, R]`` in units such that their squares sum to the mean squared error."""
        before = len(known)
        levels = np.stack([s.sigmas for s in schedules])
        weights = np.stack([s.weights for s in schedules if s.weights is not None])
        ends = sample_many(self.problem.denoiser, self.x, levels, weights, self.rule, known)
        self.left -= (len(known) - before) * len(self.x)
        off = torch.stack([difference(self.problem.denoiser, e, self.exact) for e in ends])
        flat = off.flatten(1).double().cpu().numpy()
        return flat / np.sqrt(flat.shape[1])
