"""Velocity, curvature and exact trajectories, against the Gaussian's closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion import (
    GaussianDenoiser,
    ReferenceFlow,
    curvature,
    velocity,
)
from art_env.diffusion.denoiser import append_dims
from art_env.diffusion.ode import norm
from art_env.problems.library import make_problem

torch.set_num_threads(1)


def _noise(n, shape=(1,), scale=1.0, seed=0):
    return scale * torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _secant(denoiser, x, sigma, h):
    """``(F, Q)`` without derivatives: ``[F(x + hF, sigma - h) - F(x, sigma)] / h``, ``h`` relative to sigma."""
    levels = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))
    step = h * levels
    F = velocity(denoiser, x, levels)
    ahead = velocity(denoiser, x + append_dims(step, x) * F, levels - step)
    return F, (ahead - F) / append_dims(step, x)


def test_velocity_and_curvature_of_the_gaussian():
    """F = -s x / (1 + s^2) and Q = x / (1 + s^2)^2, as in Table 1's problem; sigma scalar or one a row."""
    x = _noise(6, scale=3.0)
    each = torch.tensor([0.01, 0.1, 0.5, 1.0, 3.0, 50.0], dtype=torch.float64)
    for sigma in (0.6, torch.tensor(0.6), each):
        s = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1)
        F, Q = curvature(GaussianDenoiser(), x, sigma)
        tight = {"rtol": 1e-6, "atol": 1e-7} if sigma is not each and not isinstance(sigma, float) else {}
        torch.testing.assert_close(F, -s * x / (1 + s**2), **(tight or {"rtol": 1e-10, "atol": 1e-12}))
        torch.testing.assert_close(Q, x / (1 + s**2) ** 2, **(tight or {"rtol": 1e-7, "atol": 1e-12}))
        torch.testing.assert_close(F, velocity(GaussianDenoiser(), x, sigma), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", ["mixture-1d", "mixture-2d"])
def test_curvature_is_the_second_derivative_of_the_trajectory(name):
    """Central differences of F along the exact trajectory of the same noise."""
    problem = make_problem(name)
    flow = ReferenceFlow.integrate(problem.denoiser, problem.sample_noise(8, 3), 80.0, 0.002, 0.002, 1025)
    for sigma, width in ((2.0, 1e-3), (0.4, 3e-4)):
        _, Q = curvature(problem.denoiser, flow.at(sigma), sigma)
        ahead = velocity(problem.denoiser, flow.at(sigma - width), sigma - width)
        behind = velocity(problem.denoiser, flow.at(sigma + width), sigma + width)
        expected = (ahead - behind) / (2 * width)
        assert float(norm(Q - expected).max()) < 2e-3 * float(norm(expected).max())


def test_secant_agrees_and_converges():
    problem = make_problem("mixture-2d")
    x, sigma = _noise(16, (2,), 1.5), torch.linspace(0.3, 4.0, 16, dtype=torch.float64)
    F, Q = curvature(problem.denoiser, x, sigma)
    errors = []
    for h in (1e-2, 1e-3, 1e-4):
        F_secant, Q_secant = _secant(problem.denoiser, x, sigma, h)
        torch.testing.assert_close(F_secant, F, rtol=1e-12, atol=1e-12)
        errors.append(float(norm(Q_secant - Q).max() / norm(Q).max()))
    assert errors[1] < 0.02
    assert errors[2] < 0.2 * errors[1] < 0.04 * errors[0] * 1.2


def test_costs_of_the_curvature():
    denoiser = CountedDenoiser(GaussianDenoiser())
    with torch.no_grad():  # as the environment calls it
        _, Q = curvature(denoiser, _noise(3), 1.0)
    assert denoiser.nfe == 2
    assert float(Q.abs().min()) > 0
    assert not Q.requires_grad


def test_digits_curvature_jvp_against_secant():
    """The U-Net computes in float32, so the secant needs a wide step."""
    problem = make_problem("digits")
    x = problem.sample_noise(6, 0)
    for sigma in (0.5, 5.0):
        noisy = problem.sample_data(6, 0) + sigma / 80.0 * x
        _, Q = curvature(problem.denoiser, noisy, sigma)
        _, wide = _secant(problem.denoiser, noisy, sigma, h=0.01)
        assert Q.shape == noisy.shape
        assert float((norm(wide - Q) / norm(Q)).max()) < 0.06


# Exact trajectories


def _gaussian_flow(num_knots=257, n=16, sigma_end=0.0):
    return ReferenceFlow.integrate(
        GaussianDenoiser(),
        _noise(n, scale=np.sqrt(10.0)),
        3.0,
        1e-4 if sigma_end == 0 else sigma_end,
        sigma_end,
        num_knots,
    )


def test_reference_is_exact_on_the_gaussian():
    flow = _gaussian_flow()
    knots = flow.sigmas.numpy()
    between = np.sqrt(knots[:-1] * knots[1:])
    for s in [3.0, 2.3, 1.0, 0.31, 0.012, 1e-4, 3e-5, 0.0, *knots[::40], *between[::40]]:
        exact = flow.start * np.sqrt((1 + s**2) / 10)
        torch.testing.assert_close(flow.at(float(s)), exact, rtol=2e-8, atol=1e-8)
    torch.testing.assert_close(flow.x_end, flow.at(0.0), rtol=1e-14, atol=1e-14)
    assert flow.num_noises == 16


def test_reference_rows_and_index():
    flow = _gaussian_flow()
    index = torch.tensor([3, 3, 0, 15, 7])
    sigma = torch.tensor([3.0, 0.5, 1e-4, 2e-5, 0.0], dtype=torch.float64)
    got = flow.at(sigma, index)
    for i in range(5):
        torch.testing.assert_close(got[i], flow.at(float(sigma[i]))[index[i]], rtol=1e-14, atol=1e-14)


def test_reference_halving_the_step():
    """RK4: half the step, a sixteenth of the error."""
    exact = _gaussian_flow(2, sigma_end=0.05).start * np.sqrt((1 + 0.05**2) / 10)
    errors = [float((_gaussian_flow(n, sigma_end=0.05).x_end - exact).abs().max()) for n in (9, 17, 33)]
    assert 11 < errors[0] / errors[1] < 22
    assert 13 < errors[1] / errors[2] < 19
    problem = make_problem("mixture-1d")
    noise = problem.sample_noise(64, 0)
    ends = [
        ReferenceFlow.integrate(problem.denoiser, noise, 80.0, 0.002, 0.002, n).x_end
        for n in (129, 257, 1025)
    ]
    coarse, fine = (float((e - ends[2]).square().mean().sqrt()) for e in ends[:2])
    assert fine < coarse / 6
    assert fine < 1e-4


def test_reference_counts_its_evaluations_and_batches():
    denoiser = CountedDenoiser(GaussianDenoiser())
    x = _noise(10, scale=3.0)
    flow = ReferenceFlow.integrate(denoiser, x, 3.0, 0.01, 0.01, 17)
    assert denoiser.evals == 10 * (4 * 16 + 1)
    split = ReferenceFlow.integrate(denoiser, x, 3.0, 0.01, 0.01, 17, batch_size=4)
    torch.testing.assert_close(split.x, flow.x, rtol=1e-14, atol=1e-14)
    assert torch.equal(flow.x_end, flow.x[-1])


def test_reference_errors():
    with pytest.raises(ValueError, match="knots"):
        ReferenceFlow.integrate(GaussianDenoiser(), _noise(2), 3.0, 0.01, 0.0, 1)
    for high, low in ((0.01, 3.0), (3.0, 0.0), (3.0, 3.0)):
        with pytest.raises(ValueError, match="sigma"):
            ReferenceFlow.integrate(GaussianDenoiser(), _noise(2), high, low, 0.0, 9)


@pytest.mark.parametrize("name", ["gaussian-1d", "mixture-2d"])
def test_curvature_norms_from_the_slopes(name):
    problem = make_problem(name)
    flow = problem.reference(32, num_knots=513)
    norms = flow.curvature_norms()
    assert norms.shape == (513, 32)
    scale = norms.mean(1)
    for i in (20, 150, 300, 400):
        _, Q = curvature(problem.denoiser, flow.x[i], flow.sigmas[i])
        assert float((norms[i] - norm(Q)).abs().max()) < 0.01 * float(scale[i])
