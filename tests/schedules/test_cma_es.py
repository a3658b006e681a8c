"""CMA-ES on the final error: as good as the oracle, within its max_evaluations, and what it says it cost."""

from __future__ import annotations

import importlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion import GaussianDenoiser
from art_env.problems.library import make_problem
from art_env.schedules import Schedule, arctan, closed_form, evolve, final_rmse, gradient_search
from art_env.schedules.registry import check_spec, make_schedule

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def mixture():
    problem = make_problem("mixture-1d")
    return problem.denoiser, problem.reference(128, seed=5)


def test_finds_the_arctan_grid():
    """On Gaussian data the optimum is known: even steps of arctan(sigma)."""
    problem = make_problem("gaussian-1d")
    found = evolve(problem.denoiser, problem.reference(16), 5, "euler", max_evaluations=600)
    np.testing.assert_allclose(found.sigmas, arctan(5, 0.0, 3.0).sigmas, atol=0.02)


def test_comes_close_to_the_oracle(mixture):
    oracle = gradient_search(*mixture, 4, "heun", num_searches=1)
    found = evolve(*mixture, 4, "heun", max_evaluations=500)
    assert found.meta["rmse"] == pytest.approx(final_rmse(*mixture, found.sigmas, "heun"))
    assert found.meta["rmse"] < 1.03 * oracle.meta["rmse"]
    assert found.meta["rmse"] < 0.7 * final_rmse(*mixture, closed_form(mixture[1], 4).sigmas, "heun")
    assert (found.num_steps, found.sigma_max, found.sigma_end) == (4, 80.0, 0.002)
    assert Schedule.from_json(found.to_json()) == found


def test_weights_are_found_too(mixture):
    """As good as gradients on grid and weights; better than the best grid of a solver with classical weights."""
    oracle = gradient_search(*mixture, 3, "learned_2m", num_searches=1)
    found = evolve(*mixture, 3, "learned_2m", max_evaluations=1000)
    assert found.solver == "learned_2m"
    assert found.meta["rmse"] == pytest.approx(final_rmse(*mixture, found, "learned_2m"))
    assert found.meta["rmse"] < 1.05 * oracle.meta["rmse"]
    assert found.meta["rmse"] < 0.9 * gradient_search(*mixture, 3, "ipndm", num_searches=1).meta["rmse"]
    assert found.weights is not None
    assert (found.weights[0] == 0).all()


@pytest.mark.parametrize("max_evaluations", [1, 7, 50])
def test_counts_what_it_costs(mixture, max_evaluations):
    denoiser, reference = mixture
    counting = CountedDenoiser(denoiser)
    found = evolve(counting, reference, 5, "heun", max_evaluations=max_evaluations)
    assert found.meta["evaluations"] == counting.evals == max_evaluations * 128 * 9
    assert found.meta["max_evaluations"] == max_evaluations
    assert found.meta["seconds"] > 0


def test_the_first_error_is_that_of_the_closed_form(mixture):
    assert evolve(*mixture, 5, max_evaluations=1) == closed_form(mixture[1], 5)
    assert evolve(*mixture, 1, max_evaluations=10).sigmas.tolist() == [80.0, 0.002]


def test_callback_records_the_best_so_far(mixture):
    pairs = []
    found = evolve(*mixture, 3, "euler", max_evaluations=80, callback=lambda *pair: pairs.append(pair))
    start = final_rmse(*mixture, closed_form(mixture[1], 3).sigmas, "euler")
    assert pairs[0] == (128 * 3, pytest.approx(start))
    assert pairs[-1][1] == found.meta["rmse"] < start
    assert all(n < m and e > f for (n, e), (m, f) in pairwise(pairs))
    assert all(n % (128 * 3) == 0 and n <= found.meta["evaluations"] for n, _ in pairs)


def test_seed(mixture):
    runs = [evolve(*mixture, 4, max_evaluations=40, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_starts_again_after_it_converged(mixture):
    """A search over one number converges long before the max_evaluations ends."""
    counting = CountedDenoiser(mixture[0])
    evolve(counting, mixture[1], 2, "euler", max_evaluations=400)
    assert counting.evals == 400 * 128 * 2


def test_a_model_that_breaks_down_is_survived(mixture):
    """Grids whose error is not finite are never the best."""

    class Fragile(GaussianDenoiser):
        def __call__(self, x, sigma):
            out = super().__call__(x, sigma)
            return out * torch.nan if 0.5 < float(sigma) < 1 else out

    problem = make_problem("gaussian-1d")
    found = evolve(Fragile(), problem.reference(16), 3, "euler", max_evaluations=60)
    assert np.isfinite(found.meta["rmse"])


def test_bad_arguments(mixture):
    for changes, message in (
        ({"max_evaluations": 0}, "max_evaluations = 0 must be a whole number of at least 1"),
        ({"max_evaluations": 2.5}, "max_evaluations = 2.5 must be a whole number"),
        ({"seed": -1}, "seed = -1 must not be negative"),
        ({"step_size": 0.0}, "step_size = 0.0 must be a positive number"),
        ({"num_steps": 0}, "num_steps = 0"),
        ({"solver": "huen"}, "Did you mean 'heun'"),
    ):
        with pytest.raises(ValueError, match=message):
            evolve(*mixture, **{"num_steps": 3, **changes})


def test_without_the_extra(monkeypatch):
    real = importlib.import_module

    def without_cma(name, *args):
        if name == "cma":
            raise ImportError("No module named 'cma'")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without_cma)
    problem = make_problem("gaussian-1d")
    with pytest.raises(ImportError, match=r'pip install "art-rl\[cma\]"'):
        check_spec("cma", problem)
    with pytest.raises(ImportError, match="needs the package cma"):
        evolve(problem.denoiser, problem.reference(4), 2)


def test_by_name():
    problem = make_problem("gaussian-1d")
    found = make_schedule("cma:max_evaluations=30", problem, 4, "euler")
    assert (found.name, found.meta["max_evaluations"], found.num_steps) == ("cma", 30, 4)
    assert found.meta["evaluations"] == 30 * problem.num_noises * 4
    with pytest.raises(ValueError, match=r"max_evaluations = 2\.5 must be a whole number"):
        make_schedule("cma:max_evaluations=2.5", problem, 4, "euler")
