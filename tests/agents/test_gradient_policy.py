"""A policy trained by gradients through the environment's own steps."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from agents.gradient_policy import GradientPolicy, train_by_gradients
from agents.rollout import sample_with_policy
from agents.schedule_policy import SchedulePolicy
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.schedules.gradient import gradient_search

torch.set_num_threads(1)


def _dynamics(K: int = 3, solver: str = "learned_2m", **settings) -> Dynamics:
    given = {"problem": "mixture-2d", "num_noises": 256, "features": ("change", "denoised", "rms")}
    return Dynamics(solver=solver, num_steps=K, **{"base_schedule": "closed_form", **given, **settings})


@pytest.mark.parametrize("solver", ["learned_3m", "heun"])
def test_gradients_of_whole_episodes(solver):
    dynamics = _dynamics(solver=solver).differentiable()
    index = torch.arange(8)

    def error(actions: torch.Tensor) -> torch.Tensor:
        state = dynamics.initial(index=index)
        seen = 0.0
        for k in range(3):
            state = dynamics.transition(state, actions[k].expand(8, -1))
            seen = seen + dynamics.observation(state).double().sum() * (k < 2)
        return state.x.square().sum() + seen

    actions = 0.2 * torch.randn(3, dynamics.num_actions, generator=torch.Generator().manual_seed(0)).double()
    actions.requires_grad_(True)
    (grad,) = torch.autograd.grad(error(actions), actions)
    used = torch.from_numpy(dynamics.used_actions)
    assert (grad[~used] == 0).all()
    with torch.no_grad():
        for k, j in torch.nonzero(used).tolist():
            step = torch.zeros_like(actions)
            step[k, j] = 1e-4
            slope = (error(actions + step) - error(actions - step)) / 2e-4
            assert float(grad[k, j]) == pytest.approx(float(slope), rel=2e-2, abs=2e-2)


def test_without_being_asked_nothing_is_remembered():
    dynamics = _dynamics()
    action = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    state = dynamics.transition(dynamics.initial(index=torch.arange(4)), action)
    assert not state.x.requires_grad
    assert not dynamics.observation(state).requires_grad
    assert dynamics.differentiable().transition(state, action).x.requires_grad


def test_it_wins_where_the_sample_tells_and_never_loses():
    problem = make_problem("mixture-2d")
    dynamics = _dynamics(problem=problem, num_noises=2048, K=4)
    assert dynamics.reference is not None
    best = gradient_search(problem.denoiser, dynamics.reference.first(512), 4, "learned_2m", with_dp=False)
    evaluator = Evaluator(problem, "learned_2m", (0,), num_noises=2048, metrics=())
    fixed = evaluator.rows(best)[0].mean
    untrained = GradientPolicy(SchedulePolicy(best, dynamics).actions, len(dynamics.observer.names))

    def score(policy: GradientPolicy) -> float:
        sampler = partial(sample_with_policy, policy, dynamics)
        return evaluator.policy_rows("p", 4, lambda x: sampler(x).x)[0].mean

    assert score(untrained) == pytest.approx(fixed, rel=1e-4)
    policy = train_by_gradients(dynamics, best, updates=150, batch_size=256)
    assert score(policy) < 0.93 * fixed
    again = train_by_gradients(dynamics, best, updates=2, batch_size=256)
    other = train_by_gradients(dynamics, best, updates=2, batch_size=256)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), other.parameters(), strict=True))


def test_what_has_no_exact_trajectories_is_refused():
    dynamics = _dynamics(solver="euler", reward="euler", num_noises=None)
    schedule = gradient_search(
        dynamics.problem.denoiser, dynamics.problem.reference(16), 3, "euler", with_dp=False, num_searches=1
    )
    with pytest.raises(ValueError, match="reward = 'euler' with solver = 'euler' has no exact trajectories"):
        train_by_gradients(dynamics, schedule)


def test_predict_is_forward():
    policy = GradientPolicy(np.zeros((4, 2), np.float32), 3)
    torch.manual_seed(0)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    observation = torch.rand(5, 3)
    observation[:, 0] = 2 / 4
    actions, _ = policy.predict(observation.numpy())
    assert np.array_equal(actions, policy(observation, 2).detach().numpy())
