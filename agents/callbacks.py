"""Callbacks of a training: the policy's schedule in TensorBoard's art/ group, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure as LoggedFigure
from stable_baselines3.common.logger import Logger

from agents.distill import distill
from art_env._util.termination import stop_if_asked
from art_env.adapters.counting import counting
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import sample
from art_env.envs.dynamics import Dynamics
from art_env.envs.wasserstein import sliced_distance
from art_env.evaluation.plots import schedule_figure
from art_env.schedules.optimal import final_rmse
from art_env.schedules.schedule import Schedule

# Only every fifth time a figure is drawn: it takes half a second.
FIGURE_EVERY = 5
# Seed of a stochastic solver's noise; training uses seeds from 0.
HELD_OUT_SEED = 10_000


class EveryNSteps(BaseCallback):
    """Acts between rollouts, about ``times`` times in ``total_timesteps``."""

    def __init__(self, total_timesteps: int, times: int) -> None:
        super().__init__()
        self.interval = max(total_timesteps // times, 1)
        self._next = 0

    def _on_training_start(self) -> None:
        self._next = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self._next:
            self._next = self.model.num_timesteps + self.interval
            self.act()

    def _on_step(self) -> bool:
        return True

    def act(self) -> None:
        """Do it."""
        raise NotImplementedError


class ScheduleLog:
    """Logs schedules on their way: clock speed, error and ratio to the oracle.

    Args:
        dynamics: what they are for.
        reference: held-out exact trajectories to measure on (their first ``num_noises``).
        oracle: the best schedule; None: no ratio.
        others: schedules to draw beside it.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        reference: ReferenceFlow,
        oracle: Schedule | None,
        others: list[Schedule],
    ) -> None:
        self._logged = 0
        self.dynamics, self.reference, self.others = dynamics, reference, others
        solver = dynamics.solver
        self.oracle_rmse: float | None = None
        if oracle is not None:
            with counting(dynamics.problem.denoiser, "log"):
                self.oracle_rmse = final_rmse(dynamics.problem.denoiser, reference, oracle, solver)

    def __call__(self, schedule: Schedule, logger: Logger, env_steps: int) -> None:
        """Log ``art/rmse``, ``art/ratio``, ``art/clock_speed/*``, ``art/weight_*`` and now and then a figure.

        With a stochastic solver ``art/sliced_w2`` to the exact samples takes the place of the first two.
        """
        denoiser = self.dynamics.problem.denoiser
        if self.dynamics.solver.stochastic:
            with counting(denoiser, "log"):
                logger.record("art/sliced_w2", self._distance(schedule))
        else:
            with counting(denoiser, "log"):
                error = final_rmse(denoiser, self.reference, schedule, self.dynamics.solver)
            logger.record("art/rmse", error)
            if self.oracle_rmse:
                logger.record("art/ratio", error / self.oracle_rmse)
        for k, theta in enumerate(schedule.theta()):
            logger.record(f"art/clock_speed/step_{k:02d}", float(theta), exclude="csv")
        if schedule.weights is not None:
            for (k, j), weight in np.ndenumerate(schedule.weights):
                if k > j:  # the others are not used
                    logger.record(f"art/weight_{j + 1}/step_{k:02d}", float(weight), exclude="csv")
        self._logged += 1
        if self._logged % FIGURE_EVERY != 1:
            return
        figure = schedule_figure(
            [*self.others, schedule], f"{env_steps:,} env steps", highlight=schedule.name
        )
        drawn = LoggedFigure(figure, close=False)
        logger.record("art/schedule", drawn, exclude=("stdout", "csv", "log"))

    def _distance(self, schedule: Schedule) -> float:
        """Between samples from the reference's initial noises and the reference's ends."""
        problem = self.dynamics.problem
        with torch.no_grad():
            ends = sample(
                problem.denoiser,
                self.reference.start,
                schedule.sigmas,
                self.dynamics.solver,
                seed=HELD_OUT_SEED,
            )
        return sliced_distance(problem.images(ends), problem.images(self.reference.x_end))


class ScheduleCallback(EveryNSteps):
    """Distils the policy now and then, and logs its schedule.

    Args:
        log: logs it.
        total_timesteps, times: as ``EveryNSteps``.
    """

    def __init__(self, log: ScheduleLog, total_timesteps: int, times: int = 20) -> None:
        super().__init__(total_timesteps, times)
        self.log = log

    def act(self) -> None:
        """Distil and log."""
        # A policy that sees only time and budget acts alike on every trajectory.
        noises = 1 if not self.log.dynamics.features else 64
        with counting(self.log.dynamics.problem.denoiser, "log"):
            schedule = distill(self.model, self.log.dynamics, noises, name="now")
        self.log(schedule, self.logger, self.model.num_timesteps)


class CheckpointCallback(EveryNSteps):
    """Saves now and then, and when SIGTERM came, so that a killed run can go on.

    Args:
        save: replaces the last checkpoint.
        total_timesteps, times: as ``EveryNSteps``.
    """

    def __init__(self, save: Callable[[], None], total_timesteps: int, times: int = 20) -> None:
        super().__init__(total_timesteps, times)
        self.save = save

    def _on_rollout_start(self) -> None:
        stop_if_asked(self.act)
        super()._on_rollout_start()

    def act(self) -> None:
        """Replace the last checkpoint."""
        if self.model.num_timesteps > 0:
            self.save()
