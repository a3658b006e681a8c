"""The observation: time, remaining budget, and features of the trajectory that cost no evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from art_env._util.names import check_name
from art_env.diffusion.ode import norm
from art_env.diffusion.steps import to_denoised
from art_env.envs.state import State
from art_env.problems.problem import Problem

FEATURES = (
    "log_velocity",
    "log_curvature",
    "rms",
    "turn",
    "log_change",
    "level",
    "denoised_rms",
    "denoised_change",
    "x",
    "denoised",
    "change",
    "class",
)
# Those that mean the same on every model: without unit, and whatever the axes of the data.
RELATIVE_FEATURES = ("level", "log_velocity", "rms", "turn", "log_change", "denoised_rms", "denoised_change")
DEFAULT_FEATURES = ("log_velocity", "log_curvature", "rms", "turn")
# Features with an entry for each coordinate, and of how many coordinates.
WHOLE, MAX_COORDINATES = ("x", "denoised", "change"), 8

# Features hold log10 of a norm between 1e-6 and 1e6, divided by 6.
LOG_SPAN = 6.0


class Observer:
    """Turns states into observations.

    Args:
        problem: what is sampled.
        features: names from ``FEATURES``, observed after time and budget.
        num_steps: K.

    Attributes:
        names: what each entry of the observation is.
        low, high: ``[n]`` float32, bounds of each entry.

    Raises:
        ValueError: an unknown feature, a whole sample of more than 8 coordinates, or ``class`` where there is none.
    """

    def __init__(self, problem: Problem, features: Sequence[str], num_steps: int) -> None:
        self.features = tuple(check_name("feature", f, FEATURES) for f in features)
        self.num_steps = num_steps
        size, self.problem = math.prod(problem.shape), problem
        for name in self.features:
            if name in WHOLE and size > MAX_COORDINATES:
                raise ValueError(
                    f"feature {name!r} needs at most {MAX_COORDINATES} coordinates; {problem.name!r} has {size}"
                )
            if name == "class" and not problem.num_classes:
                raise ValueError(f"feature 'class': problem {problem.name!r} has no classes; leave it out")
        self._num_classes = problem.num_classes
        first = ["time", "remaining"]
        entries = dict.fromkeys(WHOLE, size) | {"class": self._num_classes}
        rest = [[f"{f}{i}" for i in range(entries[f])] if f in entries else [f] for f in self.features]
        self.names = (*first, *(name for part in rest for name in part))
        self.high = np.ones(len(self.names), dtype=np.float32)
        positive = [name in first or name.startswith("class") for name in self.names]
        self.low = np.where(positive, 0.0, -1.0).astype(np.float32)

    def __call__(self, state: State) -> Tensor:
        """``[B, n]`` float32, each entry within its bounds."""
        size, sigma_data = self.problem.extent(state.x)
        root_n = size**0.5
        spread = torch.sqrt(state.sigma**2 + sigma_data**2)
        columns = [(state.k / self.num_steps).to(state.x), 1.0 - state.t]
        for name in self.features:
            if name == "log_velocity":
                columns.append(_log_feature(norm(state.d) / root_n))
            elif name == "log_curvature":
                columns.append(torch.nan_to_num(_log_feature(state.q), nan=0.0))
            elif name == "rms":
                columns.append(_octaves(norm(self.problem.visible(state.x)) / root_n / spread, 4))
            elif name == "level":
                columns.append(_octaves(state.sigma / sigma_data, 10))
            elif name == "denoised_rms":
                denoised = to_denoised(state.x, state.sigma, state.d)
                columns.append(_octaves(norm(self.problem.visible(denoised)) / root_n / sigma_data, 4))
            elif name == "denoised_change":
                change = state.denoised_change / root_n / sigma_data
                columns.append(_log_feature(torch.where(state.k > 0, change, torch.ones_like(change))))
            elif name == "turn":
                columns.append(state.turn.clamp(-1, 1))
            elif name == "log_change":
                change = torch.where(state.k > 0, norm(state.change) / root_n, torch.ones_like(state.q))
                columns.append(_log_feature(change))
            elif name == "class":
                label = state.x[:, -1].flatten(1)[:, 0].round().long()
                columns.extend(one_hot(label, self._num_classes).to(state.x).unbind(1))
            else:
                columns.extend(self._whole(name, state, spread, sigma_data).clamp(-1, 1).unbind(1))
        return torch.stack(columns, dim=1).to(torch.float32)

    @staticmethod
    def _whole(name: str, state: State, spread: Tensor, sigma_data: Tensor | float) -> Tensor:
        """Every coordinate of a sample, ``[B, d]``."""
        if name == "x":
            return state.x.flatten(1) / spread[:, None] / 4
        if name == "change":
            return state.change.flatten(1)
        return to_denoised(state.x, state.sigma, state.d).flatten(1) / sigma_data / 4


def _octaves(value: Tensor, span: float) -> Tensor:
    return (torch.log2(value.clamp_min(1e-9)) / span).clamp(-1, 1)


def _log_feature(value: Tensor) -> Tensor:
    return (torch.log10(value.clamp_min(1e-12)) / LOG_SPAN).clamp(-1, 1)


def norm_from_feature(feature: Tensor) -> Tensor:
    """The norm behind a ``log_velocity`` or ``log_curvature`` feature, between 1e-6 and 1e6."""
    return torch.pow(10.0, LOG_SPAN * feature)
