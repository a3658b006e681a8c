"""The lines of a search's log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from agents.callbacks import LINES, NOW, POINTS
from agents.schedule_log import ScheduleLog
from agents.step_grid import StepGrid
from agents.training.run_log import STEP, RunLogger
from art_env.schedules.schedule import Schedule


class SearchLog:
    """Writes lines after updates of a search, with the same tags as ``LogCallback``.

    A schedule is measured ``POINTS`` times, on the lines of the first ``POINTS`` updates, of which a short search may
    have few more, and wherever it is still the last one.

    Args:
        log: measures schedules.
        make_logger: a logger, from the env steps of its first line.
        budget: env steps of the search.
        schedule_of: the schedule of actions ``[K, A]``.
    """

    def __init__(
        self,
        log: ScheduleLog,
        make_logger: Callable[[int], RunLogger],
        budget: int,
        schedule_of: Callable[[np.ndarray], Schedule],
    ) -> None:
        self.log, self.make_logger, self._schedule_of = log, make_logger, schedule_of
        self._lines, self._points = StepGrid(budget, LINES), StepGrid(budget, POINTS)
        # Env steps of the line that is not written yet: it may be that of the result.
        self._step: int | None = None
        self._logger: RunLogger | None = None

    def begin(self, actions: np.ndarray) -> None:
        """Write what the search begins with."""
        self.log(self._now(actions), self.line(0), 0)
        self._points.due(0)
        self.flush()

    def update(self, updates: int, numbers: dict[str, float], actions: np.ndarray) -> None:
        """Begin a line after an update, if one is due.

        Args:
            updates: so far, this one among them.
            numbers: of the update, by tag; ``time/total_timesteps`` among them.
            actions: ``[K, A]``, the best so far.
        """
        steps = int(numbers[STEP])
        line, point = self._lines.due(steps), self._points.due(steps)
        if not (line or point):
            return
        logger = self.line(steps)
        for name in numbers.keys() - {STEP}:
            logger.record(name, numbers[name])
        schedule = self._now(actions)
        if point or updates <= POINTS or self.log.knows(schedule):
            self.log(schedule, logger, steps)

    def end(self, schedule: Schedule, steps: int) -> None:
        """Write the result, after all ``steps``, and close the log."""
        logger = self.line(steps)
        self.log(schedule, logger, steps, last=True)
        self.flush()
        logger.close()

    def flush(self) -> None:
        """Write the line that was begun."""
        if self._logger is not None and self._step is not None:
            self._logger.dump(self._step)
        self._step = None

    def line(self, steps: int) -> RunLogger:
        """The logger, where the line of ``steps`` is under way; an agent that goes on from there takes it over."""
        if self._step != steps:
            self.flush()
        if self._logger is None:
            self._logger = self.make_logger(steps)
        self._step = steps
        self._logger.record(STEP, steps, exclude="tensorboard")
        self.log.record_evaluations(self._logger)
        return self._logger

    def _now(self, actions: np.ndarray) -> Schedule:
        """The schedule of the moment, by the name that ``LogCallback`` gives it too."""
        return replace(self._schedule_of(actions), name=NOW)
