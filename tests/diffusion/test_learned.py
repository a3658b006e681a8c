"""Learned multistep rules: the classical rules are points of their space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion import SOLVERS, get_solver, sample
from art_env.problems.library import make_problem
from art_env.schedules import edm

torch.set_num_threads(1)

LEARNED = ["learned_2m", "learned_3m", "learned_4m"]


@pytest.fixture(scope="module")
def mixture():
    problem = make_problem("mixture-2d")
    return problem.denoiser, problem.sample_noise(16, 3)


def _weights(name: str, K: int, row) -> np.ndarray:
    return np.tile(np.asarray(row, dtype=np.float64), (K, 1))[:, : SOLVERS[name].num_weights]


@pytest.mark.parametrize("name", LEARNED)
def test_all_weights_zero_is_euler(mixture, name):
    denoiser, x = mixture
    sigmas = edm(6, 0.002, 80.0).sigmas
    ours = sample(denoiser, x, sigmas, name, weights=_weights(name, 6, [0, 0, 0]))
    torch.testing.assert_close(ours, sample(denoiser, x, sigmas, "euler"), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["learned_4m", "learned_6m"])
def test_ipndm_is_a_point(mixture, name):
    denoiser, x = mixture
    sigmas, rows = edm(7, 0.002, 80.0).sigmas, np.zeros((7, get_solver(name).num_weights))
    rows[1, :1], rows[2, :2], rows[3:, :3] = 1 / 2, (16 / 12, -5 / 12), (59 / 24, -37 / 24, 9 / 24)
    ours = sample(denoiser, x, sigmas, name, weights=rows)
    torch.testing.assert_close(ours, sample(denoiser, x, sigmas, "ipndm"), rtol=1e-12, atol=1e-12)


def test_adams_bashforth_of_uneven_steps_has_order_2():
    """``w = h / (2 h')``; with other weights the order is 1."""
    denoiser = make_problem("gaussian-1d").denoiser
    x = torch.tensor([[1.0]], dtype=torch.float64)

    def error(K: int, factor: float) -> float:
        sigmas = 0.05 + 2.95 * np.linspace(1, 0, K + 1) ** 1.5
        h = np.diff(sigmas)
        weights = np.append(0.0, factor * h[1:] / (2 * h[:-1]))[:, None]
        exact = np.sqrt((1 + 0.05**2) / (1 + 3.0**2))
        return abs(float(sample(denoiser, x, sigmas, "learned_2m", weights=weights)) - exact)

    assert np.log2(error(64, 1.0) / error(128, 1.0)) == pytest.approx(2, abs=0.25)
    assert np.log2(error(64, 0.5) / error(128, 0.5)) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("name", LEARNED)
def test_default_weights_and_evaluations(mixture, name):
    denoiser, x = mixture
    sigmas = edm(5, 0.002, 80.0).sigmas
    counted = CountedDenoiser(denoiser)
    plain = sample(counted, x, sigmas, name)
    assert counted.nfe == 5 == SOLVERS[name].nfe(5)
    assert torch.equal(plain, sample(denoiser, x, sigmas, name, weights=_weights(name, 5, [0.5, 0, 0])))
    # Weights of steps that were not made are not read.
    used = SOLVERS[name].used_weights(5)
    assert used.sum() == sum(range(5 - SOLVERS[name].num_weights, 5))
    other = np.where(used, _weights(name, 5, [0.5, 0, 0]), 7.0)
    assert torch.equal(plain, sample(denoiser, x, sigmas, name, weights=other))


def test_weights_of_each_row(mixture):
    denoiser, x = mixture
    sigmas = edm(4, 0.002, 80.0).sigmas
    weights = torch.rand(4, 16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = sample(denoiser, x, sigmas, "learned_3m", weights=weights)
    for i in (0, 9):
        alone = sample(denoiser, x[i : i + 1], sigmas, "learned_3m", weights=weights[:, i])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


def test_gradient_of_the_weights(mixture):
    denoiser, x = mixture
    weights = torch.full((3, 1), 0.5, dtype=torch.float64, requires_grad=True)

    def end(w: torch.Tensor) -> torch.Tensor:
        return sample(denoiser, x, edm(3, 0.002, 80.0).sigmas, "learned_2m", weights=w).square().sum()

    (grad,) = torch.autograd.grad(end(weights), weights)
    assert grad[0] == 0
    step = torch.zeros_like(weights)
    step[2] = 1e-5
    with torch.no_grad():
        slope = (end(weights + step) - end(weights - step)) / 2e-5
    assert float(grad[2]) == pytest.approx(float(slope), rel=1e-5)


def test_bad_weights(mixture):
    denoiser, x = mixture
    sigmas = edm(3, 0.002, 80.0).sigmas
    with pytest.raises(ValueError, match=r"solver = 'heun' takes no weights; use one of learned_2m"):
        sample(denoiser, x, sigmas, "heun", weights=np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"shape \(3, 1\); solver 'learned_3m' takes 2 for each of 3 steps"):
        sample(denoiser, x, sigmas, "learned_3m", weights=np.zeros((3, 1)))


def test_any_number_of_slopes_by_name():
    rule = get_solver("learned_7m")
    assert (rule.num_weights, rule.memory, rule.nfe(7)) == (6, 6, 7)
    assert get_solver("learned_3m") is SOLVERS["learned_3m"]
    for name in ("learned_1m", "learned_0m", "learned_02m", "learned_m"):
        with pytest.raises(ValueError, match=f"unknown solver '{name}'"):
            get_solver(name)
