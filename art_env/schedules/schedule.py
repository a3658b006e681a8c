"""Schedule: the list of noise levels that a sampler walks down, perhaps with weights for each step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from art_env._util.files import parse_json, write_text
from art_env._util.names import check_name
from art_env.diffusion.levels import FINAL_SIGMAS_TYPES, SPACES
from art_env.schedules.universal import universal_table

FORMAT = "art-schedule"
# Version 2 has weights; a schedule without them is written as version 1, which older releases read.
VERSION, VERSION_WITH_WEIGHTS = 1, 2
# Of any solver; a larger number is a slip of the finger that would take all memory.
MAX_STEPS = 10_000
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A validated, immutable list of noise levels.

    Args:
        sigmas: ``[num_steps + 1]``, strictly descending, finite, the first > 0, the last >= 0: noise levels of
            ``x0 + sigma noise``, whatever the space.
        name: what tables call it.
        meta: where it comes from (problem, solver, objective, seed, versions); must be JSON.
        weights: ``[num_steps, m]``, for the solver ``learned_{m+1}m``; None: the list serves any solver.
        space: what the model's own programs sample in. ``"ve"``: ``x0 + sigma noise``, or that scaled to unit
            variance. ``"flow"``: ``(1 - t) x0 + t noise`` with ``t = sigma / (1 + sigma)``; exports write t.

    Raises:
        ValueError: the list is not a schedule, weights of another shape or not finite, or an unknown space; names the
            index and the value.
    """

    sigmas: Array
    name: str = "schedule"
    meta: Mapping[str, Any] = field(default_factory=dict)
    weights: Array | None = None
    space: str = "ve"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"name = {self.name!r} must be a text")
        if not isinstance(self.meta, Mapping):
            raise ValueError(f"meta = {self.meta!r} must be a mapping, such as {{'solver': 'heun'}}")
        check_name("space", self.space, SPACES)
        sigmas = _numbers("sigmas", self.sigmas)
        if sigmas.ndim != 1 or sigmas.size < 2:
            raise ValueError(
                f"sigmas has shape {sigmas.shape}; give one list of at least two noise levels (num_steps + 1)"
            )
        for i, value in enumerate(sigmas):
            if not np.isfinite(value):
                raise ValueError(f"sigmas[{i}] = {value} is not finite")
            if value < 0:
                raise ValueError(f"sigmas[{i}] = {value:g} is negative; noise levels are >= 0")
            if i and value >= sigmas[i - 1]:
                how = "repeats" if value == sigmas[i - 1] else "is above"
                raise ValueError(
                    f"sigmas[{i}] = {value:g} {how} sigmas[{i - 1}] = {sigmas[i - 1]:g}; "
                    "a schedule descends strictly, from much noise to little"
                )
        sigmas.setflags(write=False)
        object.__setattr__(self, "sigmas", sigmas)
        object.__setattr__(self, "meta", dict(self.meta))
        if self.weights is not None:
            object.__setattr__(self, "weights", _checked_weights(self.weights, len(sigmas) - 1))

    def __len__(self) -> int:
        return len(self.sigmas)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule) or not np.array_equal(self.sigmas, other.sigmas):
            return False
        if self.weights is None or other.weights is None:
            return self.weights is other.weights
        return np.array_equal(self.weights, other.weights)

    def __hash__(self) -> int:
        return hash((self.sigmas.tobytes(), None if self.weights is None else self.weights.tobytes()))

    @property
    def num_steps(self) -> int:
        """Solver steps: one fewer than noise levels."""
        return len(self.sigmas) - 1

    @property
    def solver(self) -> str | None:
        """The solver that the weights are for; None without weights."""
        return None if self.weights is None else f"learned_{self.weights.shape[1] + 1}m"

    @property
    def sigma_max(self) -> float:
        """The first noise level."""
        return float(self.sigmas[0])

    @property
    def sigma_end(self) -> float:
        """The last noise level."""
        return float(self.sigmas[-1])

    @property
    def final_sigmas_type(self) -> str:
        """``"zero"`` if the list ends at 0, else ``"sigma_min"``."""
        return "zero" if self.sigmas[-1] == 0 else "sigma_min"

    def theta(self) -> Array:
        """Clock speed of each step on the uniform clock, ``[num_steps]``.

        The clock ticks ``dt = T / num_steps`` with ``T = sigmas[0] - sigmas[-1]``, so the mean speed is 1.
        """
        steps: Array = -np.diff(self.sigmas)
        return steps * self.num_steps / steps.sum()

    def interpolator(self) -> Callable[[ArrayLike], Array]:
        """The clock behind the list: a monotone map ``t in [0, 1] -> sigma`` through ``(k / K, sigmas[k])``.

        Cubic (PCHIP) in log sigma; linear in sigma only down the last interval to a 0.
        """
        K = self.num_steps
        knots = np.linspace(0.0, 1.0, K + 1)
        positive = self.sigmas > 0
        t_pos, log_pos = knots[positive], np.log(self.sigmas[positive])
        smooth = PchipInterpolator(t_pos, log_pos) if len(t_pos) > 1 else None

        def sigma_of(t: ArrayLike) -> Array:
            t = np.clip(np.asarray(t, dtype=np.float64), 0.0, 1.0)
            head = np.minimum(t, t_pos[-1])
            out = np.exp(smooth(head)) if smooth is not None else np.full_like(t, self.sigmas[0])
            if self.final_sigmas_type == "zero":
                tail = self.sigmas[-2] * (1.0 - t) * K
                out = np.where(t > t_pos[-1], tail, out)
            return np.asarray(out, dtype=np.float64)

        return sigma_of

    def resample(self, num_steps: int, keep_zero: bool = False) -> Schedule:
        """The same clock at another number of steps.

        Args:
            num_steps: the new K, at least 1.
            keep_zero: EDM's convention and the paper's transfer: set the final 0 aside, resample the K noise
                levels before it log-linearly, then append the 0 again.

        Raises:
            ValueError: ``num_steps < 1``, or ``keep_zero`` on a schedule that does not end at 0.
        """
        check_num_steps(num_steps)
        meta = {**self.meta, "resampled_from": self.num_steps}
        if keep_zero and self.final_sigmas_type != "zero":
            raise ValueError(
                f"keep_zero needs a schedule that ends at 0; this one ends at {self.sigma_end:g}. "
                "Use keep_zero=False"
            )
        if num_steps == self.num_steps:
            return self
        if self.weights is not None:
            raise ValueError(
                f"schedule {self.name!r} has weights, which belong to its {self.num_steps} steps; learn another for "
                f"num_steps = {num_steps}, or resample its plain list: Schedule(schedule.sigmas)"
            )
        if keep_zero:
            K = self.num_steps
            old = np.linspace(0.0, 1.0, K) if K > 1 else np.zeros(1)
            new = np.linspace(0.0, 1.0, num_steps) if num_steps > 1 else np.zeros(1)
            body = np.exp(np.interp(new, old, np.log(self.sigmas[:-1])))
            if K == 1 and num_steps > 1:
                raise ValueError(
                    "keep_zero cannot resample a single step: it has only one noise level above 0"
                )
            body[0] = self.sigmas[0]
            return Schedule(np.append(body, 0.0), self.name, meta, space=self.space)
        sigmas = self.interpolator()(np.linspace(0.0, 1.0, num_steps + 1))
        sigmas[0], sigmas[-1] = self.sigmas[0], self.sigmas[-1]
        return Schedule(sigmas, self.name, meta, space=self.space)

    @classmethod
    def universal(
        cls,
        num_steps: int,
        *,
        clock: Schedule | None = None,
        sigma_data: float = 0.5,
        sigma_max: float = 80.0,
        sigma_end: float = 0.0,
        num_weights: int = 1,
    ) -> Schedule:
        """Noise levels and weights that suit many models: fitted to random mixtures (``benchmarks.universal_fit``).

        Without ``clock`` no evaluation of the model is needed: the levels are multiples of ``sigma_data``. On the
        model's own clock they fit it better; four to 16 exact trajectories make one.

        Args:
            num_steps: K, 2 to 12.
            clock: the model's own, such as ``closed_form(reference, 256)``; its ends are used.
            sigma_data: standard deviation of the data, per coordinate.
            sigma_max: first noise level.
            sigma_end: last noise level.
            num_weights: 1 or 2, for ``learned_2m`` or ``learned_3m``.

        Raises:
            ValueError: K or weights that there is no table for, ``sigma_data`` not positive, or a range of noise that
                is too narrow for the data.
        """
        table = universal_table("list" if clock is None else "clock", num_steps, num_weights)
        name = "universal" if clock is None else "universal_clock"
        meta: dict[str, Any] = {"method": name, **table.meta}
        if clock is not None:
            levels = clock.interpolator()(table.levels)
            ends = np.array([clock.sigma_max, *levels, clock.sigma_end])
            return cls(ends, name, meta, table.weights, clock.space)
        if not (np.isfinite(sigma_data) and sigma_data > 0):
            raise ValueError(f"sigma_data = {sigma_data} must be a positive number")
        levels = sigma_data * table.levels
        if levels[0] >= sigma_max or levels[-1] <= sigma_end:
            raise ValueError(
                f"sigma_max = {sigma_max:g} and sigma_end = {sigma_end:g} leave no room for the levels of "
                f"sigma_data = {sigma_data:g}, {levels[0]:.4g} to {levels[-1]:.4g}; on the "
                "model's own clock they fit: train.py --effort quick, the schedule universal_clock, or here "
                "clock=closed_form(reference, 256)"
            )
        meta["sigma_data"] = float(sigma_data)
        return cls(np.array([sigma_max, *levels, sigma_end]), name, meta, table.weights)

    def check_range(self, sigma_max: float, sigma_end: float) -> None:
        """Refuse to be used for another noise range.

        Raises:
            ValueError: the first or the last noise level is not that of the problem (0.1% tolerance).
        """
        if not np.isclose(self.sigma_max, sigma_max, rtol=1e-3):
            raise ValueError(
                f"schedule {self.name!r} starts at sigma={self.sigma_max:g}, the problem at "
                f"sigma_max={sigma_max:g}; use a schedule made for this range"
            )
        if not np.isclose(self.sigma_end, sigma_end, rtol=1e-3, atol=1e-12):
            raise ValueError(
                f"schedule {self.name!r} ends at sigma={self.sigma_end:g}, the problem at "
                f"sigma={sigma_end:g}; use a schedule made for this end (final_sigmas_type='zero' or 'sigma_min')"
            )

    def to_json(self) -> str:
        """A JSON text that ``from_json`` reads back exactly.

        Raises:
            ValueError: the meta holds something that JSON has not, such as NaN.
        """
        body = {
            "format": FORMAT,
            "version": VERSION if self.weights is None else VERSION_WITH_WEIGHTS,
            "name": self.name,
            "num_steps": self.num_steps,
            "space": self.space,
            "final_sigmas_type": self.final_sigmas_type,
            "sigmas": [float(s) for s in self.sigmas],
            **({} if self.weights is None else {"solver": self.solver, "weights": self.weights.tolist()}),
            "meta": self.meta,
        }
        try:
            return json.dumps(body, indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"meta of schedule {self.name!r} is not JSON ({error}); leave that entry out"
            ) from error

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Read what ``to_json`` wrote; a text without ``space`` is of an older release, and ``"ve"``.

        Raises:
            ValueError: not JSON, not a schedule, of another version, with bad noise levels, or with entries that
                contradict each other.
        """
        try:
            body = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{error}; truncated, or not a schedule file?") from error
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ValueError(f'not a schedule: expected an object with "format": "{FORMAT}"')
        version, weights = body.get("version"), body.get("weights")
        if type(version) is not int or version not in (VERSION, VERSION_WITH_WEIGHTS):
            raise ValueError(
                f"schedule version {_short(version)} is not {VERSION} or {VERSION_WITH_WEIGHTS}; write it again with "
                "this release"
            )
        if (version == VERSION_WITH_WEIGHTS) != (weights is not None):
            raise ValueError(
                f'schedule version {version} with "weights" = {_short(weights)}: version {VERSION_WITH_WEIGHTS} has '
                f"them, version {VERSION} does not"
            )
        sigmas = body.get("sigmas")
        if not isinstance(sigmas, list):
            raise ValueError('schedule has no list "sigmas"')
        schedule = cls(
            cast("Array", sigmas),
            body.get("name", "schedule"),
            body.get("meta", {}),
            cast("Array | None", weights),
            body.get("space", "ve"),
        )
        schedule._check_told(body)
        return schedule

    def _check_told(self, body: Mapping[str, Any]) -> None:
        """Refuse a file that says something else of its list than the list itself, or could not be written again."""
        self.to_json()
        given = body.get("num_steps", self.num_steps)
        if type(given) is not int or given != self.num_steps:
            raise ValueError(
                f"num_steps = {_short(given)} but sigmas has {self.num_steps + 1} entries (num_steps + 1 expected)"
            )
        # "terminal": the name in older files.
        for key in ("final_sigmas_type", "terminal"):
            if body.get(key, self.final_sigmas_type) != self.final_sigmas_type:
                known = " or ".join(f'"{name}"' for name in FINAL_SIGMAS_TYPES)
                raise ValueError(
                    f"{key} = {_short(body[key])}, but sigmas ends at {self.sigma_end:g}, which is "
                    f'"{self.final_sigmas_type}" (of {known}); correct the one that is wrong'
                )
        if body.get("solver", self.solver) != self.solver:
            raise ValueError(
                f"solver = {_short(body['solver'])}, but weights of this shape are those of {self.solver!r}"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_json()`` to a file, in one piece."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Read a file that ``save`` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: as ``from_json``, with the file's name in front.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"no schedule file at {str(path)!r}")
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: not a text file; give the schedule.json of a run "
                "(evaluate.py takes a model.zip as --agents)"
            ) from error
        try:
            return cls.from_json(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _numbers(field: str, given: object) -> Array:
    """A new array of float64.

    Raises:
        ValueError: it is not a rectangle of numbers; texts and booleans are none, although NumPy converts them.
    """
    stack: list[tuple[str, object]] = [(field, given)]
    while stack:
        where, value = stack.pop()
        if isinstance(value, (str, bytes, bool, np.bool_)):
            raise ValueError(f"{where} = {_short(value)} is not a number; write it as one, such as 0.5")
        if isinstance(value, (list, tuple)):
            stack += [(f"{where}[{i}]", inner) for i, inner in reversed(list(enumerate(value)))]
    try:
        array = np.array(given)
        if array.dtype.kind not in "iufO":
            raise TypeError(f"entries of type {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{field} is not a list of numbers: {error}") from error


def _short(value: object) -> str:
    """A value as it is quoted in an error."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _checked_weights(given: object, num_steps: int) -> Array:
    weights = _numbers("weights", given)
    if weights.ndim != 2 or len(weights) != num_steps or not weights.shape[1]:
        raise ValueError(
            f"weights has shape {weights.shape}; give 1 weight or more for each of {num_steps} steps"
        )
    if not np.isfinite(weights).all():
        k, j = (int(i) for i in np.argwhere(~np.isfinite(weights))[0])
        raise ValueError(f"weights[{k}][{j}] = {weights[k, j]} is not finite")
    weights.setflags(write=False)
    return weights


def pad_weights(weights: Array, count: int) -> Array:
    """``weights: [K, m]`` with further columns of 0, ``[K, count]``: the same rule for a solver that takes more."""
    return np.pad(weights, ((0, 0), (0, count - weights.shape[1])))


def check_num_steps(num_steps: object) -> int:
    """Return ``num_steps`` if it is a whole number from 1 to 10,000.

    Raises:
        ValueError: otherwise.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, (int, np.integer)) or num_steps < 1:
        raise ValueError(f"num_steps = {num_steps!r} must be a whole number of at least 1")
    if num_steps > MAX_STEPS:
        raise ValueError(
            f"num_steps = {num_steps} must be at most {MAX_STEPS}; samplers take 2 to 1000 steps"
        )
    return int(num_steps)


def from_sigmas(
    sigmas: Sequence[float] | Array, name: str, *, weights: Array | None = None, **meta: Any
) -> Schedule:
    """``Schedule`` with its meta as keywords."""
    return Schedule(np.asarray(sigmas, dtype=np.float64), name, meta, weights)
