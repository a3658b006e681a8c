"""Policy in, schedule out."""

from __future__ import annotations

import numpy as np
import pytest

from agents.distill import distill
from agents.schedule_policy import SchedulePolicy
from art_env.envs.dynamics import Dynamics
from art_env.schedules import Schedule, edm, uniform

K = 5


class Fixed:
    """A policy given by a function of the observation."""

    def __init__(self, act) -> None:
        self.act = act

    def predict(self, observation: np.ndarray, deterministic: bool = False):
        assert deterministic
        return self.act(observation), None


def _dynamics(**settings) -> Dynamics:
    settings = {"problem": "mixture-1d", "num_steps": K, "num_noises": 16, "action_range": 6.0, **settings}
    return Dynamics(**settings)


@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
@pytest.mark.parametrize("control", ["log_speed", "speed"])
def test_gives_back_a_schedule(control: str, final_sigmas_type: str) -> None:
    schedule = edm(K, 0.002, 80.0, 4.0, final_sigmas_type=final_sigmas_type)
    dynamics = _dynamics(control=control, final_sigmas_type=final_sigmas_type)
    out = distill(SchedulePolicy(schedule, dynamics), dynamics, name="mine")
    assert out.sigmas == pytest.approx(schedule.sigmas, rel=1e-4)
    assert (out.sigma_max, out.sigma_end) == (schedule.sigma_max, schedule.sigma_end)
    assert out.name == "mine"
    assert out.meta["clipped"] == 0
    assert max(out.meta["theta_sd"]) < 1e-6


def test_meta_says_where_it_comes_from() -> None:
    dynamics = _dynamics(features=("rms",), reward="local", solver="euler")
    meta = distill(Fixed(lambda o: np.zeros((len(o), 1))), dynamics, num_noises=4).meta
    expected = {
        "problem": "mixture-1d",
        "solver": "euler",
        "num_steps": K,
        "reward": "local",
        "control": "log_speed",
        "features": ["rms"],
        "method": "distilled",
        "num_noises": 4,
        "seed": 0,
    }
    assert expected.items() <= meta.items()
    assert len(meta["theta_sd"]) == K
    schedule = edm(K, 0.002, 80.0, final_sigmas_type="sigma_min")
    Schedule.from_json(Schedule(schedule.sigmas, "x", meta).to_json())


def test_averages_the_speeds_of_trajectories() -> None:
    dynamics = _dynamics(control="speed")
    two = [edm(K, 0.002, 80.0, rho, final_sigmas_type="sigma_min") for rho in (2.0, 7.0)]
    rows = np.stack([s.theta() for s in two])

    def act(obs: np.ndarray) -> np.ndarray:
        k = round(float(obs[0, 0]) * K)
        # Half the rows at twice the speed of the other list: normalising must undo it.
        return np.where(np.arange(len(obs)) % 2, 2.0 * rows[0, k], rows[1, k])[:, None]

    out = distill(Fixed(act), dynamics, num_noises=8)
    assert out.theta() == pytest.approx(rows.mean(0), rel=1e-9)
    assert out.meta["theta_sd"] == pytest.approx(rows.std(0), rel=1e-6)
    assert out.sigma_end == 0.002


def test_raw_speeds_may_be_negative() -> None:
    def act(obs: np.ndarray) -> np.ndarray:
        return np.where(obs[:, :1] == 0, 2.0, np.where(obs[:, :1] < 0.5, -1.0, 1.0))

    out = distill(Fixed(act), _dynamics(control="speed"))
    assert out.meta["clipped"] == pytest.approx(2 / 5)
    assert "raised" in out.meta["note"]
    assert (np.diff(out.sigmas) < 0).all()
    backwards = distill(Fixed(lambda o: -np.ones((len(o), 1))), _dynamics(control="speed"))
    assert backwards.sigmas == pytest.approx(uniform(K, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas)


def test_without_a_reference_the_noises_are_fresh() -> None:
    dynamics = Dynamics(problem="gaussian-1d", solver="euler", num_steps=20, reward="euler")
    seen = []

    def act(obs: np.ndarray) -> np.ndarray:
        seen.append(len(obs))
        return 0.5 * obs[:, 2:3]

    a, b, c = (distill(Fixed(act), dynamics, num_noises=32, seed=s) for s in (0, 0, 1))
    assert set(seen) == {32}
    assert a == b
    assert a != c
    assert max(a.meta["theta_sd"]) > 0
    assert a.sigma_end == 0


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda o: np.zeros(len(o)), r"shape \(16,\) at step 0; expected \(16, 1\)"),
        (lambda o: np.zeros((1, 1)), r"shape \(1, 1\)"),
        (lambda o: np.where(np.arange(len(o)) == 3, np.nan, 0.0)[:, None], "nan in row 3 at step 0"),
        (lambda o: np.full((len(o), 1), np.inf), "inf in row 0"),
    ],
)
def test_bad_policies(act, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        distill(Fixed(act), _dynamics())


def test_bad_answers_and_numbers() -> None:
    class Bare:
        def predict(self, observation, deterministic=True):
            return np.zeros((len(observation), 1))

    with pytest.raises(ValueError, match="returned ndarray at step 0"):
        distill(Bare(), _dynamics())
    with pytest.raises(ValueError, match="num_noises = 0"):
        distill(Fixed(lambda o: np.zeros((len(o), 1))), _dynamics(), num_noises=0)
