"""From an action to the weights of a learned solver's step: the second control."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from art_env.diffusion.solvers import Solver

# A weight is its default plus two times the action near 0, and grows exponentially to 6.7 at action 1.
SLOPE, CURVE = 2.0, 3.0
# The largest ratio between two steps that widens the reach.
MOST_UNLIKE = 32.0


class SlopeWeights:
    """The actions after the first one set the weights of the step, one each (see ``LearnedMultistep``).

    ``w = w_0 + (SLOPE / CURVE) sinh(CURVE a) sqrt(max(dt / dt', dt' / dt))``. ``w_0`` is the rule's default (1/2 for
    the last change of slope, 0 for the others) or the weight of a base schedule that has some. ``dt`` and ``dt'`` are
    the parts of the budget that this step and the one before it take. In steps of like length the weights of the best
    samplers are between -5 and 3. Beside a much shorter or longer step they are up to 20: a long step after a short
    one must extrapolate far, and in a short step after a long one the change of slope tells what the long one did
    wrong.

    Args:
        solver: a learned one.
        num_steps: K.
        default: ``[K, m]``, what action 0 gives; None: the rule's.
    """

    def __init__(self, solver: Solver, num_steps: int, default: np.ndarray | None = None) -> None:
        assert solver.learned is not None
        self.solver = solver
        rows = np.tile(solver.learned.default, (num_steps, 1)) if default is None else default
        self.default = torch.tensor(rows, dtype=torch.float64)

    def weights(self, actions: Tensor, dt: Tensor, dt_before: Tensor, k: Tensor) -> Tensor:
        """Weights ``[B, m]``.

        Args:
            actions: ``[B, m]``; beyond [-1, 1] they count as 1.
            dt, dt_before: ``[B]``, parts of the budget of this step and the one before (0: there is none).
            k: ``[B]``, which step it is.
        """
        scale = (SLOPE / CURVE) * self._reach(dt, dt_before)[:, None]
        # A row that has ended takes no weights, but is asked.
        default = self.default.to(actions)[k.clamp_max(len(self.default) - 1)]
        return default + scale * torch.sinh(CURVE * actions.clamp(-1, 1))

    def actions(self, weights: Tensor, dt: Tensor, dt_before: Tensor, k: Tensor) -> Tensor:
        """The actions that give these weights, ``[B, m]``; beyond [-1, 1] where none does."""
        scale = (SLOPE / CURVE) * self._reach(dt, dt_before)[:, None]
        return torch.asinh((weights - self.default.to(weights)[k]) / scale) / CURVE

    def table(self, actions: Tensor, times: Tensor) -> Tensor:
        """Weights ``[K, B, m]`` of whole episodes; 0 where the solver uses none.

        Args:
            actions: ``[B, K, m]``.
            times: ``[K + 1, B]``, the spent part of the budget before each step and at the end.
        """
        parts = zip(actions.unbind(1), *step_parts(times), strict=True)
        steps = torch.arange(actions.shape[1], device=actions.device)[:, None].expand(-1, len(actions))
        table = torch.stack([self.weights(*part, k) for part, k in zip(parts, steps, strict=True)])
        used = torch.from_numpy(self.solver.used_weights(len(table)))
        return table * used[:, None].to(table)

    def table_actions(self, weights: Tensor, times: Tensor) -> Tensor:
        """The actions that give one episode these weights, ``[K, m]``; beyond [-1, 1] where none does.

        Args:
            weights: ``[K, m]``.
            times: ``[K + 1]``, as in ``table``.
        """
        return self.actions(weights, *step_parts(times), torch.arange(len(weights), device=weights.device))

    def _reach(self, dt: Tensor, dt_before: Tensor) -> Tensor:
        """``[B]``, at least 1."""
        ratio = torch.maximum(dt, dt_before) / torch.minimum(dt, dt_before).clamp_min(1e-300)
        return ratio.masked_fill(dt_before == 0, 1.0).clamp_max(MOST_UNLIKE).sqrt()


def step_parts(times: Tensor) -> tuple[Tensor, Tensor]:
    """The part of the budget that each step takes, and that of the step before it (0: there is none).

    Both are ``[K, ...]``, of ``times: [K + 1, ...]``, the spent part before each step and at the end.
    """
    steps = times.diff(dim=0)
    return steps, torch.cat([torch.zeros_like(steps[:1]), steps[:-1]])
