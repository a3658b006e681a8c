"""Whole episodes with known actions: the same returns as step by step, and what ART-RL makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from agents.art_rl import ARTRL, art_rl
from art_env.diffusion import SOLVERS
from art_env.envs.dynamics import Dynamics
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv

ODE = [name for name, solver in SOLVERS.items() if not solver.noisy]
SETTINGS = {"problem": "mixture-1d", "num_noises": 64, "features": ()}


@pytest.mark.parametrize("terminal", ["zero", "sigma_min"])
@pytest.mark.parametrize("K", [1, 2, 5])
@pytest.mark.parametrize("solver", ODE)
def test_returns_are_the_sums_of_rewards(solver: str, K: int, terminal: str) -> None:
    dynamics = Dynamics(problem="mixture-2d", solver=solver, num_steps=K, num_noises=16, terminal=terminal)
    index = torch.arange(12)
    actions = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (12, K)))
    before = dynamics.denoiser.evals
    fast = dynamics.returns(index, actions)
    spent = dynamics.denoiser.evals - before
    state, total = dynamics.initial(index=index), torch.zeros(12, dtype=torch.float64)
    for k in range(K):
        after = dynamics.transition(state, actions[:, k])
        total += dynamics.reward(state, actions[:, k], after)
        state = after
    torch.testing.assert_close(fast, total, rtol=1e-9, atol=1e-12)
    assert spent == int(state.nfe.sum())


@pytest.mark.parametrize(
    "settings",
    [
        {"reward": "local"},
        {"control": "speed"},
        {"solver": "euler_maruyama", "group_size": 16},
        {"clock": 7.0, "terminal": "zero"},
    ],
)
def test_returns_of_every_kind(settings: dict) -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=3, num_noises=32, **settings)
    actions = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 0.9, (16, 3)))
    actions = actions * 30 if dynamics.control == "speed" else actions
    index = torch.arange(16)
    state, total = dynamics.initial(index=index), torch.zeros(16, dtype=torch.float64)
    for k in range(3):
        after = dynamics.transition(state, actions[:, k])
        total += dynamics.reward(state, actions[:, k], after)
        state = after
    torch.testing.assert_close(dynamics.returns(index, actions), total, rtol=1e-9, atol=1e-12)


def test_play() -> None:
    env = ARTVectorEnv(12, **SETTINGS, num_steps=(2, 3), noise_groups=3, autoreset_mode="SAME_STEP")
    with pytest.raises(RuntimeError, match="call reset"):
        env.play(np.zeros((12, 5)))
    obs, _ = env.reset(seed=5)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (12, 5))
    first, second = env.play(actions), env.play(actions)
    assert first.shape == (12, 2)
    assert first.dtype == np.float64
    assert (first < 0).all()
    assert not np.allclose(first, second)  # other noises
    same = env.play(np.zeros((12, 5))).reshape(3, 4, 2)
    np.testing.assert_allclose(same, same[[0, 0, 0]], rtol=1e-9)  # the groups meet the same ones
    assert len(np.unique(same[0, :, 0])) == 4
    # The episodes under way are not touched, and a seed begins again.
    other = ARTVectorEnv(12, **SETTINGS, num_steps=(2, 3), noise_groups=3, autoreset_mode="SAME_STEP")
    assert (other.reset(seed=5)[0] == obs).all()
    for _ in range(4):
        a, b = env.step(np.zeros((12, 1))), other.step(np.zeros((12, 1)))
        assert (a[0] == b[0]).all()
        assert (a[1] == b[1]).all()
    env.reset(seed=5)
    assert (env.play(actions) == first).all()


@pytest.mark.parametrize(
    ("actions", "match"),
    [
        (np.zeros((12, 4)), r"shape \(12, 4\); expected \(12, 5\)"),
        (np.zeros((3, 5)), r"shape \(3, 5\)"),
        (np.full((12, 5), np.nan), "all finite"),
    ],
)
def test_bad_plays(actions: np.ndarray, match: str) -> None:
    env = ARTVectorEnv(12, **SETTINGS, num_steps=(2, 3))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=match):
        env.play(actions)


def test_play_needs_a_pool() -> None:
    env = ARTVectorEnv(4, problem="gaussian-1d", solver="euler", reward="euler", num_steps=3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reward='euler' has not; use step"):
        env.play(np.zeros((4, 3)))


class _Watch(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.rollouts = 0

    def _on_step(self) -> bool:
        self.steps.append(self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:
        self.rollouts += 1


@pytest.mark.parametrize("monitor", [False, True])
def test_training_plays_and_callbacks_do_not_notice(monitor: bool, monkeypatch) -> None:
    def trained() -> tuple[ARTRL, _Watch]:
        vector = ARTVectorEnv(
            64, **SETTINGS, num_steps=4, noise_groups=8, autoreset_mode="SAME_STEP", clock="closed_form"
        )
        model = ARTRL("ARTPolicy", to_sb3(vector, monitor=monitor), seed=0)
        watch = _Watch()
        model.learn(30 * 64 * 4, callback=watch)
        return model, watch

    model, watch = trained()
    assert model._played
    monkeypatch.setattr(art_rl, "_pool", lambda env: None)
    slow, slow_watch = trained()
    assert not slow._played
    assert (watch.steps, watch.rollouts) == (slow_watch.steps, slow_watch.rollouts) == (watch.steps, 30)
    assert model.num_timesteps == slow.num_timesteps
    assert model.num_updates == slow.num_updates
    # Other noises, the same exploration: they agree on where to go.
    a, b = (m.policy.table.values.detach().numpy() for m in (model, slow))
    assert not (a == b).all()
    assert np.corrcoef(a[:-1], b[:-1])[0, 1] > 0.5


def test_a_callback_stops_it_within_an_episode() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 7

    vector = ARTVectorEnv(8, **SETTINGS, num_steps=5, autoreset_mode="SAME_STEP")
    model = ARTRL("ARTPolicy", to_sb3(vector), seed=0)
    model.learn(100 * 40, callback=Stop())
    assert model.num_timesteps == 7 * 8


def test_wrappers_that_change_rewards_are_not_passed_by() -> None:
    vector = ARTVectorEnv(8, **SETTINGS, num_steps=3, autoreset_mode="SAME_STEP")
    model = ARTRL("ARTPolicy", VecNormalize(to_sb3(vector), norm_obs=False, gamma=1.0), seed=0)
    model.learn(2 * 24)
    assert not model._played
