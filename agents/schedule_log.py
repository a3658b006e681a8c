"""``ScheduleLog``: a training's schedules in the log: their errors, and pictures of them now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from stable_baselines3.common.logger import Image, Logger
from torch import Tensor

from art_env.adapters.counting import CountedDenoiser, counting
from art_env.diffusion.denoiser import difference
from art_env.diffusion.solvers import sample
from art_env.envs.dynamics import Dynamics
from art_env.envs.wasserstein import sliced_distance
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.local_errors import local_errors
from art_env.evaluation.plots import clock_figure, errors_figure, samples_figure, schedule_figure
from art_env.schedules.optimal import final_rmse
from art_env.schedules.schedule import Schedule

# Seed of a stochastic solver's noise; training uses seeds from 0.
HELD_OUT_SEED = 10_000
# Schedules whose errors are lines in the charts, and those among them that pictures show; beside them the oracle.
MEASURED, DRAWN = ("edm", "closed_form"), ("edm",)
# Between two sets of pictures training takes so many times as long as one set.
PAUSE = 40
# Size of a picture in the log, relative to that of a file.
PAPER = 0.7
# Rows of a policy's network at once, and initial noises that the errors of steps are measured on, at most.
BATCH, STEP_NOISES = 512, 256


class ScheduleLog:
    """Measures schedules on held-out noises and logs them.

    Args:
        evaluator: has the held-out noises and their exact trajectories.
        dynamics: what the schedules are for.
        rivals: schedules by name; those of ``MEASURED`` are measured too.
        oracle: the best schedule; None: there are no ratios.
        with_policy: whether ``record_policy`` is called, so that its charts get the lines too.

    Attributes:
        lines: errors of the rivals and of the oracle, by schedule and tag.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        dynamics: Dynamics,
        rivals: Sequence[Schedule],
        oracle: Schedule | None,
        with_policy: bool = False,
    ) -> None:
        self.evaluator, self.dynamics, self.reference = evaluator, dynamics, evaluator.reference()
        known = {s.name: s for s in rivals if s.name in MEASURED} | ({"oracle": oracle} if oracle else {})
        self._drawn = [s for name, s in known.items() if name in (*DRAWN, "oracle")]
        self._oracle_rmse: float | None = None
        self._last: tuple[Schedule, dict[str, float]] | None = None
        if oracle is not None:
            self._oracle_rmse = self._measure(oracle)["art/rmse"]
        self.lines = {name: self._measure(s) for name, s in known.items()}
        if with_policy:
            for line in self.lines.values():
                line |= {tag.replace("art/", "art/policy_"): value for tag, value in line.items()}
        self._pictures_end, self._pictures_took = 0.0, 0.0

    @property
    def metrics(self) -> list[str]:
        """Tags of what is measured."""
        return list(self.lines[MEASURED[0]])

    def knows(self, schedule: Schedule) -> bool:
        """Whether this schedule is the one that was measured last, so that logging it costs nothing."""
        if self._last is None:
            return False
        last, none = self._last[0], np.zeros(0)
        before, now = (none if s.weights is None else s.weights for s in (last, schedule))
        return np.array_equal(last.sigmas, schedule.sigmas) and np.array_equal(before, now)

    def __call__(self, schedule: Schedule, logger: Logger, env_steps: int, last: bool = False) -> None:
        """Record ``art/rmse`` and ``art/ratio``, and pictures at the first call, the last one, and now and then.

        With a stochastic solver ``art/sliced_w2`` to the exact samples takes the place of the two. The pictures are
        ``art/schedule``, ``art/speed_and_weights``, ``art/step_errors`` and ``art/samples``.

        Args:
            schedule: what to measure and draw.
            logger: where to; it is dumped by the caller.
            env_steps: so far.
            last: whether this is the result.
        """
        if not self.knows(schedule):
            self._last = schedule, self._measure(schedule)
        assert self._last is not None
        for tag, value in self._last[1].items():
            logger.record(tag, value)
        if last or time.monotonic() - self._pictures_end >= PAUSE * self._pictures_took:
            began = time.monotonic()
            for name, figure in self._figures(schedule, env_steps).items():
                logger.record(f"art/{name}", _drawn(figure), exclude=("stdout", "csv", "log"))
            self._pictures_end = time.monotonic()
            self._pictures_took = self._pictures_end - began

    def use_oracle(self, oracle: Schedule) -> None:
        """Take a better oracle for what is still to come; what was logged, its line too, is over the first one."""
        self._drawn = [*(s for s in self._drawn if s.name != "oracle"), oracle]
        self.__dict__.pop("_drawn_errors", None)
        self._oracle_rmse, self._last = self._measure(oracle)["art/rmse"], None

    def record_evaluations(self, logger: Logger) -> None:
        """Record ``time/denoiser_evals``: rows through the network for the training so far."""
        counter = self.dynamics.problem.denoiser
        assert isinstance(counter, CountedDenoiser)
        logger.record("time/denoiser_evals", counter.rows["training"])

    def record_policy(self, sampler: Callable[[Tensor], Tensor], logger: Logger) -> None:
        """Record ``art/policy_rmse`` and ``art/policy_ratio`` of a policy that acts on each trajectory.

        Args:
            sampler: initial noises ``[B, *shape]`` to samples ``[B, *shape]``.
            logger: where to; it is dumped by the caller.
        """
        denoiser = self.dynamics.problem.denoiser
        with counting(denoiser, "log"):
            ends = torch.cat([sampler(part) for part in self.reference.start.split(BATCH)])
        error = float(difference(denoiser, ends, self.reference.x_end).square().mean().sqrt())
        logger.record("art/policy_rmse", error)
        if self._oracle_rmse:
            logger.record("art/policy_ratio", error / self._oracle_rmse)

    def _measure(self, schedule: Schedule) -> dict[str, float]:
        """What is logged of a schedule, by tag."""
        denoiser, solver = self.dynamics.problem.denoiser, self.dynamics.solver
        with counting(denoiser, "log"):
            if solver.stochastic:
                return {"art/sliced_w2": self._distance(schedule)}
            error = final_rmse(denoiser, self.reference, schedule, solver)
        return {"art/rmse": error} | ({"art/ratio": error / self._oracle_rmse} if self._oracle_rmse else {})

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

    def _figures(self, schedule: Schedule, env_steps: int) -> dict[str, Figure]:
        """The pictures of a schedule, by name."""
        name, shown, title = schedule.name, [*self._drawn, schedule], f"{env_steps:,} env steps"
        figures = {
            "schedule": schedule_figure([replace(s, weights=None) for s in shown], title, highlight=name),
            "speed_and_weights": clock_figure(shown, title, highlight=name),
        }
        with counting(self.dynamics.problem.denoiser, "log"):
            if not self.dynamics.solver.stochastic:
                errors = self._drawn_errors | {name: self._step_errors(schedule)}
                figures["step_errors"] = errors_figure(errors, title, highlight=name)
            exact, edm = self._drawn_samples
            samples = {"exact": exact, name: self.evaluator.samples(schedule, len(exact)), "edm": edm}
            figures["samples"] = samples_figure(samples, title)
        return figures

    def _step_errors(self, schedule: Schedule) -> np.ndarray:
        denoiser, few = self.dynamics.problem.denoiser, self.reference.first(STEP_NOISES)
        return local_errors(denoiser, few, schedule, self.dynamics.solver)

    @cached_property
    def _drawn_errors(self) -> dict[str, np.ndarray]:
        """Errors of the steps of the schedules that are drawn beside, by name."""
        return {s.name: self._step_errors(s) for s in self._drawn}

    @cached_property
    def _drawn_samples(self) -> tuple[Tensor, Tensor]:
        """Exact samples and EDM's."""
        exact = self.evaluator.exact_samples(self.dynamics.problem.effort.pictures)
        edm = next(s for s in self._drawn if s.name == "edm")
        return exact, self.evaluator.samples(edm, len(exact))


def _drawn(figure: Figure) -> Image:
    """The picture as the log takes it, on smaller paper: a card of TensorBoard is narrow."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(PAPER * width, PAPER * height)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image(np.asarray(canvas.buffer_rgba())[..., :3], "HWC")
