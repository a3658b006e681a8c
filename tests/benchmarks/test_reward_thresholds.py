"""The registered thresholds are those that the benchmark computes."""

from __future__ import annotations

import gymnasium as gym
import pytest

from art_env.envs.dynamics import Dynamics
from benchmarks.exploration import errors_by_width
from benchmarks.reward_thresholds import targets


def test_the_threshold_of_the_papers_objective() -> None:
    (edm, best), threshold = targets("Gaussian1D")
    assert (edm.schedule, best.schedule) == ("edm", "closed_form")
    assert threshold == pytest.approx(gym.spec("ART/Gaussian1D-v1").reward_threshold, rel=2e-3)
    assert edm.mean_return < threshold < best.mean_return


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Mixture1D", "Mixture2D"])
def test_the_thresholds_of_errors(name: str) -> None:
    (edm, closed_form, oracle), threshold = targets(name)
    assert threshold == pytest.approx(gym.spec(f"ART/{name}-v1").reward_threshold, rel=5e-3)
    assert edm.mean_return < closed_form.mean_return < threshold < oracle.mean_return
    assert oracle.rmse is not None
    assert closed_form.rmse is not None
    assert oracle.rmse < closed_form.rmse


def test_wider_exploration_costs_more() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_noises=64)
    errors = errors_by_width(dynamics, 256, seed=0)
    assert errors[0] < errors[2] < errors[3] < errors[4]
    assert errors[4] > 100 * errors[0]
