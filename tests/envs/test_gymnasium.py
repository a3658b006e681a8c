"""What Gymnasium's users count on: pickles, info, limits, seeds, frames and wrappers."""

from __future__ import annotations

import pickle

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo, TimeAwareObservation

from agents.schedule_policy import SchedulePolicy
from art_env.envs.env import ARTEnv
from art_env.envs.index_streams import BLOCK
from art_env.envs.vector_env import ARTVectorEnv
from art_env.problems import PROBLEMS, make_problem
from art_env.schedules import Schedule, closed_form

torch.set_num_threads(1)

MIXTURE = {"problem": "mixture-1d", "num_noises": 128}
MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)


# Pickles

SETTINGS = [
    {**MIXTURE, "num_steps": 3, "render_mode": "rgb_array"},
    {**MIXTURE, "num_steps": 3, "base_schedule": "closed_form", "solver": "dpmpp_2m"},
    {**MIXTURE, "num_steps": 3, "base_schedule": Schedule([80.0, 5.0, 1.0, 0.002])},
    {"problem": "gaussian-1d", "reward": "euler", "control": "speed", "num_steps": 3},
    {"problem": "random-mixtures", "num_noises": 512, "solver": "learned_2m", "base_schedule": "universal"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s['problem']}-{s.get('base_schedule', 7)}")
@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=lambda m: m.__name__)
@pytest.mark.parametrize("rows", [0, 3])
def test_a_pickled_environment_goes_on_as_the_original(settings, pickler, rows):
    settings = {**settings, "num_steps": 3}
    env = ARTVectorEnv(rows, autoreset_mode="SAME_STEP", **settings) if rows else ARTEnv(**settings)
    env.action_space.seed(0)
    env.reset(seed=4)
    env.step(env.action_space.sample())
    written = pickler.dumps(env)
    assert len(written) < 100_000
    again = pickler.loads(written)
    assert again._dynamics is None  # the pool is made when it is needed
    assert again.denoiser_evals == env.denoiser_evals
    assert again.num_steps == 3
    for k in range(7):
        action = env.action_space.sample()
        one, two = env.step(action), again.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
        if not rows and one[2]:
            np.testing.assert_array_equal(env.reset()[0], again.reset()[0])
        if settings.get("render_mode") and k == 6:
            np.testing.assert_array_equal(env.render(), again.render())
    assert again.denoiser_evals == env.denoiser_evals


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_can_be_pickled(name):
    problem = make_problem(name)
    again = pickle.loads(pickle.dumps(problem))
    assert torch.equal(again.sample_noise(3, 1), problem.sample_noise(3, 1))
    if problem.data is not None:
        assert torch.equal(again.sample_data(2, 0), problem.sample_data(2, 0))
    x = problem.sample_noise(2, 0)
    assert torch.equal(again.images(x), problem.images(x))


def test_the_pool_of_an_environment_with_a_problem_object_stays_behind():
    env = ARTEnv(problem=make_problem("mixture-1d"), num_noises=4096, num_steps=2)
    written = pickle.dumps(env)
    assert len(written) < 20_000
    again = pickle.loads(written)
    np.testing.assert_array_equal(env.reset(seed=1)[0], again.reset(seed=1)[0])


def test_async_vector_env_spawns():
    """Workers that share nothing with this process are the same environments."""
    settings = {"num_noises": 128, "num_steps": 2}
    make = [lambda: gym.make("art_env:ART/Mixture1D-v1", **settings)] * 2
    env = AsyncVectorEnv(make, context="spawn", shared_memory=False)
    native = gym.make_vec("ART/Mixture1D-v1", 2, **settings)
    try:
        np.testing.assert_array_equal(env.reset(seed=3)[0], native.reset(seed=3)[0])
        for action in np.random.default_rng(0).uniform(-1, 1, (4, 2, 1)).astype(np.float32):
            ours, theirs = native.step(action), env.step(action)
            np.testing.assert_allclose(theirs[0], ours[0], atol=1e-6)
            np.testing.assert_allclose(theirs[1], ours[1], rtol=1e-9, atol=1e-12)
    finally:
        env.close()


# Info


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({**MIXTURE, "reward": "global"}, {"error", "rmse"}),
        ({**MIXTURE, "reward": "log_global"}, {"error", "rmse"}),
        ({**MIXTURE, "reward": "local"}, {"error", "rmse", "local_error"}),
        ({**MIXTURE, "reward": "euler"}, {"local_error"}),
        ({**MIXTURE, "reward": "euler", "solver": "euler_maruyama"}, {"local_error"}),
        ({**MIXTURE, "reward": "euler", "control": "speed"}, {"local_error"}),
    ],
    ids=lambda s: "-".join(map(str, s.values())) if isinstance(s, dict) else "",
)
def test_info_has_the_same_entries_at_every_step(settings, keys):
    env = ARTEnv(num_steps=3, **settings)
    infos = [env.reset(seed=0)[1]]
    for _ in range(3):
        infos.append(env.step([0.3])[4])
    for info in infos:
        assert info.keys() == keys | {"sigma", "sigma_mismatch", "nfe"}
        assert all(isinstance(value, np.generic) and value.shape == () for value in info.values())
        assert {k: v.dtype for k, v in info.items()} == {k: v.dtype for k, v in infos[0].items()}
        assert np.isfinite(list(info.values())).all()
        assert info["sigma_mismatch"] == info["sigma"] - env.dynamics.problem.sigma_end
    if "local_error" in keys:
        assert infos[0]["local_error"] == 0.0
        assert all(info["local_error"] > 0 for info in infos[1:])


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_vector_info_has_the_same_entries_at_every_step(mode):
    env = ARTVectorEnv(3, autoreset_mode=mode, num_steps=2, **MIXTURE)
    _, first = env.reset(seed=0)
    for _ in range(4):
        *_, terminated, _, info = env.step(np.zeros((3, 1)))
        final = {"final_obs", "_final_obs", "final_info", "_final_info"}
        assert info.keys() - final == first.keys()
        if mode == AutoresetMode.SAME_STEP and terminated.any():
            assert info["final_info"].keys() == first.keys()
            assert (info["sigma"] == 80.0).all()
            assert (info["final_info"]["sigma"] == 0.002).all()
        if mode == AutoresetMode.DISABLED and terminated.any():
            assert env.reset(options={"reset_mask": terminated})[1].keys() == first.keys()


def test_what_a_step_returns_belongs_to_the_caller():
    one, two = (ARTVectorEnv(3, num_steps=3, **MIXTURE) for _ in range(2))
    for env, spoilt in ((one, False), (two, True)):
        results = [env.reset(seed=0), env.step(np.full((3, 1), 0.2))]
        for result in results if spoilt else ():
            for array in (*result[:-1], *result[-1].values()):
                array[...] = 1
    a, b = (env.step(np.full((3, 1), -0.3)) for env in (one, two))
    for x, y in zip((*a[:4], *a[4].values()), (*b[:4], *b[4].values()), strict=True):
        np.testing.assert_array_equal(x, y)


# Limits


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("limit", [1, 3, 4, 9])
def test_max_episode_steps_truncates_as_time_limit_does(mode, limit):
    settings = {"num_noises": 128, "num_steps": 4}
    native = gym.make_vec("ART/Mixture1D-v1", 3, max_episode_steps=limit, autoreset_mode=mode, **settings)
    assert isinstance(native.unwrapped, ARTVectorEnv)
    make = [lambda: gym.make("ART/Mixture1D-v1", max_episode_steps=limit, **settings)] * 3
    sync = SyncVectorEnv(make, autoreset_mode=mode)
    np.testing.assert_allclose(native.reset(seed=1)[0], sync.reset(seed=1)[0], atol=1e-6)
    cut = 0
    for action in np.random.default_rng(0).uniform(-1, 1, (12, 3, 1)).astype(np.float32):
        ours, theirs = native.step(action), sync.step(action)
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-9, atol=1e-12)
        for a, b in zip(ours[2:4], theirs[2:4], strict=True):
            np.testing.assert_array_equal(a, b)
        done = ours[2] | ours[3]
        cut += int(ours[3].sum())
        if mode == AutoresetMode.DISABLED and done.any():
            with pytest.raises(RuntimeError, match="reset_mask"):
                native.step(action)
            for env in (native, sync):
                env.reset(options={"reset_mask": done.copy()})
    assert (cut > 0) == (limit <= 4)


@pytest.mark.parametrize("bad", [0, -1])
def test_a_limit_below_one_is_refused(bad):
    with pytest.raises(ValueError, match=f"max_episode_steps = {bad} must be at least 1"):
        ARTVectorEnv(2, max_episode_steps=bad, **MIXTURE)


@pytest.mark.parametrize("K", [1, 5, 30, 1000])
def test_no_episode_of_an_id_is_ever_truncated(K):
    settings = {"num_steps": K}
    env = TimeAwareObservation(gym.make("ART/Gaussian1D-v1", **settings), flatten=False)
    vector = gym.make_vec("ART/Gaussian1D-v1", 2, **settings)
    obs, _ = env.reset(seed=0)
    vector.reset(seed=0)
    for k in range(K):
        assert obs["time"] == k
        assert obs in env.observation_space
        obs, _, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        *_, ended, cut, _ = vector.step(np.zeros((2, 1), np.float32))
        assert terminated is (k == K - 1)
        assert truncated is False
        assert ended.tolist() == [terminated] * 2
        assert not cut.any()


def test_a_spec_with_another_length_is_not_truncated():
    spec = gym.make("ART/Mixture1D-v1", num_noises=8).spec
    env = gym.make(spec, num_steps=30)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(30)]
    assert ends == [(False, False)] * 29 + [(True, False)]


# Seeds


def test_reset_seeds_the_vector_environments_own_generator():
    one, two = (ARTVectorEnv(3, num_steps=2, **MIXTURE) for _ in range(2))
    one.reset(seed=11)
    two.reset(seed=11)
    assert one.np_random_seed == 11
    assert one.np_random.random() == two.np_random.random()
    one.reset()
    assert one.np_random_seed == 11
    one.reset(seed=[7, 8, 9])
    assert one.np_random_seed == 7


def test_without_a_seed_rows_and_environments_differ():
    one, two = (ARTVectorEnv(4, num_steps=2, problem="mixture-1d", num_noises=4096) for _ in range(2))
    one.reset()
    two.reset()
    a, b = one._state.index.tolist(), two._state.index.tolist()
    assert len(set(a)) > 1
    assert a != b


def test_noises_drawn_in_blocks_are_those_of_the_scalar_environment():
    """Over more episodes than a block holds, with a row that is seeded again in between."""
    env, alone = ARTVectorEnv(2, num_steps=1, **MIXTURE), ARTEnv(num_steps=1, **MIXTURE)
    env.reset(seed=5)
    alone.reset(seed=6)
    for k in range(BLOCK + 5):
        env.reset(seed=[None, 6] if k == 9 else None)
        alone.reset(seed=6 if k == 9 else None)
        assert env._state.index[1] == alone._state.index[0]
    other = ARTEnv(num_steps=1, **MIXTURE)
    other.reset(seed=5)
    for _ in range(BLOCK + 5):
        other.reset()
    assert env._state.index[0] == other._state.index[0]


# Wrappers


def test_episode_statistics_of_both_environments():
    env = RecordEpisodeStatistics(gym.make("ART/Mixture1D-v1", num_noises=128, num_steps=3))
    env.reset(seed=0)
    total = 0.0
    for _ in range(3):
        _, reward, terminated, _, info = env.step(np.zeros(1, np.float32))
        total += reward
    assert terminated
    assert info["episode"]["l"] == 3
    assert info["episode"]["r"] == pytest.approx(total)
    vector = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("ART/Mixture1D-v1", 2, num_noises=128))
    vector.reset(seed=0)
    for _ in range(5):
        *_, info = vector.step(np.zeros((2, 1), np.float32))
    assert info["episode"]["l"].tolist() == [5, 5]


def test_record_video(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.make("ART/Mixture1D-v1", num_noises=8, num_steps=3, render_mode="rgb_array")
    env = RecordVideo(env, str(tmp_path), episode_trigger=lambda episode: True)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(1, np.float32))
    env.close()
    assert list(tmp_path.glob("*.mp4"))


# Reward thresholds


def test_which_ids_have_a_threshold():
    have = {n for n, s in gym.registry.items() if n.startswith("ART/") and s.reward_threshold is not None}
    names = ("Gaussian1D", "Mixture1D", "Mixture2D", "Digits")
    assert have == {f"ART/{name}-v{version}" for name in names for version in (0, 1)}


def test_the_closed_form_reaches_the_threshold_of_the_paper_and_the_base_schedule_does_not():
    env = gym.make("ART/Gaussian1D-v1")
    threshold = env.spec.reward_threshold
    problem = make_problem("gaussian-1d")
    best = SchedulePolicy(closed_form(problem.reference(), 20), env).actions
    returns = {}
    for name, actions in (("best", best), ("base", np.zeros_like(best))):
        vector = gym.make_vec("ART/Gaussian1D-v1", 1024)
        vector.reset(seed=0)
        rewards = [vector.step(np.repeat(a[None], 1024, 0))[1] for a in actions]
        returns[name] = np.sum(rewards, 0).mean()
    assert returns["best"] > threshold > returns["base"]
