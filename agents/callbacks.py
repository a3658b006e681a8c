"""Callbacks of a training: lines of its log, and checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from agents.distill import distill
from agents.schedule_log import ScheduleLog
from agents.step_grid import StepGrid
from art_env._util.termination import stop_if_asked
from art_env.adapters.counting import counting
from art_env.schedules.schedule import Schedule

# Of a training: lines of the log, those with a measured schedule among them, and checkpoints.
LINES, POINTS, CHECKPOINTS = 100, 20, 20
# Name of the schedule of the moment in pictures.
NOW = "now"
# ``log_interval`` of an algorithm that leaves its log to ``LogCallback``.
NEVER = sys.maxsize


class LogCallback(BaseCallback):
    """Writes the lines of the log, each at the step that its numbers belong to.

    A line comes between two rollouts, after an update: about ``LINES`` in a training, one at every update of a short
    one. About ``POINTS`` of them, and the first, measure the policy's schedule. Nothing that it does draws a random
    number of the training.

    Args:
        log: measures schedules.
        total_timesteps: of the training.
        done: env steps that are behind already.
        sampler: as ``ScheduleLog.record_policy``; None: the policy is its schedule.
        steps_before: env steps of the run before the training, such as those of a search.
    """

    def __init__(
        self,
        log: ScheduleLog,
        total_timesteps: int,
        done: int = 0,
        sampler: Callable[[Tensor], Tensor] | None = None,
        steps_before: int = 0,
    ) -> None:
        super().__init__()
        self.log, self.sampler, self.steps_before = log, sampler, steps_before
        self._lines, self._points = (StepGrid(total_timesteps, times, done) for times in (LINES, POINTS))

    def _on_rollout_start(self) -> None:
        steps = self.model.num_timesteps
        measured = self._points.due(steps)
        if measured:
            # A policy that sees only time and budget acts alike on every trajectory.
            noises = 1 if not self.log.dynamics.features else 64
            with counting(self.log.dynamics.problem.denoiser, "log"):
                schedule = distill(self.model, self.log.dynamics, noises, name=NOW)
            self.log(schedule, self.logger, self.steps_before + steps)
            if self.sampler is not None:
                self.log.record_policy(self.sampler, self.logger)
        if self._lines.due(steps) or measured:
            _dump(self.model, self.log)

    def _on_step(self) -> bool:
        return True


def write_result(
    model: BaseAlgorithm,
    log: ScheduleLog,
    schedule: Schedule,
    sampler: Callable[[Tensor], Tensor] | None,
    env_steps: int,
) -> None:
    """Write the last line of a training's log, and close the log.

    Args:
        model: trained.
        log: measures.
        schedule: the model's.
        sampler: as ``LogCallback``.
        env_steps: of the run.
    """
    log(schedule, model.logger, env_steps, last=True)
    if sampler is not None:
        log.record_policy(sampler, model.logger)
    _dump(model, log)
    model.logger.close()


def _dump(model: BaseAlgorithm, log: ScheduleLog) -> None:
    """Write what is recorded, with SB3's means over the last episodes."""
    assert isinstance(model, OnPolicyAlgorithm | OffPolicyAlgorithm)
    log.record_evaluations(model.logger)
    if model.ep_info_buffer is None:  # the training had ended before this process began
        model.logger.record("time/total_timesteps", model.num_timesteps, exclude="tensorboard")
        model.logger.dump(model.num_timesteps)
    else:
        model.dump_logs()


class CheckpointCallback(BaseCallback):
    """Saves now and then, and when SIGTERM came, so that a killed run can go on.

    Args:
        save: replaces the last checkpoint.
        total_timesteps: of the training.
        done: env steps that are behind already.
    """

    def __init__(self, save: Callable[[], None], total_timesteps: int, done: int = 0) -> None:
        super().__init__()
        self.save, self._grid = save, StepGrid(total_timesteps, CHECKPOINTS, done)

    def _on_rollout_start(self) -> None:
        stop_if_asked(self._save)
        if self._grid.due(self.model.num_timesteps):
            self._save()

    def _on_step(self) -> bool:
        return True

    def _save(self) -> None:
        if self.model.num_timesteps > 0:
            self.save()
