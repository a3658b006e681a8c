"""The schedule that action 0 reproduces: a clock, and the weights that go with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.adapters.counting import uncounted
from art_env.diffusion.levels import check_rho
from art_env.diffusion.mixture_rows import MixtureRowsDenoiser
from art_env.diffusion.solvers import Solver
from art_env.problems.problem import Problem
from art_env.schedules.optimal import closed_form
from art_env.schedules.schedule import Array, Schedule, pad_weights
from art_env.schedules.universal import WEIGHTS

# Trajectories that the closed form reads, and the steps of the schedule that is made of it.
CLOSED_FORM_NOISES, CLOSED_FORM_STEPS = 256, 256
# Of t, for the slope of a clock.
DIFFERENCE = 1e-6
BASE_SCHEDULES = ("closed_form", "universal")

Clock = Callable[[np.ndarray], np.ndarray]


class BaseSchedule:
    """A monotone map from the spent budget to a noise level, and the weights of steps that spend it evenly.

    Where each row of a batch has a data distribution of its own, it has a closed form and a universal list of its own
    too.

    Args:
        base: a number rho: even steps of ``sigma^(1/rho)`` as in ``edm(num_steps, rho=rho)`` (7: EDM's grid,
            1: the uniform one); ``"closed_form"``: the optimum of the paper's objective; ``"universal"``:
            ``Schedule.universal``, with its weights; or any ``Schedule``.
        problem: its noise range and end.
        num_steps: K.
        solver: that takes the weights of a schedule that has some.

    Attributes:
        weights: ``[K, m]``, those of the schedule; None: it has none.

    Raises:
        ValueError: a name or number that is not a base schedule, a schedule for another noise range, or weights that
            the solver does not take.
    """

    def __init__(
        self, base: float | str | Schedule, problem: Problem, num_steps: int, solver: Solver
    ) -> None:
        self.problem, self.num_steps = problem, num_steps
        self.weights: Array | None = None
        self._rows: RowClocks | None = None
        self._clock: Clock | None = None
        check_base_schedule(base)
        if isinstance(base, str):
            denoiser = uncounted(problem.denoiser)
            if isinstance(denoiser, MixtureRowsDenoiser):
                schedules = _of_rows(base, problem, denoiser, num_steps, solver)
                self._rows, base = RowClocks(schedules, denoiser), schedules[0]
            elif base == "closed_form":
                reference = problem.reference(min(problem.num_noises, CLOSED_FORM_NOISES))
                base = closed_form(reference, CLOSED_FORM_STEPS)
            else:
                base = _universal(problem, float(problem.denoiser.sigma_data), num_steps, solver)
        if isinstance(base, Schedule):
            base.check_range(problem.sigma_max, problem.sigma_end)
            self.weights = _table(base, num_steps, solver)
            self._clock = base.interpolator()
        else:
            self._clock = _ramp(base, problem, num_steps)

    @property
    def of_rows(self) -> bool:
        """Whether each row has a base schedule of its own."""
        return self._rows is not None

    @property
    def sigma(self) -> Clock:
        """The clock of all rows.

        Raises:
            ValueError: each row has one of its own.
        """
        if self._rows is not None:
            raise ValueError(
                f"each row of {self.problem.name!r} has a base schedule of its own; use base_schedule=7 or a "
                "Schedule to follow one list of noise levels"
            )
        assert self._clock is not None
        return self._clock

    def level(self, t: Tensor, x: Tensor) -> Tensor:
        """Noise levels ``[B]`` of rows ``x: [B, *shape]`` at ``t: [B]``, the spent part of the budget.

        Differentiable in ``t``.
        """
        if self._rows is not None:
            return self._rows.level(t, x)
        if not t.requires_grad:
            return _read(self.sigma, t)
        level: Tensor = _Level.apply(t, self.sigma)
        return level


def check_base_schedule(base: object) -> None:
    """Refuse what is no base schedule, before there is a problem.

    Raises:
        ValueError: not a ``Schedule``, and an unknown name or a number that is no rho.
    """
    if isinstance(base, str):
        check_name("base_schedule", base, BASE_SCHEDULES)
    elif not isinstance(base, Schedule):
        try:
            check_rho("base_schedule", base)
        except ValueError as error:
            raise ValueError(
                f"{error}; a positive number is rho; or give 'closed_form' or a Schedule"
            ) from error


class RowClocks:
    """A clock for each mixture: linear between 257 times in the logarithm of the level, to the end in the level.

    Args:
        schedules: one for each mixture, with the same ends.
        denoiser: says which mixture a row has.
    """

    def __init__(self, schedules: list[Schedule], denoiser: MixtureRowsDenoiser) -> None:
        self.denoiser = denoiser
        times = np.linspace(0.0, 1.0, CLOSED_FORM_STEPS + 1)
        self.table = torch.tensor(np.array([s.interpolator()(times) for s in schedules]))  # [P, T + 1]
        self.logs = torch.log(self.table.clamp_min(1e-300))

    def level(self, t: Tensor, x: Tensor) -> Tensor:
        """See ``BaseSchedule.level``."""
        which = self.denoiser.which(x)
        place = t * CLOSED_FORM_STEPS
        left = place.detach().floor().clamp(0, CLOSED_FORM_STEPS - 1).long()
        part = place - left
        logs, table = self.logs.to(t), self.table.to(t)
        smooth = torch.exp(logs[which, left] * (1 - part) + logs[which, left + 1] * part)
        straight = table[which, left] * (1 - part) + table[which, left + 1] * part
        return torch.where(left == CLOSED_FORM_STEPS - 1, straight, smooth)


def _of_rows(
    base: str, problem: Problem, denoiser: MixtureRowsDenoiser, num_steps: int, solver: Solver
) -> list[Schedule]:
    """The base schedule of each mixture."""
    if base == "universal":
        return [_universal(problem, spread, num_steps, solver) for spread in denoiser.spreads.tolist()]
    reference = problem.reference()
    which = denoiser.which(reference.start)
    found = []
    for number in range(denoiser.num_mixtures):
        rows = torch.nonzero(which == number)[:, 0]
        if not len(rows):
            raise ValueError(
                f"num_noises = {reference.num_noises} of {problem.name!r}: mixture {number} has no trajectory "
                f"to make its closed form of; use at least {denoiser.num_mixtures}, or base_schedule=7"
            )
        found.append(closed_form(reference.pick(rows), CLOSED_FORM_STEPS))
    return found


def _universal(problem: Problem, sigma_data: float, num_steps: int, solver: Solver) -> Schedule:
    if not solver.num_weights:
        raise ValueError(
            f"base_schedule = 'universal' has weights, which solver = {solver.name!r} does not take; use "
            "solver='learned_2m' or another with weights"
        )
    return Schedule.universal(
        num_steps,
        sigma_data=sigma_data,
        sigma_max=problem.sigma_max,
        sigma_end=problem.sigma_end,
        num_weights=min(solver.num_weights, WEIGHTS[-1]),
    )


def _table(base: Schedule, num_steps: int, solver: Solver) -> Array | None:
    """The weights of a schedule, for the solver."""
    if base.weights is None:
        return None
    if base.num_steps != num_steps or base.weights.shape[1] > solver.num_weights:
        raise ValueError(
            f"base_schedule {base.name!r} has weights for {base.num_steps} steps of {base.solver!r}, the environment "
            f"{num_steps} of {solver.name!r}; use the same, or its plain list: Schedule(schedule.sigmas)"
        )
    return pad_weights(base.weights, solver.num_weights)


def _read(clock: Clock, t: Tensor) -> Tensor:
    return torch.from_numpy(clock(t.detach().cpu().numpy())).to(t)


class _Level(torch.autograd.Function):
    """A clock that knows no tensors, with its slope by differences."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, clock: Clock) -> Tensor:
        """``clock(t)``."""
        level = _read(clock, t)
        ctx.save_for_backward(t)
        ctx.clock = clock
        return level

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Central differences."""
        (t,) = ctx.saved_tensors
        places = t.detach().cpu().numpy()
        before, after = np.maximum(places - DIFFERENCE, 0.0), np.minimum(places + DIFFERENCE, 1.0)
        slope = (ctx.clock(after) - ctx.clock(before)) / (after - before)
        return grad * torch.from_numpy(slope).to(grad), None


def _ramp(rho: float, problem: Problem, num_steps: int) -> Clock:
    """Even steps of ``sigma^(1/rho)``; if the problem ends at 0, the last tick goes from ``sigma_min`` to 0."""
    value = float(rho)
    high, low = problem.sigma_max ** (1 / value), problem.sigma_min ** (1 / value)
    # K noise levels and then 0: the ramp takes all the ticks but the last.
    split = (
        (num_steps - 1) / num_steps if problem.final_sigmas_type == "zero" and problem.sigma_min > 0 else 1.0
    )

    def sigma_of(t: np.ndarray) -> np.ndarray:
        if split == 0.0:
            return np.asarray(problem.sigma_max * (1 - t))
        ramp = (high + np.minimum(t / split, 1.0) * (low - high)) ** value
        if split == 1.0:
            return np.asarray(ramp)
        return np.where(t > split, problem.sigma_min * (1 - t) / (1 - split), ramp)

    return sigma_of
