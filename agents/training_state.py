"""Everything that the rest of a training depends on, taken between two rollouts and put back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from agents.art_rl import ARTRL

# Attributes of SB3's algorithms, of its replay buffer and of its wrappers that change during training.
OF_MODEL = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_current_progress_remaining",
    "_last_obs",
    "_last_episode_starts",
    "_last_original_obs",
)
OF_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
OF_STATISTICS = ("mean", "var", "count")
OF_WRAPPERS: dict[type[VecEnvWrapper], tuple[str, ...]] = {
    VecNormalize: ("returns", "old_reward"),
    VecMonitor: ("episode_returns", "episode_lengths", "episode_count"),
}


def training_state(model: BaseAlgorithm) -> dict[str, Any]:
    """The state of an algorithm, its environment and the generators, as ``write_tree`` takes it.

    Args:
        model: between two rollouts, with an environment whose rows are an ``ARTVectorEnv``.
    """
    assert model.env is not None
    _, variables = model._get_torch_save_params()
    return {
        "parameters": model.get_parameters(),
        "variables": {name: recursive_getattr(model, name) for name in variables},
        "model": {name: getattr(model, name) for name in OF_MODEL if hasattr(model, name)},
        "own": model.own_state() if isinstance(model, ARTRL) else None,
        "replay": _replay_state(model) if isinstance(model, OffPolicyAlgorithm) else None,
        "wrappers": [_wrapper_state(wrapper) for wrapper in _wrappers(model.env)],
        "env": model.env.env_method("save_state")[0],
        "generators": {
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 (SB3 draws from it)
            "actions": model.action_space.np_random.bit_generator.state,
        },
    }


def restore_training(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Put back what ``training_state`` took, so that ``learn(..., reset_num_timesteps=False)`` goes on from there.

    Args:
        model: fresh, made with the same settings; its environment has not been used.
        state: of the training.

    Raises:
        ValueError, KeyError, RuntimeError: of another algorithm or other sizes.
    """
    assert model.env is not None
    model.env.reset()  # uses up the seeds that the model gave it
    model.env.env_method("load_state", state["env"])
    for wrapper, kept in zip(_wrappers(model.env), state["wrappers"], strict=True):
        _restore_wrapper(wrapper, kept)
    model.set_parameters(state["parameters"], exact_match=True, device="cpu")
    for name, value in state["variables"].items():
        recursive_getattr(model, name).data.copy_(value)
    for name, value in state["model"].items():
        setattr(model, name, value)
    if isinstance(model, ARTRL):
        model.restore_own_state(state["own"])
    if isinstance(model, OffPolicyAlgorithm):
        _restore_replay(model, state["replay"])
    generators = state["generators"]
    model.action_space.np_random.bit_generator.state = generators["actions"]
    np.random.set_state(generators["numpy"])  # noqa: NPY002 (SB3 draws from it)
    torch.set_rng_state(generators["torch"])


def _wrappers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    """The wrappers of an environment, the outermost first."""
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv


def _wrapper_state(wrapper: VecEnvWrapper) -> dict[str, Any]:
    names = next((names for kind, names in OF_WRAPPERS.items() if isinstance(wrapper, kind)), ())
    state = {name: getattr(wrapper, name) for name in names}
    if isinstance(wrapper, VecNormalize):
        state["statistics"] = {name: np.asarray(getattr(wrapper.ret_rms, name)) for name in OF_STATISTICS}
    return state


def _restore_wrapper(wrapper: VecEnvWrapper, state: dict[str, Any]) -> None:
    if isinstance(wrapper, VecNormalize):
        for name in OF_STATISTICS:
            setattr(wrapper.ret_rms, name, state["statistics"][name][()])
    for name in state.keys() - {"statistics"}:
        setattr(wrapper, name, state[name])


def _replay_state(model: OffPolicyAlgorithm) -> dict[str, Any]:
    buffer = model.replay_buffer
    assert buffer is not None
    rows = buffer.size()
    return {
        "pos": buffer.pos,
        "full": buffer.full,
        "rows": {name: getattr(buffer, name)[:rows] for name in OF_REPLAY},
    }


def _restore_replay(model: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    buffer = model.replay_buffer
    assert buffer is not None
    buffer.pos, buffer.full = state["pos"], state["full"]
    for name, rows in state["rows"].items():
        getattr(buffer, name)[: len(rows)] = rows
