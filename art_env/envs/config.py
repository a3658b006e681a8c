"""The settings of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from art_env.diffusion.denoiser import Denoiser
from art_env.envs.dynamics import Dynamics
from art_env.problems.custom import custom_problem, model_problem
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem

# Settings that say what is sampled, beside the problem itself.
ABOUT_PROBLEM = ("denoiser", "terminal", "sigma_min", "sigma_max", "device", "model", "trust_pickle")


def choose_problem(
    problem: str | Problem = "digits",
    *,
    denoiser: Denoiser | None = None,
    terminal: str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str = "cpu",
    model: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
) -> Problem:
    """The problem of an environment's settings; nothing is integrated yet.

    Args:
        problem, denoiser, terminal, sigma_min, sigma_max, device: as ``ARTEnv``.
        model: arguments of ``art_env.problems.model_problem``; with ``problem="custom"``.
        trust_pickle: allow that model to be a pickle.

    Raises:
        ValueError, FileNotFoundError, ImportError: a setting that is not understood, or a model that cannot be
            loaded; names it, its value and the fix.
    """
    if model is not None:
        if problem != "custom" or denoiser is not None:
            raise ValueError("model is given: leave out problem and denoiser, or the model")
        problem = model_problem(
            **model,
            trust_pickle=trust_pickle,
            terminal=terminal or "zero",
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            device=device,
        )
    if isinstance(problem, str):
        if problem == "custom":
            if denoiser is None:
                raise ValueError("denoiser = None: ART/Diffusion-v0 needs your model, denoiser=...")
            problem = custom_problem(
                denoiser,
                sigma_min=sigma_min,
                sigma_max=sigma_max,
                terminal=terminal or "zero",
                device=device,
            )
            denoiser = None
        else:
            problem = make_problem(
                problem, terminal=terminal, sigma_min=sigma_min, sigma_max=sigma_max, device=device
            )
    if denoiser is not None:
        raise ValueError(
            f"denoiser is given, but problem {problem.name!r} has its own; use the id ART/Diffusion-v0"
        )
    return problem


def make_dynamics(problem: str | Problem = "digits", **settings: Any) -> Dynamics:
    """``Dynamics`` from plain settings: those of ``ARTEnv`` and of ``choose_problem``.

    Raises:
        ValueError, TypeError: a setting that is not understood; names it, its value and the fix.
    """
    chosen = {name: settings.pop(name) for name in ABOUT_PROBLEM if name in settings}
    return Dynamics(choose_problem(problem, **chosen), **settings)
