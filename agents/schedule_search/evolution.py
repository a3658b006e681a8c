"""A search by evolution strategies: many short starts, the best of them on, one to the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from agents.schedule_search.noise_sampling import InitialNoiseSampler
from agents.schedule_search.objective import ObjectiveFunction
from agents.schedule_search.record import Record
from agents.schedule_search.search import Callback, ScheduleSearch
from agents.schedule_search.strategies import CMAES, PGPE, Strategy, smooth_noise

# Parts of the budget that go to the rungs: to the starts, to the finalists and to the winner.
SHARES = (0.32, 0.22, 0.46)
# A start needs this many rollouts; with a smaller budget there are fewer starts.
START_ROLLOUTS = 30
# Updates that the budget is divided into; beyond so many actions more, in proportion to their square: that is how
# many entries the covariance has.
UPDATES, FEW_ACTIONS = 140, 9
# Rollouts of an update at most: beyond, the noise of a comparison is no longer what limits it.
MOST_ROLLOUTS = 16.0
# With weights the error has more and narrower valleys: so many times more updates, each of fewer rollouts.
UPDATES_WITH_WEIGHTS = 2
# With fewer rollouts an update than this the budget is enough for one run only.
ENOUGH_ROLLOUTS = 4.0
# Width that CMA-ES begins with after PGPE, and without; and width that a run by itself ends with.
STD_CMA, STD_OTHER, STD_END = 0.03, 0.1, 0.012
# Parts of the budget that one estimate of the costs may take (while a run learns; to compare candidates), and how
# many estimates a finalist and the winner make.
ESTIMATE, COMPARISON = 0.01, 0.0025
FINALIST_ESTIMATES, WINNER_ESTIMATES = 1, 6
# The result of a run is the average over this last part of its updates.
AVERAGE_LAST = 0.2


@dataclass(frozen=True)
class EvolutionOptions:
    """What one may want to change.

    Attributes:
        population: candidates an update, G.
        noises: initial noises that a rollout plays all candidates on, M.
        starts: PGPE runs of the first rung, at most.
        learning_rate: of PGPE, in units of the action.
        std_start: how far from the base schedule the starts begin; they explore with half of it.

    Raises:
        ValueError: a value out of range.
    """

    population: int = 16
    noises: int = 128
    starts: int = 12
    learning_rate: float = 0.03
    std_start: float = 0.18

    def __post_init__(self) -> None:
        for name, least in (("population", 2), ("noises", 1), ("starts", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least {least}")
        for name in ("learning_rate", "std_start"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} = {getattr(self, name)} must be a positive number")

    @property
    def rows(self) -> int:
        """Episodes of a rollout."""
        return self.population * self.noises


@dataclass
class Candidate:
    """What a run has found.

    Attributes:
        actions: ``[n]``, the average over the last part of the run.
        strategy: as it is at the end.
        returns: mean over that part.
        sampler: knows what each initial noise costs, if noises have returns of their own.
        origin: 0: the base schedule; 1: the objective's other start.
    """

    actions: np.ndarray
    strategy: Strategy
    returns: float
    sampler: InitialNoiseSampler
    origin: int = 0


class EvolutionSearch(ScheduleSearch):
    """Successive halving over PGPE (Sehnke et al. 2010), then CMA-ES: sees nothing of an episode but its return.

    Args:
        objective, budget, record, callback: as ``ScheduleSearch``.
        options: see there.
        seed: every run draws from ``default_rng((seed, rung, index))``.

    Raises:
        ValueError: the budget is less than one rollout.
    """

    def __init__(
        self,
        objective: ObjectiveFunction,
        budget: int,
        options: EvolutionOptions | None = None,
        seed: int = 0,
        record: Record | None = None,
        callback: Callback | None = None,
    ) -> None:
        super().__init__(objective, budget, seed, record, callback)
        self.options = options or EvolutionOptions()
        self.rollouts = budget // (self.options.rows * objective.num_steps)
        if self.rollouts < 1:
            raise ValueError(
                f"budget = {budget} is less than one rollout, {self.options.rows * objective.num_steps}"
            )

    def search(self) -> np.ndarray:
        """See ``ScheduleSearch``."""
        own, n, rollouts = self.options, self.num_actions, self.rollouts
        if rollouts < ENOUGH_ROLLOUTS * UPDATES:
            strategy = PGPE(
                np.zeros(n), self.steps, own.population, own.learning_rate, own.std_start, STD_END
            )
            batches = (1.0, max(rollouts / UPDATES, 1.0))
            only = self._run(self.rng(0, 0), strategy, self._sampler(), rollouts, batches, shown=True)
            return only.actions
        num_starts = min(own.starts, max(int(SHARES[0] * rollouts / START_ROLLOUTS), 1))
        num_finalists = math.ceil(num_starts / 3)
        start_batches, finalist_batches, winner_batches = self._batches()

        starts: list[Candidate] = []
        for i in range(num_starts):
            rng, begin = self.rng(0, i), np.zeros(n)
            if i > 0:
                begin = np.clip(smooth_noise(self.steps, own.std_start, rng), -1.0, 1.0)
            widths = max(own.std_start / 2, STD_CMA), STD_CMA
            strategy = PGPE(begin, self.steps, own.population, own.learning_rate, *widths)
            length = SHARES[0] / num_starts * rollouts - self._comparison
            found = self._run(rng, strategy, self._sampler(), length, start_batches, shown=i == 0)
            starts = self._compared([*starts, self._re_evaluated(found)])

        # Half of the finalists begin at the other start, if there is one: none of the first rung ends in its valley.
        other = self.objective.other_start
        num_others = 0 if other is None else num_finalists // 2
        begun = [(c.actions, c.sampler, STD_CMA, 0) for c in starts[: num_finalists - num_others]]
        if other is not None:
            begun += [(self.flat(other), self._sampler(), STD_OTHER, 1) for _ in range(num_others)]
        finalists: list[Candidate] = []
        for i, (actions, sampler, std, origin) in enumerate(begun):
            cma = CMAES(actions, std, own.population)
            length = SHARES[1] / num_finalists * rollouts - self._comparison
            found = self._run(self.rng(1, i), cma, sampler, length, finalist_batches, FINALIST_ESTIMATES)
            found.origin = origin
            finalists = self._compared([*finalists, self._re_evaluated(found)])

        # Which valley is the deeper one shows late: the best of each origin goes on.
        best = list({c.origin: c for c in reversed(finalists)}.values())
        length = (rollouts - self._spent) / len(best) - (self._comparison if len(best) > 1 else 0.0)
        winners = [
            self._run(
                self.rng(2, i), c.strategy, c.sampler, length, winner_batches, WINNER_ESTIMATES, shown=i == 0
            )
            for i, c in enumerate(best)
        ]
        if len(winners) > 1:
            winners = self._compared([self._re_evaluated(winner) for winner in winners])
        return winners[0].actions

    def _run(
        self,
        rng: np.random.Generator,
        strategy: Strategy,
        sampler: InitialNoiseSampler,
        length: float,
        batches: tuple[float, float],
        estimates: int = 0,
        shown: bool = False,
    ) -> Candidate:
        """Updates of a strategy for ``length`` rollouts.

        Args:
            rng: of this run.
            strategy: what learns.
            sampler: draws the initial noises.
            length: rollouts.
            batches: rollouts of an update at the beginning and at the end.
            estimates: how often the sampler's costs are estimated again.
            shown: whether this is the best run so far, whatever the others are.
        """
        begun, (first, last) = self._spent, batches
        average, returns, averaged, estimated = np.zeros(len(strategy.mean)), 0.0, 0, 0
        while (left := begun + length - self._spent) >= 1.0:
            done = 1.0 - left / length
            if self.objective.paired and estimated < estimates and estimated / estimates <= done:
                self._estimate_costs(sampler, strategy.mean, ESTIMATE)
                estimated += 1
                continue
            batch = first + (last - first) * done
            # The batch grows evenly over rollouts, hence geometrically over updates.
            part = math.log(batch / first) / math.log(last / first) if last > first else done
            held = min(max(round(batch), 1), int(left))
            scores = self._scores(strategy.ask(rng, part), held, sampler, rng)
            before = strategy.mean
            strategy.tell(scores, part)
            if part >= 1.0 - AVERAGE_LAST:
                averaged += 1
                average += (strategy.mean - average) / averaged
                returns += (scores.mean() - returns) / averaged
            if shown:
                self.best = strategy.mean
            self._report(scores, strategy.width, self.step_size(before, strategy.mean), held)
        self.save()
        return Candidate(average if averaged else strategy.mean, strategy, returns, self._sampler())

    def _scores(
        self,
        actions: np.ndarray,
        rollouts: int,
        sampler: InitialNoiseSampler,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Mean returns ``[population]`` of candidates, all on the same initial noises."""
        noises = sampler.draw(rollouts * self.options.noises, rng)
        return self.ask(actions, noises, lambda a: sampler.mean(self.objective(a, noises), noises))

    def _estimate_costs(self, sampler: InitialNoiseSampler, actions: np.ndarray, share: float) -> None:
        """Play the same actions from all initial noises, or from as many as that share of the budget allows."""
        count = max(int(share * self.rollouts), 1) * self.options.rows
        noises = sampler.next(min(count, self.objective.pool_size))
        sampler.update(noises, self.ask(actions[None], noises, lambda a: self.objective(a, noises)[0]))

    def _re_evaluated(self, found: Candidate) -> Candidate:
        """The candidate with its costs on the noises that all candidates are compared on."""
        if self.objective.paired:
            self._estimate_costs(found.sampler, found.actions, COMPARISON)
            self.save()
        return found

    def _compared(self, found: list[Candidate]) -> list[Candidate]:
        """The same, the best first."""
        cap = min(candidate.sampler.cap for candidate in found)

        def score(candidate: Candidate) -> float:
            return -candidate.sampler.mean_cost(cap) if self.objective.paired else candidate.returns

        ordered = sorted(found, key=score, reverse=True)
        self.best = ordered[0].actions
        return ordered

    def _batches(self) -> list[tuple[float, float]]:
        """Rollouts of an update at the beginning and the end, for starts, finalists and the winner.

        Small batches leave bad basins, large ones settle.
        """
        updates = float(UPDATES)
        if len(self.steps) > 1:
            updates *= UPDATES_WITH_WEIGHTS
        if self.objective.paired:
            updates *= max(self.num_actions / FEW_ACTIONS, 1.0) ** 2
        most = min(max(self.rollouts / updates, 1.0), MOST_ROLLOUTS)
        few = max(most / 8, 1.0)
        if not self.objective.paired:  # noises drawn alike tell less
            return [(1.0, few), (most, most), (most, most)]
        return [(1.0, few), (few, few), (few, max(most / 2, few))]

    @property
    def _comparison(self) -> float:
        """Rollouts that it takes to compare one candidate."""
        if not self.objective.paired:
            return 0.0
        return min(max(int(COMPARISON * self.rollouts), 1), self.objective.pool_size / self.options.rows)

    @property
    def _spent(self) -> float:
        """Rollouts so far."""
        return self.rows / self.options.rows

    def _sampler(self) -> InitialNoiseSampler:
        return InitialNoiseSampler(self.objective.pool_size)

    def _report(self, scores: np.ndarray, width: float, step_size: float, held: int) -> None:
        self.report(
            {
                "rollout/ep_rew_mean": float(scores.mean()),
                "train/return_spread": float(scores.std()),
                "train/std": width,
                "train/step_size": step_size,
                "train/rollouts_per_update": held,
            }
        )
