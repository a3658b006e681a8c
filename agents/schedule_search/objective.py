"""What is searched on: the returns of schedules from initial noises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from art_env.envs.clock import LogSpeed
from art_env.envs.dynamics import Dynamics
from art_env.schedules.schedule import Schedule


class ObjectiveFunction(Protocol):
    """Whoever evaluates, here or on another machine.

    Attributes:
        num_steps: K.
        used_actions: ``[K, A]`` bool, the entries of the actions that make a difference.
        other_start: ``[K, A]`` actions in a valley that no way leads to from the base schedule; None: there is none.
        least_squares: whether a return is minus a sum of squares, so that there are ``products``.
        pool_size: how many initial noises there are.
        paired: whether each noise has a return of its own; if not, returns are those of whole groups of noises.
        rows: episodes played so far.
        evaluations: of the denoiser, so far.
    """

    num_steps: int
    used_actions: np.ndarray
    other_start: np.ndarray | None
    pool_size: int
    paired: bool
    least_squares: bool
    rows: int
    evaluations: int

    def __call__(self, actions: np.ndarray, noises: np.ndarray) -> np.ndarray:
        """Returns ``[G, M]`` of ``actions: [G, K, A]`` from each of the initial ``noises: [M]``.

        All G meet the same noises (common random numbers). Where A is 1 it may be left out.
        """

    def products(self, actions: np.ndarray, noises: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Scalar products ``[G, G]`` of the final errors of the first of ``actions: [G, K, A]``, and of what the
        final errors of the others differ from them by: the weighted sum over the initial ``noises: [M]``.

        These are all that a least-squares step needs, and sums over noises can be made in parts.
        """

    def schedule(self, actions: np.ndarray) -> Schedule:
        """The noise levels, and weights, of actions ``[K, A]``."""


# The first step, which has no past slope, is long; the second is short and mends it with a large weight. Actions:
# clock speeds of the two, and the second's first weight. On mixture-1d the best learned_2m at K = 5 and 7 begins so.
MENDED_FIRST_STEP = (0.3, -0.25, 0.7)


class Objective:
    """The returns of an environment's episodes, evaluated in this process.

    Args:
        dynamics: with ``control="log_speed"`` and exact trajectories; for the reward of groups (a stochastic
            solver) with a ``group_size``, of which the number of noises must be a multiple.
        batch: rows of a denoiser call at most, a multiple of the ``group_size``; None: all at once.

    Raises:
        ValueError: other dynamics.
    """

    def __init__(self, dynamics: Dynamics, batch: int | None = None) -> None:
        if dynamics.reference is None:
            raise ValueError(
                f"reward = {dynamics.reward_name!r} has no exact trajectories to start from; the search needs "
                "'global' or 'local'"
            )
        if not isinstance(dynamics.control_rule, LogSpeed):
            raise ValueError(f"control = {dynamics.control!r}: the search needs 'log_speed'")
        if dynamics.base.of_rows:
            raise ValueError(
                f"each row of {dynamics.problem.name!r} has a base schedule of its own, and the search finds one "
                "list; use base_schedule=7"
            )
        self.dynamics, self.batch, self.control = dynamics, batch, dynamics.control_rule
        self.num_steps, self.pool_size = dynamics.num_steps, dynamics.reference.num_noises
        self.used_actions = dynamics.used_actions
        self.other_start = None
        if dynamics.num_actions > 1 and self.num_steps > 1:
            self.other_start = np.zeros(self.used_actions.shape)
            self.other_start[0, 0], self.other_start[1, 0], self.other_start[1, 1] = MENDED_FIRST_STEP
        self.paired, self.least_squares = dynamics.paired, dynamics.has_final_errors
        self.rows = self.evaluations = 0

    def __call__(self, actions: np.ndarray, noises: np.ndarray) -> np.ndarray:
        """See ``ObjectiveFunction``."""
        returns = self._episodes(self.dynamics.returns, actions, noises)
        return returns.reshape(len(actions), len(noises)).cpu().numpy()

    def products(self, actions: np.ndarray, noises: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See ``ObjectiveFunction``."""
        G = len(actions)
        total = torch.zeros(G, G, dtype=torch.float64, device=self.dynamics.device)
        # So many noises at once that final errors of one batch are held.
        count = len(noises) if self.batch is None else max(self.batch // G, 1)
        for begin in range(0, len(noises), count):
            part = noises[begin : begin + count]
            errors = (
                self._episodes(self.dynamics.final_errors, actions, part).double().reshape(G, len(part), -1)
            )
            errors[1:] -= errors[:1].clone()
            scale = torch.from_numpy(np.sqrt(weights[begin : begin + count])).to(errors)
            flat = (errors * scale[:, None]).flatten(1)
            total += flat @ flat.T
        return total.cpu().numpy()

    def _episodes(
        self, play: Callable[[Tensor, Tensor], Tensor], actions: np.ndarray, noises: np.ndarray
    ) -> Tensor:
        """What ``play`` gives for each of ``actions: [G, K, A]`` on all ``noises: [M]``, ``[G M, ...]``."""
        G, M, device = len(actions), len(noises), self.dynamics.device
        played = torch.from_numpy(actions).to(device).repeat_interleave(M, 0)
        index = torch.from_numpy(np.tile(noises, G)).to(device)
        counter = self.dynamics.stepper.counter
        size, before = self.batch or len(index), counter.evals
        pieces = zip(index.split(size), played.split(size), strict=True)
        answers = torch.cat([play(*piece) for piece in pieces])
        self.rows += len(index)
        self.evaluations += counter.evals - before
        return answers

    def schedule(self, actions: np.ndarray) -> Schedule:
        """See ``ObjectiveFunction``."""
        dynamics = self.dynamics
        given = torch.from_numpy(actions).reshape(1, self.num_steps, -1).to(dynamics.device)
        times = self.control.times(given[..., 0])
        assert dynamics.reference is not None
        levels, weights = self.control.levels(times, dynamics.reference.start[:1]), None
        if dynamics.weight_rule is not None:
            weights = dynamics.weight_rule.table(given[..., 1:], times)[:, 0].cpu().numpy()
        meta = {
            "method": "search",
            "problem": dynamics.problem.name,
            "solver": dynamics.solver.name,
            "num_steps": self.num_steps,
            "reward": dynamics.reward_name,
        }
        return Schedule(levels[:, 0].cpu().numpy(), "search", meta, weights, dynamics.problem.space)
