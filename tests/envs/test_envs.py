"""The environments: contracts, exact ends, rewards in closed form, and vector == scalar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import art_env
from art_env.diffusion import SOLVERS, DenoiserError, GaussianDenoiser, ReferenceFlow, curvature, sample
from art_env.envs.dynamics import Dynamics
from art_env.envs.env import ARTEnv
from art_env.envs.observation import DEFAULT_FEATURES, FEATURES
from art_env.envs.vector_env import ARTVectorEnv
from art_env.problems.custom import custom_problem
from art_env.problems.library import make_problem
from art_env.schedules import Schedule, arctan, closed_form, edm, uniform

torch.set_num_threads(1)

IDS = {
    "ART/Gaussian1D-v1": {},
    "ART/Mixture1D-v1": {"num_noises": 64},
    "ART/Mixture2D-v1": {"num_noises": 64},
    # The closed form would integrate 256 trajectories of a network.
    "ART/Digits-v1": {"num_noises": 8, "base_schedule": 7.0},
    "ART/Mnist-v1": {"num_noises": 2, "base_schedule": 7.0},
    "ART/RandomMixture-v1": {"num_noises": 64},
    "ART/Diffusion-v1": {"denoiser": GaussianDenoiser(0.5, shape=(2,)), "num_noises": 16},
}
MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
ODE = [name for name, solver in SOLVERS.items() if not solver.stochastic]
MIXTURE = {"problem": "mixture-1d", "num_noises": 128}


def _run(env, actions, **reset):
    """One episode: observations, rewards, infos, sigmas."""
    obs, info = env.reset(**reset)
    observations, rewards, infos = [obs], [], [info]
    done = False
    for action in actions:
        assert not done
        # The weights of a learned solver stay its default.
        entries = np.append(action, np.zeros(env.action_space.shape[0] - 1))
        obs, reward, done, truncated, info = env.step(entries.astype(np.float32))
        assert truncated is False
        observations.append(obs)
        rewards.append(reward)
        infos.append(info)
    assert done is True
    return observations, rewards, infos, np.array([i["sigma"] for i in infos])


# Contracts of the ecosystem


@pytest.mark.parametrize("name", IDS)
def test_checkers_without_a_warning(name):
    env = gym.make(name, render_mode="rgb_array", **IDS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_vector_entry_point(name):
    env = gym.make_vec(name, num_envs=3, vectorization_mode="vector_entry_point", **IDS[name])
    assert isinstance(env.unwrapped, ARTVectorEnv)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    obs, rewards, *_ = env.step(env.action_space.sample())
    assert obs in env.observation_space
    assert rewards.shape == (3,)
    env.close()


@pytest.mark.parametrize("name", [n for n in IDS if n != "ART/Diffusion-v1"])
def test_spec_round_trips_through_json(name):
    spec = gym.make(name, num_steps=3, **IDS[name]).spec
    assert json.loads(spec.to_json())["id"] == name
    again = gym.envs.registration.EnvSpec.from_json(spec.to_json())
    assert gym.make(again).unwrapped.num_steps == 3


def test_make_in_a_fresh_process():
    """The prefix imports the package: spawned workers know no id otherwise."""
    root = Path(art_env.__file__).parents[1]
    code = (
        "import gymnasium as gym; e = gym.make('art_env:ART/Mixture1D-v1', num_noises=8);"
        "o, _ = e.reset(seed=0); print(o.shape, e.step(e.action_space.sample())[1] < 10)"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:art_env", "-c", code],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.split("\n")[0] == "(6,) True"


# Actions and time


@pytest.mark.parametrize(
    ("problem", "final_sigmas_type"),
    [
        ("gaussian-1d", "zero"),
        ("gaussian-1d", "sigma_min"),
        ("mixture-1d", "zero"),
        ("mixture-1d", "sigma_min"),
    ],
)
@pytest.mark.parametrize("K", [1, 2, 5, 18])
def test_action_zero_is_edm_and_clock_1_is_uniform(problem, final_sigmas_type, K):
    for clock, build in ((7.0, edm), (3, lambda *a, **k: edm(*a, 3.0, **k)), (1, uniform)):
        env = ARTEnv(
            problem=problem,
            num_steps=K,
            base_schedule=clock,
            final_sigmas_type=final_sigmas_type,
            num_noises=4,
        )
        p = env.dynamics.problem
        *_, sigmas = _run(env, [0.0] * K, seed=0)
        grid = build(K, p.sigma_min, p.sigma_max, final_sigmas_type=final_sigmas_type)
        np.testing.assert_allclose(sigmas, grid.sigmas, rtol=1e-9, atol=1e-15)


def test_action_zero_follows_a_schedule_as_clock():
    grid = arctan(6, 0.002, 80.0, 2.0, final_sigmas_type="sigma_min")
    *_, sigmas = _run(ARTEnv(num_steps=6, base_schedule=grid, **MIXTURE), [0.0] * 6)
    np.testing.assert_allclose(sigmas, grid.sigmas, rtol=1e-9)
    env = ARTEnv(num_steps=6, base_schedule="closed_form", **MIXTURE)
    *_, sigmas = _run(env, [0.0] * 6)
    grid = closed_form(make_problem("mixture-1d").reference(256), 6)
    np.testing.assert_allclose(sigmas, grid.sigmas, rtol=0.02)


@pytest.mark.parametrize("solver", ODE)
@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
def test_the_end_is_exact_and_sigma_descends_whatever_the_actions(solver, final_sigmas_type):
    rng = np.random.default_rng(0)
    for K, action_range in ((1, 3.0), (4, 3.0), (30, 3.0), (30, 8.0)):
        env = ARTEnv(
            final_sigmas_type=final_sigmas_type,
            solver=solver,
            num_steps=K,
            action_range=action_range,
            **MIXTURE,
        )
        runs = [rng.uniform(-1, 1, K), np.ones(K), -np.ones(K), rng.choice([-1.0, 1.0], K)]
        for actions in runs:
            observations, rewards, infos, sigmas = _run(env, actions)
            assert sigmas[-1] == env.dynamics.problem.sigma_end
            assert infos[-1]["sigma_mismatch"] == 0.0
            assert (np.diff(sigmas) < 0).all()
            assert np.isfinite(rewards).all()
            assert all(o in env.observation_space for o in observations)
            assert infos[-1]["nfe"] == SOLVERS[solver].nfe(K)
            # The same list in the plain sampler gives the same sample.
            flow, i = env.dynamics.reference, 7
            _, rewards, infos, sigmas = _run(env, actions, options={"noise_index": i})
            end = sample(env.dynamics.problem.denoiser, flow.start[i : i + 1], sigmas, solver)
            paired = float((end - flow.x_end[i]).norm())
            # On the way from sigma_min to 0 the environment takes the slope at sigma_min.
            tolerance = 1e-4 if final_sigmas_type == "zero" else 1e-7
            assert infos[-1]["rmse"] == pytest.approx(paired, rel=tolerance, abs=tolerance)


def test_log_speed_by_hand():
    """With n steps left the step takes m / (m + n - 1) of what remains."""
    env = ARTEnv(
        problem="gaussian-1d", num_steps=3, base_schedule=1, action_range=2.0, solver="euler", reward="euler"
    )
    *_, sigmas = _run(env, [0.5, -1.0, 0.3])
    first = 2.0 / (2.0 + 2.0)
    second = 0.25 / (0.25 + 1.0)
    np.testing.assert_allclose(
        sigmas, [3.0, 3 * (1 - first), 3 * (1 - first) * (1 - second), 0.0], rtol=1e-12
    )
    clipped = _run(env, [7.0, -9.0, 0.0])[3]
    np.testing.assert_array_equal(clipped, _run(env, [1.0, -1.0, 0.0])[3])


def test_speed_may_miss_the_end_and_is_held_in_the_range():
    settings = {"solver": "euler", "reward": "euler", "control": "speed", "num_steps": 4}
    env = ARTEnv(problem="gaussian-1d", **settings)
    assert env.action_space.high == 1e4  # SB3 refuses an infinite bound
    *_, infos, sigmas = _run(env, [1.0, 1.0, 0.5, 0.5])
    np.testing.assert_allclose(sigmas, [3.0, 2.25, 1.5, 1.125, 0.75], rtol=1e-6)
    assert infos[-1]["sigma_mismatch"] == pytest.approx(0.75)
    # Backwards is held at sigma_max, too far is held at the end; theta may be negative in between.
    *_, infos, sigmas = _run(env, [-5.0, 1.0, -0.5, 50.0])
    np.testing.assert_allclose(sigmas, [3.0, 3.0, 2.25, 2.625, 0.0], rtol=1e-6)
    assert infos[-1]["sigma_mismatch"] == 0.0


@pytest.mark.parametrize("solver", [name for name in ODE if not SOLVERS[name].num_weights])
@pytest.mark.parametrize("reward", ["euler", "local", "global"])
@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
def test_speed_survives_arriving_early(solver, reward, final_sigmas_type):
    env = ARTEnv(
        solver=solver,
        reward=reward,
        control="speed",
        final_sigmas_type=final_sigmas_type,
        num_steps=5,
        **MIXTURE,
    )
    for actions in ([50.0, 1.0, 0.0, -0.01, 3.0], [0.0] * 5, [4.9999, 1e-6, 1e-6, 1e-6, 1.0]):
        observations, rewards, _, sigmas = _run(env, actions)
        assert np.isfinite(rewards).all()
        assert all(o in env.observation_space for o in observations)
        assert ((sigmas >= env.dynamics.problem.sigma_end) & (sigmas <= 80.0)).all()


# Observations


def test_features_and_their_meaning():
    env = ARTEnv(
        features=("x", "rms", "log_velocity", "log_curvature", "turn"),
        num_steps=6,
        base_schedule=2.0,
        **MIXTURE,
    )
    assert env.feature_names == ("time", "remaining", "x0", "rms", "log_velocity", "log_curvature", "turn")
    actions = [0.3, -0.5, 0.2, 0.7, -0.1, 0.0]
    index = 11
    observations, _, _, sigmas = _run(env, actions, options={"noise_index": index})
    denoiser = env.dynamics.problem.denoiser
    xs = [env.dynamics.reference.start[index : index + 1]]
    sample(denoiser, xs[0], sigmas, "heun", callback=lambda k, x: xs.append(x))
    budget = (sigmas**0.5 - sigmas[-1] ** 0.5) / (sigmas[0] ** 0.5 - sigmas[-1] ** 0.5)
    spread = np.sqrt(sigmas**2 + denoiser.sigma_data**2)
    slopes = [(x - denoiser(x, s)) / s for x, s in zip(xs, sigmas, strict=True)]
    for k in range(6):
        obs, x, slope = observations[k], float(xs[k]), float(slopes[k])
        assert obs.dtype == np.float32
        assert obs[0] == pytest.approx(k / 6)
        assert obs[1] == pytest.approx(budget[k], abs=1e-6)
        assert obs[2] == pytest.approx(np.clip(x / spread[k] / 4, -1, 1), abs=1e-6)
        assert obs[3] == pytest.approx(np.clip(np.log2(abs(x) / spread[k]) / 4, -1, 1), abs=1e-5)
        assert obs[4] == pytest.approx(np.clip(np.log10(abs(slope)) / 6, -1, 1), abs=1e-5)
        if k == 0:
            assert obs[5] == obs[6] == 0.0
        else:
            secant = abs(slope - float(slopes[k - 1])) / (sigmas[k - 1] - sigmas[k])
            assert obs[5] == pytest.approx(np.clip(np.log10(secant) / 6, -1, 1), abs=1e-5)
            assert obs[6] == np.sign(slope * float(slopes[k - 1]))
    assert observations[6][0] == 1.0
    assert observations[6][1] == 0.0


def test_history_is_what_earlier_observations_held():
    names = ("rms", "turn")
    actions = [0.3, -0.5, 0.2, 0.0]
    settings = {"features": names, "num_steps": 4, **MIXTURE}
    plain, remembering = ARTEnv(**settings), ARTEnv(history=2, **settings)
    assert remembering.feature_names[4:] == ("rms_1_before", "turn_1_before", "rms_2_before", "turn_2_before")
    assert remembering.observation_space.shape == (8,)
    now, _, _, _ = _run(plain, actions, options={"noise_index": 3})
    seen, _, _, _ = _run(remembering, actions, options={"noise_index": 3})
    for k in range(5):
        np.testing.assert_array_equal(seen[k][:4], now[k])
        for h in (1, 2):
            before = now[k - h][2:] if k >= h else np.zeros(2)
            np.testing.assert_array_equal(seen[k][2 + 2 * h : 4 + 2 * h], before)


def test_time_only_observation():
    env = ARTEnv(features=(), num_steps=4, **MIXTURE)
    assert env.observation_space.shape == (2,)
    first, second = (_run(env, [0.4, -1.0, 1.0, 0.0], seed=s) for s in (0, 1))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] != second[1]
    assert ARTEnv(features="x", **MIXTURE).observation_space.shape == (3,)
    assert set(DEFAULT_FEATURES) < set(FEATURES)


# Rewards


def test_euler_reward_in_closed_form():
    """-|x| / (1 + s^2)^2 theta^2 dt at the sampler's own iterate."""
    K = 6
    for control, actions in (
        ("log_speed", [0.2, -0.7, 1.0, -1.0, 0.4, 0.0]),
        ("speed", [2.0, 1.0, 0.5, 1.5, 0.2, 0.1]),
    ):
        env = ARTEnv(problem="gaussian-1d", num_steps=K, solver="euler", reward="euler", control=control)
        _, rewards, _, sigmas = _run(env, actions, options={"x": [2.0]})
        x, dt = 2.0, 3.0 / K
        for k in range(K):
            s, h = sigmas[k], sigmas[k] - sigmas[k + 1]
            assert rewards[k] == pytest.approx(-abs(x) / (1 + s**2) ** 2 * (h / dt) ** 2 * dt, rel=1e-6)
            x *= 1 - h * s / (1 + s**2)


def test_euler_reward_on_a_mixture_is_the_jvp():
    env = ARTEnv(problem="mixture-2d", num_steps=5, solver="heun", reward="euler")
    actions = [0.2, -0.7, 1.0, -1.0, 0.4]
    start = np.array([60.0, -90.0])
    _, rewards, infos, sigmas = _run(env, actions, options={"x": start})
    denoiser = env.dynamics.problem.denoiser
    xs = [torch.tensor(start)[None]]
    sample(denoiser, xs[0], sigmas, "heun", callback=lambda k, x: xs.append(x))
    dt = (80.0 - 0.002) / 5
    for k in range(5):
        _, Q = curvature(denoiser, xs[k], sigmas[k])
        theta = (sigmas[k] - sigmas[k + 1]) / dt
        assert rewards[k] == pytest.approx(-float(Q.norm()) * theta**2 * dt, rel=1e-9)
        assert infos[k + 1]["local_error"] == pytest.approx(-rewards[k] * dt / 2, rel=1e-12)


@pytest.mark.parametrize("solver", ODE)
@pytest.mark.parametrize(
    "settings", [{**MIXTURE}, {"problem": "mixture-2d", "final_sigmas_type": "zero", "num_noises": 32}]
)
def test_global_return_is_minus_the_final_weighted_error(solver, settings):
    # Wider actions reach noise levels so near 0 that (x - D) / sigma loses its digits.
    env = ARTEnv(num_steps=7, solver=solver, action_range=3.0, **settings)
    actions = np.random.default_rng(3).uniform(-1, 1, 7)
    for index in (0, 5, 31):
        _, rewards, infos, sigmas = _run(env, actions, options={"noise_index": index})
        p, flow = env.dynamics.problem, env.dynamics.reference
        end = sample(p.denoiser, flow.start[index : index + 1], sigmas, solver)
        squared = float((end - flow.x_end[index]).square().mean())
        weighted = squared / (p.sigma_end**2 + p.denoiser.sigma_data**2)
        assert sum(rewards) == pytest.approx(-weighted, rel=1e-6, abs=1e-12)
        assert infos[-1]["error"] == pytest.approx(np.sqrt(weighted), rel=1e-6)
        assert infos[-1]["rmse"] == pytest.approx(np.sqrt(squared), rel=1e-6)


def test_local_reward_is_the_true_error_of_one_step():
    env = ARTEnv(problem="gaussian-1d", num_steps=5, solver="euler", reward="local", num_noises=8)
    _, rewards, infos, sigmas = _run(env, [0.5, -0.5, 0.1, 0.9, 0.0], options={"noise_index": 2})
    x0 = float(env.dynamics.reference.start[2])
    exact = x0 * np.sqrt((1 + sigmas**2) / 10)
    step = exact[:-1] * (1 - (sigmas[:-1] - sigmas[1:]) * sigmas[:-1] / (1 + sigmas[:-1] ** 2))
    np.testing.assert_allclose(rewards, -np.abs(step - exact[1:]), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose([i["local_error"] for i in infos[1:]], -np.array(rewards), rtol=1e-12)


def test_local_is_half_dt_times_euler_for_small_steps():
    K = 200
    settings = {"num_steps": K, "solver": "euler", "base_schedule": 1.0}
    local = ARTEnv(problem="gaussian-1d", reward="local", num_noises=4, **settings)
    _, local_rewards, _, _ = _run(local, [0.0] * K, options={"noise_index": 1})
    euler = ARTEnv(problem="gaussian-1d", reward="euler", **settings)
    start = local.dynamics.reference.start[1].numpy()
    _, euler_rewards, _, _ = _run(euler, [0.0] * K, options={"x": start})
    ratio = np.array(local_rewards) / (np.array(euler_rewards) * (3.0 / K) / 2)
    np.testing.assert_allclose(ratio[:-2], 1.0, atol=0.03)


def test_evaluations_are_counted():
    for solver, per_episode in (("euler", 5), ("heun", 9), ("rk4", 17)):
        env = ARTVectorEnv(4, num_steps=5, solver=solver, **MIXTURE)
        env.reset(seed=0)
        for _ in range(5):
            *_, infos = env.step(np.zeros((4, 1), np.float32))
        assert infos["nfe"].tolist() == [per_episode] * 4
        # The slope at the start of a step is its first evaluation: nothing is paid twice.
        assert env.denoiser_evals == 4 * per_episode


def test_an_early_arrival_counts_what_it_evaluates():
    """With the raw clock the step into the end is an Euler step, also when it is not the last."""
    settings = {"control": "speed", "solver": "heun", "num_steps": 3, "final_sigmas_type": "zero"}
    *_, infos, _ = _run(ARTEnv(**MIXTURE, **settings), [1.0, 50.0, 0.0])
    assert [i["nfe"] for i in infos] == [0, 2, 3, 4]


def test_local_reward_names_its_own_step():
    """The model breaks only where the exact trajectory goes, which the reward alone visits."""
    clean = make_problem("mixture-1d").reference(128)
    exact = float(clean.at(float(edm(4, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas[1]))[3])

    class Hole:
        shape, sigma_data = (1,), 2.0

        def __call__(self, x, sigma):
            out = make_problem("mixture-1d").denoiser(x, sigma)
            return torch.where((x - exact).abs() < 1e-9, float("nan"), out)

    env = ARTEnv(
        problem="custom",
        denoiser=Hole(),
        reward="local",
        reference=clean,
        num_steps=4,
        final_sigmas_type="sigma_min",
    )
    env.reset(options={"noise_index": 3})
    env.step([0.0])
    with pytest.raises(DenoiserError, match=r"step 1 .*not finite"):
        env.step([0.0])


# Scalar == SyncVectorEnv == native


def _close(a, b, tolerance, where=""):
    """``tolerance`` scales with the largest value where that is above 1."""
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()), err_msg=where)


def _same(a, b, tolerance, where=""):
    """Batched infos agree: keys, masks, and values where the mask is set (zeros elsewhere)."""
    assert set(a) == set(b), where
    for key in a:
        if key.startswith("_"):
            np.testing.assert_array_equal(a[key], b[key], err_msg=where + key)
        elif isinstance(a[key], dict):
            _same(a[key], b[key], tolerance, f"{where}{key}/")
        elif a[key].dtype == object:
            for x, y in zip(a[key], b[key], strict=True):
                assert (x is None) == (y is None)
                if x is not None:
                    _close(x, y, max(tolerance, 1e-6))
        else:
            _close(a[key], b[key], tolerance, where + key)


def _compare(mode, n, steps, settings, tolerance):
    native = ARTVectorEnv(n, autoreset_mode=mode, **settings)
    sync = SyncVectorEnv([lambda: ARTEnv(**settings)] * n, autoreset_mode=mode)
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert native.metadata["autoreset_mode"] == native.autoreset_mode == mode
    assert ARTVectorEnv.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    rng = np.random.default_rng(0)
    obs, infos = native.reset(seed=42)
    obs_sync, infos_sync = sync.reset(seed=42)
    obs_tol = max(tolerance, 1e-6)
    np.testing.assert_allclose(obs, obs_sync, atol=obs_tol)
    _same(infos, infos_sync, tolerance)
    ends = 0
    for _ in range(steps):
        actions = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
        obs, rewards, terminated, truncated, infos = native.step(actions)
        obs_sync, rewards_sync, terminated_sync, truncated_sync, infos_sync = sync.step(actions)
        assert obs.dtype == obs_sync.dtype == np.float32
        assert rewards.dtype == rewards_sync.dtype
        np.testing.assert_allclose(obs, obs_sync, atol=obs_tol)
        _close(rewards, rewards_sync, tolerance)
        np.testing.assert_array_equal(terminated, terminated_sync)
        np.testing.assert_array_equal(truncated, truncated_sync)
        _same(infos, infos_sync, tolerance)
        ends += int(terminated.sum())
        if mode == AutoresetMode.DISABLED and terminated.any():
            obs, infos = native.reset(options={"reset_mask": terminated.copy()})
            obs_sync, infos_sync = sync.reset(options={"reset_mask": terminated.copy()})
            np.testing.assert_allclose(obs, obs_sync, atol=obs_tol)
            _same(infos, infos_sync, tolerance)
    return ends


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "settings",
    [
        {"problem": "gaussian-1d", "reward": "euler", "solver": "euler", "num_steps": 4},
        {"problem": "mixture-1d", "reward": "global", "num_steps": 4, "num_noises": 128},
        {"problem": "mixture-2d", "reward": "local", "solver": "rk4", "num_steps": 3, "num_noises": 32},
        {"problem": "mixture-1d", "reward": "euler", "control": "speed", "num_steps": 3, "features": ("x",)},
        {"problem": "mixture-1d", "num_steps": 1, "num_noises": 128},
    ],
    ids=lambda s: f"{s['problem']}-{s.get('reward', 'global')}-{s['num_steps']}",
)
def test_native_equals_sync(mode, settings):
    assert _compare(mode, 5, 4 * (settings["num_steps"] + 1), settings, 1e-9) >= 3 * 5


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_native_equals_sync_on_digits(mode):
    """A float32 network: another batch size, other last digits."""
    settings = {"problem": "digits", "num_noises": 8, "num_steps": 3, "action_range": 3.0}
    assert _compare(mode, 3, 8, settings, 1e-4) >= 6


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("reward", ["euler", "local", "global"])
def test_rows_out_of_step_stay_equal(mode, reward):
    """A partial reset sets rows out of step: each still is its own scalar episode."""
    settings = {**MIXTURE, "reward": reward, "num_steps": 3, "solver": "heun"}
    native = ARTVectorEnv(4, autoreset_mode=mode, **settings)
    sync = SyncVectorEnv([lambda: ARTEnv(**settings)] * 4, autoreset_mode=mode)
    for env in (native, sync):
        env.reset(seed=1)
    rng = np.random.default_rng(0)
    mixed_ends = 0
    for k in range(12):
        actions = rng.uniform(-1, 1, (4, 1)).astype(np.float32)
        a, b = native.step(actions), sync.step(actions)
        np.testing.assert_allclose(a[0], b[0], atol=1e-6, err_msg=f"step {k}")
        np.testing.assert_allclose(a[1], b[1], rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(a[2], b[2])
        _same(a[4], b[4], 1e-9)
        mixed_ends += bool(a[2].any() and not a[2].all())
        mask = a[2].copy() if mode == AutoresetMode.DISABLED else np.zeros(4, bool)
        if k in (0, 1):
            mask[k + 1 :: 2] = True
        if mask.any():
            seeds = [10 * k + i if i % 2 else None for i in range(4)]
            a = native.reset(seed=seeds, options={"reset_mask": mask.copy()})
            b = sync.reset(seed=seeds, options={"reset_mask": mask.copy()})
            np.testing.assert_allclose(a[0], b[0], atol=1e-6)
            _same(a[1], b[1], 1e-9)
    assert mixed_ends > 2


def test_row_is_the_scalar_environment_of_its_seed():
    native = ARTVectorEnv(3, num_steps=4, **MIXTURE)
    obs, _ = native.reset(seed=5)
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, 1)).astype(np.float32)
    returns = sum(native.step(a)[1] for a in actions)
    for i in range(3):
        observations, rewards, *_ = _run(ARTEnv(num_steps=4, **MIXTURE), actions[:, i, 0], seed=5 + i)
        np.testing.assert_allclose(observations[0], obs[i], atol=1e-6)
        assert sum(rewards) == pytest.approx(returns[i], rel=1e-9)


def test_same_seed_same_run_and_seed_none_continues():
    env = ARTEnv(num_steps=2, **MIXTURE)
    first = [_run(env, [0.1, 0.2], seed=s)[1] for s in (3, None, None)]
    again = [_run(env, [0.1, 0.2], seed=s)[1] for s in (3, None, None)]
    assert first == again
    assert len({r[0] for r in first}) == 3
    vector = ARTVectorEnv(4, num_steps=2, **MIXTURE)
    a, b = vector.reset(seed=3)[0], vector.reset()[0]
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(vector.reset(seed=3)[0], a)
    np.testing.assert_array_equal(vector.reset(seed=[3, 4, 5, 6])[0], a)
    np.testing.assert_array_equal(vector.reset()[0], b)
    with pytest.raises(ValueError, match="seed has 2 entries"):
        vector.reset(seed=[1, 2])


def test_noise_groups_meet_the_same_starts():
    env = ARTVectorEnv(6, num_steps=2, noise_groups=3, autoreset_mode="SAME_STEP", **MIXTURE)
    seen = []
    obs, _ = env.reset(seed=9)
    for k in range(6):
        if k % 2 == 0:
            seen.append(env._state.index.numpy().copy())
            groups = obs.reshape(3, 2, -1)
            np.testing.assert_array_equal(groups[0], groups[1])
            np.testing.assert_array_equal(groups[0], groups[2])
        obs, rewards, *_ = env.step(np.linspace(-1, 1, 6, dtype=np.float32)[:, None])
    for index in seen:
        assert index.reshape(3, 2).std(0).max() == 0
    assert len({tuple(i) for i in seen}) == 3
    assert len(set(rewards.tolist())) == 6
    np.testing.assert_array_equal(env.reset()[0].reshape(3, 2, -1)[0], env._get_obs().reshape(3, 2, -1)[2])
    single = ARTVectorEnv(2, num_steps=2, **MIXTURE)
    single.reset(seed=9)
    np.testing.assert_array_equal(single._state.index, seen[0][:2])
    for bad in (4, 0, -1):
        with pytest.raises(ValueError, match=f"noise_groups = {bad} must divide num_envs = 6"):
            ARTVectorEnv(6, noise_groups=bad, **MIXTURE)


# What is refused


def test_reset_options():
    pool = ARTEnv(num_steps=2, **MIXTURE)
    pool.reset(options={"noise_index": 5})
    assert int(pool._state.index[0]) == 5
    with pytest.raises(ValueError, match=r"unknown reset option 'noise_idx'. Did you mean 'noise_index'"):
        pool.reset(options={"noise_idx": 5})
    with pytest.raises(ValueError, match="unknown reset option 'x'"):
        pool.reset(options={"x": [1.0]})
    for bad in (128, -1, 1.5, float("nan"), "3"):
        with pytest.raises(ValueError, match=r"noise_index = .*whole numbers from 0 to 127"):
            pool.reset(options={"noise_index": bad})
    own = ARTEnv(problem="mixture-2d", reward="euler", num_steps=2)
    own.reset(options={"x": [3.0, -4.0]})
    assert own._state.x.tolist() == [[3.0, -4.0]]
    for bad in ([1.0], [[1.0, 2.0], [3.0, 4.0]], [np.nan, 0.0]):
        with pytest.raises(ValueError, match=r"x has shape .*all finite"):
            own.reset(options={"x": bad})
    with pytest.raises(ValueError, match="unknown reset option 'noise_index'"):
        own.reset(options={"noise_index": 1})
    vector = ARTVectorEnv(3, num_steps=2, **MIXTURE)
    vector.reset(options={"noise_index": np.array([7, 8, 9])})
    assert vector._state.index.tolist() == [7, 8, 9]
    vector.reset(options={"noise_index": 4, "reset_mask": np.array([False, True, False])})
    assert vector._state.index.tolist() == [7, 4, 9]
    with pytest.raises(ValueError, match="noise_index"):
        vector.reset(options={"noise_index": np.array([1, 2])})
    with pytest.raises(ValueError, match="Did you mean 'noise_index'"):
        vector.reset(options={"noise_indices": 3})
    with pytest.raises(ValueError, match="x has shape"):
        ARTVectorEnv(3, problem="gaussian-1d", reward="euler").reset(options={"x": np.zeros((2, 1))})


def test_reset_mask():
    env = ARTVectorEnv(3, num_steps=2, autoreset_mode="DISABLED", **MIXTURE)
    mask = np.array([True, False, True])
    with pytest.raises(ValueError, match="before the first reset"):
        env.reset(options={"reset_mask": mask})
    env.reset(seed=0)
    env.step(np.zeros((3, 1), np.float32))
    before = env._get_obs()
    obs, info = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(obs[1], before[1])
    assert obs[:, 0].tolist() == [0.0, 0.5, 0.0]
    assert info["_sigma"].tolist() == mask.tolist()
    assert info["sigma"].tolist() == [80.0, 0.0, 80.0]
    for bad, error in (
        ([True, False, True], TypeError),
        (np.array([1, 0, 1]), TypeError),
        (np.array([True, False]), ValueError),
        (np.zeros(3, bool), ValueError),
    ):
        with pytest.raises(error, match="reset_mask"):
            env.reset(options={"reset_mask": bad})
    np.testing.assert_array_equal(env._get_obs(), obs)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (0.5, r"action has shape \(\); expected \(1,\)"),
        ([0.5, 0.5], r"action has shape \(2,\); expected \(1,\)"),
        ([[0.5]], r"action has shape \(1, 1\)"),
        ([float("nan")], r"action\[0\] = nan is not finite"),
        ([float("-inf")], r"action\[0\] = -inf is not finite"),
        (["fast"], "not an array of numbers"),
        (None, "action"),
    ],
)
def test_bad_actions(action, message):
    env = ARTEnv(num_steps=2, **MIXTURE)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    env.step([0.0])  # the episode is still there


def test_bad_vector_actions():
    env = ARTVectorEnv(3, num_steps=2, **MIXTURE)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(3, 1\)"):
        env.step(np.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(2, 1\); expected \(3, 1\)"):
        env.step(np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"action\[2\] = nan"):
        env.step(np.array([[0.0], [0.0], [np.nan]]))


def test_step_outside_an_episode():
    env = ARTEnv(num_steps=1, **MIXTURE)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step([0.0])
    env.reset(seed=0)
    assert env.step([0.0])[2] is True
    with pytest.raises(RuntimeError, match="call reset"):
        env.step([0.0])
    with pytest.raises(RuntimeError, match="call reset"):
        ARTVectorEnv(2, **MIXTURE).step(np.zeros((2, 1)))
    disabled = ARTVectorEnv(2, num_steps=1, autoreset_mode=AutoresetMode.DISABLED, **MIXTURE)
    disabled.reset(seed=0)
    assert disabled.step(np.zeros((2, 1)))[2].all()
    with pytest.raises(RuntimeError, match=r"row 0.*reset_mask"):
        disabled.step(np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "globl"}, "unknown reward 'globl'. Did you mean 'global'"),
        ({"control": "log-speed"}, "unknown control 'log-speed'. Did you mean 'log_speed'"),
        ({"features": ("log_F", "rms")}, "unknown feature 'log_F'"),
        ({"features": "rmss"}, "unknown feature 'rmss'. Did you mean 'rms'"),
        ({"solver": "Heun"}, "unknown solver 'Heun'. Did you mean 'heun'"),
        ({"base_schedule": "closed-form"}, "unknown base_schedule 'closed-form'. Did you mean 'closed_form'"),
        ({"base_schedule": 0.0}, "base_schedule = 0.0 must lie between 0.1 and 1000"),
        ({"base_schedule": 1e-300}, "base_schedule = 1e-300 must lie between .* a positive number is rho"),
        ({"base_schedule": float("nan")}, "base_schedule = nan must lie between"),
        ({"base_schedule": None}, "base_schedule = None must be a number"),
        ({"problem": 2.5}, "problem = 2.5 must be a name"),
        ({"features": 3}, "features = 3 must be names"),
        ({"history": -1}, "history = -1 must be at least 0"),
        ({"history": 5}, "history = 5 must be less than num_steps = 5"),
        ({"history": 1, "features": ()}, "history = 1 remembers features, and features = ..: name some"),
        ({"action_range": 1100}, "action_range = 1100 must lie between 1e-06 and 50"),
        ({"action_range": "5"}, "action_range = '5' must be a number"),
        ({"num_steps": 1_000_000_000}, "num_steps = 1000000000 must be at most 10000"),
        ({"num_noises": 10**9}, "num_noises = 1000000000 must be at most 10,000,000"),
        ({"sigma_max": "80"}, "sigma_max = '80' must be a number"),
        ({"sigma_max": 1e300}, "sigma_max = 1e.300 must lie between 1e-09 and 1e.09"),
        ({"device": "mps"}, "device = 'mps' is not supported .it has no float64"),
        ({"device": "meta"}, "device = 'meta' is not supported .its tensors have no values"),
        ({"device": "cuda:-1"}, "device = 'cuda:-1' is not"),
        ({"base_schedule": edm(5, 0.002, 70.0)}, "starts at sigma=70"),
        ({"base_schedule": edm(5, 0.002, 80.0)}, r"ends at sigma=0, the problem at sigma=0\.002"),
        ({"num_steps": 0}, "num_steps = 0"),
        ({"num_steps": 1001}, "num_steps = 1001 must be at most 1000"),
        ({"num_steps": 2.5}, "num_steps = 2.5"),
        ({"action_range": 0.0}, "action_range = 0.0"),
        ({"action_range": float("inf")}, "action_range = inf"),
        ({"num_noises": 0}, "num_noises = 0"),
        ({"problem": "mixture"}, "unknown problem 'mixture'. Did you mean 'mixture-"),
        ({"final_sigmas_type": "sigma_mim"}, "Did you mean 'sigma_min'"),
        ({"sigma_max": 0.001}, "must be below sigma_max"),
        ({"render_mode": "rgb-array"}, "unknown render_mode 'rgb-array'. Did you mean 'rgb_array'"),
        ({"device": "cpu0"}, "device = 'cpu0' is not a device"),
        ({"problem": "custom"}, "needs your model"),
        ({"denoiser": GaussianDenoiser()}, "has its own"),
        ({"problem": "digits", "features": ("x",)}, "feature 'x' needs at most 8 coordinates"),
    ],
)
def test_bad_settings(settings, message):
    full = {"problem": "mixture-1d", **settings}
    with pytest.raises(ValueError, match=message):
        ARTEnv(**full)
    with pytest.raises(ValueError, match=message):
        ARTVectorEnv(2, **full)


def test_bad_vector_settings():
    for bad in (0, -1, 2.0):
        with pytest.raises(ValueError, match="num_envs = "):
            ARTVectorEnv(bad, **MIXTURE)
    with pytest.raises(ValueError, match="unknown autoreset_mode 'SAME-STEP'\\. Did you mean 'SAME_STEP'"):
        ARTVectorEnv(2, autoreset_mode="SAME-STEP", **MIXTURE)
    for mode in MODES:
        assert ARTVectorEnv(1, autoreset_mode=mode.name, **MIXTURE).autoreset_mode is mode


def test_a_reference_for_another_range_is_refused():
    x = 3 * torch.ones(4, 1, dtype=torch.float64)
    denoiser = make_problem("mixture-1d").denoiser
    for high, floor, end in ((3.0, 0.002, 0.002), (80.0, 0.002, 0.0), (80.0, 0.5, 0.5)):
        flow = ReferenceFlow.integrate(denoiser, x, high, floor, end, 9)
        with pytest.raises(ValueError, match="reference"):
            ARTEnv(problem="mixture-1d", reference=flow)
    wrong_shape = ReferenceFlow.integrate(denoiser, x, 80.0, 0.002, 0.002, 9)
    with pytest.raises(ValueError, match=r"reference.*shape"):
        ARTEnv(problem="mixture-2d", reference=wrong_shape)
    good = ReferenceFlow.integrate(denoiser, x, 80.0, 0.002, 0.002, 9)
    assert ARTEnv(problem="mixture-1d", reference=good).dynamics.reference is good


class Spoilt:
    """A real denoiser whose output goes wrong at low noise."""

    shape = (2,)
    sigma_data = 1.0

    def __init__(self, spoil, below):
        self.spoil, self.below = spoil, below

    def __call__(self, x, sigma):
        out = GaussianDenoiser(shape=(2,))(x, sigma)
        return self.spoil(out) if float(torch.as_tensor(sigma).max()) < self.below else out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: out * float("nan"), "not finite"),
        (lambda out: out[:, :1], r"returned shape \(1, 1\)"),
        (lambda out: out.float(), "returned dtype torch.float32"),
        (lambda out: out.numpy(), "returned ndarray"),
    ],
)
def test_a_bad_denoiser_is_named_with_sigma_and_step(spoil, message):
    grid = edm(6, 0.002, 80.0).sigmas
    step = int(np.argmax(grid < 2.0))  # the first noise level that is asked about below 2
    model = Spoilt(spoil, below=2.0)
    clean = custom_problem(GaussianDenoiser(shape=(2,))).reference(4)
    for reward in ("euler", "global", "local"):
        for solver in ("euler", "heun"):
            env = ARTEnv(
                problem="custom", denoiser=model, reward=reward, solver=solver, num_steps=6, reference=clean
            )
            env.reset(seed=0)
            for _ in range(step - 1):
                env.step([0.0])
            first = step if solver == "euler" else step - 1
            with pytest.raises(
                DenoiserError, match=rf"'custom' at sigma={grid[step]:.4g}.*, step {first} .*{message}"
            ):
                env.step([0.0])


def test_a_model_that_is_broken_from_the_start():
    model = Spoilt(lambda out: out * float("nan"), below=1e9)
    env = ARTEnv(problem="custom", denoiser=model, reward="euler")
    with pytest.raises(
        DenoiserError, match="'custom' at sigma=80, step 0 returned a value that is not finite"
    ):
        env.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        ARTEnv(problem="custom", denoiser=model, reward="global").reset(seed=0)


class Negative:
    """Finite output, but the slope overflows."""

    shape = (1,)
    sigma_data = 1.0

    def __call__(self, x, sigma):
        return -x


def test_an_overflowing_step_is_named():
    env = ARTEnv(problem="custom", denoiser=Negative(), reward="euler", solver="euler", num_steps=2)
    env.reset(options={"x": [1.7e308]})
    with pytest.raises(ValueError, match="'custom' is not finite after step 0"):
        env.step([0.0])


# Rendering


def test_render():
    for reward in ("euler", "global"):
        env = ARTEnv(num_steps=3, reward=reward, render_mode="rgb_array", **MIXTURE)
        with pytest.raises(RuntimeError, match="call reset"):
            env.render()
        env.reset(seed=0)
        frames = [env.render()]
        for _ in range(3):
            env.step([0.5])
            frames.append(env.render())
        for frame in frames:
            assert frame.dtype == np.uint8
            assert frame.shape == (400, 800, 3)
        assert not np.array_equal(frames[0], frames[-1])
    assert ARTEnv(num_steps=3, **MIXTURE).render() is None
    vector = ARTVectorEnv(2, num_steps=3, render_mode="rgb_array", **MIXTURE)
    vector.reset(seed=0)
    vector.step(np.array([[0.9], [-0.9]]))
    one, two = vector.render()
    assert one.shape == two.shape == (400, 800, 3)
    assert not np.array_equal(one, two)
    with pytest.raises(RuntimeError, match="call reset"):
        ARTVectorEnv(2, num_steps=3, render_mode="rgb_array", **MIXTURE).render()


# The pure core


def test_dynamics_is_pure():
    dynamics = Dynamics(problem=make_problem("mixture-1d"), num_noises=128, num_steps=4)
    state = dynamics.initial(index=torch.arange(5))
    copies = [v.clone() for v in state]
    action = torch.linspace(-1, 1, 5, dtype=torch.float64)
    one = dynamics.transition(state, action)
    two = dynamics.transition(state, action)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    dynamics.reward(state, action, one)
    dynamics.observation(one)
    for a, b in zip(state, copies, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match="pass index"):
        dynamics.initial(x=torch.zeros(2, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="pass x or index"):
        dynamics.initial()
    with pytest.raises(ValueError, match="index needs a reference"):
        Dynamics(problem=make_problem("gaussian-1d"), reward="euler").initial(index=torch.arange(2))


def test_a_schedule_object_as_clock_survives_gym_make():
    env = gym.make(
        "ART/Mixture1D-v1", base_schedule=Schedule([80.0, 5.0, 1.0, 0.002]), num_steps=3, num_noises=8
    )
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[4]["sigma"] == pytest.approx(5.0)
