"""The SB3 adapter on the native vector environment."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from art_env.envs.env import ARTEnv
from art_env.envs.sb3 import VectorEnvToSB3, to_sb3
from art_env.envs.vector_env import ARTVectorEnv

torch.set_num_threads(1)

SETTINGS = {"problem": "mixture-1d", "num_noises": 128, "num_steps": 4}


def _native(n=6, **kwargs):
    return ARTVectorEnv(n, autoreset_mode=AutoresetMode.SAME_STEP, **{**SETTINGS, **kwargs})


def test_same_as_sb3s_own_dummy_vec_env():
    """Observations, rewards, dones, and the terminal observation of every episode."""
    ours = VectorEnvToSB3(_native())
    theirs = DummyVecEnv([lambda: ARTEnv(**SETTINGS)] * 6)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.num_envs == theirs.num_envs
    ours.seed(3)
    theirs.seed(3)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), atol=1e-6)
    assert [i["sigma"] for i in ours.reset_infos] == [i["sigma"] for i in theirs.reset_infos] == [80.0] * 6
    rng = np.random.default_rng(0)
    for k in range(13):
        actions = rng.uniform(-1, 1, (6, 1)).astype(np.float32)
        obs, rewards, dones, infos = ours.step(actions)
        obs_, rewards_, dones_, infos_ = theirs.step(actions)
        np.testing.assert_allclose(obs, obs_, atol=1e-6)
        np.testing.assert_allclose(rewards, rewards_, rtol=1e-6)
        assert rewards.dtype == np.float32
        assert dones.tolist() == dones_.tolist() == [k % 4 == 3] * 6
        for info, info_ in zip(infos, infos_, strict=True):
            assert ("terminal_observation" in info) == (k % 4 == 3)
            if k % 4 == 3:
                np.testing.assert_allclose(
                    info["terminal_observation"], info_["terminal_observation"], atol=1e-6
                )
                assert info["terminal_observation"][0] == 1.0
                assert info["TimeLimit.truncated"] is info_["TimeLimit.truncated"] is False
                for key in ("sigma", "nfe", "error", "rmse", "sigma_mismatch"):
                    assert info[key] == pytest.approx(info_[key], rel=1e-9), key
                    assert type(info[key]) is type(info_[key])


def test_monitor_reports_the_episode_reward():
    env = to_sb3(_native(3))
    assert isinstance(env, VecMonitor)
    assert isinstance(to_sb3(_native(2), monitor=False), VectorEnvToSB3)
    env.seed(0)
    env.reset()
    total = np.zeros(3)
    for _ in range(4):
        _, rewards, _, infos = env.step(np.full((3, 1), 0.3, np.float32))
        total += rewards
    for i in range(3):
        assert infos[i]["episode"]["r"] == pytest.approx(total[i], rel=1e-5)
        assert infos[i]["episode"]["l"] == 4
        # The return is minus the final error, squared.
        assert infos[i]["episode"]["r"] == pytest.approx(-(infos[i]["error"] ** 2), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_another_reset_mode_is_refused(mode):
    with pytest.raises(ValueError, match=r"autoreset_mode = .*SB3 expects AutoresetMode\.SAME_STEP"):
        to_sb3(ARTVectorEnv(2, autoreset_mode=mode, **SETTINGS))


def test_seeds_and_options():
    env = VectorEnvToSB3(_native())
    env.seed(5)
    first = env.reset()
    second = env.reset()
    assert not np.array_equal(first, second)
    env.seed(5)
    np.testing.assert_array_equal(env.reset(), first)
    np.testing.assert_array_equal(env.reset(), second)
    np.testing.assert_array_equal(first, _native().reset(seed=5)[0])
    env.set_options({"noise_index": 3})
    chosen = env.reset()
    np.testing.assert_array_equal(chosen, np.repeat(chosen[:1], 6, axis=0))
    assert not np.array_equal(env.reset(), chosen)


def test_attributes_and_methods():
    env = to_sb3(_native(3))
    assert env.get_attr("num_steps") == [4, 4, 4]
    assert env.get_attr("control", indices=[0, 2]) == ["log_speed"] * 2
    assert env.get_attr("feature_names", indices=1)[0][:2] == ("time", "remaining")
    assert env.env_is_wrapped(gym.Wrapper) == [False] * 3
    env.reset()
    assert env.env_method("render") == [None] * 3
    env.set_attr("note", "hello")
    assert env.get_attr("note", indices=[1]) == ["hello"]
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.get_attr("no_such_thing")
    env.close()


def test_images():
    env = VectorEnvToSB3(_native(1, render_mode="rgb_array"))
    env.reset()
    (image,) = env.get_images()
    assert image.shape == (400, 800, 3)


def _train(seed):
    model = PPO(
        "MlpPolicy", to_sb3(_native(16)), n_steps=8, batch_size=64, n_epochs=2, seed=seed, device="cpu"
    )
    model.learn(2 * 8 * 16)
    return model


def test_ppo_learns_for_two_iterations_and_is_reproducible():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = _train(0)
    assert model.num_timesteps == 256
    assert len(model.ep_info_buffer) > 0
    assert all(np.isfinite(e["r"]) and e["l"] == 4 for e in model.ep_info_buffer)
    fresh = PPO("MlpPolicy", to_sb3(_native(2)), seed=0, device="cpu")
    before, after = (
        torch.nn.utils.parameters_to_vector(m.policy.parameters()).detach() for m in (fresh, model)
    )
    assert float((after - before).abs().max()) > 1e-4
    again = torch.nn.utils.parameters_to_vector(_train(0).policy.parameters())
    other = torch.nn.utils.parameters_to_vector(_train(1).policy.parameters())
    assert torch.equal(after, again)
    assert not torch.equal(after, other)


def test_works_under_sb3s_wrappers_and_evaluation():
    env = VecNormalize(to_sb3(_native(4)))
    model = PPO("MlpPolicy", env, n_steps=4, batch_size=16, n_epochs=1, seed=0, device="cpu").learn(16)
    returns, lengths = evaluate_policy(
        model, to_sb3(_native(4)), n_eval_episodes=8, return_episode_rewards=True, deterministic=True
    )
    assert lengths == [4] * 8
    assert np.isfinite(returns).all()
    assert max(returns) <= 0
