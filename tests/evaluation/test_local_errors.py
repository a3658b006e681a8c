"""The errors of single steps, against the environment's reward ``local``, which is minus their norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.schedule_policy import SchedulePolicy
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.local_errors import local_errors
from art_env.schedules.registry import make_schedule


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "ipndm", "deis_2", "unipc_2", "learned_2m"])
def test_they_are_those_of_the_local_reward(solver: str) -> None:
    config = EnvConfig(problem="mixture-2d", solver=solver, num_steps=4, reward="local", num_noises=8)
    dynamics = Dynamics(config)
    schedule = make_schedule("closed_form", dynamics.problem, 4, solver)
    actions = torch.from_numpy(SchedulePolicy(schedule, dynamics).actions).double()
    state, rewards = dynamics.initial(index=torch.arange(8)), []
    for k in range(4):
        action = actions[k].expand(8, -1)
        after = dynamics.transition(state, action)
        rewards.append(dynamics.reward(state, action, after))
        state = after
    norms = -torch.stack(rewards).numpy()
    dimensions = int(np.prod(dynamics.problem.shape))
    found = local_errors(dynamics.problem.denoiser, dynamics.reference, schedule, solver)
    assert found == pytest.approx(np.sqrt((norms**2).mean(1) / dimensions), rel=1e-4)
    assert (found > 0).all()


def test_a_stochastic_solver_has_none() -> None:
    dynamics = Dynamics(EnvConfig(problem="gaussian-1d", num_steps=4, num_noises=8))
    schedule = make_schedule("edm", dynamics.problem, 4, "heun")
    with pytest.raises(ValueError, match="the error of a step"):
        local_errors(dynamics.problem.denoiser, dynamics.reference, schedule, "euler_maruyama")
