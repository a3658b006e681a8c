"""Schedules that suit many models: tables, their two forms, and how they do on models that they have not seen."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest

from art_env.problems import make_problem
from art_env.schedules.optimal import closed_form, final_rmse
from art_env.schedules.registry import check_spec, make_schedule
from art_env.schedules.schedule import Schedule
from art_env.schedules.universal import STEPS, WEIGHTS, universal_table

PROBLEMS = ("mixture-1d", "mixture-2d", "digits")


@pytest.mark.parametrize("kind", ["list", "clock"])
@pytest.mark.parametrize("num_weights", WEIGHTS)
@pytest.mark.parametrize("num_steps", STEPS)
def test_every_table_is_there(kind, num_weights, num_steps):
    table = universal_table(kind, num_steps, num_weights)
    assert table.weights.shape == (num_steps, num_weights)
    assert len(table.levels) == num_steps - 1
    assert (table.weights[0] == 0).all()
    falling = -table.levels if kind == "clock" else table.levels
    assert (np.diff(falling) < 0).all()
    assert table.meta["command"] == "python -m benchmarks.universal_fit"
    # Better than DPM-Solver++ in the geometric mean, on families that had no part in the fit too.
    assert table.meta["training"]["geometric_mean"] < 0.8
    assert table.meta["held_out"]["geometric_mean"] < 0.8


def test_levels_are_multiples_of_the_data():
    one, two = (Schedule.universal(5, sigma_data=s, sigma_max=80.0 * s) for s in (0.5, 1.0))
    np.testing.assert_allclose(two.sigmas, 2 * one.sigmas)
    assert one == Schedule.universal(5, sigma_max=40.0)
    assert (one.solver, one.sigma_end) == ("learned_2m", 0.0)
    assert Schedule.universal(5, num_weights=2).solver == "learned_3m"
    assert Schedule.from_json(one.to_json()) == one


def test_on_a_clock_levels_are_those_at_the_times_of_the_table():
    problem = make_problem("mixture-2d")
    clock = closed_form(problem.reference(64), 256)
    found = Schedule.universal(4, clock=clock)
    times = universal_table("clock", 4, 1).levels
    np.testing.assert_allclose(found.sigmas[1:-1], clock.interpolator()(times))
    assert (found.sigma_max, found.sigma_end) == (problem.sigma_max, problem.sigma_end)


@pytest.mark.parametrize("name", PROBLEMS)
def test_better_than_dpmpp_on_edm_grid_on_models_never_seen(name):
    problem = make_problem(name)
    known = problem.reference(128)
    edm = final_rmse(problem.denoiser, known, make_schedule("edm", problem, 5), "dpmpp_2m")
    for spec in ("universal", "universal_clock", "adapted"):
        found = make_schedule(spec, problem, 5, "learned_2m")
        assert final_rmse(problem.denoiser, known, found, "learned_2m") < edm


def test_names_and_their_options():
    problem = make_problem("mixture-2d")
    plain, clock = (make_schedule(n, problem, 5, "learned_4m") for n in ("universal", "universal_clock"))
    assert plain.weights is not None
    assert plain.weights.shape == (5, 3)
    assert (plain.weights[:, 2] == 0).all()
    assert plain.meta["evaluations"] == 0
    assert clock.meta["evaluations"] == 16 * 65
    more = make_schedule("universal_clock:noises=64", problem, 5, "learned_2m")
    assert more.meta["evaluations"] == 64 * 65
    with pytest.raises(ValueError, match="use solver='learned_2m'"):
        check_spec("universal", problem, "heun")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_steps": 1}, "num_steps = 1: there are universal schedules for 2 to 12"),
        ({"num_steps": 13}, "2 to 12"),
        ({"num_steps": 5, "num_weights": 3}, "num_weights = 3"),
        ({"num_steps": 5, "sigma_data": 0.0}, "sigma_data = 0"),
        ({"num_steps": 5, "sigma_max": 1.0}, "leave no room"),
        ({"num_steps": 5, "sigma_end": 0.4}, "leave no room"),
    ],
)
def test_what_there_is_no_table_for(arguments, match):
    with pytest.raises(ValueError, match=match):
        Schedule.universal(**arguments)


def test_the_file_says_how_it_was_made():
    body = json.loads(files("art_env.schedules").joinpath("universal.json").read_text("utf-8"))
    assert set(body["made_by"]) >= {"command", "families", "held_out_families", "seed", "mixtures"}
    assert not set(body["made_by"]["families"]) & set(body["made_by"]["held_out_families"])
