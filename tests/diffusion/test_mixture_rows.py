"""Exact denoisers of many mixtures at once against the one that knows a single mixture."""

import numpy as np
import pytest
import torch

from art_env.diffusion.analytic import GaussianMixtureDenoiser
from art_env.diffusion.denoiser import difference
from art_env.diffusion.mixture_rows import MixtureRowsDenoiser
from art_env.diffusion.ode import curvature

WEIGHTS = [[[0.5, 0.2], [0.3, 0.0]], [[1.0, 3.0], [2.0, 2.0]]]
SIZES = [2, 3]


def _denoiser():
    rng = np.random.default_rng(0)
    means = rng.standard_normal((2, 2, 2, 3))
    variances = rng.uniform(0.01, 0.5, (2, 2, 3))
    return MixtureRowsDenoiser(WEIGHTS, means, variances, SIZES)


def _alone(rows, p):
    """Mixture p by itself."""
    n, w = SIZES[p], rows.weights[p].flatten()
    means = rows.means[p].flatten(0, 1)[:, :n]
    covs = torch.diag_embed(rows.variances[p][:, None].expand(2, 2, 3).flatten(0, 1)[:, :n])
    return GaussianMixtureDenoiser(w[w > 0], means[w > 0], covs[w > 0])


def _rows(which, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(len(which), 5, generator=rng, dtype=torch.float64)
    x[:, 4] = torch.tensor(which)
    return x


@pytest.mark.parametrize("which", [[0, 1], [1, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 0]])
@pytest.mark.parametrize("sigma", [1e-3, 0.3, 40.0])
def test_each_row_meets_its_own_mixture(which, sigma):
    """However the rows are grouped inside."""
    rows = _denoiser()
    x = rows.project(_rows(which))
    levels = sigma * torch.linspace(1, 2, len(which), dtype=torch.float64)
    out = rows(x, levels)
    for i, p in enumerate(which):
        own = _alone(rows, p)(x[i : i + 1, : SIZES[p]], levels[i : i + 1])
        torch.testing.assert_close(out[i : i + 1, : SIZES[p]], own, rtol=1e-9, atol=1e-9)
    assert (out[torch.tensor(which) == 0, 2] == 0).all()
    torch.testing.assert_close(out[:, 4], x[:, 4])
    torch.testing.assert_close(rows(x, sigma), rows(x, torch.full((len(x),), sigma).double()))


def test_derivatives_are_those_of_the_single_mixture():
    rows = _denoiser()
    x = rows.project(_rows([1, 0, 1, 1]))
    F, Q = curvature(rows, x, 0.7)
    for i, p in enumerate([1, 0, 1, 1]):
        own = curvature(_alone(rows, p), x[i : i + 1, : SIZES[p]], 0.7)
        torch.testing.assert_close(F[i : i + 1, : SIZES[p]], own[0])
        torch.testing.assert_close(Q[i : i + 1, : SIZES[p]], own[1])
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rows(leaf, 0.7)[:, :3].square().sum(), leaf)
    step = 1e-6 * torch.eye(5, dtype=torch.float64)[1]
    slope = (rows(x + step, 0.7) - rows(x - step, 0.7))[:, :3] / 2e-6
    torch.testing.assert_close(gradient[:, 1], (2 * rows(x, 0.7)[:, :3] * slope).sum(1), rtol=1e-5, atol=1e-7)


def test_spreads_are_those_of_the_data():
    rows = _denoiser()
    assert [float(s) for s in rows.spreads] == pytest.approx([_alone(rows, p).sigma_data for p in (0, 1)])
    which = np.arange(20000) % 2
    data = rows.sample(which, 3)
    torch.testing.assert_close(rows.sample(which[:100], 3), data[:100])
    for p in (0, 1):
        own = data[which == p, : SIZES[p]]
        mean = _alone(rows, p)(torch.zeros(1, SIZES[p], dtype=torch.float64), 1e6)[0]
        assert float((own - mean).square().mean().sqrt()) == pytest.approx(float(rows.spreads[p]), rel=0.02)
    assert (data[which == 0, 2] == 0).all()


def test_in_a_larger_space():
    """The mixture itself is the same; means are over all coordinates of the space, and the others shrink to 0."""
    small = _denoiser()
    large = MixtureRowsDenoiser(small.weights, small.means, small.variances, SIZES, [8, 3])
    torch.testing.assert_close(large.spreads, small.spreads * torch.tensor([0.5, 1.0]))
    white = _rows([0, 1])
    x = large.project(white)
    torch.testing.assert_close(x[:, :3], small.project(white)[:, :3])
    assert float(x[0, 3]) == pytest.approx(np.sqrt(6 * float(white[0, :4].square().mean())))
    assert float(x[1, 3]) == 0.0
    out = large(x, 0.5)
    torch.testing.assert_close(out[:, :3], small(x, 0.5)[:, :3])
    assert (out[:, 3] == 0).all()
    assert large.extent(x)[0].tolist() == [8.0, 3.0]


def test_rows_count_alike_in_an_error():
    """The mean square of a row is that over its own dimensions, in units of its own variance."""
    rows = _denoiser()
    exact = rows.project(_rows([0, 1, 1]))
    x = exact.clone()
    x[0, :2] += float(rows.spreads[0])
    off = difference(rows, x, exact)
    assert off.shape == (3, 4)
    torch.testing.assert_close(off.square().mean(1), torch.tensor([1.0, 0.0, 0.0]).double())


@pytest.mark.parametrize(
    ("weights", "means", "variances", "sizes", "match"),
    [
        (np.ones((1, 2, 2)), np.ones((1, 2, 2, 3)), np.ones((1, 2, 2)), None, "disagree"),
        (np.zeros((1, 2, 2)), np.ones((1, 2, 2, 3)), np.ones((1, 2, 3)), None, "weights must be"),
        (np.ones((1, 2, 2)), np.ones((1, 2, 2, 3)), np.zeros((1, 2, 3)), None, "variances must be"),
        (np.ones((1, 2, 2)), np.ones((1, 2, 2, 3)), np.ones((1, 2, 3)), [4], "from 1 to 3"),
    ],
)
def test_bad_parameters(weights, means, variances, sizes, match):
    with pytest.raises(ValueError, match=match):
        MixtureRowsDenoiser(weights, means, variances, sizes)


def test_a_space_smaller_than_the_mixture():
    with pytest.raises(ValueError, match="at least sizes"):
        MixtureRowsDenoiser(np.ones((1, 2, 2)), np.ones((1, 2, 2, 3)), np.ones((1, 2, 3)), [2], [1])
