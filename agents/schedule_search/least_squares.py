"""A search by least squares: the Levenberg-Marquardt method from many starts, with Jacobians by differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from agents.schedule_search.noise_sampling import InitialNoiseSampler
from agents.schedule_search.objective import ObjectiveFunction
from agents.schedule_search.record import Record
from agents.schedule_search.search import Callback, ScheduleSearch
from agents.schedule_search.strategies import smooth_noise

# Parts of the budget that the starts, the finalists and the winner may take, and iterations of each.
SHARES, ITERATIONS = (0.25, 0.25, 0.5), (30, 30, 15)
# The winner's noises are drawn by cost, so many times anew.
ROUNDS = 3
# With fewer initial noises than this a start says little; there are rather fewer starts.
FEWEST_NOISES = 16
# Of a derivative, in units of the action: the errors of a network in float32 have four digits there.
DIFFERENCE = 1e-3
# Damping that a descent begins with, and the multiples of the present one that every iteration tries.
DAMPING, TRIALS = 1e-2, (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4)
# A descent ends when so many iterations in a row gained less than this part of the error, or damping is this large.
FLAT_ITERATIONS, FLAT, MOST_DAMPING = 3, 1e-3, 1e8


@dataclass(frozen=True)
class LeastSquaresOptions:
    """What one may want to change.

    Attributes:
        starts: descents of the first rung, at most.
        std_start: how far from the base schedule they begin, in units of the action.

    Raises:
        ValueError: a value out of range.
    """

    starts: int = 12
    std_start: float = 0.18

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"starts = {self.starts} must be at least 1")
        if not (math.isfinite(self.std_start) and self.std_start > 0):
            raise ValueError(f"std_start = {self.std_start} must be a positive number")


class LeastSquaresSearch(ScheduleSearch):
    """Minimises the final error as the sum of squares that it is.

    The return of an episode says how large the final error is; the final sample says in which direction. With n
    numbers to find, n + 1 schedules on the same initial noises give the Jacobian of all final errors by differences,
    and with it a Gauss-Newton step, which crosses narrow valleys that a search by returns creeps along. Nothing is
    differentiated through the sampler.

    The final error has several local minima: descents begin at the base schedule, at the objective's other start and
    at smooth perturbations of the base schedule, on few noises; the best third goes on with more, and the best of
    those with as many as the budget allows.

    Args:
        objective: with ``least_squares``.
        budget, record, callback: as ``ScheduleSearch``. Descents that have converged leave a part of the budget.
        options: see there.
        seed: of the starts and of the initial noises.

    Raises:
        ValueError: the budget is less than one iteration on one initial noise, or no sum of squares is minimised.
    """

    def __init__(
        self,
        objective: ObjectiveFunction,
        budget: int,
        options: LeastSquaresOptions | None = None,
        seed: int = 0,
        record: Record | None = None,
        callback: Callback | None = None,
    ) -> None:
        super().__init__(objective, budget, seed, record, callback)
        if not objective.least_squares:
            raise ValueError("the objective's returns are no sums of squares; use EvolutionSearch")
        self.options = options or LeastSquaresOptions()
        # Episodes of an iteration on one initial noise.
        self.price = self.num_actions + 1 + len(TRIALS)
        if self.budget_rows < self.price:
            raise ValueError(
                f"budget = {budget} is less than one iteration, {self.price * objective.num_steps}"
            )

    def search(self) -> np.ndarray:
        """See ``ScheduleSearch``."""
        order = self.rng(0).permutation(self.objective.pool_size)
        starts = self._starts(self._starts_affordable)
        found = self._rung(0, starts, order)
        finalists = found[: math.ceil(len(found) / 3)]
        found = self._rung(1, finalists, order)
        return self._finish(found[0])

    @property
    def _starts_affordable(self) -> int:
        affordable = SHARES[0] * self.budget_rows / (ITERATIONS[0] * self.price * FEWEST_NOISES)
        return min(self.options.starts, max(int(affordable), 1))

    def _starts(self, count: int) -> list[np.ndarray]:
        """``count`` actions ``[n]`` to begin with."""
        starts = [np.zeros(self.num_actions)]
        if self.objective.other_start is not None:
            starts.append(self.flat(self.objective.other_start))
        while len(starts) < count:
            noise = smooth_noise(self.steps, self.options.std_start, self.rng(1, len(starts)))
            starts.append(np.clip(noise, -1.0, 1.0))
        return starts[:count]

    def _noises(self, rung: int, descents: int) -> int:
        """Initial noises of each descent of a rung."""
        affordable = SHARES[rung] * self.budget_rows / (descents * ITERATIONS[rung] * self.price)
        return min(max(int(affordable), 1), self.objective.pool_size)

    def _rung(self, rung: int, starts: list[np.ndarray], order: np.ndarray) -> list[np.ndarray]:
        """Descend from all starts on the first noises of ``order``, as many as the rung affords; the best first."""
        noises = order[: self._noises(rung, len(starts))]
        even, ends = np.ones(len(noises)), list[np.ndarray]()
        for start in starts:
            ends.append(self._descend(start, noises, even, ITERATIONS[rung], shown=not ends))
        if len(ends) > 1:
            costs = [self._costs(end[None], noises, even)[0] for end in ends]
            ends = [ends[i] for i in np.argsort(costs, kind="stable")]
        self.best = ends[0]
        return ends

    def _finish(self, actions: np.ndarray) -> np.ndarray:
        """Descend on noises that are drawn by their cost, until the budget is spent or nothing is gained."""
        pool, rng = np.arange(self.objective.pool_size), self.rng(2)
        if self._left < len(pool):  # there is no telling what each noise costs
            noises = rng.permutation(pool)[: max(self._affordable(1), 1)]
            return self._descend(actions, noises, np.ones(len(noises)), ITERATIONS[2], shown=True)
        best, least, sampler = actions, math.inf, InitialNoiseSampler(len(pool))
        for rounds in range(ROUNDS, -1, -1):
            if self._left < len(pool):
                break
            returns = self.ask(actions[None], pool, lambda a: self.objective(a, pool)[0])
            if -returns.mean() < least:
                best, least = actions, -float(returns.mean())
            self.best = best
            sampler.update(pool, returns)
            count = self._affordable(max(rounds, 1))
            if rounds == 0 or count < 1:
                break
            noises, weights = pool, np.ones(len(pool))
            if count < len(pool):
                noises = sampler.draw(count, rng)
                weights = sampler.weights(noises)
            actions = self._descend(best, noises, weights, ITERATIONS[2], shown=True)
        return best

    @property
    def _left(self) -> int:
        """Episodes that the budget still allows."""
        return self.budget_rows - self.rows

    def _affordable(self, rounds: int) -> int:
        """Initial noises of each of so many descents of the winner."""
        return self._left // rounds // (ITERATIONS[2] * self.price)

    def _descend(
        self, actions: np.ndarray, noises: np.ndarray, weights: np.ndarray, iterations: int, shown: bool
    ) -> np.ndarray:
        """The Levenberg-Marquardt method (Marquardt 1963), within [-1, 1].

        Args:
            actions: ``[n]`` to begin with.
            noises, weights: ``[M]``, initial noises and what each counts.
            iterations: at most.
            shown: whether this is the best descent so far, whatever the others are.
        """
        damping, flat = DAMPING, 0
        for _ in range(iterations):
            if self._left < self.price * len(noises):
                break
            cost, slope, curvature = self._linearized(actions, noises, weights)
            dampings = damping * np.array(TRIALS)
            trials = np.array([step(actions, slope, curvature, d) for d in dampings])
            costs = self._costs(trials, noises, weights)
            best = int(np.argmin(costs))
            gain = 1.0 - math.sqrt(costs[best] / cost) if cost > 0 else 0.0
            damping = float(dampings[best]) if gain > 0 else damping * TRIALS[-1]
            before, actions = actions, trials[best] if gain > 0 else actions
            if shown:
                self.best = actions
            self.report(
                {
                    "rollout/ep_rew_mean": -float(min(costs[best], cost)),
                    "train/damping": damping,
                    "train/step_size": self.step_size(before, actions),
                }
            )
            flat = flat + 1 if gain < FLAT else 0
            if flat == FLAT_ITERATIONS or damping > MOST_DAMPING:
                break
        return actions

    def _linearized(
        self, actions: np.ndarray, noises: np.ndarray, weights: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """The mean squared error, half its gradient ``[n]`` and half its Gauss-Newton Hessian ``[n, n]``."""
        sides = np.where(actions > 1.0 - DIFFERENCE, -DIFFERENCE, DIFFERENCE)
        moved = np.concatenate([actions[None], actions + np.diag(sides)])
        answer = self.ask(moved, noises, lambda a: self.objective.products(a, noises, weights).ravel())
        products = answer.reshape(len(moved), -1) / weights.sum()
        return (
            float(products[0, 0]),
            products[0, 1:] / sides,
            products[1:, 1:] / np.outer(sides, sides),
        )

    def _costs(self, actions: np.ndarray, noises: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Mean squared errors ``[G]`` of ``actions: [G, n]``."""
        return self.ask(actions, noises, lambda a: -self.objective(a, noises) @ weights / weights.sum())


def step(actions: np.ndarray, slope: np.ndarray, curvature: np.ndarray, damping: float) -> np.ndarray:
    """Actions ``[n]`` within [-1, 1] after a damped Gauss-Newton step.

    Args:
        actions: ``[n]``; those at a border that the error falls beyond stay there.
        slope, curvature: ``[n]`` and ``[n, n]``, gradient and Hessian.
        damping: in units of the Hessian's diagonal.
    """
    free = ~(((actions >= 1.0) & (slope < 0)) | ((actions <= -1.0) & (slope > 0)))
    if not free.any():
        return actions
    part = curvature[np.ix_(free, free)]
    diagonal = np.diag(part)
    # An action that hardly matters must not go astray.
    scale = np.maximum(diagonal, max(1e-12 * diagonal.max(), 1e-300))
    moved = actions.copy()
    moved[free] -= np.linalg.lstsq(part + damping * np.diag(scale), slope[free], rcond=None)[0]
    return np.clip(moved, -1.0, 1.0)
