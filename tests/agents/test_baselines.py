"""A schedule as a policy walks down exactly its own list."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import art_env  # noqa: F401
from agents.schedule_policy import SchedulePolicy
from art_env.envs.dynamics import Dynamics
from art_env.envs.env import ARTEnv
from art_env.envs.vector_env import ARTVectorEnv
from art_env.schedules import Schedule, arctan, edm, log_snr, uniform

K = 6


def _walk(schedule: Schedule, **settings) -> np.ndarray:
    settings = {"num_steps": schedule.num_steps, "num_noises": 8, **settings}
    env = ARTVectorEnv(2, autoreset_mode="Disabled", **settings)
    policy = SchedulePolicy(schedule, env)
    obs, info = env.reset(seed=0)
    sigmas = [info["sigma"]]
    for _ in range(schedule.num_steps):
        actions, state = policy.predict(obs)
        assert actions.shape == (2, 1)
        assert actions.dtype == np.float32
        assert state is None
        assert env.action_space.contains(actions)
        obs, _, terminated, _, info = env.step(actions)
        sigmas.append(info["sigma"])
    assert terminated.all()
    return np.array(sigmas)


@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
@pytest.mark.parametrize("control", ["log_speed", "speed"])
@pytest.mark.parametrize("make", [edm, uniform, arctan, log_snr])
def test_walks_down_its_list(make, control: str, final_sigmas_type: str) -> None:
    schedule = make(K, 0.002, 80.0, final_sigmas_type=final_sigmas_type)
    # 12 octaves reach even from EDM's clock to the uniform grid.
    sigmas = _walk(
        schedule,
        problem="mixture-1d",
        final_sigmas_type=final_sigmas_type,
        control=control,
        action_range=12.0,
    )
    # A float32 theta that falls from 16 to 0.002 in one step can hit it to 1e-6 only.
    assert sigmas[:, 0] == pytest.approx(schedule.sigmas, rel=2e-5, abs=2e-6)
    assert (sigmas[:, 0] == sigmas[:, 1]).all()
    assert sigmas[-1, 0] == schedule.sigma_end


@pytest.mark.parametrize("base_schedule", [1.0, 7.0, "closed_form"])
def test_any_base_schedule(base_schedule) -> None:
    schedule = arctan(10, 0.0, 3.0)
    settings = {
        "problem": "gaussian-1d",
        "solver": "euler",
        "base_schedule": base_schedule,
        "action_range": 6.0,
    }
    assert _walk(schedule, **settings)[:, 0] == pytest.approx(schedule.sigmas, rel=2e-5)


def test_its_own_clock_needs_no_action() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=K, num_noises=4)
    policy = SchedulePolicy(edm(K, 0.002, 80.0, final_sigmas_type="sigma_min"), dynamics)
    assert np.abs(policy.actions).max() < 1e-6


def test_many_steps_with_the_raw_control() -> None:
    # Float32 actions of order 80: their rounding must not pile up at the small end.
    schedule = edm(100, 0.002, 80.0, final_sigmas_type="sigma_min")
    sigmas = _walk(schedule, problem="mixture-1d", control="speed", solver="euler")
    assert sigmas[:, 0] == pytest.approx(schedule.sigmas, rel=1e-6)
    assert sigmas[-1, 0] == 0.002


def test_scalar_environment_and_gym_make() -> None:
    env = gym.make("art_env:ART/Mixture1D-v1", base_schedule=7.0, num_steps=K, num_noises=4)
    policy = SchedulePolicy(edm(K, 0.002, 80.0, 5.0, final_sigmas_type="sigma_min"), env)
    obs, _ = env.reset(seed=0)
    for k in range(K):
        action, _ = policy.predict(obs, deterministic=True)
        assert action.shape == (1,)
        assert action.dtype == np.float32
        assert action[0] == policy.actions[k]
        obs, *_ = env.step(action)


def test_out_of_reach_names_the_step_and_the_range() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=K, num_noises=4, action_range=0.5)
    schedule = uniform(K, 0.002, 80.0, final_sigmas_type="sigma_min")
    with pytest.raises(
        ValueError, match=r"'uniform', step [0-9] .*outside \[-1, 1\]; .*action_range="
    ) as caught:
        SchedulePolicy(schedule, dynamics)
    needed = float(str(caught.value).split("action_range=")[1].split()[0])
    wide = Dynamics(problem="mixture-1d", num_steps=K, num_noises=4, action_range=needed)
    assert np.abs(SchedulePolicy(schedule, wide).actions).max() <= 1


def test_wrong_environment() -> None:
    env = ARTEnv(problem="mixture-1d", num_steps=K, num_noises=4)
    with pytest.raises(ValueError, match="has 4 steps, the environment num_steps=6"):
        SchedulePolicy(edm(4, 0.002, 80.0, final_sigmas_type="sigma_min"), env)
    with pytest.raises(ValueError, match="ends at sigma=0"):
        SchedulePolicy(edm(K, 0.002, 80.0), env)
    with pytest.raises(TypeError, match="env is str"):
        SchedulePolicy(edm(K, 0.002, 80.0), "digits")


def test_reads_only_time() -> None:
    policy = SchedulePolicy(
        edm(K, 0.002, 80.0, 5.0), Dynamics(problem="mixture-1d", num_steps=K, final_sigmas_type="zero")
    )
    obs = torch.rand(K, 5).numpy()
    obs[:, 0] = np.arange(K, dtype=np.float32) / K
    assert (policy.predict(obs)[0] == policy.actions).all()
