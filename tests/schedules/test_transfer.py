"""Schedules that are adapted to a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from art_env.adapters.counting import CountedDenoiser
from art_env.problems import make_problem
from art_env.schedules import transfer
from art_env.schedules.optimal import final_rmse
from art_env.schedules.registry import make_schedule
from art_env.schedules.transfer import adapted, plan, universal


def counted(name):
    problem = make_problem(name)
    return replace(problem, denoiser=CountedDenoiser(problem.denoiser))


@pytest.mark.parametrize("num_steps", [2, 3, 5, 8, 12])
@pytest.mark.parametrize("solver", ["learned_2m", "learned_4m"])
def test_the_budget_is_kept_and_used(num_steps, solver):
    problem = counted("mixture-2d")
    found = adapted(problem, num_steps, solver, 2000)
    assert problem.denoiser.evals == found.meta["evaluations"] <= 2000
    assert found.meta["evaluations"] > 500
    assert (found.name, found.solver, found.num_steps) == ("adapted", solver, num_steps)


def test_a_guided_network_costs_twice():
    problem = counted("digits-class")
    found = adapted(problem, 3, "learned_2m", 1000)
    assert problem.denoiser.evals == found.meta["evaluations"] <= 1000


@pytest.mark.parametrize(("name", "part"), [("mixture-2d", 0.8), ("digits", 0.85)])
def test_better_than_the_tables_on_held_out_noises(name, part):
    problem = make_problem(name)
    known = problem.reference(128, 10_000)

    def rmse(schedule):
        return final_rmse(problem.denoiser, known, schedule, "learned_2m")

    assert rmse(adapted(problem, 5, "learned_2m")) < part * rmse(universal(problem, 5, "learned_2m"))


def test_it_is_a_function_of_the_seed():
    problem = make_problem("mixture-1d")
    one, again, other = (adapted(problem, 4, "learned_2m", seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_derivatives_are_those_of_the_residuals(monkeypatch):
    """Whose steps are shared, and whose levels move one by one."""
    seen = []

    def compare(residuals, numbers, jacobian, **options):
        small = 1e-5
        residuals(numbers)
        found = jacobian(numbers)
        numeric = [
            (residuals(numbers + small * e) - residuals(numbers - small * e)) / (2 * small) for e in np.eye(9)
        ]
        np.testing.assert_allclose(found, np.stack(numeric, 1), atol=0.02 * np.abs(found).max())
        seen.append(True)

    monkeypatch.setattr(transfer, "least_squares", compare)
    monkeypatch.setattr(transfer, "MOST_ITERATIONS", 30)
    adapted(make_problem("mixture-2d"), 5, "learned_2m", 20_000)
    assert seen


def test_where_the_list_has_no_room():
    """The table on the model's own clock always fits."""
    problem = replace(make_problem("mixture-2d"), sigma_max=3.0, prior_std=3.0)
    with pytest.raises(ValueError, match="leave no room"):
        universal(problem, 5, "learned_2m")
    found = adapted(problem, 5, "learned_2m")
    assert found.sigma_max == 3.0


def test_to_a_lowest_level_above_0():
    problem = replace(make_problem("mixture-2d"), sigma_min=0.03, final_sigmas_type="sigma_min")
    assert make_schedule("adapted:evaluations=1500", problem, 4, "learned_2m").sigma_end == 0.03


def test_a_budget_that_is_too_small_says_what_would_do():
    with pytest.raises(ValueError, match="evaluations = 200 is less than one iteration of K = 5") as error:
        adapted(make_problem("mixture-2d"), 5, "learned_2m", 200)
    least = int(str(error.value).split("at least ")[1].split(",")[0])
    assert plan(least, "learned_2m", 5).noises == 2
    with pytest.raises(ValueError, match="use solver='learned_2m'"):
        make_schedule("adapted", make_problem("mixture-2d"), 5, "heun")
