"""The second control: actions that set the weights of a learned solver's steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.distill import distill
from agents.schedule_policy import SchedulePolicy
from art_env import ARTEnv, ARTVectorEnv, Schedule
from art_env.diffusion import SOLVERS, sample
from art_env.envs.dynamics import Dynamics
from art_env.envs.weights import SlopeWeights
from art_env.problems.library import make_problem
from art_env.schedules.gradient import gradient_search

torch.set_num_threads(1)


def _dynamics(solver: str, K: int = 4, **settings) -> Dynamics:
    given = {"problem": "mixture-1d", "num_noises": 32, "features": (), "base_schedule": "closed_form"}
    return Dynamics(solver=solver, num_steps=K, **{**given, **settings})


@pytest.mark.parametrize(("solver", "entries"), [("heun", 1), ("learned_2m", 2), ("learned_4m", 4)])
def test_the_box_has_an_entry_for_each_weight(solver, entries):
    env = ARTEnv(problem="mixture-1d", solver=solver, num_steps=3, num_noises=16)
    assert env.action_space.shape == (entries,)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    with pytest.raises(ValueError, match=rf"action has shape \(5,\); expected \({entries},\)"):
        env.step(np.zeros(5))
    many = ARTVectorEnv(6, problem="mixture-1d", solver=solver, num_steps=3, num_noises=16)
    assert many.single_action_space.shape == (entries,)


def test_action_0_is_the_rule_of_even_steps_on_the_base_schedule():
    dynamics = _dynamics("learned_3m")
    index = torch.arange(32)
    policy = SchedulePolicy(Schedule(dynamics.base.sigma(np.linspace(0, 1, 5))), dynamics)
    assert np.abs(policy.actions).max() < 1e-5
    state = dynamics.initial(index=index)
    for _ in range(4):
        state = dynamics.transition(state, torch.zeros(32, 3, dtype=torch.float64))
    levels = np.append(dynamics.base.sigma(np.arange(4) / 4), dynamics.problem.sigma_end)
    assert dynamics.reference is not None
    weights = np.tile([0.5, 0.0], (4, 1))
    ends = sample(
        dynamics.problem.denoiser, dynamics.reference.start[index], levels, "learned_3m", weights=weights
    )
    torch.testing.assert_close(state.x, ends, rtol=1e-9, atol=1e-9)


def test_weights_and_actions_are_inverse():
    rule, k = SlopeWeights(SOLVERS["learned_3m"], 5), torch.arange(50) % 5
    rng = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(50, 2, generator=rng, dtype=torch.float64) - 1
    dt, before = torch.rand(50, generator=rng).double() + 1e-3, torch.rand(50, generator=rng).double()
    before[:5] = 0.0
    torch.testing.assert_close(rule.actions(rule.weights(actions, dt, before, k), dt, before, k), actions)


def test_a_table_holds_the_weights_that_a_run_uses():
    rule, used = SlopeWeights(SOLVERS["learned_4m"], 5), SOLVERS["learned_4m"].used_weights(5)
    rng = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(1, 5, 3, generator=rng, dtype=torch.float64) - 1
    times = torch.tensor([0.0, 0.1, 0.4, 0.5, 0.9, 1.0], dtype=torch.float64)
    table = rule.table(actions, times[:, None])[:, 0]
    np.testing.assert_array_equal(table.numpy() != 0, used)
    np.testing.assert_allclose(rule.table_actions(table, times)[used], actions[0][used])


def test_the_box_holds_what_gradients_find():
    """Weights near 20 after a long step, of both signs beside steps of like length."""
    rule, k = SlopeWeights(SOLVERS["learned_3m"], 5), torch.tensor([1])
    one = torch.ones(1, 2, dtype=torch.float64)
    equal, short = torch.tensor([0.2]).double(), torch.tensor([0.02]).double()
    assert rule.weights(one, equal, equal, k).min() > 6
    assert rule.weights(-one, equal, equal, k).max() < -6
    assert rule.weights(one, short, equal, k).min() > 20
    assert rule.weights(one, equal, short, k).min() > 20


@pytest.mark.parametrize("reward", ["global", "local"])
@pytest.mark.parametrize("solver", ["learned_2m", "learned_4m"])
def test_returns_are_the_sums_of_rewards(solver, reward):
    dynamics = _dynamics(solver, K=5, reward=reward)
    rng = torch.Generator().manual_seed(1)
    actions = 0.4 * torch.randn(32, 5, dynamics.num_actions, generator=rng, dtype=torch.float64)
    index = torch.arange(32)
    state, total = dynamics.initial(index=index), torch.zeros(32, dtype=torch.float64)
    for k in range(5):
        after = dynamics.transition(state, actions[:, k])
        total = total + dynamics.reward(state, actions[:, k], after)
        state = after
    torch.testing.assert_close(dynamics.returns(index, actions), total, rtol=1e-8, atol=1e-12)


def test_the_local_error_of_a_step_knows_its_weights():
    dynamics = _dynamics("learned_2m", reward="local")
    state = dynamics.initial(index=torch.arange(32))
    state = dynamics.transition(state, torch.zeros(32, 2, dtype=torch.float64))
    found = []
    for weight in (0.0, 0.5):
        action = torch.tensor([[0.0, weight]], dtype=torch.float64).expand(32, 2)
        found.append(dynamics.reward(state, action, dynamics.transition(state, action)))
    assert (found[0] != found[1]).all()


def test_entries_that_an_episode_reads():
    dynamics = _dynamics("learned_3m", K=4)
    assert dynamics.used_actions.tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
        [False, True, True],
    ]
    rng = torch.Generator().manual_seed(2)
    actions = 0.3 * torch.randn(32, 4, 3, generator=rng, dtype=torch.float64)
    changed = torch.where(torch.from_numpy(dynamics.used_actions), actions, 0.9)
    index = torch.arange(32)
    assert torch.equal(dynamics.returns(index, actions), dynamics.returns(index, changed))


def test_a_schedule_with_weights_goes_through_the_environment_and_back():
    dynamics = _dynamics("learned_2m")
    problem = dynamics.problem
    best = gradient_search(
        problem.denoiser, problem.reference(64), 4, "learned_2m", with_dp=False, num_searches=1
    )
    policy = SchedulePolicy(best, dynamics)
    back = distill(policy, dynamics)
    np.testing.assert_allclose(back.sigmas, best.sigmas, rtol=1e-5)
    assert back.weights is not None
    assert best.weights is not None
    np.testing.assert_allclose(back.weights[1:], best.weights[1:], rtol=1e-5, atol=1e-6)
    assert back.solver == "learned_2m"
    # The same rule, for a solver with more weights.
    wide = SchedulePolicy(best, _dynamics("learned_4m"))
    assert wide.actions.shape == (4, 4)
    with pytest.raises(ValueError, match="has weights for solver='learned_2m', the environment has"):
        SchedulePolicy(best, _dynamics("heun"))
    far = Schedule(best.sigmas, "far", {}, 100 * np.abs(best.weights) + 100)
    with pytest.raises(ValueError, match="schedule 'far', step 1 needs weight"):
        SchedulePolicy(far, dynamics)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control": "speed"}, "control = 'speed' knows nothing of the weights of solver = 'learned_2m'"),
        ({"reward": "euler"}, "reward = 'euler' knows nothing of the weights"),
    ],
)
def test_what_knows_no_weights_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        _dynamics("learned_2m", **settings)


def test_rows_step_as_the_scalar_environment_does():
    settings = {"problem": "mixture-1d", "solver": "learned_3m", "num_steps": 3, "num_noises": 16}
    many, one = ARTVectorEnv(3, **settings), ARTEnv(**settings)
    many.reset(seed=5)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 3, 3))
    rewards = np.stack([many.step(a)[1] for a in actions])
    for i in range(3):
        one.reset(seed=5 + i)
        alone = [one.step(a[i])[1] for a in actions]
        np.testing.assert_allclose(alone, rewards[:, i], rtol=1e-9)


def test_pairs_of_steps_are_found():
    """The best one-weight sampler of five steps: a long step, a short one that mends it, and again."""
    problem = make_problem("mixture-1d")
    best = gradient_search(problem.denoiser, problem.reference(2048), 5, "learned_2m", with_dp=False)
    assert best.meta["rmse"] < 0.032
    steps = -np.diff(np.log(best.sigmas))
    assert best.weights is not None
    assert steps[1] < 0.3 * steps[0]
    assert best.weights[1, 0] > 4


def test_the_oracle_of_a_larger_class_is_no_worse():
    problem = make_problem("mixture-1d")
    reference = problem.reference(128)
    small = gradient_search(problem.denoiser, reference, 4, "learned_2m", with_dp=False)
    large = gradient_search(problem.denoiser, reference, 4, "learned_3m", starts=[small], with_dp=False)
    euler = gradient_search(problem.denoiser, reference, 4, "euler", with_dp=False)
    assert large.meta["rmse"] <= small.meta["rmse"] <= 0.5 * euler.meta["rmse"]
    assert large.weights is not None
    assert large.weights.shape == (4, 2)
    assert (large.weights[0] == 0).all()
    with pytest.raises(ValueError, match="has 2 weights a step; solver 'learned_2m' takes 1"):
        gradient_search(problem.denoiser, reference, 4, "learned_2m", starts=[large], with_dp=False)


def test_features_for_two_controls():
    names = ("log_change", "change", "denoised")
    env = ARTEnv(problem="mixture-2d", solver="learned_2m", num_steps=4, features=names, num_noises=16)
    assert env.feature_names[2:] == ("log_change", "change0", "change1", "denoised0", "denoised1")
    obs, _ = env.reset(seed=0)
    assert obs[2:5].tolist() == [0, 0, 0]
    before = env._state
    obs, *_ = env.step(np.array([0.1, 0.2], np.float32))
    after, problem = env._state, env.dynamics.problem
    change = after.d - before.d
    np.testing.assert_allclose(obs[3:5], change[0].clamp(-1, 1), rtol=1e-6)
    assert obs[2] == pytest.approx(math.log10(float(change.norm()) / math.sqrt(2)) / 6, rel=1e-5)
    x0 = problem.denoiser(after.x, after.sigma)[0] / problem.denoiser.sigma_data / 4
    np.testing.assert_allclose(obs[5:7], x0.clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_the_class_is_seen_where_there_is_one():
    env = ARTVectorEnv(
        6, problem="digits-class", solver="learned_2m", num_steps=2, features=("class",), num_noises=8
    )
    obs, _ = env.reset(seed=0)
    labels = env._state.x[:, -1, 0, 0].long().numpy()
    assert np.array_equal(obs[:, 2:], np.eye(10, dtype=np.float32)[labels])
    assert env.single_observation_space.low[2] == 0
    with pytest.raises(ValueError, match="feature 'class': problem 'digits' has no classes"):
        ARTEnv(problem="digits", features=("class",))
    with pytest.raises(ValueError, match="feature 'change' needs at most 8 coordinates"):
        ARTEnv(problem="digits", features=("change",))
