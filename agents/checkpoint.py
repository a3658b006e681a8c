"""Agents and checkpoints as files: tensors and JSON, so that reading one runs no code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file

from agents.art_rl import ARTRL, ARTPolicy, PaperARTRL, PaperPolicy
from agents.tensor_file import read_tree, write_tree
from agents.training_state import training_state
from art_env._util.names import unknown_name
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.networks.weights import load_weights
from art_env.problems.problem import Problem

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"art": ARTRL, "art-paper": PaperARTRL, "sac": SAC, "ppo": PPO}
POLICIES: dict[str, type[BasePolicy]] = {
    "art": ARTPolicy,
    "art-paper": PaperPolicy,
    "sac": SAC.policy_aliases["MlpPolicy"],
    "ppo": PPO.policy_aliases["MlpPolicy"],
}
FIX = "use the agent.safetensors of a finished run"


def save_agent(model: BaseAlgorithm, path: str | Path, algorithm: str, settings: dict[str, Any]) -> None:
    """Write ``agent.safetensors`` in one piece: the policy, its algorithm and its environment's settings.

    Raises:
        TypeError: the policy's or the environment's settings are more than plain values.
        OSError: the file cannot be written; names it.
    """
    assert model.observation_space.shape is not None
    body = {
        "algorithm": algorithm,
        "env": settings,
        "num_timesteps": model.num_timesteps,
        "observes": model.observation_space.shape,
        "policy_kwargs": model.policy_kwargs,
        "policy": model.policy.state_dict(),
    }
    write_tree(path, "agent", body)


def read_settings(path: str | Path, trust_pickle: bool = False) -> dict[str, Any]:
    """``{"algorithm": ..., "env": ..., "num_timesteps": ...}`` of an agent file.

    Args:
        path: an ``agent.safetensors``.
        trust_pickle: read a ``model.zip`` of an earlier version too, which may run code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an agent file, or a pickle that is not trusted.
    """
    body = _read_agent(path, trust_pickle)
    return {name: body[name] for name in ("algorithm", "env", "num_timesteps")}


# Trajectories of another problem that an agent acts on, as many as the clock's own.
FEW_NOISES = 256


def load_agent(
    path: str | Path,
    algorithm: str | None = None,
    trust_pickle: bool = False,
    problem: Problem | None = None,
) -> tuple[BasePolicy, Dynamics]:
    """The agent's policy and the dynamics that it was trained on, or those of another problem.

    On another problem a policy keeps its speeds relative to the base schedule. With ``base_schedule="closed_form"``
    that is the new problem's own, so the result follows where its data take shape; a list of noise levels cannot.

    Args:
        path: an ``agent.safetensors`` that ``train.py`` wrote.
        algorithm: what it must be (``art``, ``art-paper``, ``sac``, ``ppo``); None: whatever it is.
        trust_pickle: allow the diffusion model that it was trained on to be a pickle, and the agent a ``model.zip``
            of an earlier version; both may run code.
        problem: what to act on; None, or one of the same name: what it was trained on.

    Returns:
        a policy with ``.predict(observation, deterministic=True)``, and the dynamics.

    Raises:
        FileNotFoundError, ValueError: as ``read_settings``; of another algorithm, or its observation does not fit.
    """
    body = _read_agent(path, trust_pickle)
    name = body["algorithm"]
    if name not in ALGORITHMS:
        raise ValueError(f"{path}: {unknown_name('algorithm', name, ALGORITHMS)}")
    if algorithm is not None and name != algorithm:
        raise ValueError(f"{path}: holds a model of {name!r}, not of {algorithm!r}; use `train.py {name}`")
    try:
        config = EnvConfig.make(**body["env"], trust_pickle=trust_pickle)
    except TypeError as error:
        raise ValueError(f"{path}: written by another version ({error}); train it again") from error
    dynamics = Dynamics(_for_problem(config, problem))
    have, want = tuple(body["observes"]), dynamics.observer.low.shape
    if have != want:
        raise ValueError(f"{path}: the model observes {have}, its environment offers {want}; train it again")
    policy = _rebuilt(path, POLICIES[name], body["policy_kwargs"], dynamics)
    load_weights(policy, body["policy"], path, "train it again")
    policy.set_training_mode(False)
    return policy, dynamics


def save_checkpoint(
    model: BaseAlgorithm, path: Path, settings: dict[str, Any], spent: dict[str, Any]
) -> None:
    """Write a checkpoint in one piece.

    Args:
        model: between two rollouts.
        path: the file.
        settings: of the run.
        spent: numbers to go on counting from.

    Raises:
        OSError: the file cannot be written; names it.
    """
    body = {"settings": settings, "spent": spent, "training": training_state(model)}
    write_tree(path, "checkpoint", body)


def read_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """``{"settings": ..., "spent": ..., "training": ...}`` of a checkpoint of a run with these settings.

    Raises:
        ValueError: not a checkpoint, damaged, or of a run with other settings; names the file and the fields.
    """
    body = read_tree(path, "checkpoint", begin_again(path))
    missing = {"settings", "spent", "training"} - body.keys()
    if missing:
        raise ValueError(f"{path}: a checkpoint without {', '.join(sorted(missing))}; {begin_again(path)}")
    check_same_settings(path, body["settings"], settings)
    return body


def begin_again(path: Path) -> str:
    """The way out of a checkpoint that cannot be used."""
    return f"start a new run, or delete {path} to begin again in this folder"


# They may differ between the parts of a run.
FREE = ("run_dir", "resume", "progress", "trust_pickle")


def check_same_settings(path: Path, kept: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse to go on with other settings than a run began with.

    Raises:
        ValueError: names the file that keeps them, and the fields that differ.
    """
    differ = [
        f"{name} = {settings.get(name)!r} (it began with {kept.get(name)!r})"
        for name in sorted({*kept, *settings} - {*FREE})
        if _plain(kept.get(name)) != _plain(settings.get(name))
    ]
    if differ:
        raise ValueError(
            f"config.json is not that of the run that {path} belongs to: {', '.join(differ)}; undo the change, or "
            "start a new run"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read_agent(path: str | Path, trust_pickle: bool) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no agent file at {str(path)!r}")
    if zipfile.is_zipfile(path):
        return _read_zip(path, trust_pickle)
    body = read_tree(path, "agent", FIX)
    missing = {"algorithm", "env", "num_timesteps", "observes", "policy_kwargs", "policy"} - body.keys()
    if missing:
        raise ValueError(f"{path}: an agent file without {', '.join(sorted(missing))}; {FIX}")
    return body


def _read_zip(path: str | Path, trust_pickle: bool) -> dict[str, Any]:
    """The body of a ``model.zip``, which earlier versions wrote by stable-baselines3's ``save``."""
    if not trust_pickle:
        raise ValueError(
            f"{path} is a zip of an earlier version: reading it runs whatever code it contains; give --trust-pickle "
            "(trust_pickle=True) if you trust its author, or train the agent again"
        )
    try:
        data, params, _ = load_from_zip_file(path, device="cpu", load_data=True)
        if data is None:
            raise KeyError("data")
        return {
            **data["art_settings"],
            "num_timesteps": data["num_timesteps"],
            "observes": data["observation_space"].shape,
            "policy_kwargs": data["policy_kwargs"],
            "policy": params["policy"],
        }
    except Exception as error:  # a pickle may raise anything
        raise ValueError(f"{path}: not a zip that train.py wrote ({error!r}); {FIX}") from error


def _rebuilt(
    path: str | Path, kind: type[BasePolicy], settings: dict[str, Any], dynamics: Dynamics
) -> BasePolicy:
    """An untrained policy for the environment."""
    observer, bound = dynamics.observer, dynamics.control_rule.bound
    observation_space = spaces.Box(observer.low, observer.high, dtype=np.float32)
    action_space = spaces.Box(-bound, bound, (dynamics.num_actions,), np.float32)
    try:
        return kind(observation_space, action_space, lr_schedule=lambda _: 0.0, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: written by another version ({error}); train it again") from error


def _for_problem(config: EnvConfig, problem: Problem | None) -> EnvConfig:
    """The settings that an agent was trained with, on another problem if that is not its own."""
    home = Path(config.model["path"]).stem if config.model else config.problem
    if problem is None or problem.name == home:
        return config
    return config.of_problem(problem, num_noises=min(problem.num_noises, FEW_NOISES))
