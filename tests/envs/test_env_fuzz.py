"""Settings and actions of odd values: an error that names the field, or an episode that is right."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from fuzzing import HOW_MANY, NUMBERS, ODD, one_line, run
from hypothesis import strategies as st

from art_env import ARTEnv
from art_env.envs.config import EnvConfig

SENSIBLE = {
    "problem": ["gaussian-1d", "mixture-1d"],
    "solver": ["euler", "heun", "learned_2m"],
    "num_steps": [1, 3],
    "reward": ["global", "log_global", "local", "euler"],
    "control": ["log_speed", "speed"],
    "features": [(), ("rms", "turn")],
    "base_schedule": [7.0, "universal", 0.5, 30],
    "action_range": [5, 0.1, 49.0],
    "num_noises": [4],
    "final_sigmas_type": ["zero", "sigma_min"],
    "sigma_min": [1e-3, 0],
    "sigma_max": [20.0, 1e6],
    "device": ["cpu", "mps", "meta", "cuda:-1", "cpu:0"],
    "noise_seed": [3],
    "trust_pickle": [False],
}
FIELDS = [f.name for f in dataclasses.fields(EnvConfig)]


@st.composite
def settings(draw) -> dict:
    """Sensible settings, and two odd ones at most."""
    given = {name: draw(st.sampled_from(values)) for name, values in SENSIBLE.items() if draw(st.booleans())}
    odd = draw(st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=2))
    # Small, or it would take long.
    return {"problem": "gaussian-1d", "num_noises": 4, **given, **odd}


def check_settings(given: dict) -> None:
    try:
        config = EnvConfig.make(**given)
        small = (config.num_noises or 10**9) <= 100 and config.num_steps <= 100
        env = ARTEnv(config) if small else None
    except (ValueError, TypeError, FileNotFoundError) as error:
        text = one_line(error)
        assert any(name.removesuffix("s") in text for name in FIELDS), text
        return
    if env is not None:
        obs, _ = env.reset(seed=0)
        rng = np.random.default_rng(0)
        for k in range(env.num_steps):
            assert env.observation_space.contains(obs)
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            obs, reward, done, _, info = env.step(action)
            assert np.isfinite(reward)
            assert done == (k == env.num_steps - 1)
        if env.control == "log_speed":
            assert info["sigma"] == env.dynamics.problem.sigma_end


@HOW_MANY
def test_settings(examples):
    torch.set_num_threads(1)
    run(check_settings, settings(), examples)


STREAMS = st.lists(
    st.one_of(
        st.lists(NUMBERS, min_size=1, max_size=1),
        st.lists(st.floats(-2, 2), min_size=1, max_size=1),
        st.lists(st.one_of(st.text(max_size=2), st.booleans()), min_size=1, max_size=1),
        st.just(["0.5"]),
        ODD,
    ),
    min_size=1,
    max_size=4,
)


@HOW_MANY
def test_streams_of_actions(examples):
    torch.set_num_threads(1)
    envs = [
        ARTEnv(problem="mixture-1d", num_steps=4, num_noises=4, **more)
        for more in (
            {},
            {"control": "speed", "reward": "euler"},
            {"action_range": 50.0, "solver": "euler", "reward": "local"},
        )
    ]

    def check(given: tuple) -> None:
        env, actions = envs[given[0]], given[1]
        env.reset(seed=0)
        texts: list[str] = []
        for action in actions:
            try:
                obs, reward, done, _, info = env.step(action)
            except ValueError as error:
                texts.append(one_line(error))
                continue
            assert type(action) is list
            assert type(action[0]) in (int, float)
            assert np.isfinite(action[0])
            assert env.observation_space.contains(obs)
            assert np.isfinite(reward)
            assert 0 <= info["sigma"] <= 80
            if done:
                break
        assert all("action" in text for text in texts)

    run(check, st.tuples(st.integers(0, 2), STREAMS), examples)
