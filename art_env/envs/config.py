"""``EnvConfig``: every setting of the environment, once, with its check."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import numpy as np
import torch

from art_env._util.limits import MAX_STEPS
from art_env._util.names import check_name, unknown_name
from art_env._util.numbers import check_number, check_real, check_whole
from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.levels import FINAL_SIGMAS_TYPES
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver, get_solver
from art_env.envs.base_schedule import check_base_schedule
from art_env.envs.observation import DEFAULT_FEATURES, FEATURES
from art_env.envs.rewards import check_reward
from art_env.problems.custom import custom_problem, model_problem
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules.schedule import Schedule, check_num_steps

CONTROLS = ("log_speed", "speed")
# Beyond it the share of a step is all or nothing (``clock.MIN_SHARE``).
MOST_OCTAVES = 50.0
# Initial noises that memory has room for.
MOST_NOISES = 10_000_000
# The settings that go with a solver whose steps have weights.
WITH_WEIGHTS = {"control": ("log_speed",), "reward": ("global", "local", "log_global")}


@dataclass(frozen=True)
class EnvConfig:
    """The settings of ``ARTEnv`` and ``ARTVectorEnv``.

    Attributes:
        problem: a name (``art_env.problems.PROBLEMS``), a ``Problem``, or ``"custom"`` with ``denoiser`` or
            ``model``.
        denoiser: a caller's own model (``ART/Diffusion-v1``).
        model: arguments of ``art_env.problems.model_problem``: a model in a file.
        trust_pickle: allow that file to be a pickle, which may run code.
        final_sigmas_type: ``"zero"`` or ``"sigma_min"``; None: the problem's own.
        sigma_min, sigma_max: another noise range.
        device: where the denoiser runs.
        solver: ``"euler"``, ``"heun"``, ``"rk4"``, ``"dpmpp_2m"``, ``"ipndm"``, ``"deis_2"``, ``"deis_3"``,
            ``"unipc_2"``, ``"unipc_3"``, ``"learned_2m"`` or any ``"learned_Nm"``, ``"euler_maruyama"``,
            ``"edm_churn"``, or a ``Solver``, such as ``edm_churn(S_churn=10)``.
        num_steps: K, the length of every episode, 1 to 1000.
        reward: ``"euler"``, ``"local"``, ``"global"`` or ``"log_global"``.
        control: ``"log_speed"`` or ``"speed"``.
        features: names from the table of ``ARTEnv``, or ``()``.
        history: the features of so many earlier steps are observed too, at most ``num_steps - 1``.
        base_schedule: the one, which action 0 reproduces: rho of ``sigma^(1/rho)``, ``"closed_form"``,
            ``"universal"`` (``Schedule.universal``, with its weights), or a ``Schedule``.
        action_range: octaves of speed between action 0 and 1.
        num_noises, noise_seed: the pool of initial noises, and of the noise of stochastic solvers.
        reference: exact trajectories to use instead of integrating them; their noises are the pool.

    Raises:
        ValueError: a setting that is not understood; names it, its value and the fix. What depends on the problem
            is checked when the problem is made.
    """

    problem: str | Problem = "digits"
    denoiser: Denoiser | None = None
    model: Mapping[str, Any] | None = None
    trust_pickle: bool = False
    final_sigmas_type: str | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    device: str = "cpu"
    solver: str | Solver = "heun"
    num_steps: int = 5
    reward: str = "global"
    control: str = "log_speed"
    features: Sequence[str] = DEFAULT_FEATURES
    history: int = 0
    base_schedule: float | str | Schedule = 7.0
    action_range: float = 5.0
    num_noises: int | None = None
    noise_seed: int = 0
    reference: ReferenceFlow | None = None

    def __post_init__(self) -> None:
        self._check_types()
        features = (self.features,) if isinstance(self.features, str) else tuple(self.features)
        object.__setattr__(self, "features", tuple(check_name("feature", f, FEATURES) for f in features))
        rule = get_solver(self.solver)
        object.__setattr__(self, "num_steps", check_num_steps(self.num_steps))
        if self.num_steps > MAX_STEPS:
            raise ValueError(f"num_steps = {self.num_steps} must be at most {MAX_STEPS}, the longest episode")
        check_reward(self.reward, rule)
        check_name("control", self.control, CONTROLS)
        for name, fits in WITH_WEIGHTS.items():
            value = getattr(self, name)
            if rule.num_weights and value not in fits:
                raise ValueError(
                    f"{name} = {value!r} knows nothing of the weights of solver = {rule.name!r}; use "
                    f"{' or '.join(map(repr, fits))}, or a solver without weights"
                )
        if self.final_sigmas_type is not None:
            check_name("final_sigmas_type", self.final_sigmas_type, FINAL_SIGMAS_TYPES)
        self._check_numbers()

    def _check_types(self) -> None:
        """Refuse values of another type, which would fail later with an error about something else."""
        for name, kinds, what in (
            ("problem", (str, Problem), "a name, such as 'digits', or a Problem"),
            ("device", (str, torch.device), "a name, such as 'cpu'"),
            ("trust_pickle", (bool,), "True or False"),
            ("features", (str, Sequence), "names, such as ('rms', 'turn')"),
            ("model", (Mapping, NoneType), "a mapping with a path, or None"),
            ("reference", (ReferenceFlow, NoneType), "a ReferenceFlow, or None"),
            ("solver", (str, Solver), "a name, such as 'heun', or a Solver"),
        ):
            if not isinstance(getattr(self, name), kinds):
                raise ValueError(f"{name} = {getattr(self, name)!r} must be {what}")

    def _check_numbers(self) -> None:
        """Refuse numbers out of range."""
        check_base_schedule(self.base_schedule)
        check_whole("history", self.history, 0, MAX_STEPS)
        if self.history >= self.num_steps:
            raise ValueError(
                f"history = {self.history} must be less than num_steps = {self.num_steps}, as there are no more "
                "steps before the last one"
            )
        if self.history and not self.features:
            raise ValueError(f"history = {self.history} remembers features, and features = (): name some")
        octaves = check_real("action_range", self.action_range, 1e-6, MOST_OCTAVES, "in octaves")
        object.__setattr__(self, "action_range", octaves)
        if self.num_noises is not None:
            check_whole("num_noises", self.num_noises, 1, MOST_NOISES)
        check_whole("noise_seed", self.noise_seed, 0, 2**63)
        for name in ("sigma_min", "sigma_max"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))

    @classmethod
    def make(cls, config: EnvConfig | None = None, **settings: Any) -> EnvConfig:
        """``config`` (default: all defaults) with ``settings`` in the place of its own.

        Raises:
            TypeError: ``config`` is something else, or a setting has no such name.
            ValueError: as the class.
        """
        if config is not None and not isinstance(config, EnvConfig):
            raise TypeError(
                f"config = {config!r} is no EnvConfig; a setting needs its name: problem={config!r}"
            )
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise TypeError(unknown_name("setting", name, known))
        return cls(**settings) if config is None else dataclasses.replace(config, **settings)

    def of_problem(self, problem: Problem, **settings: Any) -> EnvConfig:
        """The same settings for a problem that has been made already."""
        nothing = dict.fromkeys(("denoiser", "model", "final_sigmas_type", "sigma_min", "sigma_max"))
        return EnvConfig.make(self, **nothing, problem=problem, device=problem.device, **settings)

    def to_dict(self) -> dict[str, Any]:
        """The settings as a file keeps them: plain values; whether to trust a pickle is left to who reads it."""
        kept = (
            f.name
            for f in dataclasses.fields(self)
            if f.name not in ("denoiser", "reference", "trust_pickle")
        )
        return {name: getattr(self, name) for name in kept}

    @property
    def rule(self) -> Solver:
        """The solver itself."""
        return get_solver(self.solver)

    def make_problem(self) -> Problem:
        """The problem of these settings; nothing is integrated yet.

        Raises:
            ValueError, FileNotFoundError, ImportError: a setting that is not understood, or a model that cannot
                be loaded; names it, its value and the fix.
        """
        changes: dict[str, Any] = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        changes["device"] = self.device
        if self.model is not None:
            if self.problem != "custom" or self.denoiser is not None:
                raise ValueError("model is given: leave out problem and denoiser, or the model")
            final_sigmas_type = self.final_sigmas_type or "zero"
            return model_problem(
                **self.model, trust_pickle=self.trust_pickle, final_sigmas_type=final_sigmas_type, **changes
            )
        if self.problem == "custom":
            if self.denoiser is None:
                raise ValueError("denoiser = None: ART/Diffusion-v1 needs your model, denoiser=...")
            return custom_problem(
                self.denoiser, final_sigmas_type=self.final_sigmas_type or "zero", **changes
            )
        problem = self.problem
        if isinstance(problem, str):
            problem = make_problem(problem, final_sigmas_type=self.final_sigmas_type, **changes)
        if self.denoiser is not None:
            raise ValueError(
                f"denoiser is given, but problem {problem.name!r} has its own; use the id ART/Diffusion-v1"
            )
        return problem

    def make_reference(self, problem: Problem) -> ReferenceFlow | None:
        """Exact trajectories of the pool; None if the reward needs none.

        Raises:
            ValueError: ``reference`` is for another shape or range of noise.
        """
        if self.reference is not None:
            _check_reference(self.reference, problem)
            return self.reference
        return None if self.reward == "euler" else problem.reference(self.num_noises, self.noise_seed)


def _check_reference(reference: ReferenceFlow, problem: Problem) -> None:
    """Raise a ValueError unless the trajectories are of this problem's shape and range of noise."""
    shape = tuple(reference.x.shape[2:])
    if shape != problem.shape:
        raise ValueError(
            f"reference has samples of shape {shape}, problem {problem.name!r} of {problem.shape}"
        )
    have = (float(reference.sigmas[0]), float(reference.sigmas[-1]), reference.sigma_end)
    want = (problem.sigma_max, problem.sigma_floor, problem.sigma_end)
    if not np.allclose(have, want, rtol=1e-6, atol=0.0):
        raise ValueError(
            f"reference runs over sigma (first, last knot, end) = {have}, problem {problem.name!r} over "
            f"{want}; integrate it again for this range"
        )
