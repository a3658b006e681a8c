"""The picture of an episode: the schedule so far against EDM's, and the error per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from art_env.envs.dynamics import Dynamics
from art_env.schedules.handcrafted import edm


class Frame(NamedTuple):
    """One state of the episode: noise level, relative error so far (if known), reward of the step into it."""

    sigma: float
    error: float | None
    reward: float


def draw(dynamics: Dynamics, frames: Sequence[Frame]) -> np.ndarray:
    """``[400, 800, 3]`` uint8.

    Raises:
        RuntimeError: nothing to draw before the first reset.
    """
    if not frames:
        raise RuntimeError("render before the first episode: call reset() first")
    problem, K = dynamics.problem, dynamics.num_steps
    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    grid = edm(K, problem.sigma_min, problem.sigma_max, final_sigmas_type=problem.final_sigmas_type)
    left.plot(range(K + 1), grid.sigmas, "o--", color="0.6", markersize=3, label="EDM")
    left.plot(range(len(frames)), [f.sigma for f in frames], "o-", color="C0", label="this episode")
    left.set_yscale("symlog", linthresh=max(problem.sigma_floor, 1e-3))
    left.set(
        xlabel="step", ylabel="sigma", xlim=(-0.3, K + 0.3), title=f"{problem.name}, {dynamics.solver.name}"
    )
    left.set_ylim(0 if problem.sigma_end == 0 else 0.8 * problem.sigma_end, 1.4 * problem.sigma_max)
    left.legend(frameon=False)
    steps = range(1, len(frames))
    if dynamics.reward_name in ("global", "log_global"):
        errors, label = [f.error or 0.0 for f in frames[1:]], "error so far, relative"
    else:
        errors, label = [-f.reward for f in frames[1:]], "minus reward"
    right.bar(steps, errors, color="C3")
    right.set(xlabel="step", ylabel=label, xlim=(0.3, K + 0.7), title="error per step")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
