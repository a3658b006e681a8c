"""Rewards relative to the mean over groups that meet the same initial noises."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnv

from agents.group_baseline import GroupBaseline
from agents.training import PpoSettings, SacSettings, Training
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv

K = 3


def _env(rows: int = 12, groups: int = 3, **settings) -> VecEnv:
    settings = {"problem": "mixture-1d", "num_steps": K, "features": (), "num_noises": 64, **settings}
    return to_sb3(ARTVectorEnv(rows, autoreset_mode="SAME_STEP", noise_groups=groups, **settings))


def _play(env: VecEnv, episodes: int = 2, alike: bool = False) -> tuple[np.ndarray, list[dict]]:
    """Rewards ``[steps, rows]`` of random actions, and the infos of the last step."""
    env.seed(4)
    env.reset()
    rng, rewards, infos = np.random.default_rng(0), [], []
    for _ in range(episodes * K):
        actions = rng.uniform(-0.3, 0.3, (1 if alike else env.num_envs, 1)).astype(np.float32)
        _, reward, _, infos = env.step(np.broadcast_to(actions, (env.num_envs, 1)).copy())
        rewards.append(reward)
    return np.array(rewards), infos


def test_rewards_are_relative_to_the_mean_over_groups() -> None:
    true, _ = _play(_env())
    relative, _ = _play(GroupBaseline(_env(), 3))
    assert relative.dtype == np.float32
    for g in range(3):
        for m in range(4):  # row 4 g + m is member m of group g
            expected = true[:, 4 * g + m] - true[:, [m, 4 + m, 8 + m]].astype(float).mean(1)
            assert relative[:, 4 * g + m] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    # Over an episode the relative rewards sum to the relative return.
    total = true[:K].sum(0).reshape(3, 4).astype(float)
    assert relative[:K].sum(0) == pytest.approx((total - total.mean(0)).ravel(), rel=1e-4, abs=1e-5)


def test_groups_that_act_alike_have_nothing_between_them() -> None:
    relative, _ = _play(GroupBaseline(_env(), 3), episodes=3, alike=True)
    assert relative == pytest.approx(0.0, abs=1e-6)


def test_one_group_changes_nothing() -> None:
    np.testing.assert_array_equal(_play(GroupBaseline(_env(groups=1), 1))[0], _play(_env(groups=1))[0])


@pytest.mark.parametrize("make", [PpoSettings, SacSettings])
def test_the_monitor_has_true_returns(make) -> None:
    settings = make(
        problem="mixture-1d",
        solver="heun",
        num_steps=(K,),
        num_envs=12,
        num_noises=64,
        noise_groups=3,
        total_timesteps=360,
    )
    env = Training(settings).make_env(0)
    _, infos = _play(env, episodes=1)
    for info in infos:
        # The return is minus the final squared error.
        assert info["episode"]["r"] == pytest.approx(-(info["error"] ** 2), rel=1e-4, abs=1e-5)
    assert env.get_attr("noise_groups") == [3] * 12


@pytest.mark.parametrize("groups", [0, -3, 5])
def test_groups_must_divide_the_rows(groups: int) -> None:
    with pytest.raises(ValueError, match=rf"noise_groups = {groups} must divide num_envs = 12; use another"):
        GroupBaseline(_env(), groups)


def test_rows_of_different_noises_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"noise_groups = 3, but the environment has 1: .* noise_groups=3"):
        GroupBaseline(_env(groups=1), 3)
    relative, _ = _play(GroupBaseline(_env(groups=6), 3), alike=True)  # groups of groups are fine
    assert relative == pytest.approx(0.0, abs=1e-6)
