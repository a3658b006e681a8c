"""Policies that act on each trajectory: sampling and scoring."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.rollout import sample_with_policy
from agents.schedule_policy import SchedulePolicy
from art_env.diffusion import sample
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.schedules import edm


class BySize:
    """Slower where the sample is large."""

    def predict(self, observation: np.ndarray, deterministic: bool = False):
        return np.clip(-observation[:, 2:3], -1, 1), None


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "dpmpp_2m", "ipndm"])
@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
def test_a_schedule_as_a_policy_samples_as_the_schedule(solver: str, final_sigmas_type: str) -> None:
    dynamics = Dynamics(
        problem="mixture-2d", solver=solver, num_steps=6, num_noises=8, final_sigmas_type=final_sigmas_type
    )
    problem = dynamics.problem
    schedule = edm(6, 0.002, 80.0, 5.0, final_sigmas_type=final_sigmas_type)
    x = problem.sample_noise(20, 3)
    out = sample_with_policy(SchedulePolicy(schedule, dynamics), dynamics, x)
    exact = sample(problem.denoiser, x, schedule.sigmas, solver)
    torch.testing.assert_close(out.x, exact, rtol=1e-4, atol=1e-5)
    assert out.sigmas.shape == (20, 7)
    np.testing.assert_allclose(out.sigmas, np.tile(schedule.sigmas, (20, 1)), rtol=1e-4, atol=1e-12)
    assert (out.nfe == Evaluator(problem, solver, metrics=()).nfe(6)).all()


def test_it_costs_no_evaluation_more() -> None:
    dynamics = Dynamics(
        problem="mixture-1d", solver="heun", num_steps=4, num_noises=8, features=("rms", "log_curvature")
    )
    x = dynamics.problem.sample_noise(5, 0)
    before = dynamics.stepper.counter.evals
    out = sample_with_policy(BySize(), dynamics, x)
    assert (out.nfe == Evaluator(dynamics.problem, "heun", metrics=()).nfe(4)).all()
    assert dynamics.stepper.counter.evals - before == out.nfe.sum()
    assert len(np.unique(out.sigmas[:, 1])) == 5


def test_rows_do_not_depend_on_one_another() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=4, num_noises=8, features=("rms",))
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
    schedule, oracle = (
        edm(4, 0.002, 80.0, final_sigmas_type="sigma_min"),
        edm(4, 0.002, 80.0, 3.0, final_sigmas_type="sigma_min"),
    )
    evaluator = Evaluator(problem, "heun", (0, 1), num_noises=300)
    policy = SchedulePolicy(schedule, dynamics)
    own = evaluator.rows(schedule, oracle)
    rows = evaluator.policy_rows("policy", 4, lambda x: sample_with_policy(policy, dynamics, x).x, oracle)
    assert [r.metric for r in rows] == [r.metric for r in own]
    for a, b in zip(rows, own, strict=True):
        assert (a.schedule, a.n, a.nfe, a.final_sigmas_type) == ("policy", b.n, b.nfe, b.final_sigmas_type)
        assert a.mean == pytest.approx(b.mean, rel=1e-4)


def test_bad_policies_in_the_table() -> None:
    problem = make_problem("mixture-1d")
    oracle = edm(5, 0.002, 80.0, final_sigmas_type="sigma_min")
    with pytest.raises(ValueError, match="'mine' has 4 steps, the oracle 5"):
        Evaluator(problem, "heun", (0,), num_noises=16).policy_rows("mine", 4, lambda x: x, oracle)
    with pytest.raises(ValueError, match="a policy that acts on each trajectory"):
        Evaluator(problem, "edm_churn", (0,), num_noises=16).policy_rows("mine", 4, lambda x: x)
