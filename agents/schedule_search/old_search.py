"""The former search, which the former ART-RL still runs; it goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from agents.schedule_search.table import StepTable

# Part of the draws that stays even over the pool: no weight exceeds its inverse.
EVEN = 0.2
# No initial noise may hold more than this part of the whole cost.
MOST = 0.1


class StartNoises:
    """Importance sampling of initial noises by what they cost the present schedule.

    The final error is heavy-tailed: of 16,384 noises on ``mixture-1d`` 16 hold a fifth of it with DPM-Solver++ at
    K = 20, and 99% with RK4. The ranks of schedules on 256 noises drawn evenly have a correlation of 0.57 with the
    truth (DPM-Solver++; ``benchmarks/start_noises.py``), on 256 drawn by cost and weighted by the inverse 0.99. What
    no sample of noises can tell is cut off: a noise that alone holds more than a tenth of the cost counts as if it
    held a tenth.

    Args:
        size: of the pool.

    Attributes:
        costs: ``[size]``, minus the return of an episode from each noise, as surveyed last; nan where never.
        cap: costs count up to here.
    """

    def __init__(self, size: int) -> None:
        self.costs = np.full(size, np.nan)
        self.cap = np.inf
        self._cumulative = np.arange(1, size + 1) / size
        self._weights = np.ones(size)

    @classmethod
    def of(cls, costs: np.ndarray) -> StartNoises:
        """With known costs ``[size]``, nan where never surveyed."""
        noises = cls(len(costs))
        noises.costs[:] = costs
        noises._share_out()
        return noises

    def update(self, index: np.ndarray, returns: np.ndarray) -> None:
        """Returns of episodes from the noises ``index``, both ``[n]``, under the present schedule."""
        self.costs[index] = np.maximum(-returns, 0.0)
        self._share_out()

    def _share_out(self) -> None:
        known = self.costs[~np.isnan(self.costs)]
        self.cap = cap_of(known)
        cut = np.minimum(self.costs, self.cap)
        # One never surveyed is taken for an average one.
        cut = np.where(np.isnan(cut), np.minimum(known, self.cap).mean(), cut)
        size = len(cut)
        total = cut.sum()
        share = EVEN / size + (1 - EVEN) * cut / total if total > 0 else np.full(size, 1 / size)
        share /= share.sum()
        self._cumulative = np.cumsum(share)
        self._weights = 1 / (size * share)

    def mean_cost(self, cap: float) -> float:
        """Mean over the noises surveyed, each counted up to ``cap``."""
        return float(np.minimum(self.costs[~np.isnan(self.costs)], cap).mean())

    def draw(self, n: int) -> np.ndarray:
        """``[n]`` rows of the pool, spread evenly over the distribution (systematic sampling)."""
        places = (np.arange(n) + torch.rand(1, dtype=torch.float64).item()) / n
        return np.minimum(np.searchsorted(self._cumulative, places), len(self.costs) - 1)

    def mean(self, returns: Tensor, index: np.ndarray) -> Tensor:
        """Estimates ``[G]`` of mean returns, from ``returns`` ``[G, n]`` of episodes from the noises ``index``."""
        return (returns.clamp_min(-self.cap) * torch.from_numpy(self._weights[index])).mean(1)


def cap_of(costs: np.ndarray, most: float = MOST) -> float:
    """The level at which costs are cut so that none is more than ``most`` of their sum; inf if none is."""
    ordered = np.sort(costs)[::-1]
    rest = ordered.sum()
    # With the k largest cut to c, c = most (k c + rest).
    for k, largest in enumerate(ordered[: int(1 / most)]):
        cap = most * rest / (1 - most * k)
        if cap >= largest:
            return float(cap) if k else np.inf
        rest -= largest
    return np.inf  # so few that each must hold more


def ranks(returns: Tensor) -> Tensor:
    """``[G]`` returns to evenly spaced weights of mean 0 and variance about 1, the best the highest.

    Only the order counts, so one group that met a bad tail does not set the scale.
    """
    G = len(returns)
    place = torch.argsort(torch.argsort(returns)).to(torch.float64)
    return (place / max(G - 1, 1) - 0.5) * math.sqrt(12.0)


def smooth_basis(n: int) -> Tensor:
    """``[n, n]``, orthonormal rows from smooth to rough over the steps: the discrete cosine transform."""
    return torch.from_numpy(dct(np.eye(max(n, 1)), norm="ortho", axis=0)[:n, :n])


class AnnealedGaussian:
    """Exploration of a given width that is smooth over the steps at first and white at the end.

    The mean climbs by Adam in the coordinates of ``smooth_basis``: early in training the clock as a whole is
    found, late each step by itself.

    Args:
        mean: ``[n]``, actions to start from.
        betas: of Adam.
    """

    def __init__(self, mean: Tensor, betas: tuple[float, float]) -> None:
        n = len(mean)
        self.betas = betas
        self.basis = smooth_basis(n)
        self.weights = self.basis @ mean.double()
        self.first, self.second = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        self.updates = 0
        self.z = torch.zeros(0, n, dtype=torch.float64)
        self.width = torch.ones(n, dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """``[n]`` actions."""
        return self.weights @ self.basis

    def explore(self, groups: int, std: float, colour: float) -> Tensor:
        """Offsets ``[groups, n]`` of root mean square ``std``, in antithetic pairs; spectrum ``1 / mode^colour``."""
        n = len(self.weights)
        spectrum = torch.arange(1, n + 1, dtype=torch.float64) ** (-colour / 2)
        self.width = spectrum * math.sqrt(n) / spectrum.norm()
        z = torch.randn(groups - groups // 2, n, dtype=torch.float64)
        self.z = torch.cat([z, -z])[:groups]
        return std * (self.z * self.width) @ self.basis

    def improve(self, returns: Tensor, learning_rate: float) -> None:
        """One step along the score-function moment, from the return ``[groups]`` of each group."""
        moment = (ranks(returns)[:, None] * self.z).mean(0)
        self.updates += 1
        b1, b2 = self.betas
        self.first = b1 * self.first + (1 - b1) * moment
        self.second = b2 * self.second + (1 - b2) * moment**2
        first = self.first / (1 - b1**self.updates)
        second = self.second / (1 - b2**self.updates)
        weights = self.weights + learning_rate * self.width * first / (second.sqrt() + 1e-12)
        self.weights = self.basis @ (weights @ self.basis).clamp(-1.0, 1.0)


class AdaptedGaussian:
    """Exploration whose covariance over the steps is learned with the mean: natural gradient.

    Time steps of a schedule trade against each other, and with many steps the error is far steeper along some
    directions than along others. The updates are those of CMA-ES (Hansen 2016, https://arxiv.org/abs/1604.00772),
    which is the natural policy gradient of mean and covariance with rank weights (Akimoto et al. 2010).

    Args:
        mean: ``[n]``, actions to start from.
        std: width to start from.
        groups: samples an update, at least 2.
    """

    def __init__(self, mean: Tensor, std: float, groups: int) -> None:
        n = max(len(mean), 1)
        best = max(groups // 2, 1)
        weights = math.log(groups / 2 + 0.5) - torch.log(torch.arange(1, best + 1, dtype=torch.float64))
        self.share = weights / weights.sum()
        mass = 1 / float((self.share**2).sum())
        self.mass = mass
        # Rates and damping of the tutorial, in its names.
        self.c_sigma = (mass + 2) / (n + mass + 5)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + self.c_sigma
        self.c_c = (4 + mass / n) / (n + 4 + 2 * mass / n)
        self.c_1 = 2 / ((n + 1.3) ** 2 + mass)
        self.c_mu = min(1 - self.c_1, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
        self.chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        self.mean, self.std = mean.double().clone(), std
        self.covariance = torch.eye(len(mean), dtype=torch.float64)
        self.path_c = torch.zeros_like(self.mean)
        self.path_sigma = torch.zeros_like(self.mean)
        self.updates = 0
        # The last exploration, and the same before the covariance C stretched it.
        self.z = torch.zeros(0, len(mean), dtype=torch.float64)  # C^(-1/2) y
        self.y = torch.zeros(0, len(mean), dtype=torch.float64)

    def explore(self, groups: int) -> Tensor:
        """Offsets ``[groups, n]``, cut off where mean and offset leave the range of actions."""
        variances, axes = torch.linalg.eigh(self.covariance)
        widths = variances.clamp_min(1e-20).sqrt()
        z = torch.randn(groups, len(self.mean), dtype=torch.float64)
        self.z = z @ axes.T
        self.y = z @ (axes * widths).T
        offsets = self.std * self.y
        actions = self.mean + offsets
        outside = actions.abs() > 1.0
        if outside.any():
            # Learn from what is played: beyond the border returns are flat, and the width would grow without end.
            offsets = torch.where(outside, actions.sign() - self.mean, offsets)
            self.y = offsets / self.std
            self.z = self.y @ (axes / widths) @ axes.T
        return offsets

    @property
    def width(self) -> float:
        """Of the exploration, over all steps: the covariance has a scale of its own beside ``std``."""
        return self.std * math.sqrt(float(self.covariance.diagonal().mean())) if len(self.mean) else self.std

    def improve(self, returns: Tensor) -> None:
        """One natural-gradient step of mean, width and covariance, from the return ``[groups]`` of each group."""
        order = torch.argsort(returns, descending=True)[: len(self.share)]
        best = self.y[order]
        step, white = self.share @ best, self.share @ self.z[order]
        self.mean = (self.mean + self.std * step).clamp(-1.0, 1.0)
        self.updates += 1
        self.path_sigma = (1 - self.c_sigma) * self.path_sigma
        self.path_sigma += math.sqrt(self.c_sigma * (2 - self.c_sigma) * self.mass) * white
        length = float(self.path_sigma.norm())
        settled = length / math.sqrt(1 - (1 - self.c_sigma) ** (2 * self.updates))
        going = settled < (1.4 + 2 / (len(self.mean) + 1)) * self.chi
        self.path_c = (1 - self.c_c) * self.path_c
        if going:
            self.path_c = self.path_c + math.sqrt(self.c_c * (2 - self.c_c) * self.mass) * step
        self.covariance = (
            (1 - self.c_1 - self.c_mu) * self.covariance
            + self.c_1 * torch.outer(self.path_c, self.path_c)
            + self.c_mu * (best.T * self.share) @ best
        )
        # At most e times wider: along a narrow valley a sample that was cut at the border can look very far.
        self.std *= math.exp(min(self.c_sigma / self.damping * (length / self.chi - 1), 1.0))


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
