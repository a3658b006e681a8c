"""The ids -v1 with the exploration that agents have by default, beside the ids -v0."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.schedule_policy import SchedulePolicy
from art_env import make_problem, make_schedule, to_sb3
from art_env.envs.dynamics import Dynamics
from art_env.envs.rewards import ERROR_FLOOR
from art_env.schedules.schedule import Schedule

# Gymnasium says of the ids -v0 that there are newer ones.
pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date")

ROWS = 256
# The best lists of Heun, by ``make_schedule("oracle", ...)`` on the pools of the ids.
ORACLES = {
    "Mixture1D": (
        [80.0, 8.652, 1.797, 0.002],
        [80.0, 10.132, 3.3, 0.75, 0.002],
        [80.0, 12.588, 4.612, 2.261, 0.672, 0.002],
        [80.0, 16.739, 6.875, 3.723, 2.25, 0.838, 0.434, 0.002],
        [80.0, 22.053, 10.119, 5.836, 3.787, 2.606, 1.801, 0.81, 0.451, 0.126, 0.002],
    ),
    "Mixture2D": (
        [80.0, 11.906, 1.651, 0.002],
        [80.0, 11.432, 3.945, 1.827, 0.536, 0.002],
        [80.0, 15.3, 6.06, 3.244, 1.988, 1.227, 0.449, 0.002],
        [80.0, 20.545, 9.176, 5.23, 3.379, 2.333, 1.652, 1.114, 0.501, 0.134, 0.002],
    ),
}


def final_errors(name: str, choose, **settings) -> np.ndarray:
    """Squared errors ``[ROWS]`` of one episode from each of the first noises; ``choose(observation)`` acts."""
    env = gym.make_vec(f"ART/{name}", ROWS, num_noises=ROWS, autoreset_mode="DISABLED", **settings)
    observation, info = env.reset(options={"noise_index": np.arange(ROWS)})
    for _ in range(env.unwrapped.num_steps):
        observation, *_, info = env.step(choose(observation))
    return np.asarray(info["error"]) ** 2


def edm_errors(name: str) -> np.ndarray:
    """Those of EDM's grid, which action 0 of the ids -v0 reproduces."""
    return final_errors(f"{name}-v0", lambda observation: np.zeros((ROWS, 1), np.float32))


def unit_noise(seed: int = 0):
    """A policy that knows nothing and explores with a standard deviation of 1, as PPO does at its start."""
    rng = np.random.default_rng(seed)
    return lambda observation: rng.standard_normal((ROWS, 1)).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("name", ["Mixture1D", "Mixture2D"])
def test_exploring_with_unit_width_is_not_far_worse_than_edm(name: str) -> None:
    edm = edm_errors(name).mean()
    assert final_errors(f"{name}-v1", unit_noise()).mean() < 3 * edm
    assert final_errors(f"{name}-v0", unit_noise()).mean() > 100 * edm


@pytest.mark.parametrize("name", ["Mixture1D", "Mixture2D"])
def test_action_0_is_better_than_edm(name: str) -> None:
    even = final_errors(f"{name}-v1", lambda observation: np.zeros((ROWS, 1), np.float32))
    assert even.mean() < edm_errors(name).mean() / 2


@pytest.mark.parametrize(("name", "sigmas"), [(n, s) for n, lists in ORACLES.items() for s in lists])
def test_the_best_lists_lie_within_the_actions(name: str, sigmas: list[float]) -> None:
    env = gym.make(f"ART/{name}-v1", num_steps=len(sigmas) - 1, num_noises=1)
    policy = SchedulePolicy(Schedule(sigmas), env)
    # Not at the edge, where an agent that clips or squashes its actions hardly comes.
    assert np.abs(policy.actions).max() < 0.97


def test_the_optimum_of_the_papers_objective_lies_within_the_actions() -> None:
    env = gym.make("ART/Gaussian1D-v1")
    best = make_schedule("closed_form", make_problem("gaussian-1d"), 20)
    policy = SchedulePolicy(best, env)
    assert 0.1 < np.abs(policy.actions).max() < 0.9


def test_the_ids_of_version_0_are_those_of_before() -> None:
    assert gym.spec("ART/Mixture1D-v0").kwargs == {"problem": "mixture-1d"}
    assert gym.spec("ART/Digits-v0").kwargs == {"problem": "digits"}
    config = gym.make("ART/Mixture1D-v0", num_noises=1).unwrapped.dynamics.config
    assert (config.base_schedule, config.action_range, config.reward) == (7.0, 5.0, "global")


# The reward


def test_the_return_is_minus_the_logarithm_of_the_final_squared_error() -> None:
    env = gym.make("ART/Mixture1D-v1", num_noises=8)
    env.reset(seed=0)
    total, rewards, terminated = 0.0, [], False
    while not terminated:
        _, reward, terminated, _, info = env.step(np.full(1, 0.3, np.float32))
        total += float(reward)
        rewards.append(reward)
        assert total == pytest.approx(-np.log1p(info["error"] ** 2 / ERROR_FLOOR), rel=1e-9)
    assert np.count_nonzero(rewards) == 5


def test_a_small_error_is_judged_as_global_does_and_a_large_one_by_its_logarithm() -> None:
    cost = Dynamics(problem="mixture-1d", num_noises=1, reward="log_global").reward_rule.cost
    small, large = torch.tensor([1e-6, 1e6], dtype=torch.float64)
    assert float(cost(small)) == pytest.approx(float(small) / ERROR_FLOOR, rel=1e-3)
    assert float(cost(10 * large) - cost(large)) == pytest.approx(np.log(10), rel=1e-3)


def test_no_list_of_errors_is_promised_for_the_logarithm() -> None:
    """Searches by least squares minimise a sum of squares."""
    assert not Dynamics(problem="mixture-1d", num_noises=1, reward="log_global").has_final_errors
    assert Dynamics(problem="mixture-1d", num_noises=1, reward="global").has_final_errors


@pytest.mark.parametrize("solver", ["edm_churn", "euler_maruyama"])
def test_a_stochastic_solver_has_no_error_to_take_the_logarithm_of(solver: str) -> None:
    with pytest.raises(ValueError, match=r"is stochastic, and reward = 'log_global' \(unlike 'global'\)"):
        gym.make("ART/Mixture1D-v1", solver=solver)


# An agent


@pytest.mark.slow
def test_ppo_with_its_own_settings_beats_edm() -> None:
    ppo = pytest.importorskip("stable_baselines3").PPO
    env = gym.make_vec("ART/Mixture1D-v1", 8, autoreset_mode="SAME_STEP")
    agent = ppo("MlpPolicy", to_sb3(env), seed=0, device="cpu")
    agent.learn(60_000)

    def act(observation: np.ndarray) -> np.ndarray:
        return agent.predict(observation, deterministic=True)[0]

    assert final_errors("Mixture1D-v1", act).mean() < edm_errors("Mixture1D").mean() / 3
