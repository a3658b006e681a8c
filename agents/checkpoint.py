"""Saving an agent with what it was trained for, and getting both back from the file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from agents.art_rl import ARTRL, PaperARTRL
from art_env._util.files import atomic_path
from art_env._util.names import unknown_name
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.problems.problem import Problem

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"art": ARTRL, "art-paper": PaperARTRL, "sac": SAC, "ppo": PPO}


def save_agent(model: BaseAlgorithm, path: str | Path, algorithm: str, settings: dict[str, Any]) -> None:
    """Write ``model.zip`` in one piece; it remembers its algorithm and its environment's settings."""
    model.art_settings = {"algorithm": algorithm, "env": dict(settings)}  # type: ignore[attr-defined]
    with atomic_path(path) as temporary:
        model.save(temporary)


def read_settings(path: str | Path) -> dict[str, Any]:
    """``{"algorithm": ..., "env": ...}`` of a model file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file, or not written by ``save_agent``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {str(path)!r}")
    try:
        data, _, _ = load_from_zip_file(path, device="cpu", load_data=True)
    except (ValueError, zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(
            f"{path}: not a model file ({error}); use the model.zip of a finished run"
        ) from error
    if data is None:
        raise ValueError(f"{path}: not a model file (truncated?); use the model.zip of a finished run")
    settings = data.get("art_settings")
    if not isinstance(settings, dict) or set(settings) != {"algorithm", "env"}:
        raise ValueError(
            f"{path}: a model, but not one that train.py wrote; it does not say what it was made for"
        )
    return settings


# Trajectories of another problem that an agent acts on, as many as the clock's own.
FEW_NOISES = 256


def load_agent(
    path: str | Path,
    algorithm: str | None = None,
    trust_pickle: bool = False,
    problem: Problem | None = None,
) -> tuple[BaseAlgorithm, Dynamics]:
    """The agent and the dynamics that it was trained on, or those of another problem.

    On another problem a policy keeps its speeds relative to the base schedule. With ``base_schedule="closed_form"``
    that is the new problem's own, so the result follows where its data take shape; a list of noise levels cannot.

    Args:
        path: a ``model.zip`` that ``train.py`` wrote.
        algorithm: what it must be (``art``, ``art-paper``, ``sac``, ``ppo``); None: whatever it is.
        trust_pickle: allow the diffusion model that it was trained on to be a pickle, which may run code.
        problem: what to act on; None, or one of the same name: what it was trained on.

    Raises:
        FileNotFoundError, ValueError: as ``read_settings``; of another algorithm, or its observation does not fit.
    """
    settings = read_settings(path)
    name = settings["algorithm"]
    if name not in ALGORITHMS:
        raise ValueError(f"{path}: {unknown_name('algorithm', name, ALGORITHMS)}")
    if algorithm is not None and name != algorithm:
        raise ValueError(f"{path}: holds a model of {name!r}, not of {algorithm!r}; use `train.py {name}`")
    try:
        config = EnvConfig.make(**settings["env"], trust_pickle=trust_pickle)
    except TypeError as error:
        raise ValueError(f"{path}: written by another version ({error}); train it again") from error
    dynamics = Dynamics(_for_problem(config, problem))
    model = ALGORITHMS[name].load(path, device="cpu")
    assert model.observation_space is not None
    have, want = model.observation_space.shape, dynamics.observer.low.shape
    if have != want:
        raise ValueError(f"{path}: the model observes {have}, its environment offers {want}; train it again")
    return model, dynamics


def _for_problem(config: EnvConfig, problem: Problem | None) -> EnvConfig:
    """The settings that an agent was trained with, on another problem if that is not its own."""
    home = Path(config.model["path"]).stem if config.model else config.problem
    if problem is None or problem.name == home:
        return config
    return config.of_problem(problem, num_noises=min(problem.num_noises, FEW_NOISES))
