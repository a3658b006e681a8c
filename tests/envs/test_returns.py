"""Whole episodes with known actions: the same returns as step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_env.diffusion import SOLVERS
from art_env.envs.dynamics import Dynamics

ODE = [name for name, solver in SOLVERS.items() if not solver.stochastic]


@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
@pytest.mark.parametrize("K", [1, 2, 5])
@pytest.mark.parametrize("solver", ODE)
def test_returns_are_the_sums_of_rewards(solver: str, K: int, final_sigmas_type: str) -> None:
    dynamics = Dynamics(
        problem="mixture-2d", solver=solver, num_steps=K, num_noises=16, final_sigmas_type=final_sigmas_type
    )
    index = torch.arange(12)
    A = dynamics.num_actions
    actions = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (12, K, A)))
    if A > 1:  # larger weights throw the sample far away
        actions[..., 1:] *= 0.2
    before = dynamics.stepper.counter.evals
    fast = dynamics.returns(index, actions)
    spent = dynamics.stepper.counter.evals - before
    state, total = dynamics.initial(index=index), torch.zeros(12, dtype=torch.float64)
    for k in range(K):
        after = dynamics.transition(state, actions[:, k])
        total += dynamics.reward(state, actions[:, k], after)
        state = after
    torch.testing.assert_close(fast, total, rtol=1e-9, atol=1e-12)
    assert spent == int(state.nfe.sum())


@pytest.mark.parametrize(
    "settings",
    [
        {"reward": "local"},
        {"reward": "log_global"},
        {"reward": "log_global", "control": "speed"},
        {"control": "speed"},
        {"solver": "euler_maruyama", "group_size": 16},
        {"base_schedule": 7.0, "final_sigmas_type": "zero"},
    ],
)
def test_returns_of_every_kind(settings: dict) -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=3, num_noises=32, **settings)
    actions = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 0.9, (16, 3)))
    actions = actions * 30 if dynamics.control == "speed" else actions
    index = torch.arange(16)
    state, total = dynamics.initial(index=index), torch.zeros(16, dtype=torch.float64)
    for k in range(3):
        after = dynamics.transition(state, actions[:, k])
        total += dynamics.reward(state, actions[:, k], after)
        state = after
    torch.testing.assert_close(dynamics.returns(index, actions), total, rtol=1e-9, atol=1e-12)


def test_a_corrector_corrects_nothing_on_the_exact_path() -> None:
    """The local error of a step of UniPC-2 is that of its predictor, DPM-Solver++(2M)."""
    index = torch.arange(16)
    actions = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (16, 4, 1)))
    returns = [
        Dynamics(
            problem="mixture-1d",
            num_steps=4,
            num_noises=32,
            solver=solver,
            reward="local",
            final_sigmas_type="zero",
        ).returns(index, actions)
        for solver in ("unipc_2", "dpmpp_2m")
    ]
    torch.testing.assert_close(*returns, rtol=1e-9, atol=1e-12)
