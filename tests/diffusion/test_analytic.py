"""Closed-form denoisers against posterior means by brute-force integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_env.diffusion import Denoiser, GaussianDenoiser, GaussianMixtureDenoiser

torch.set_num_threads(1)

WEIGHTS, MEANS, STDS = [0.3, 0.5, 0.2], [-2.0, 0.5, 2.5], [0.3, 0.2, 0.6]
COVS_2D = np.array([[[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.1], [-0.1, 0.6]]])
MEANS_2D = np.array([[1.0, -0.5], [-0.8, 0.7]])


def _posterior_mean_1d(x, s, weights, means, stds):
    grid = np.linspace(-8.0, 8.0, 40001)
    prior = sum(
        w * np.exp(-0.5 * ((grid - m) / c) ** 2) / c for w, m, c in zip(weights, means, stds, strict=True)
    )
    weight = prior * np.exp(-0.5 * ((x - grid) / s) ** 2)
    return (weight * grid).sum() / weight.sum()


def _posterior_mean_2d(x, s, weights, means, covs):
    axis = np.linspace(-6.0, 6.0, 601)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    prior = np.zeros(len(grid))
    for w, m, C in zip(weights, means, covs, strict=True):
        off = grid - m
        prior += (
            w
            * np.exp(-0.5 * np.einsum("ni,ij,nj->n", off, np.linalg.inv(C), off))
            / np.sqrt(np.linalg.det(C))
        )
    weight = prior * np.exp(-0.5 * ((x - grid) ** 2).sum(1) / s**2)
    return (weight[:, None] * grid).sum(0) / weight.sum()


@pytest.mark.parametrize("s", [0.15, 0.6, 3.0])
def test_gaussian_is_the_posterior_mean(s):
    denoiser = GaussianDenoiser(std=0.7, mean=0.4)
    x = torch.tensor([[-1.5], [0.2], [2.0]], dtype=torch.float64)
    expected = [_posterior_mean_1d(float(v), s, [1.0], [0.4], [0.7]) for v in x]
    np.testing.assert_allclose(denoiser(x, s).squeeze(1), expected, rtol=1e-7)


@pytest.mark.parametrize("s", [0.15, 0.6, 3.0])
def test_mixture_1d_is_the_posterior_mean(s):
    denoiser = GaussianMixtureDenoiser(WEIGHTS, MEANS, np.square(STDS))
    x = torch.linspace(-3.0, 3.5, 9, dtype=torch.float64)[:, None]
    expected = [_posterior_mean_1d(float(v), s, WEIGHTS, MEANS, STDS) for v in x]
    np.testing.assert_allclose(denoiser(x, s).squeeze(1), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("s", [0.3, 2.0])
def test_mixture_2d_with_full_covariances_is_the_posterior_mean(s):
    denoiser = GaussianMixtureDenoiser([1.0, 3.0], MEANS_2D, COVS_2D)
    x = torch.tensor([[0.3, 0.1], [1.5, -1.0], [-1.0, 1.2]], dtype=torch.float64)
    expected = np.stack([_posterior_mean_2d(v.numpy(), s, [0.25, 0.75], MEANS_2D, COVS_2D) for v in x])
    np.testing.assert_allclose(denoiser(x, s), expected, rtol=1e-6, atol=1e-9)


def test_one_component_is_the_gaussian():
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    one = GaussianMixtureDenoiser([2.0], np.full((1, 3), 0.3), 0.49 * np.eye(3)[None])
    plain = GaussianDenoiser(0.7, 0.3, (3,))
    for s in (0.0, 0.01, 1.0, 80.0):
        torch.testing.assert_close(one(x, s), plain(x, s), rtol=1e-12, atol=1e-12)
    assert one.sigma_data == pytest.approx(plain.sigma_data)


@pytest.mark.parametrize(
    "denoiser",
    [
        GaussianDenoiser(0.5, 0.1, (2, 3)),
        GaussianMixtureDenoiser(WEIGHTS, MEANS, np.square(STDS)),
        GaussianMixtureDenoiser([1.0, 3.0], MEANS_2D, COVS_2D),
    ],
)
def test_sigma_scalar_or_one_a_row(denoiser):
    assert isinstance(denoiser, Denoiser)
    x = torch.randn(4, *denoiser.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    same = denoiser(x, torch.full((4,), 0.8, dtype=torch.float64))
    for sigma in (0.8, torch.tensor(0.8, dtype=torch.float64)):
        torch.testing.assert_close(denoiser(x, sigma), same, rtol=1e-14, atol=1e-14)
    each = torch.tensor([0.1, 0.8, 3.0, 50.0], dtype=torch.float64)
    rows = torch.cat([denoiser(x[i : i + 1], float(each[i])) for i in range(4)])
    torch.testing.assert_close(denoiser(x, each), rows, rtol=1e-13, atol=1e-13)
    assert denoiser(x, each).shape == x.shape
    assert denoiser(x, each).dtype == x.dtype


def test_limits_of_the_noise():
    """Nothing to remove at 0; nothing but the mean at infinity."""
    denoiser = GaussianMixtureDenoiser(WEIGHTS, MEANS, np.square(STDS))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(denoiser(x, 0.0), x)
    far = denoiser(x, 1e6)
    torch.testing.assert_close(far, torch.full_like(far, np.dot(WEIGHTS, MEANS)), rtol=1e-6, atol=1e-6)
    # Far out in the tail the weights underflow but the answer does not.
    assert torch.isfinite(denoiser(torch.tensor([[1e4], [-1e4]], dtype=torch.float64), 0.01)).all()


def test_moments_of_the_samples():
    n = 60_000
    gaussian = GaussianDenoiser(0.7, 0.3, (2,)).sample(n, 0)
    assert gaussian.shape == (n, 2)
    np.testing.assert_allclose(gaussian.mean(0), 0.3, atol=0.015)
    np.testing.assert_allclose(gaussian.std(0), 0.7, rtol=0.015)
    mixture = GaussianMixtureDenoiser([1.0, 3.0], MEANS_2D, COVS_2D)
    data = mixture.sample(n, 0).numpy()
    w = np.array([0.25, 0.75])
    mean = w @ MEANS_2D
    off = MEANS_2D - mean
    cov = np.einsum("m,mij->ij", w, COVS_2D + off[:, :, None] * off[:, None, :])
    np.testing.assert_allclose(data.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(data.T), cov, atol=0.03)
    assert mixture.sigma_data == pytest.approx(np.sqrt(np.trace(cov) / 2))
    assert torch.equal(mixture.sample(50, 7), mixture.sample(50, 7))
    assert not torch.equal(mixture.sample(50, 7), mixture.sample(50, 8))


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_gaussian(std):
    with pytest.raises(ValueError, match=r"std = .*positive"):
        GaussianDenoiser(std)


@pytest.mark.parametrize(
    ("weights", "means", "covs", "message"),
    [
        ([1.0], [0.0, 1.0], [1.0, 1.0], r"weights \(1,\).*disagree"),
        ([1.0, 1.0], [0.0, 1.0], [1.0], "disagree"),
        ([1.0], [[0.0, 1.0]], [[[1.0]]], "disagree"),
        ([1.0, -1.0], [0.0, 1.0], [1.0, 1.0], "weights = .*positive"),
        ([1.0, np.nan], [0.0, 1.0], [1.0, 1.0], "weights = .*positive"),
        ([1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.1, 1.0]]], "symmetric"),
        ([1.0, 1.0], [0.0, 1.0], [1.0, -0.1], r"covs\[1\] is not positive definite"),
        ([1.0], [[0.0, 1.0]], [[[1.0, 2.0], [2.0, 1.0]]], r"covs\[0\] is not positive definite"),
    ],
)
def test_bad_mixtures(weights, means, covs, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureDenoiser(weights, means, covs)
