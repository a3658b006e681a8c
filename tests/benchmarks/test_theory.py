"""The claims of docs/theory.md, one test each (named there)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from art_env.diffusion import GaussianDenoiser, sample
from art_env.problems.library import make_problem
from art_env.schedules import arctan, closed_form, edm, final_rmse, uniform
from art_env.schedules.optimal import equal_density
from benchmarks.clock_theory import (
    T,
    clock_cost,
    gaussian_area,
    gaussian_clock,
    gaussian_q,
    gaussian_surrogate,
    giant_step,
    paper_cost,
    quantile_flow,
    retimed,
    sampled_costs,
    solve_hjb,
    surviving_curvature,
    weighted_closed_form,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def gaussian():
    problem = make_problem("gaussian-1d")
    return problem, problem.reference(64)


@pytest.fixture(scope="module")
def mixture():
    problem = make_problem("mixture-1d")
    return problem, problem.reference(1024)


# 1. The closed form


@pytest.mark.parametrize("name", ["gaussian", "mixture", "one trajectory"])
def test_closed_form_is_the_minimum(name, gaussian, mixture):
    """A budget-preserving change of speed by 1 + r(t) costs exactly 1 + mean(r^2): no first order."""
    reference = gaussian[1] if name == "gaussian" else mixture[1]
    if name == "one trajectory":
        reference = reference.first(1)
    knots, norms = reference.sigmas.numpy(), reference.curvature_norms().mean(1).numpy()

    def q(s):
        return np.interp(-s, -knots, norms)

    best = closed_form(reference, 4096)
    least = clock_cost(best.sigmas, q)
    rng = np.random.default_rng(0)
    for _ in range(10):
        a, k = rng.normal(size=6) * 0.08, np.arange(1, 7)[:, None]

        def change(t, sign=1.0, a=a, k=k):
            return sign * (a @ (np.sin(np.pi * k * t) / (np.pi * k)))

        rise = [
            clock_cost(retimed(best, lambda t, s=sign: change(t, s), 4096), q) / least - 1 for sign in (1, -1)
        ]
        square = (a**2).sum() / 2
        np.testing.assert_allclose(rise, square, rtol=0.03)
        assert abs(rise[0] - rise[1]) < 0.05 * square
    # The same change of another clock has a first order.
    other = (
        uniform(4096, 0.0, 3.0)
        if name == "gaussian"
        else edm(4096, 0.002, 80.0, final_sigmas_type="sigma_min")
    )
    cost = [clock_cost(retimed(other, lambda t, s=s: s * 0.01 * np.sin(np.pi * t), 4096), q) for s in (1, -1)]
    assert abs(cost[0] - cost[1]) > 1e-3 * least


# 2. The price of randomising


@pytest.mark.parametrize("lam", [0.01, 0.1, 1.0])
def test_randomising_costs_lambda_T(lam):
    """Within four standard errors where the state follows the mean, and up to log(N) / N where it does not."""
    N, paths = 500, 1000
    base = float(sampled_costs(0.0, N, 1)[0])
    for averaged, bias in ((True, 0.0), (False, np.log(N) / N)):
        extra = (sampled_costs(lam, N, paths, averaged) - base) / (lam * T)
        error = extra.std() / np.sqrt(paths)
        assert error < 0.02
        assert abs(extra.mean() - 1) < 4 * error + bias


def test_sampled_bellman_equation_has_the_same_mean():
    """Speeds drawn in the Bellman equation itself: the optimal clock does not move, the cost rises by lambda T."""
    lam, moved, shift = 0.1, [], []
    for N in (12, 24):
        plain, noisy = solve_hjb(N, 8 * N), solve_hjb(N, 8 * N, lam)
        start = np.argmin(np.abs(noisy.sigmas - T))
        shift.append((noisy.v[0, start] - plain.v[0, 0]) * np.sqrt(1 + T**2) / (lam * T))
        moved.append(np.abs(noisy.rollout() - plain.rollout()).max())
    assert moved[1] < 0.4 * moved[0]
    assert moved[1] < 0.04
    assert shift == pytest.approx([1.0, 1.0], abs=0.08)


# 3. The HJB equation


def test_hjb_finds_the_closed_form():
    """Value of second order, clock of first order in the mesh; the mean is the paper's formula, read off V."""
    optimum = float(gaussian_area(T)) ** 2 / T
    values, clocks = [], []
    for N in (16, 32, 64):
        table = solve_hjb(N, 8 * N)
        values.append(table.v[0, 0] * np.sqrt(1 + T**2) / optimum - 1)
        clocks.append(np.abs(table.rollout() - gaussian_clock(np.linspace(0, T, N + 1))).max())
    assert values[2] == pytest.approx(0, abs=2e-4)
    assert values[0] / values[1] == pytest.approx(4, rel=0.1)
    assert values[1] / values[2] == pytest.approx(4, rel=0.1)
    assert clocks[2] < 0.025
    assert clocks[0] / clocks[1] > 1.9
    assert clocks[1] / clocks[2] > 1.9
    # Everywhere, not only along the optimal clock: v = area^2 / (T - t) / sqrt(1 + s^2).
    s, n = table.sigmas, 32
    exact = gaussian_area(s) / np.sqrt(gaussian_q(s)) / (T - n * table.dt)
    np.testing.assert_allclose(table.mean()[n][1:-1], exact[1:-1], rtol=0.02, atol=0.02)


# 4. Gaussian data, exactly


@pytest.mark.parametrize(("c", "end"), [(1.0, 0.0), (0.5, 0.1)])
def test_arctan_is_optimal_at_every_K(c, end):
    """End error 1 - prod cos(dangle) on any grid; zero gradient, and the minimum of searches, at even angles."""
    denoiser, high = GaussianDenoiser(c), 5.0
    x = torch.tensor([[np.hypot(high, c)]], dtype=torch.float64)
    exact = np.hypot(end, c)
    rng = np.random.default_rng(0)

    def error(inner):
        ends = torch.tensor([high, end], dtype=torch.float64)
        return 1 - sample(denoiser, x, torch.cat([ends[:1], inner, ends[1:]]), "euler")[0, 0] / exact

    for K in (2, 5, 10):
        best = arctan(K, end, high, c, final_sigmas_type="sigma_min").sigmas
        span = np.ptp(np.arctan(best / c))
        inner = torch.tensor(best[1:-1], requires_grad=True)
        least = error(inner)
        (gradient,) = torch.autograd.grad(least, inner)
        assert float(least.detach()) == pytest.approx(1 - np.cos(span / K) ** K)
        assert gradient.abs().max() < 1e-12
        for _ in range(1):
            some = np.sort(rng.uniform(end, high, K - 1))[::-1].copy()
            angles = np.arctan(np.array([high, *some, end]) / c)
            assert float(error(torch.from_numpy(some))) == pytest.approx(1 - np.prod(np.cos(np.diff(angles))))

            def objective(z, span=span):
                share = np.exp(z - z.max())
                inside = np.arctan(high / c) - np.cumsum(share / share.sum())[:-1] * span
                return float(error(torch.from_numpy(c * np.tan(inside))))

            found = minimize(objective, rng.normal(size=K), method="BFGS", options={"gtol": 1e-7})
            assert found.fun == pytest.approx(float(least.detach()), rel=1e-6)
            np.testing.assert_allclose(found.x, found.x.mean(), atol=1e-3)


# 5. What survives of a local error


def test_weighting_turns_the_closed_form_into_arctan(gaussian):
    problem, reference = gaussian
    s = reference.sigmas.numpy()
    exact = reference.start[:, 0].numpy() / np.sqrt(10.0) * ((1 + s**2) ** -2.0)[:, None]
    np.testing.assert_allclose(surviving_curvature(problem, reference), exact, rtol=1e-6)
    density = (exact**2).mean(1) ** 0.25
    for K in (2, 5, 20):
        for found in (
            equal_density(reference, density, K, "propagator"),
            weighted_closed_form(problem, reference, K),
        ):
            np.testing.assert_allclose(found.sigmas, arctan(K, 0.0, 3.0).sigmas, atol=2e-3)
            assert np.abs(closed_form(reference, K).sigmas - found.sigmas).max() > 0.03


def test_weighting_beats_the_closed_form_on_the_mixture(mixture):
    """At least 3% at K = 5 and a tenth at K = 20, by what a step of finite length moves at the end."""
    problem, _ = mixture
    nodes = quantile_flow(problem, 512)
    for K, ratio in ((5, 0.97), (20, 0.90)):
        weighted, plain = (
            final_rmse(problem.denoiser, nodes, grid.sigmas, "euler")
            for grid in (weighted_closed_form(problem, nodes, K), closed_form(nodes, K))
        )
        assert weighted < ratio * plain
    # The propagator itself is no use here: a few noises between two modes are most of its mean square.
    square = np.sort(surviving_curvature(problem, nodes) ** 2, axis=1)
    assert (square[:, -5:].sum(1) / square.sum(1)).max() > 0.8


# 6. The paper's reward at few steps


def test_paper_reward_is_exploited_at_few_steps(gaussian):
    """The best return on N(0, 1): a giant first step and a far worse end up to K = 8, harmless from K = 9 on."""
    problem, reference = gaussian
    x = torch.tensor([[np.sqrt(10.0)]], dtype=torch.float64)

    def both(schedule):
        end = sample(problem.denoiser, x, schedule.sigmas, "euler")
        return paper_cost(problem, schedule, 256), abs(1 - float(end))

    for K, cheaper, worse in ((2, 0.64, 1.5), (5, 0.80, 2.0), (8, 0.97, 1.35)):
        (cost, w2), (fair_cost, fair_w2) = both(gaussian_surrogate(K)), both(closed_form(reference, K))
        assert cost < cheaper * fair_cost
        assert w2 > worse * fair_w2
    for K in (9, 20):
        (cost, w2), (fair_cost, fair_w2) = both(gaussian_surrogate(K)), both(closed_form(reference, K))
        assert cost == pytest.approx(fair_cost, rel=0.03)
        assert w2 == pytest.approx(fair_w2, rel=0.03)


def test_giant_step_pays_until_its_cost_exceeds_the_optimum(mixture):
    """Its cost grows like K |Q_0| jump^2 / T, the closed form's does not: on the mixture it pays to K ~ 300."""
    problem, reference = mixture
    dense = closed_form(reference, 1024)
    pays = {}
    for K in (5, 400):
        fair, giant = closed_form(reference, K), giant_step(dense, 0.5, K)
        pays[K] = paper_cost(problem, giant, 64) < paper_cost(problem, fair, 64)
        worse, better = (final_rmse(problem.denoiser, reference, g.sigmas, "euler") for g in (giant, fair))
        assert worse > 3 * better
    assert pays == {5: True, 400: False}


# 7. One weight a step


@pytest.mark.parametrize("r", [1 / 8, 1 / 2, 1.0, 2.0, 8.0])
def test_one_weight_mends_two_steps(gaussian, r):
    """``(r + 1/r) / 2`` removes the second-order error of both steps, ``r / 2`` that of its own."""
    denoiser = gaussian[0].denoiser
    x = torch.ones(1, 1, dtype=torch.float64)

    def error(H: float, weight: float) -> float:
        sigmas = np.array([2.0, 2.0 - H / (1 + r), 2.0 - H])
        exact = np.sqrt((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2))
        return float(sample(denoiser, x, sigmas, "learned_2m", weights=np.array([[0.0], [weight]]))) - exact

    def best(H: float) -> float:
        """The error is linear in the weight."""
        return -error(H, 0.0) / (error(H, 1.0) - error(H, 0.0))

    mending, adams_bashforth = (r + 1 / r) / 2, r / 2
    distances = [abs(best(H) / mending - 1) for H in (0.2, 0.1, 0.05)]
    assert distances[2] < distances[1] < distances[0]
    assert distances[2] < 0.025
    orders = [np.log2(error(0.1, w) / error(0.05, w)) for w in (mending, adams_bashforth)]
    assert orders[0] > 2.95
    assert orders[1] < orders[0] - 0.3
