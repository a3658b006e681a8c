"""Environments in which every row has a data distribution of its own."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.gradient_policy import train_by_gradients
from agents.schedule_search.objective import Objective
from art_env.diffusion.solvers import sample
from art_env.envs import ARTEnv, ARTVectorEnv
from art_env.envs.dynamics import Dynamics
from art_env.envs.observation import RELATIVE_FEATURES
from art_env.envs.rewards import ERROR_FLOOR
from art_env.problems import make_problem
from art_env.problems.random_mixtures import random_mixture_problem
from art_env.schedules.optimal import closed_form, final_rmse
from art_env.schedules.schedule import Schedule

PROBLEM = random_mixture_problem(6, 5, noises_each=4)


def _dynamics(**settings):
    settings = {"base_schedule": "universal", "features": RELATIVE_FEATURES, **settings}
    return Dynamics(problem=PROBLEM, solver="learned_2m", **settings)


def _play(dynamics, index, actions):
    state, total = dynamics.initial(index=index), 0.0
    for action in actions.unbind(1):
        after = dynamics.transition(state, action)
        total = total + dynamics.reward(state, action, after)
        state = after
    return state, total


def test_action_0_follows_the_universal_list_of_each_mixture():
    """Multiples of its own standard deviation, and the table's weights."""
    dynamics, index = _dynamics(), torch.arange(24)
    state, _ = _play(dynamics, index, torch.zeros(24, 5, 2, dtype=torch.float64))
    start = dynamics.reference.start
    for number, spread in enumerate(PROBLEM.denoiser.spreads.tolist()):
        own = Schedule.universal(5, sigma_data=spread)
        rows = PROBLEM.denoiser.which(start) == number
        ends = sample(PROBLEM.denoiser, start[rows], own.sigmas, "learned_2m", weights=own.weights)
        torch.testing.assert_close(state.x[rows], ends, rtol=2e-3, atol=2e-3)


def test_the_closed_form_is_that_of_each_mixture():
    dynamics = _dynamics(base_schedule="closed_form")
    state = dynamics.initial(index=torch.arange(24))
    after = dynamics.transition(state, torch.zeros(24, 2, dtype=torch.float64))
    which = PROBLEM.denoiser.which(state.x)
    for number in range(6):
        rows = torch.nonzero(which == number)[:, 0]
        clock = closed_form(PROBLEM.reference().pick(rows), 256).interpolator()
        np.testing.assert_allclose(after.sigma[rows].numpy(), clock(0.2), rtol=1e-3)


@pytest.mark.parametrize("base", ["universal", "closed_form", 7.0])
def test_returns_are_minus_the_relative_error(base):
    dynamics, index = _dynamics(base_schedule=base), torch.arange(24)
    rng = torch.Generator().manual_seed(0)
    actions = 0.2 * torch.randn(24, 5, 2, generator=rng, dtype=torch.float64)
    state, total = _play(dynamics, index, actions)
    torch.testing.assert_close(dynamics.returns(index, actions), total)
    off = (state.x - dynamics.reference.x_end)[:, :-1].square().sum(1)
    size, spread = PROBLEM.extent(state.x)
    torch.testing.assert_close(total, -off / size / spread**2)
    torch.testing.assert_close(
        dynamics.info(state, torch.zeros_like(state.t))["rmse"], torch.sqrt(off / size)
    )


def test_a_score_is_the_mean_over_mixtures_of_relative_errors():
    schedule = Schedule.universal(4, sigma_data=PROBLEM.denoiser.sigma_data)
    reference = PROBLEM.reference()
    ends = sample(PROBLEM.denoiser, reference.start, schedule.sigmas, "learned_2m", weights=schedule.weights)
    off = (ends - reference.x_end)[:, :-1].square().sum(1)
    size, spread = PROBLEM.extent(ends)
    error = final_rmse(PROBLEM.denoiser, reference, schedule, "learned_2m")
    assert error == pytest.approx(float((off / size / spread**2).mean().sqrt()))


def test_relative_features_know_neither_unit_nor_axes():
    """The same mixture in other units, turned, observed after two steps: the same observation."""
    one, _ = (make_problem("mixture-2d") for _ in range(2))
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)

    class Turned:
        shape, sigma_data = (2,), 3.0 * one.denoiser.sigma_data

        def __call__(self, x, sigma):
            return 3.0 * one.denoiser(x @ turn / 3.0, torch.as_tensor(sigma) / 3.0) @ turn.T

    def observe(denoiser, scale, x):
        dynamics = Dynamics(
            problem="custom",
            denoiser=denoiser,
            sigma_min=0.002 * scale,
            sigma_max=80.0 * scale,
            final_sigmas_type="sigma_min",
            solver="learned_2m",
            features=RELATIVE_FEATURES,
            num_noises=4,
        ).without_rewards()
        state = dynamics.initial(x)
        for _ in range(2):
            state = dynamics.transition(state, torch.full((len(x), 2), 0.1, dtype=torch.float64))
        return dynamics.observation(state)

    x = 80.0 * torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(observe(Turned(), 3.0, 3.0 * x @ turn.T), observe(one.denoiser, 1.0, x))


def test_a_policy_can_be_trained_by_gradients_on_it():
    policy = train_by_gradients(
        _dynamics(base_schedule=7.0), Schedule.universal(5, sigma_data=1.0), updates=2, batch_size=8
    )
    assert torch.isfinite(policy.table).all()


def test_a_search_for_one_list_needs_one_base_schedule():
    with pytest.raises(ValueError, match="base schedule of its own"):
        Objective(_dynamics())
    Objective(_dynamics(base_schedule=7.0))


def test_a_solver_without_weights_has_no_universal_base():
    with pytest.raises(ValueError, match="solver='learned_2m'"):
        ARTEnv(problem=PROBLEM, solver="heun", base_schedule="universal")


def test_a_base_schedule_with_weights_is_what_action_0_does():
    schedule = Schedule.universal(4, sigma_data=1.9, sigma_end=0.002)
    dynamics = Dynamics(
        problem="mixture-1d", solver="learned_3m", num_steps=4, base_schedule=schedule, num_noises=16
    )
    found = dynamics.returns(torch.arange(16), torch.zeros(16, 4, 3, dtype=torch.float64))
    error = final_rmse(dynamics.problem.denoiser, dynamics.reference, schedule, "learned_2m")
    spread = dynamics.problem.denoiser.sigma_data**2 + 0.002**2
    assert float(-found.mean() * spread) ** 0.5 == pytest.approx(error)
    with pytest.raises(ValueError, match="4 steps of 'learned_2m'"):
        Dynamics(
            problem="mixture-1d", solver="learned_2m", num_steps=5, base_schedule=schedule, num_noises=16
        )


def test_the_paper_reward_starts_from_noises_of_their_own_mixture():
    env = ARTEnv(problem=PROBLEM, reward="euler", solver="euler")
    env.reset(seed=0)
    first = env._state.x
    env.reset(seed=1)
    assert PROBLEM.denoiser.which(first) != PROBLEM.denoiser.which(env._state.x)
    assert (first[:, :-2][PROBLEM.denoiser.real[PROBLEM.denoiser.which(first)] == 0] == 0).all()


def test_the_registered_id_steps():
    env = gym.make_vec("art_env:ART/RandomMixture-v1", num_envs=32, num_noises=256)
    assert isinstance(env, ARTVectorEnv)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    total = np.zeros(32)
    for _ in range(5):
        obs, reward, terminated, _, _ = env.step(np.zeros((32, 2), np.float32))
        total += reward
    assert terminated.all()
    assert np.median(total) > -np.log1p(0.05 / ERROR_FLOOR)
