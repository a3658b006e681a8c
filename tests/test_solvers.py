"""Solvers: order of convergence, evaluations, and the carried slope."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from art_env.diffusion import SOLVERS, CheckedDenoiser, GaussianDenoiser, get_solver, sample
from art_env.diffusion.solvers import Carry, euler_step, to_d
from art_env.problems import make_problem
from art_env.schedules import arctan, edm

torch.set_num_threads(1)

START, END = 3.0, 0.05


def _exact(x, start, end):
    return x * np.sqrt((1 + end**2) / (1 + start**2))


def _walk(solver, K):
    """``solver.step`` at every step (``sample`` would end with Euler), even in the angle."""
    denoiser = GaussianDenoiser()
    x = torch.tensor([[1.0], [-2.5]], dtype=torch.float64)
    levels = torch.tensor(np.tan(np.linspace(np.arctan(START), np.arctan(END), K + 1)))
    carry = Carry()
    for k in range(K):
        x, carry = solver.step(denoiser, x, levels[k], levels[k + 1], carry)
    return x


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence(name):
    solver = SOLVERS[name]
    assert solver.order == {"euler": 1, "heun": 2, "rk4": 4}[name]
    exact = _exact(torch.tensor([[1.0], [-2.5]], dtype=torch.float64), START, END)
    errors = [float((_walk(solver, K) - exact).abs().max()) for K in (16, 32, 64)]
    for coarse, fine in pairwise(errors):
        assert np.log2(coarse / fine) == pytest.approx(solver.order, abs=0.12 * solver.order)


@pytest.mark.parametrize(
    ("name", "count"), [("euler", lambda K: K), ("heun", lambda K: 2 * K - 1), ("rk4", lambda K: 4 * K - 3)]
)
@pytest.mark.parametrize("K", [1, 2, 7])
def test_evaluations_measured(name, count, K):
    denoiser = CheckedDenoiser(GaussianDenoiser())
    sample(denoiser, torch.ones(6, 1, dtype=torch.float64), edm(K, 0.002, 80.0).sigmas, name)
    assert denoiser.nfe == count(K) == SOLVERS[name].nfe(K)
    assert denoiser.evals == 6 * count(K)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("per_row", [False, True])
def test_a_carried_slope_saves_one_evaluation(name, per_row):
    denoiser = CheckedDenoiser(make_problem("mixture-2d").denoiser)
    x = 2 * torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma, sigma_next = torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    if per_row:
        sigma, sigma_next = torch.linspace(2, 3, 5).double(), torch.linspace(0.5, 1, 5).double()
    d = to_d(denoiser, x, sigma)
    denoiser.reset()
    plain, carry = SOLVERS[name].step(denoiser, x, sigma, sigma_next, Carry())
    without = denoiser.nfe
    assert carry == Carry()
    denoiser.reset()
    carried, _ = SOLVERS[name].step(denoiser, x, sigma, sigma_next, Carry(d))
    assert torch.equal(plain, carried)
    assert without == SOLVERS[name].evals_per_step
    assert denoiser.nfe == without - 1
    if per_row:  # each row is its own trajectory
        alone, _ = SOLVERS[name].step(denoiser, x[3:4], sigma[3:4], sigma_next[3:4], Carry())
        torch.testing.assert_close(alone, plain[3:4], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", SOLVERS)
def test_sample_is_the_steps_with_euler_last(name):
    denoiser, levels = GaussianDenoiser(), torch.tensor(arctan(4, 0.0, 3.0).sigmas)
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    seen = []
    out = sample(denoiser, x, levels, name, callback=lambda k, y: seen.append((k, y)))
    for k in range(4):
        step = SOLVERS[name].step if k < 3 else euler_step
        x, _ = step(denoiser, x, levels[k], levels[k + 1], Carry())
        assert seen[k][0] == k
        assert torch.equal(seen[k][1], x)
    assert torch.equal(out, x)


@pytest.mark.parametrize("name", SOLVERS)
def test_gradient_through_the_whole_sampler(name):
    denoiser = make_problem("mixture-1d").denoiser
    x = torch.tensor([[40.0], [-90.0]], dtype=torch.float64)
    sigmas = edm(4, 0.002, 80.0, terminal="sigma_min").sigmas
    leaf = torch.tensor(sigmas, requires_grad=True)
    (grad,) = torch.autograd.grad(sample(denoiser, x, leaf, name).sum(), leaf)
    for k in (1, 2, 3):
        h = 1e-5 * sigmas[k]
        up, down = sigmas.copy(), sigmas.copy()
        up[k] += h
        down[k] -= h
        numeric = float((sample(denoiser, x, up, name) - sample(denoiser, x, down, name)).sum()) / (2 * h)
        assert float(grad[k]) == pytest.approx(numeric, rel=1e-4, abs=1e-9)


def test_names():
    assert get_solver("heun") is SOLVERS["heun"]
    assert get_solver(SOLVERS["rk4"]) is SOLVERS["rk4"]
    with pytest.raises(ValueError, match=r"unknown solver 'huen'. Did you mean 'heun'\?"):
        get_solver("huen")
    with pytest.raises(ValueError, match=r"unknown solver 'xyz'\. Known: euler, heun, rk4"):
        sample(GaussianDenoiser(), torch.ones(1, 1), [3.0, 0.0], "xyz")
