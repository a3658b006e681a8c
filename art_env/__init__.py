"""Learn the noise schedule of a diffusion sampler: Gymnasium environments, problems, schedules.

Importing this package registers the environments: ``gym.make("art_env:ART/Digits-v1")`` does both. The public
names are imported when they are first used, so that the import itself is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from art_env._util.limits import MAX_STEPS

if TYPE_CHECKING:
    from art_env.adapters import load_model
    from art_env.diffusion.solvers import Solver, sample
    from art_env.envs import ARTEnv, ARTVectorEnv
    from art_env.envs.sb3 import to_sb3
    from art_env.evaluation import Evaluator
    from art_env.export import to_diffusers
    from art_env.problems import Problem, custom_problem, make_problem
    from art_env.schedules.registry import make_schedule
    from art_env.schedules.schedule import Schedule

__version__ = "0.1.0"

__all__ = [
    "ARTEnv",
    "ARTVectorEnv",
    "Evaluator",
    "Problem",
    "Schedule",
    "Solver",
    "__version__",
    "custom_problem",
    "load_model",
    "make_problem",
    "make_schedule",
    "sample",
    "to_diffusers",
    "to_sb3",
]

# Where each public name is defined.
_MODULES = {
    "ARTEnv": "art_env.envs",
    "ARTVectorEnv": "art_env.envs",
    "Evaluator": "art_env.evaluation",
    "Problem": "art_env.problems",
    "Schedule": "art_env.schedules.schedule",
    "Solver": "art_env.diffusion.solvers",
    "custom_problem": "art_env.problems",
    "load_model": "art_env.adapters",
    "make_problem": "art_env.problems",
    "make_schedule": "art_env.schedules.registry",
    "sample": "art_env.diffusion.solvers",
    "to_diffusers": "art_env.export",
    "to_sb3": "art_env.envs.sb3",
}


if not TYPE_CHECKING:  # else a type checker would take every name for one of this module

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names too that nobody has used yet."""
    return sorted({*globals(), *__all__})


def _register(name: str, version: int, reward_threshold: float | None = None, **kwargs: Any) -> None:
    gym.register(
        id=f"ART/{name}-v{version}",
        entry_point="art_env.envs:ARTEnv",
        vector_entry_point="art_env.envs:ARTVectorEnv",
        reward_threshold=reward_threshold,
        # Episodes end by themselves after num_steps, whatever it is: the limit never cuts one.
        max_episode_steps=MAX_STEPS + 1,
        kwargs=kwargs,
    )


# What the ids set, whatever their version. Those that are left out take the defaults of ``EnvConfig``.
_GAUSSIAN: dict[str, Any] = {
    "problem": "gaussian-1d",
    "solver": "euler",
    "num_steps": 20,
    "reward": "euler",
}
_MANY_MIXTURES: dict[str, Any] = {
    "problem": "random-mixtures",
    "solver": "learned_2m",
    "base_schedule": "universal",
    "features": ("level", "log_velocity", "rms", "turn", "log_change", "denoised_rms", "denoised_change"),
}
# Every action leads to a useful schedule, and the best ones lie within (docs/environment.md has the numbers).
_RANGE: dict[str, Any] = {"action_range": 1.5}
_WIDE: dict[str, Any] = {"base_schedule": "closed_form", **_RANGE, "reward": "log_global"}

# Thresholds are printed by ``python -m benchmarks.reward_thresholds``; see "Reward threshold" in ARTEnv.
_register("Gaussian1D", 0, -0.556, **_GAUSSIAN)
_register("Mixture1D", 0, -0.00764, problem="mixture-1d")
_register("Mixture2D", 0, -0.0089, problem="mixture-2d")
_register("Digits", 0, -0.0112, problem="digits")
_register("Mnist", 0, problem="mnist")
_register("RandomMixture", 0, **_MANY_MIXTURES)
_register("Diffusion", 0, problem="custom")

_register("Gaussian1D", 1, -0.556, **_GAUSSIAN, **_RANGE, base_schedule=2.0)
_register("Mixture1D", 1, -0.441, problem="mixture-1d", **_WIDE)
_register("Mixture2D", 1, -0.546, problem="mixture-2d", **_WIDE)
_register("Digits", 1, -0.66, problem="digits", **_WIDE)
_register("Mnist", 1, problem="mnist", **_WIDE)
_register("RandomMixture", 1, **{**_WIDE, **_MANY_MIXTURES})
_register("Diffusion", 1, problem="custom", **_WIDE)
