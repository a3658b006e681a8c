"""A schedule says what the model's own programs sample in, whoever made it."""

from __future__ import annotations

import numpy as np
import pytest

from agents.distill import distill
from agents.schedule_policy import SchedulePolicy
from agents.schedule_search.objective import Objective
from art_env.adapters import CallableDenoiser, FlowDenoiser
from art_env.envs.dynamics import Dynamics
from art_env.problems.custom import custom_problem
from art_env.schedules import edm
from art_env.schedules.registry import make_schedule


@pytest.mark.parametrize("kind", [CallableDenoiser, FlowDenoiser])
def test_schedules_have_the_space_of_their_model(kind):
    space = "flow" if kind is FlowDenoiser else "ve"
    problem = custom_problem(kind(lambda x, level: 0.5 * x, (2,)), num_noises=2, num_knots=3)
    assert problem.space == space
    for name in ("edm", "closed_form", "oracle"):
        assert make_schedule(name, problem, 3, "euler").space == space
    dynamics = Dynamics(problem=problem, num_steps=2)
    assert Objective(dynamics).schedule(np.zeros((2, 1))).space == space
    policy = SchedulePolicy(edm(2, problem.sigma_min, problem.sigma_max), dynamics)
    assert distill(policy, dynamics).space == space
