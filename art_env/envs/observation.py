"""The observation: time, remaining budget, and features of the trajectory that cost no evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

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

# Time and budget come before the features.
PLAIN_WIDTH = 2
# Features hold log10 of a norm between 1e-6 and 1e6, divided by 6.
LOG_SPAN = 6.0
# Features that are logarithms, by the octaves that 1 stands for.
OCTAVES = {
    **dict.fromkeys(
        ("log_velocity", "log_curvature", "log_change", "denoised_change"), LOG_SPAN * math.log2(10.0)
    ),
    **dict.fromkeys(("rms", "denoised_rms"), 4.0),
    "level": 10.0,
}
# What the others are divided by; those that are left out: 1.
SPANS = dict.fromkeys(("x", "denoised"), 4.0)


class Observer:
    """Turns states into observations.

    Args:
        problem: what is sampled.
        features: names from ``FEATURES``, observed after time and budget.
        num_steps: K.
        exact_curvature: whether states hold the exact ``|Q|``, but at the end.
        history: the features of so many earlier steps come after those of this one, the latest first; 0 where
            there was no such step.

    Attributes:
        names: what each entry of the observation is.
        low, high: ``[n]`` float32, bounds of each entry.

    Raises:
        ValueError: an unknown feature, a whole sample of more than 8 coordinates, or ``class`` where there is none.
    """

    def __init__(
        self,
        problem: Problem,
        features: Sequence[str],
        num_steps: int,
        *,
        exact_curvature: bool = False,
        history: int = 0,
    ) -> None:
        self.exact_curvature, self.history = exact_curvature, history
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
        first = ["time", "remaining"]
        entries = dict.fromkeys(WHOLE, size) | {"class": problem.num_classes}
        rest = [[f"{f}{i}" for i in range(entries[f])] if f in entries else [f] for f in self.features]
        now = [name for part in rest for name in part]
        past = [f"{name}_{h}_before" for h in range(1, history + 1) for name in now]
        self.names, self.num_entries = (*first, *now, *past), len(now)
        self.high = np.ones(len(self.names), dtype=np.float32)
        positive = [name in first or name.startswith("class") for name in self.names]
        self.low = np.where(positive, 0.0, -1.0).astype(np.float32)
        whole = [name for name in self.features for _ in range(entries.get(name, 1))]
        spans = [num_steps, 1.0, *((OCTAVES | SPANS).get(name, 1.0) for name in whole)]
        self._spans = torch.tensor(spans, dtype=torch.float64, device=problem.device)
        self._logarithmic = torch.tensor(
            [name in OCTAVES for name in [*first, *whole]], device=problem.device
        )

    def __call__(self, state: State) -> Tensor:
        """``[B, n]`` float32, each entry within its bounds."""
        now = self._present(state)
        return torch.cat([now, state.seen.flatten(1)], 1) if self.history else now

    def nothing_seen(self, x: Tensor) -> Tensor:
        """``State.seen`` at the start of the episodes ``x: [B, *shape]``."""
        return torch.zeros(len(x), self.history, self.num_entries, dtype=torch.float32, device=x.device)

    def remember(self, state: State) -> Tensor:
        """``State.seen`` after a step from ``state``."""
        if not self.history:
            return state.seen
        latest = self._present(state)[:, None, PLAIN_WIDTH:]
        return torch.cat([latest, state.seen[:, :-1]], 1)

    def _present(self, state: State) -> Tensor:
        """Time, budget and the features of this step, ``[B, 2 + num_entries]`` float32."""
        seen = Measured(state, self.problem, self.exact_curvature)
        columns = [state.k.to(state.t), torch.rsub(state.t, 1.0)]
        for name in self.features:
            value: Tensor = seen.label() if name == "class" else getattr(seen, name)()
            columns.extend(value.unbind(1) if value.ndim > 1 else (value,))
        entries = torch.stack(columns, dim=1)
        entries = torch.where(self._logarithmic, torch.log2(entries.clamp_min(1e-12)), entries)
        return (entries / self._spans.to(entries)).clamp(-1, 1).to(torch.float32)


class Measured:
    """What features are made of: a method for each of ``FEATURES``, before the logarithm and the division.

    What several of them need is computed once, and only if one of them is asked for.

    Args:
        state: B trajectories.
        problem: what is sampled.
        exact_curvature: as ``Observer``.
    """

    def __init__(self, state: State, problem: Problem, exact_curvature: bool) -> None:
        self.state, self.problem, self.exact_curvature = state, problem, exact_curvature
        size, self.sigma_data = problem.extent(state.x)
        self.root_n = size**0.5

    def log_velocity(self) -> Tensor:
        """``[B]``."""
        return self._slope / self.root_n

    def log_curvature(self) -> Tensor:
        """``[B]``, of the exact ``|Q|`` if it is known, else of the secant of the last two slopes."""
        state = self.state
        step = (state.sigma - state.sigma_before).abs().clamp_min(1e-12)
        secant = (self._slope_change / step).masked_fill(self._first, 1.0)
        return torch.where(state.q.isnan(), secant, state.q) if self.exact_curvature else secant

    def rms(self) -> Tensor:
        """``[B]``."""
        return self._rms(self.state.x) / self._spread

    def turn(self) -> Tensor:
        """``[B]``."""
        state = self.state
        lengths = (self._slope * norm(state.d_before)).clamp_min(1e-30)
        return ((state.d * state.d_before).flatten(1).sum(1) / lengths).masked_fill(self._first, 0.0)

    def log_change(self) -> Tensor:
        """``[B]``."""
        return (self._slope_change / self.root_n).masked_fill(self._first, 1.0)

    def level(self) -> Tensor:
        """``[B]``."""
        return self.state.sigma / self.sigma_data

    def denoised_rms(self) -> Tensor:
        """``[B]``."""
        return self._rms(self._denoised) / self.sigma_data

    def denoised_change(self) -> Tensor:
        """``[B]``."""
        state = self.state
        before = to_denoised(state.x_before, state.sigma_before, state.d_before)
        change = norm(self._denoised - before) / self.root_n / self.sigma_data
        return change.masked_fill(self._first, 1.0)

    def x(self) -> Tensor:
        """``[B, d]``."""
        return self.state.x.flatten(1) / self._spread[:, None]

    def denoised(self) -> Tensor:
        """``[B, d]``."""
        return self._denoised.flatten(1) / self.sigma_data

    def change(self) -> Tensor:
        """``[B, d]``."""
        return self._change.flatten(1)

    def label(self) -> Tensor:
        """``[B, num_classes]``."""
        number = self.state.x[:, -1].flatten(1)[:, 0].round().long()
        return one_hot(number, self.problem.num_classes).to(self.state.x)

    @cached_property
    def _first(self) -> Tensor:
        return self.state.k == 0

    @cached_property
    def _slope(self) -> Tensor:
        return norm(self.state.d)

    @cached_property
    def _change(self) -> Tensor:
        return self.state.d - self.state.d_before

    @cached_property
    def _slope_change(self) -> Tensor:
        return norm(self._change)

    @cached_property
    def _denoised(self) -> Tensor:
        return to_denoised(self.state.x, self.state.sigma, self.state.d)

    @cached_property
    def _spread(self) -> Tensor:
        return torch.sqrt(self.state.sigma.square() + self.sigma_data**2)

    def _rms(self, x: Tensor) -> Tensor:
        return norm(self.problem.visible(x)) / self.root_n


def norm_from_feature(feature: Tensor) -> Tensor:
    """The norm behind a ``log_velocity`` or ``log_curvature`` feature, between 1e-6 and 1e6."""
    return torch.pow(10.0, LOG_SPAN * feature)
