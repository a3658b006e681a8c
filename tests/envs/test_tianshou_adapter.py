"""The adapter to Tianshou: rows are those of scalar environments, and a collector fills a buffer with them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from art_env import ARTEnv, ARTVectorEnv

pytest.importorskip("tianshou", reason="needs tianshou: docs/libraries.md")

from tianshou.algorithm.algorithm_base import RandomActionPolicy
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv

from art_env.envs.tianshou import to_tianshou

SETTINGS = {"problem": "gaussian-1d", "solver": "heun", "num_steps": 3, "num_noises": 64}
N = 4


@pytest.fixture
def env():
    return to_tianshou(ARTVectorEnv(N, autoreset_mode="DISABLED", **SETTINGS))


def test_rows_are_those_of_scalar_environments(env) -> None:
    scalars = DummyVectorEnv([lambda: ARTEnv(**SETTINGS)] * N)
    rng = np.random.default_rng(0)
    assert env.action_space == scalars.action_space
    assert env.observation_space == scalars.observation_space
    results = [[env.reset(seed=[3, 4, 5, 6])], [_reset(scalars, [3, 4, 5, 6])]]
    for _ in range(3):
        action = rng.uniform(-1, 1, (N, 1)).astype(np.float32)
        results[0].append(env.step(action))
        results[1].append(scalars.step(action))
    for ours, theirs in zip(*results, strict=True):
        for a, b in zip(ours[:-1], theirs[:-1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert [info["sigma"] for info in ours[-1]] == pytest.approx([info["sigma"] for info in theirs[-1]])
    assert results[0][-1][2].all()
    assert [info["env_id"] for info in results[0][-1][-1]] == list(range(N))


def _reset(scalars: DummyVectorEnv, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    starts = [scalars.reset(i, seed=seed) for i, seed in enumerate(seeds)]
    return np.concatenate([obs for obs, _ in starts]), np.concatenate([info for _, info in starts])


def test_a_part_of_the_rows_is_reset(env) -> None:
    env.reset(seed=0)
    for _ in range(3):
        ended = env.step(np.zeros((N, 1)))
    observations, infos = env.reset([1, 3])
    assert observations[:, 0].tolist() == [0, 0]
    assert [info["env_id"] for info in infos] == [1, 3]
    assert ended[0][:, 0].tolist() == [1] * N  # the caller's own, though the rows have begun again


def test_a_seed_holds_for_one_reset(env) -> None:
    assert env.seed(7) == [7, 8, 9, 10]
    first = env.reset()[0]
    second = env.reset()[0]
    env.seed(7)
    assert (env.reset()[0] == first).all()
    assert (env.reset()[0] == second).all()


def test_what_it_refuses(env) -> None:
    with pytest.raises(ValueError, match="Tianshou resets rows itself"):
        to_tianshou(gym.make_vec("art_env:ART/Gaussian1D-v1", num_envs=2))
    env.reset()
    with pytest.raises(ValueError, match="id has 2 of 4 rows"):
        env.step(np.zeros((2, 1)), [0, 1])


def test_a_collector_fills_a_buffer(env) -> None:
    policy = RandomActionPolicy(env.action_space[0])
    buffer = VectorReplayBuffer(N * 6, N)
    collector = Collector(policy, env, buffer)
    collector.reset()
    stats = collector.collect(n_step=N * 6)
    assert stats.n_collected_episodes == 2 * N
    assert stats.lens.tolist() == [3] * (2 * N)
    rows = buffer[:]
    # Time is k / K: each step leads from one third to the next, and none leads over the end of an episode.
    np.testing.assert_allclose(rows.obs[:, 0], np.tile([0, 1 / 3, 2 / 3], 2 * N), rtol=1e-6)
    np.testing.assert_allclose(rows.obs_next[:, 0], np.tile([1 / 3, 2 / 3, 1], 2 * N), rtol=1e-6)
    assert (rows.terminated == (rows.obs_next[:, 0] == 1)).all()
    assert rows.rew.reshape(-1, 3).sum(1) == pytest.approx(-(rows.info["rmse"][2::3] ** 2), rel=1e-5)
