"""The error that each step of a schedule makes by itself."""

from __future__ import annotations

import numpy as np
import torch

from art_env.diffusion.denoiser import Denoiser, difference
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver, check_weights, require_deterministic
from art_env.diffusion.steps import NO_STATE
from art_env.schedules.schedule import Schedule


@torch.no_grad()
def local_errors(
    denoiser: Denoiser, reference: ReferenceFlow, schedule: Schedule, solver: str | Solver
) -> np.ndarray:
    """RMSE ``[K]`` of each step after a start on the exact trajectories, in units of the sample.

    What a multistep solver looks back at is exact too. Costs the evaluations of one run of the sampler.

    Args:
        denoiser: the model.
        reference: exact trajectories.
        schedule: noise levels and, of a learned solver, weights.
        solver: a name or a ``Solver``.

    Raises:
        ValueError: a stochastic solver, or a schedule with weights for another one.
    """
    rule = require_deterministic(solver, "the error of a step")
    levels = torch.as_tensor(schedule.sigmas.copy()).to(reference.x)
    K, state, errors = schedule.num_steps, NO_STATE, []
    weights = None
    if schedule.weights is not None:
        weights = check_weights(schedule.weights, rule, K).to(reference.x)
    for k in range(K):
        # Each step starts on the exact trajectory, and so what it leaves to the next ones is exact.
        state = state._replace(d=None, steps_left=K - k, exact=True)
        if weights is not None:
            state = state._replace(weights=weights[k])
        step = rule.last_step if k == K - 1 else rule.step
        end, state = step(denoiser, reference.at(levels[k]), levels[k], levels[k + 1], state)
        off = difference(denoiser, end, reference.at(levels[k + 1]))
        errors.append(float(off.square().mean().sqrt()))
    return np.array(errors)
