"""Rival schedules: known values on Gaussian data, and what each claims to equalise or minimise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion import GaussianDenoiser, ReferenceFlow, get_solver, sample
from art_env.problems.library import make_problem
from art_env.schedules import arctan, closed_form, dmn, dynamic_programming, edm, gits, log_snr, sdm
from art_env.schedules.published import error_bound
from art_env.schedules.registry import check_spec, make_schedule

torch.set_num_threads(1)

STEPS = (5, 10, 18)


@pytest.fixture(scope="module")
def gaussian():
    """Data N(0, 0.5^2) from 80 to 0.002."""
    denoiser = GaussianDenoiser(0.5)
    x = 80 * torch.randn(16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return denoiser, ReferenceFlow.integrate(denoiser, x, 80.0, 0.002, 0.002)


@pytest.fixture(scope="module")
def mixture():
    problem = make_problem("mixture-1d")
    return problem.denoiser, problem.reference(64, seed=5)


def _relative_error(schedule):
    """Of Euler's end; the sampler multiplies by a number."""
    one = torch.ones(1, 1, dtype=torch.float64)
    end = float(sample(GaussianDenoiser(0.5), one, schedule.sigmas, "euler"))
    return abs(end / np.sqrt((0.002**2 + 0.25) / (80.0**2 + 0.25)) - 1)


def test_known_errors_on_gaussian_data(gaussian):
    """Even angles are the optimum, ``1 - prod cos``; the other figures were computed independently."""
    for K, best, path, even in zip(
        STEPS, (0.2193, 0.1151, 0.0655), (0.2220, 0.1203, 0.0756), (0.2597, 0.1373, 0.0785), strict=True
    ):
        assert _relative_error(arctan(K, 0.002, 80.0, 0.5, final_sigmas_type="sigma_min")) == pytest.approx(
            best, abs=1e-4
        )
        # GITS' value depends on the candidates.
        assert _relative_error(gits(*gaussian, K)) == pytest.approx(path, rel=0.05)
        assert _relative_error(sdm(gaussian[1], K, q=0.0)) == pytest.approx(even, abs=1e-4)


# GITS


@pytest.mark.parametrize("coefficient", [1.0, 1.15])
def test_gits_is_the_cheapest_path_of_euler_jumps(gaussian, coefficient):
    """By trying all paths: a step after n others counts coefficient^n times."""
    denoiser, reference = gaussian
    K, M = 3, 12
    path = gits(denoiser, reference, K, coefficient, M)
    dense = closed_form(reference, M // 2).sigmas
    levels = np.unique(np.concatenate([dense, np.geomspace(80.0, 0.002, M // 2)]))[::-1]
    inner = levels[(levels < 80.0 * (1 - 1e-6)) & (levels > 0.002 * (1 + 1e-6))]

    def cost(sigmas):
        total = 0.0
        for n, (hi, lo) in enumerate(pairwise(sigmas)):
            x = reference.at(hi)
            jump = x + (lo - hi) * (x - denoiser(x, hi)) / hi
            total += coefficient**n * float((jump - reference.at(lo)).abs().mean())
        return total

    best = min(cost([80.0, a, b, 0.002]) for i, a in enumerate(inner) for b in inner[i + 1 :])
    assert cost(path.sigmas) == pytest.approx(best, rel=1e-9)
    assert path.name == ("gits" if coefficient == 1 else "gits:coefficient=1.15")


def test_gits_counts_and_ignores_the_solver(mixture):
    counting = CountedDenoiser(mixture[0])
    path = gits(counting, mixture[1], 5)
    assert path.meta["evaluations"] == counting.evals > 0
    assert path == dynamic_programming(*mixture, 5, "euler")
    assert path != dynamic_programming(*mixture, 5, "heun")


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "dpmpp_2m"])
def test_dynamic_programming_counts(mixture, solver):
    counting = CountedDenoiser(mixture[0])
    path = dynamic_programming(counting, mixture[1], 3, solver, 12)
    assert path.meta["evaluations"] == counting.evals
    assert (counting.evals > 12 * 64) == (get_solver(solver).evals_per_step > 1)


# SDM


@pytest.mark.parametrize("q", [0.0, 0.25, 0.6])
def test_sdm_has_equal_areas(gaussian, q):
    """On Gaussian data, |Q| ~ (s^2 + c^2)^(-3/2) along a trajectory."""
    fine = np.geomspace(80.0, 0.002, 200_001)
    density = (fine**2 + 0.25) ** -0.75 * (80.0 / fine) ** q
    travelled = np.append(0, np.cumsum(0.5 * (density[1:] + density[:-1]) * -np.diff(fine)))
    areas = np.diff(np.interp(-sdm(gaussian[1], 7, q).sigmas, -fine, travelled))
    np.testing.assert_allclose(areas, areas.mean(), rtol=0.01)


def test_sdm_without_weight_is_the_closed_form(mixture):
    np.testing.assert_allclose(sdm(mixture[1], 8, q=0.0).sigmas, closed_form(mixture[1], 8).sigmas, rtol=0.02)
    assert (sdm(mixture[1], 8).sigmas[1:-1] < closed_form(mixture[1], 8).sigmas[1:-1]).all()


def test_sdm_of_a_range_that_ends_at_zero():
    reference = make_problem("gaussian-1d").reference(16)
    assert sdm(reference, 6).sigmas[[0, -1]].tolist() == [3.0, 0.0]
    np.testing.assert_allclose(sdm(reference, 6, q=0.0).sigmas, closed_form(reference, 6).sigmas, atol=1e-3)


# DMN


def test_bound_of_euler_by_hand():
    """Of order 1, ``w_k = 1 / sigma_(k+1) - 1 / sigma_k``, in units of the last noise level."""
    s = np.array([80.0, 5.0, 1.0, 0.3, 0.1, 0.02])
    eps = s[:-1] ** 2 / np.sqrt(s[:-1] ** 2 + 0.25)
    weights = s[-1] * (1 / s[1:] - 1 / s[:-1])
    assert error_bound(s, 0.5, 1) == pytest.approx(float(weights @ eps) / 0.5)


@pytest.mark.parametrize("order", [2, 3])
def test_bound_of_higher_order_by_quadrature(order):
    s = np.array([80.0, 20.0, 6.0, 2.0, 0.9, 0.3, 0.02])
    lam, K = -np.log(s), 6
    eps = s[:-1] ** 2 / np.sqrt(s[:-1] ** 2 + 0.25) / 0.5
    alone, together = 0.0, np.zeros(K)
    for n in range(K):
        used = [n - j for j in range(min(order, n + 1, K - n))]
        weights = np.zeros(K)
        for k in used:
            others = [m for m in used if m != k]

            def lagrange(t, k=k, others=others):
                return np.prod([(t - lam[m]) / (lam[k] - lam[m]) for m in others])

            weights[k] = s[-1] * quad(lambda t, f=lagrange: np.exp(t) * f(t), lam[n], lam[n + 1])[0]
        if n in (0, 1, 2, K - 1):
            alone += np.sqrt(((weights * eps) ** 2).sum())
        else:
            together += weights
    assert error_bound(s, 0.5, order) == pytest.approx(alone + (abs(together) * eps).sum(), rel=1e-8)


@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
def test_dmn_minimises_the_bound(final_sigmas_type):
    K = 7
    schedule = dmn(K, 0.002, 80.0, final_sigmas_type=final_sigmas_type)
    end = 0.0 if final_sigmas_type == "zero" else 0.002
    assert (schedule.num_steps, schedule.sigma_max, schedule.sigma_end) == (K, 80.0, end)
    assert schedule.meta["evaluations"] == 0
    # No step from sigma_min to 0: the last of K + 1 levels is called 0.
    found = np.append(schedule.sigmas[:-1], 0.002)
    least = error_bound(found, 1.0)
    for other in (edm, log_snr):
        assert least < 0.95 * error_bound(other(K, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas, 1.0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        moved = found.copy()
        moved[1:-1] *= np.exp(0.02 * rng.standard_normal(K - 1))
        assert error_bound(moved, 1.0) > least * (1 - 1e-3)


def test_dmn_is_that_of_its_authors():
    """What their code finds for 3 and 5 steps from 80 to 0.002; it was run by itself, and is no part of this."""
    for K, levels in ((3, (1.366, 0.317)), (5, (4.258, 1.588, 0.611, 0.143))):
        np.testing.assert_allclose(dmn(K, 0.002, 80.0).sigmas[1:-1], levels, atol=6e-4)


def test_dmn_scales_with_the_data():
    np.testing.assert_allclose(dmn(5, 0.02, 80.0, 1.0).sigmas, 2 * dmn(5, 0.01, 40.0, 0.5).sigmas, rtol=1e-3)


def test_dmn_of_few_steps():
    assert dmn(1, 0.002, 80.0).sigmas.tolist() == [80.0, 0.0]
    assert dmn(1, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas.tolist() == [80.0, 0.002]
    first, middle, last = dmn(2, 0.002, 80.0).sigmas
    assert (first, last) == (80.0, 0.0)
    assert 0.1 < middle < 10


# All


@pytest.mark.parametrize("problem", ["gaussian-1d", "mixture-1d"])
@pytest.mark.parametrize(
    "spec", ["gits", "gits:coefficient=1.15", "sdm", "sdm:q=0.1", "dmn", "cma:max_evaluations=5"]
)
def test_by_names(problem, spec):
    problem = make_problem(problem)
    check_spec(spec, problem)
    for K in (1, 2, 6):
        schedule = make_schedule(spec, problem, K, "heun")
        schedule.check_range(problem.sigma_max, problem.sigma_end)
        assert schedule.num_steps == K
        assert schedule.name == spec.removesuffix(":max_evaluations=5")
        assert schedule.meta["evaluations"] >= 0


def test_bad_arguments(mixture):
    reference = mixture[1]
    for build, message in (
        (lambda: sdm(reference, 5, q=-0.1), "q = -0.1 must be a number of at least 0"),
        (lambda: sdm(reference, 0), "num_steps = 0"),
        (lambda: gits(*mixture, 5, 0.0), "coefficient = 0.0 must be a positive number"),
        (lambda: gits(*mixture, 70), "num_candidates = 64 must exceed num_steps = 70"),
        (lambda: dmn(5, 0.0, 80.0, 0.5), "sigma_min = 0 is infinitely far away"),
        (lambda: dmn(5, 0.002, 80.0, 0.0), "sigma_data = 0.0 must be a positive number"),
        (lambda: dmn(5, 90.0, 80.0, 0.5), "sigma_min = 90 must be below sigma_max = 80"),
        (lambda: dmn(5, 0.002, 80.0, 0.5, final_sigmas_type="one"), "unknown final_sigmas_type 'one'"),
        (lambda: check_spec("sdm:p=1", make_problem("mixture-1d")), "unknown option 'p'"),
        (lambda: check_spec("dmn:q=1", make_problem("mixture-1d")), "dmn has no options"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
