"""Policies that act on each trajectory: sampling and scoring."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.rollout import sample_with_policy
from agents.schedule_policy import SchedulePolicy
from art_env.diffusion import sample
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.evaluator import Scorer
from art_env.problems.library import make_problem
from art_env.schedules import edm


class BySize:
    """Slower where the sample is large."""

    def predict(self, observation: np.ndarray, deterministic: bool = False):
        return np.clip(-observation[:, 2:3], -1, 1), None


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "dpmpp_2m", "ipndm"])
@pytest.mark.parametrize("terminal", ["zero", "sigma_min"])
def test_a_schedule_as_a_policy_samples_as_the_schedule(solver: str, terminal: str) -> None:
    dynamics = Dynamics(problem="mixture-2d", solver=solver, num_steps=6, num_noises=8, terminal=terminal)
    problem = dynamics.problem
    schedule = edm(6, 0.002, 80.0, 5.0, terminal=terminal)
    x = problem.sample_noise(20, 3)
    out = sample_with_policy(SchedulePolicy(schedule, dynamics), dynamics, x)
    exact = sample(problem.denoiser, x, schedule.sigmas, solver)
    torch.testing.assert_close(out.x, exact, rtol=1e-4, atol=1e-5)
    assert out.sigmas.shape == (20, 7)
    np.testing.assert_allclose(out.sigmas, np.tile(schedule.sigmas, (20, 1)), rtol=1e-4, atol=1e-12)
    assert (out.nfe == Scorer(problem, solver, metrics=()).nfe(6)).all()


def test_it_costs_no_evaluation_more() -> None:
    dynamics = Dynamics(
        problem="mixture-1d", solver="heun", num_steps=4, num_noises=8, features=("size", "log_q")
    )
    x = dynamics.problem.sample_noise(5, 0)
    before = dynamics.denoiser.evals
    out = sample_with_policy(BySize(), dynamics, x)
    assert (out.nfe == Scorer(dynamics.problem, "heun", metrics=()).nfe(4)).all()
    assert dynamics.denoiser.evals - before == out.nfe.sum()
    assert len(np.unique(out.sigmas[:, 1])) == 5


def test_rows_do_not_depend_on_one_another() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=4, num_noises=8, features=("size",))
    x = dynamics.problem.sample_noise(9, 0)
    together, alone = (sample_with_policy(BySize(), dynamics, part).x for part in (x, x[4:5]))
    torch.testing.assert_close(together[4:5], alone)


def test_without_rewards() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=4, num_noises=8)
    bare = dynamics.without_rewards()
    state = bare.initial(dynamics.problem.sample_noise(2, 0))
    action = torch.zeros(2, dtype=torch.float64)
    after = bare.transition(state, action)
    assert not after.error.any()
    with pytest.raises(ValueError, match="these are without rewards"):
        bare.reward(state, action, after)
    assert dynamics.reference is not None


def test_a_policy_in_the_table() -> None:
    problem = make_problem("mixture-1d")
    dynamics = Dynamics(problem="mixture-1d", num_steps=4, num_noises=8)
    schedule, limit = (
        edm(4, 0.002, 80.0, terminal="sigma_min"),
        edm(4, 0.002, 80.0, 3.0, terminal="sigma_min"),
    )
    scorer = Scorer(problem, "heun", (0, 1), num_noises=300)
    policy = SchedulePolicy(schedule, dynamics)
    own = scorer.rows(schedule, limit)
    rows = scorer.policy_rows("policy", 4, lambda x: sample_with_policy(policy, dynamics, x).x, limit)
    assert [r.metric for r in rows] == [r.metric for r in own]
    for a, b in zip(rows, own, strict=True):
        assert (a.schedule, a.n, a.nfe, a.terminal) == ("policy", b.n, b.nfe, b.terminal)
        assert a.mean == pytest.approx(b.mean, rel=1e-4)


def test_bad_policies_in_the_table() -> None:
    problem = make_problem("mixture-1d")
    limit = edm(5, 0.002, 80.0, terminal="sigma_min")
    with pytest.raises(ValueError, match="'mine' has 4 steps, the limit 5"):
        Scorer(problem, "heun", (0,), num_noises=16).policy_rows("mine", 4, lambda x: x, limit)
    with pytest.raises(ValueError, match="a policy that acts on each trajectory"):
        Scorer(problem, "edm_churn", (0,), num_noises=16).policy_rows("mine", 4, lambda x: x)
