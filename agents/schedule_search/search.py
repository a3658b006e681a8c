"""What every search of a schedule has: an objective, a budget, a record to go on from, and a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from agents.schedule_search.objective import ObjectiveFunction
from agents.schedule_search.record import Record
from art_env.schedules.schedule import Schedule

# A checkpoint is written whenever this part of the budget has been spent.
SAVE_EVERY = 0.02

# Part of the budget that is spent, numbers to log, and the best actions [K, A] so far.
Callback = Callable[[float, dict[str, float], np.ndarray], None]


@dataclass
class SearchResult:
    """The best actions ``[K, A]``, their schedule, what they cost, and what each update logged.

    Actions are 0 where they make no difference.
    """

    actions: np.ndarray
    schedule: Schedule
    env_steps: int
    evaluations: int
    seconds: float
    log: list[dict[str, float]] = field(repr=False)


class ScheduleSearch(ABC):
    """A search for the actions of an episode, run once by ``run``.

    It is a function of the seed and of the objective's answers.

    Args:
        objective: evaluates.
        budget: env steps at most, K for each episode played.
        seed: of all random numbers.
        record: answers of a search that was killed, and where the checkpoint goes.
        callback: called after every update.
    """

    def __init__(
        self,
        objective: ObjectiveFunction,
        budget: int,
        seed: int = 0,
        record: Record | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.objective, self.seed = objective, seed
        self.record, self.callback = record or Record(), callback
        # Of each control, the steps that read it.
        self.steps = tuple(int(n) for n in objective.used_actions.sum(0))
        self.num_actions = sum(self.steps)
        self.budget_rows = budget // objective.num_steps
        self.rows, self.saved, self.best = 0, 0.0, np.zeros(self.num_actions)
        self.log: list[dict[str, float]] = []

    def run(self) -> SearchResult:
        """Search."""
        # A single step has nothing to choose.
        actions = self.search() if self.num_actions else np.zeros(0)
        self.save()
        whole, steps, record = self.whole(actions), self.rows * self.objective.num_steps, self.record
        schedule = self.objective.schedule(whole)
        return SearchResult(whole, schedule, steps, record.evaluations, record.seconds, self.log)

    @abstractmethod
    def search(self) -> np.ndarray:
        """The best actions ``[n]``."""

    def ask(
        self, actions: np.ndarray, noises: np.ndarray, evaluate: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """What the record keeps of an evaluation.

        Args:
            actions: ``[G, n]``.
            noises: ``[M]`` initial noises that each of them is played on.
            evaluate: of actions ``[G, K, A]``, the numbers to keep.
        """

        def counted() -> tuple[np.ndarray, int]:
            before = self.objective.evaluations
            answer = evaluate(self.whole(actions))
            return answer, self.objective.evaluations - before

        self.rows += len(actions) * len(noises)
        return self.record.ask(actions, counted)

    def report(self, numbers: dict[str, float]) -> None:
        """Log an update, save a checkpoint when one is due, and call the callback."""
        numbers = {"time/total_timesteps": self.rows * self.objective.num_steps, **numbers}
        self.log.append(numbers)
        spent = self.rows / self.budget_rows
        if spent - self.saved >= SAVE_EVERY:
            self.save()
        if self.callback is not None and not self.record.replaying:
            self.callback(min(spent, 1.0), numbers, self.whole(self.best))

    def save(self) -> None:
        """Write the checkpoint."""
        self.record.save()
        self.saved = self.rows / self.budget_rows

    def rng(self, *place: int) -> np.random.Generator:
        """Random numbers of a part of the search."""
        return np.random.default_rng((self.seed, *place))

    @staticmethod
    def step_size(before: np.ndarray, after: np.ndarray) -> float:
        """Root mean square over the actions of what an update changed them by: what a learning rate is elsewhere."""
        return float(np.sqrt(np.mean(np.square(after - before))))

    def whole(self, actions: np.ndarray) -> np.ndarray:
        """``[..., n]`` to ``[..., K, A]``: the entries that make no difference are 0."""
        used = self.objective.used_actions
        whole = np.zeros((*actions.shape[:-1], *used.shape[::-1]))
        whole[..., used.T] = actions  # one control after the other
        return np.moveaxis(whole, -1, -2)

    def flat(self, actions: np.ndarray) -> np.ndarray:
        """``[K, A]`` to ``[n]``: ``whole`` undone."""
        return np.asarray(actions.T[self.objective.used_actions.T])
