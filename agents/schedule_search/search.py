"""How ART-RL finds the table of its policy: many short starts, the best of them on, one to the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.schedule_search.noise_sampling import StartNoises
from agents.schedule_search.strategies import AdaptedGaussian, AnnealedGaussian
from agents.schedule_search.table import StepTable

# Beyond this the noise of a comparison between groups is no longer what oracles an update.
MOST_ROLLOUTS = 16.0
# With fewer rollouts to an update late in training there is one start and one phase.
ENOUGH_ROLLOUTS = 4.0
# Part of training that goes to the starts, to the finalists and to the winner.
SHARES = (0.32, 0.22, 0.46)
# A start needs this many.
START_ROLLOUTS = 30
# A covariance over more actions than this takes more updates to learn: in proportion to their square.
FEW_ACTIONS = 9
# Looks at all initial noises while the winner learns, and the part of training that one may take.
LOOKS, LOOK_SHARE = 6, 0.01


@dataclass(frozen=True)
class SearchSettings:
    """See ``ARTRL``."""

    learning_rate: float
    betas: tuple[float, float]
    std_start: float
    std_end: float
    std_adapted: float
    starts: int
    updates: int
    average_last: float


@dataclass
class Attempt:
    """What a run of the search has found: table, its explorers, and for each K its score and its costs by noise."""

    values: Tensor
    explorers: list[AnnealedGaussian | AdaptedGaussian]
    returns: Tensor
    costs: list[np.ndarray]


class TableSearch:
    """The table's training, one rollout after the other.

    ``offsets`` and ``index`` say what to play, ``add`` takes the returns, ``step`` learns from them.

    Args:
        values: ``[sum of K]``, the table to start from.
        budgets: its K.
        groups: rows that explore alike, G.
        members: rows of a group.
        pool: initial noises that can be asked for; 0: the environment alone knows which it takes.
        settings: of ``ARTRL``.

    Attributes:
        values: the table of the run under way.
        offsets: ``[G, sum of K]``, what to add to it in the next rollout.
        width: of the exploration.
    """

    def __init__(
        self,
        values: Tensor,
        budgets: Sequence[int],
        groups: int,
        members: int,
        pool: int,
        settings: SearchSettings,
    ) -> None:
        self.budgets, self.groups, self.members, self.pool = tuple(budgets), groups, members, pool
        self.settings = settings
        self.values = values.detach().cpu().clone()
        table = StepTable(self.budgets)
        self.places = [table.of(i) for i in range(len(self.budgets))]
        self.progress, self.rollouts = 0.0, 1.0
        self.round, self.ended, self.finalists = 0, list[Attempt](), list[Attempt]()
        self._best: Tensor | None = None
        self.noises: list[StartNoises] = []
        self._judged: list[StartNoises] = []
        self.offsets = torch.zeros(groups, len(self.values), dtype=torch.float64)
        self.width = settings.std_start
        self._begun = False
        # The survey under way.
        self._survey: list[StartNoises] = []
        self._to_survey, self._place = 0, 0
        self._drawn = np.zeros((0, len(self.budgets)), dtype=np.int64)
        # The update under way, and the averages of this run.
        self._returns = self._late_returns = torch.zeros(0, dtype=torch.float64)
        self._average = torch.zeros(0)
        self._held, self._episodes, self._looks, self._averaged = 0, 0, 0, 0
        self._clear()
        self._begin_start(self.values)

    # What is next

    @property
    def surveying(self) -> bool:
        """Whether the next rollout looks at initial noises instead of exploring."""
        return self._to_survey > 0

    def start(self, progress: float, rollouts: float) -> None:
        """Say where training stands, before the first rollout.

        Args:
            progress: part of training that is done.
            rollouts: of the whole training.
        """
        self.progress, self.rollouts = progress, rollouts
        if not self._begun:
            self._begun = True
            self._advance()

    def leave_pool(self) -> None:
        """Go on with the noises that the environment takes: it is another one now."""
        self.pool, self.noises, self._judged, self._survey = 0, [], [], []
        if self.surveying:
            self._to_survey = 0
            self._advance()

    def index(self) -> np.ndarray | None:
        """``[rows, budgets]``, the initial noises of the next rollout; None: those that the environment takes."""
        if self.surveying:
            rows = (self._place + np.arange(self.groups * self.members)) % self.pool
            self._place += len(rows)
            self._drawn = np.stack([rows] * len(self.budgets), 1)
            return self._drawn
        if not self.noises:
            return None
        self._drawn = np.stack([noises.draw(self.members) for noises in self.noises], 1)
        return np.tile(self._drawn, (self.groups, 1))

    def add(self, returns: Tensor) -> None:
        """Take the returns ``[budgets, rows]`` of a rollout from the initial noises of ``index``."""
        if self.surveying:
            for noises, rows, own in zip(self._survey, self._drawn.T, returns.numpy(), strict=True):
                noises.update(rows, own)
            return
        by_group = returns.reshape(len(returns), self.groups, self.members)
        if self.noises:
            both = zip(self.noises, by_group, self._drawn.T, strict=True)
            self._returns += torch.stack([noises.mean(own, rows) for noises, own, rows in both])
        else:
            self._returns += by_group.mean(2)
        self._episodes += 1

    def step(self, progress: float) -> dict[str, float] | None:
        """Learn from a rollout; what there is to log, if that made an update.

        Args:
            progress: part of training that is done.
        """
        self.progress = progress
        if self.surveying:
            self._to_survey -= 1
            if not self._to_survey:
                self._advance()
            return None
        self._held += 1
        _, part, wanted = self._plan()
        if self._held < round(wanted):
            return None
        returns = self._returns / self._episodes
        for explorer, place, own in zip(self.explorers, self.places, returns, strict=True):
            if isinstance(explorer, AdaptedGaussian):
                explorer.improve(own)
            else:
                explorer.improve(own, self.settings.learning_rate * (1.0 - part))
            self.values[place][:-1] = explorer.mean.float().clamp(-1.0, 1.0)
        if part >= 1.0 - self.settings.average_last:
            self._averaged += 1
            self._average += (self.values - self._average) / self._averaged
            self._late_returns += returns.mean(1)
        log = {
            "rollout/ep_rew_mean": float(returns.mean()),
            "train/return_spread": float(returns.std(1).mean()),
            "train/std": self.width,
            "train/rollouts_per_update": self._held,
        }
        self._returns, self._held, self._episodes = torch.zeros_like(self._returns), 0, 0
        self._advance()
        return log

    def average(self) -> Tensor:
        """The table over the last part of the run; as it is before that has begun."""
        return self._average.clone() if self._averaged else self.values.clone()

    def best(self) -> Tensor:
        """The table to deploy now: the best run that has ended, until the winner is known; then the winner's."""
        return self.values if self._best is None or self.round == 2 else self._best

    # The plan

    def _plan(self) -> tuple[float, float, float]:
        """Share of this run that is done, the same in updates instead of env steps, and rollouts to an update now."""
        updates = float(self.settings.updates)
        if self._tournament and self.pool:
            updates *= max((max(self.budgets) - 1) / FEW_ACTIONS, 1.0) ** 2
        most = min(max(self.rollouts / updates, 1.0), MOST_ROLLOUTS)
        first, last = most, most
        if self._tournament:
            _, share = self._runs()
            before = sum(SHARES[: self.round]) + len(self.ended) * share
            done = (self.progress - before) / share
            few = max(most / 8, 1.0)
            first, last = ((1.0, few), (few, few), (few, max(most / 2, few)))[self.round]
            if self.round > 0 and not self.pool:  # noises drawn evenly tell less
                first = last = most
        else:
            done, first = self.progress, 1.0
        done = min(max(done, 0.0), 1.0)
        now = first + (last - first) * done
        # Linear in env steps: geometric in updates.
        part = math.log(now / first) / math.log(last / first) if last > first else done
        return done, part, now

    @property
    def _tournament(self) -> bool:
        return self.rollouts / self.settings.updates >= ENOUGH_ROLLOUTS

    def _runs(self) -> tuple[int, float]:
        """Runs of this round, and the part of training that each takes."""
        starts = min(self.settings.starts, max(int(SHARES[0] * self.rollouts / START_ROLLOUTS), 1))
        runs = (starts, math.ceil(starts / 3), 1)[self.round]
        return runs, SHARES[self.round] / runs

    def _advance(self) -> None:
        """After an update or a survey: the end of the run, a survey, or exploration."""
        done = self._plan()[0]
        if self._tournament and self.round < 2 and done >= 1.0:
            if self.pool and not self._judged:
                self.values = self.average()
                self._judged = [StartNoises(self.pool) for _ in self.budgets]
                self._place = 0  # the same for all
                self._begin_survey(self._judged, LOOK_SHARE / 4)
                return
            self._end_run()
            self._advance()
            return
        looks = (0, 1, LOOKS)[self.round]
        if self.noises and self._looks < looks and self._looks / looks <= done < 1.0:
            self._looks += 1
            self._begin_survey(self.noises, LOOK_SHARE)
            return
        self._explore()

    def _explore(self) -> None:
        part = self._plan()[1]
        offsets = []
        for explorer in self.explorers:
            if isinstance(explorer, AdaptedGaussian):
                offsets.append(explorer.explore(self.groups))
                self.width = explorer.width
            else:
                first, last = self._widths()
                self.width = first * (last / first) ** part
                offsets.append(explorer.explore(self.groups, self.width, 1.0 - part))
            # The last step takes what is left, whatever the action.
            offsets.append(torch.zeros(self.groups, 1, dtype=torch.float64))
        self.offsets = torch.cat(offsets, 1)

    def _widths(self) -> tuple[float, float]:
        own = self.settings
        if not self._tournament:
            return own.std_start, own.std_end
        return max(own.std_start / (8 if self._between else 2), own.std_adapted), own.std_adapted

    # Surveys

    def _begin_survey(self, noises: list[StartNoises], share: float) -> None:
        rows = self.groups * self.members
        self._survey = noises
        self._to_survey = min(math.ceil(self.pool / rows), max(int(share * self.rollouts), 1))
        self.offsets = torch.zeros_like(self.offsets)

    # Runs

    def _clear(self) -> None:
        self._returns = torch.zeros(len(self.budgets), self.groups, dtype=torch.float64)
        self._held, self._episodes, self._looks, self._averaged = 0, 0, 0, 0
        self._average = torch.zeros_like(self.values)
        self._late_returns = torch.zeros(len(self.budgets), dtype=torch.float64)
        self._judged = []

    def _begin_start(self, values: Tensor) -> None:
        self.values = values.clone()
        betas = self.settings.betas
        self.explorers: list[AnnealedGaussian | AdaptedGaussian] = [
            AnnealedGaussian(values[place][:-1], betas) for place in self.places
        ]

    def _end_run(self) -> None:
        """Keep what this run has found and begin the next one."""
        late = self._late_returns / max(self._averaged, 1)
        costs = [noises.costs for noises in self._judged]
        self.ended.append(Attempt(self.average(), self.explorers, late, costs))
        ranking = self._ranking()
        best = self._composed([order[0] for order in ranking])
        self._best = best.values
        self._clear()
        if len(self.ended) < self._runs()[0]:
            if self.round == 0:
                self._begin_start(self._elsewhere(best.values))
            else:
                self._begin_finalist()
            return
        self.round, self.ended = self.round + 1, []
        if self.round == 1:
            self.finalists = [self._composed([order[j] for order in ranking]) for j in range(self._runs()[0])]
            self._begin_finalist()
        else:
            self.values, self.explorers = best.values.clone(), best.explorers
            self.noises = [StartNoises.of(costs) for costs in best.costs]

    @property
    def _between(self) -> bool:
        """Whether this start begins between what was found at other K."""
        return self.round == 0 and len(self.budgets) > 1 and 2 * len(self.ended) >= self._runs()[0]

    def _elsewhere(self, best: Tensor) -> Tensor:
        """Where another start begins: a smooth random clock around even spending; with several K half of the starts
        begin near what lies between the ``best`` at the K on either side.
        """
        table = StepTable(self.budgets)
        spread = self.settings.std_start
        if self._between:
            with torch.no_grad():
                table.values.copy_(best)
                table.values.copy_(table.from_neighbours())
            spread /= 4
        values = table.values.detach().clone()
        for place in self.places:
            smooth = AnnealedGaussian(torch.zeros(place.stop - place.start - 1), self.settings.betas)
            values[place][:-1] += smooth.explore(1, spread, 1.0)[0].float()
        return values.clamp(-1.0, 1.0)

    def _ranking(self) -> list[list[Attempt]]:
        """For each K the attempts of this round, the best first: all on the same noises, if they were surveyed."""
        ranking = []
        for i in range(len(self.budgets)):
            scores = [float(attempt.returns[i]) for attempt in self.ended]
            if self.pool:
                seen = [StartNoises.of(attempt.costs[i]) for attempt in self.ended]
                cap = min(noises.cap for noises in seen)
                scores = [-noises.mean_cost(cap) for noises in seen]
            ranking.append([self.ended[j] for j in np.argsort(scores)[::-1]])
        return ranking

    def _composed(self, attempts: list[Attempt]) -> Attempt:
        """One attempt out of one for each K."""
        values = torch.zeros_like(self.values)
        for place, attempt in zip(self.places, attempts, strict=True):
            values[place] = attempt.values[place]
        each = list(enumerate(attempts))
        costs = [attempt.costs[i] for i, attempt in each] if self.pool else []
        explorers = [attempt.explorers[i] for i, attempt in each]
        return Attempt(values, explorers, torch.stack([attempt.returns[i] for i, attempt in each]), costs)

    def _begin_finalist(self) -> None:
        attempt = self.finalists.pop(0)
        self.noises = [StartNoises.of(costs) for costs in attempt.costs]
        self.values = attempt.values.clone()
        means = [self.values[place][:-1] for place in self.places]
        self.explorers = [AdaptedGaussian(mean, self.settings.std_adapted, self.groups) for mean in means]
