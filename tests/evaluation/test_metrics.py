"""Sample distances against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_env.evaluation.metrics import frechet_distance, rmse, sliced_w2, wasserstein_1d


def _exact_moments(n: int, mean: np.ndarray, cov: np.ndarray, seed: int) -> np.ndarray:
    """A sample whose empirical mean and covariance are exactly these."""
    z = np.random.default_rng(seed).standard_normal((n, len(mean)))
    z -= z.mean(0)
    white = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    return mean + white @ np.linalg.cholesky(cov).T


def test_rmse() -> None:
    assert rmse([[0.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 1.0]]) == pytest.approx(np.sqrt(2.5))
    x = torch.randn(4, 1, 8, 8)
    assert rmse(x, x) == 0.0
    assert rmse(x, x.double().numpy() - 0.25) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="differ"):
        rmse(np.zeros((4, 2)), np.zeros((4, 1)))
    with pytest.raises(ValueError, match="finite"):
        rmse([np.nan], [0.0])
    with pytest.raises(ValueError, match="empty"):
        rmse([], [])


def test_frechet_of_gaussians_with_diagonal_covariance() -> None:
    a = _exact_moments(50, np.array([1.0, 2.0, 0.0]), np.diag([4.0, 1.0, 9.0]), 0)
    b = _exact_moments(70, np.array([0.0, 2.0, 2.0]), np.diag([1.0, 1.0, 0.25]), 1)
    # |difference of means|^2 + sum of (difference of standard deviations)^2
    assert frechet_distance(a, b) == pytest.approx(5.0 + 1.0 + 0.0 + 6.25, rel=1e-9)


def test_frechet_of_general_gaussians_matches_a_matrix_square_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    covs = [m @ m.T + 0.1 * np.eye(5) for m in rng.standard_normal((2, 5, 5))]
    means = rng.standard_normal((2, 5))
    a, b = (_exact_moments(40, means[i], covs[i], i) for i in range(2))
    cross = np.trace(np.real(sqrtm(covs[0] @ covs[1])))
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(covs[0]) + np.trace(covs[1]) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(torch.from_numpy(b), torch.from_numpy(a)) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_a_set_with_itself_and_of_a_singular_one() -> None:
    a = np.random.default_rng(0).standard_normal((100, 6))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-10)
    assert frechet_distance(a, a + 2.0) == pytest.approx(24.0, rel=1e-10)
    a[:, 5] = a[:, 4]
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def test_frechet_errors() -> None:
    good = np.random.default_rng(0).standard_normal((20, 4))
    with pytest.raises(ValueError, match=r"feat_a has 4 rows of 4 features.*at least 5"):
        frechet_distance(good[:4], good)
    with pytest.raises(ValueError, match=r"feat_b has shape \(20,\)"):
        frechet_distance(good, good[:, 0])
    with pytest.raises(ValueError, match="4 features and the other 3"):
        frechet_distance(good, good[:, :3])
    bad = good.copy()
    bad[3, 1] = np.inf
    with pytest.raises(ValueError, match="feat_b has 1 values that are not finite"):
        frechet_distance(good, bad)


def test_wasserstein_of_shifted_scaled_and_shuffled_samples() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(500)
    assert wasserstein_1d(x, rng.permutation(x) + 3.0) == pytest.approx(3.0)
    assert wasserstein_1d(x, rng.permutation(x)) == pytest.approx(0.0, abs=1e-12)
    assert wasserstein_1d(x, 2 * x) == pytest.approx(np.sqrt(np.mean(x**2)))
    # The optimal coupling swaps these two; the paired one would give 1.
    assert wasserstein_1d([0.0, 1.0], [1.0, 0.0]) == 0.0
    assert wasserstein_1d(torch.tensor([[5.0]]), torch.tensor([2.0])) == pytest.approx(3.0)


def test_wasserstein_errors() -> None:
    with pytest.raises(ValueError, match="equally many"):
        wasserstein_1d([0.0, 1.0], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="sliced_w2"):
        wasserstein_1d(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        wasserstein_1d([np.nan, 0.0], [0.0, 0.0])


def test_sliced_w2_of_a_shift() -> None:
    x = np.random.default_rng(0).standard_normal((300, 3))
    shift = np.array([1.0, -2.0, 2.0])
    # A shift v moves each projection by u.v, and the mean of (u.v)^2 over the sphere is |v|^2 / d.
    assert sliced_w2(x, x[::-1] + shift, num_projections=4000) == pytest.approx(np.sqrt(9 / 3), rel=0.03)
    assert sliced_w2(x, x[::-1].copy(), 10) == pytest.approx(0.0, abs=1e-12)


def test_sliced_w2_in_one_dimension_is_w2() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 1)), 2 + rng.random((200, 1))
    assert sliced_w2(x, y, 3) == pytest.approx(wasserstein_1d(x[:, 0], y[:, 0]))


def test_sliced_w2_depends_on_the_seed_only_through_directions() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, 4)), rng.standard_normal((100, 4)) * [1, 2, 3, 4]
    # 100 directions need two chunks.
    assert sliced_w2(x, y, 100, seed=1) == sliced_w2(x, y, 100, seed=1)
    assert sliced_w2(x, y, 100, seed=1) != sliced_w2(x, y, 100, seed=2)
    with pytest.raises(ValueError, match="num_projections"):
        sliced_w2(x, y, 0)
    with pytest.raises(ValueError, match="differ"):
        sliced_w2(x, y[:50])
    with pytest.raises(ValueError, match="flatten"):
        sliced_w2(x[:, :, None], y[:, :, None])
