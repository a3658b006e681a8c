"""Computed schedules: the closed form, dynamic programming, and the oracle."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from art_env.diffusion import get_solver, sample
from art_env.diffusion.steps import SolverState, euler_step
from art_env.problems.library import make_problem
from art_env.schedules import (
    Schedule,
    arctan,
    closed_form,
    dynamic_programming,
    edm,
    final_rmse,
    gradient_search,
    log_snr,
    uniform,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def gaussian():
    problem = make_problem("gaussian-1d")
    return problem.denoiser, problem.reference(64)


@pytest.fixture(scope="module")
def mixture():
    problem = make_problem("mixture-1d")
    return problem.denoiser, problem.reference(256, seed=5)


def _w2(denoiser, schedule):
    x = torch.tensor([[np.sqrt(10.0)]], dtype=torch.float64)
    return abs(1.0 - float(sample(denoiser, x, schedule.sigmas, "euler")))


def test_closed_form_row_of_table_1(gaussian):
    denoiser, reference = gaussian
    expected = {2: 0.3492, 5: 0.1493, 10: 0.0771, 20: 0.0392, 50: 0.0159, 100: 0.0080}
    for K, value in expected.items():
        schedule = closed_form(reference, K)
        assert (schedule.num_steps, schedule.sigma_max, schedule.sigma_end) == (K, 3.0, 0.0)
        assert _w2(denoiser, schedule) == pytest.approx(value, abs=5.1e-5)


def test_closed_form_has_equal_sqrt_q_per_step(gaussian, mixture):
    # On gaussian-1d, |Q| ~ (1 + s^2)^(-3/2) along a trajectory.
    s = closed_form(gaussian[1], 8).sigmas
    areas = [quad(lambda v: (1 + v * v) ** -0.75, lo, hi)[0] for hi, lo in pairwise(s)]
    np.testing.assert_allclose(areas, np.mean(areas), rtol=1e-3)
    # On the mixture, from the reference's own curvature.
    reference = mixture[1]
    s = closed_form(reference, 8).sigmas
    knots = reference.sigmas.numpy()
    density = np.sqrt(reference.curvature_norms().mean(1).numpy())
    travelled = np.append(0, np.cumsum(0.5 * (density[1:] + density[:-1]) * -np.diff(knots)))
    areas = np.diff(np.interp(-s, -knots, travelled))
    np.testing.assert_allclose(areas, np.mean(areas), rtol=0.01)


def test_gradients_find_the_arctan_grid(gaussian):
    """On Gaussian data the optimum is known: even steps of arctan(sigma)."""
    denoiser, reference = gaussian
    for K in (1, 2, 5, 10):
        oracle = gradient_search(denoiser, reference, K, "euler")
        assert _w2(denoiser, oracle) == pytest.approx(_w2(denoiser, arctan(K, 0.0, 3.0)), rel=1e-3)
        if K > 1:
            np.testing.assert_allclose(oracle.sigmas, arctan(K, 0.0, 3.0).sigmas, atol=5e-3)
        assert oracle.meta["rmse"] == pytest.approx(final_rmse(denoiser, reference, oracle.sigmas, "euler"))


def test_gradients_are_no_worse_than_any_start(mixture):
    denoiser, reference = mixture
    K = 5
    extra = [edm(9, 0.002, 80.0, 4.0, final_sigmas_type="sigma_min")]
    oracle = gradient_search(
        denoiser, reference, K, "heun", starts=extra, num_searches=1, max_iterations=40, screen_noises=128
    )
    starts = [
        edm(K, 0.002, 80.0, final_sigmas_type="sigma_min"),
        edm(K, 0.002, 80.0, 3.0, final_sigmas_type="sigma_min"),
        log_snr(K, 0.002, 80.0, final_sigmas_type="sigma_min"),
        closed_form(reference, K),
        dynamic_programming(denoiser, reference, K, "heun", 48, max_noises=64),
        extra[0].resample(K),
    ]
    errors = [final_rmse(denoiser, reference, s.sigmas, "heun") for s in starts]
    reached = final_rmse(denoiser, reference, oracle.sigmas, "heun")
    assert reached == pytest.approx(oracle.meta["rmse"])
    assert reached < 0.8 * min(errors)
    assert (oracle.sigma_max, oracle.sigma_end, oracle.num_steps) == (80.0, 0.002, K)
    assert oracle.meta["evaluations"] > 0
    assert oracle.meta["solver"] == "heun"
    assert Schedule.from_json(oracle.to_json()) == oracle


def test_gradients_keep_a_start_that_is_already_the_optimum(gaussian):
    """With no iterations allowed the best start is returned, unchanged."""
    denoiser, reference = gaussian
    best = arctan(6, 0.0, 3.0)
    oracle = gradient_search(denoiser, reference, 6, "euler", starts=[best], max_iterations=0)
    assert final_rmse(denoiser, reference, oracle.sigmas, "euler") <= final_rmse(
        denoiser, reference, best.sigmas, "euler"
    ) * (1 + 1e-12)


@pytest.mark.parametrize(("solver", "K"), [("euler", 10), ("heun", 5)])
def test_dynamic_programming_beats_edm(mixture, solver, K):
    denoiser, reference = mixture
    path = dynamic_programming(denoiser, reference, K, solver, 40, max_noises=96)
    assert (path.num_steps, path.sigma_max, path.sigma_end) == (K, 80.0, 0.002)
    ours = final_rmse(denoiser, reference, path.sigmas, solver)
    theirs = final_rmse(
        denoiser, reference, edm(K, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas, solver
    )
    assert ours < 0.75 * theirs


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_dynamic_programming_is_the_cheapest_path(gaussian, solver):
    """Among the candidate levels no other path of K steps has a smaller sum of this solver's local errors."""
    denoiser, reference = gaussian
    K, M = 3, 12
    path = dynamic_programming(denoiser, reference, K, solver, M)
    dense = closed_form(reference, M // 2).sigmas
    levels = np.unique(np.concatenate([dense, np.geomspace(3.0, float(reference.sigmas[-1]), M // 2)]))[::-1]
    inner = levels[(levels < 3.0) & (levels > 0.0)]

    def cost(sigmas):
        total = 0.0
        for hi, lo in pairwise(sigmas):
            step = get_solver(solver).step if lo > 0 else euler_step
            hi, lo = torch.tensor(hi, dtype=torch.float64), torch.tensor(lo, dtype=torch.float64)
            end, _ = step(denoiser, reference.at(hi), hi, lo, SolverState())
            total += float((end - reference.at(lo)).abs().mean())
        return total

    pairs = [(i, j) for i in range(len(inner)) for j in range(i + 1, len(inner))]
    best = min(cost([3.0, inner[i], inner[j], 0.0]) for i, j in pairs)
    assert cost(path.sigmas) == pytest.approx(best, rel=1e-9)


def test_errors(gaussian):
    denoiser, reference = gaussian
    with pytest.raises(ValueError, match="num_candidates = 5 must exceed num_steps = 10"):
        dynamic_programming(denoiser, reference, 10, "euler", 5)
    with pytest.raises(ValueError, match="Did you mean 'heun'"):
        dynamic_programming(denoiser, reference, 10, "huen")
    with pytest.raises(ValueError, match="Did you mean 'euler'"):
        gradient_search(denoiser, reference, 10, "eular")
    for build in (
        lambda: closed_form(reference, 0),
        lambda: dynamic_programming(denoiser, reference, 0),
        lambda: gradient_search(denoiser, reference, 0),
    ):
        with pytest.raises(ValueError, match="num_steps = 0"):
            build()


def test_final_rmse_by_hand(gaussian):
    denoiser, reference = gaussian
    grid = uniform(4, 0.0, 3.0)
    factor = float(sample(denoiser, torch.ones(1, 1, dtype=torch.float64), grid.sigmas, "euler"))
    expected = float((reference.start * (factor - np.sqrt(0.1))).square().mean().sqrt())
    assert final_rmse(denoiser, reference, grid.sigmas, "euler") == pytest.approx(expected, rel=1e-6)
    batched = final_rmse(denoiser, reference, grid.sigmas, "euler", batch_size=10)
    assert batched == pytest.approx(expected, rel=1e-6)
