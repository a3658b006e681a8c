"""Problems with another mixture for each row."""

import numpy as np
import pytest
import torch

from art_env.problems.random_mixtures import FAMILIES, random_mixture_problem, random_mixtures


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_depends_on_the_seed_and_its_number_alone(family):
    few, many = random_mixtures(2, 3, (family,)), random_mixtures(5, 3, (family,))
    torch.testing.assert_close(few.means, many.means[:2])
    torch.testing.assert_close(few.variances, many.variances[:2])
    assert not torch.equal(random_mixtures(2, 4, (family,)).means, few.means)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_and_spreads_are_in_their_range(family):
    drawn = random_mixtures(60, 0, (family,))
    assert drawn.sizes.min() < 4
    assert drawn.sizes.max() > 32
    assert 0.25 <= float(drawn.spreads.min()) < 0.5
    assert 1.5 < float(drawn.spreads.max()) <= 2.0**1.5
    torch.testing.assert_close(drawn.weights.sum((1, 2)), torch.ones(60).double())


def test_spaces_are_larger_than_what_the_data_fill():
    """As those of images are; noise has the norm there that it has in the whole space."""
    drawn = random_mixtures(200, 0)
    part = drawn.spaces / drawn.sizes
    assert float(part.min()) >= 1.0
    assert 3.0 < float(part.median()) < 10.0
    assert 24.0 < float(part.max()) <= 34.0  # 32, rounded
    problem = random_mixture_problem(200, 0)
    x = problem.sample_noise(1600, 1)
    size = problem.extent(x)[0]
    assert isinstance(size, torch.Tensor)
    rms = x[:, :-1].norm(dim=1) / (problem.prior_std * size.sqrt())
    assert float(rms[size > 30].std()) < 0.15
    assert float(rms.mean()) == pytest.approx(1.0, abs=0.02)


def test_the_mean_of_the_data_is_0():
    """So that nothing depends on where a mixture lies."""
    drawn = random_mixtures(8, 0)
    centre = (drawn.weights[..., None] * drawn.means).sum((1, 2))
    assert float(centre.abs().max()) < 1e-12


def test_noises_belong_to_all_mixtures_alike():
    problem = random_mixture_problem(6, 0, noises_each=4)
    x = problem.sample_noise(24, 5)
    which = problem.denoiser.which(x)
    assert torch.bincount(which).tolist() == [4] * 6
    torch.testing.assert_close(problem.sample_noise(9, 5), x[:9])
    assert not torch.equal(problem.denoiser.which(problem.sample_noise(24, 6)), which)
    # Coordinates that a mixture does not have are 0, and stay so.
    absent = problem.denoiser.real[which] == 0
    assert (x[:, :-2][absent] == 0).all()
    ends = problem.reference(24, 5).x_end
    assert (ends[:, :-2][absent] == 0).all()
    # Outside its subspace a mixture is a point.
    assert (ends[:, -2] == 0).all()
    size, spread = problem.extent(x)
    assert size.tolist() == problem.denoiser.spaces[which].tolist()
    torch.testing.assert_close(spread, problem.denoiser.spreads[which])


def test_bad_families():
    with pytest.raises(ValueError, match="Did you mean 'tree'"):
        random_mixtures(2, 0, ("tre",))
    with pytest.raises(ValueError, match="num_mixtures = 0"):
        random_mixtures(0, 0)
    with pytest.raises(ValueError, match="families"):
        random_mixtures(2, 0, ())
    assert np.isfinite(random_mixtures(3, 0).sigma_data)
