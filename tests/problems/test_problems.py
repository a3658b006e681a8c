"""Named problems: their ranges, their noise, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_env.diffusion import GaussianDenoiser, ReferenceFlow
from art_env.diffusion.solvers import sample
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.features import Features
from art_env.evaluation.metrics import rmse
from art_env.problems.custom import custom_problem
from art_env.problems.library import PROBLEMS, make_problem
from art_env.problems.problem import check_device
from art_env.schedules.registry import make_schedule

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "final_sigmas_type", "sigma_max", "sigma_min", "shape"),
    [
        ("gaussian-1d", "zero", 3.0, 0.0, (1,)),
        ("mixture-1d", "sigma_min", 80.0, 0.002, (1,)),
        ("mixture-2d", "sigma_min", 80.0, 0.002, (2,)),
        ("digits", "zero", 80.0, 0.002, (1, 8, 8)),
        ("digits-small", "zero", 80.0, 0.002, (1, 8, 8)),
        ("digits-large", "zero", 80.0, 0.002, (1, 8, 8)),
        ("digits-class", "zero", 80.0, 0.002, (2, 8, 8)),
        ("digits-inpaint", "zero", 80.0, 0.002, (2, 8, 8)),
        ("photos", "zero", 80.0, 0.002, (3, 16, 16)),
        ("photos-latent", "zero", 80.0, 0.002, (8, 4, 4)),
        ("mnist", "zero", 80.0, 0.002, (1, 32, 32)),
        ("random-mixtures", "zero", 80.0, 0.002, (66,)),
        ("random-mixtures-test", "zero", 80.0, 0.002, (66,)),
    ],
)
def test_the_named_problems(name, final_sigmas_type, sigma_max, sigma_min, shape):
    assert name in PROBLEMS
    problem = make_problem(name)
    assert problem.name == name
    assert (problem.final_sigmas_type, problem.sigma_max, problem.sigma_min) == (
        final_sigmas_type,
        sigma_max,
        sigma_min,
    )
    assert problem.shape == shape
    assert problem.sigma_end == (0.0 if final_sigmas_type == "zero" else sigma_min)
    assert 0 < problem.sigma_floor <= 0.002
    assert len(PROBLEMS) == 13
    assert (problem.effort.pictures < 100) == (len(shape) == 3)


@pytest.mark.parametrize("name", [name for name in PROBLEMS if make_problem(name).data is not None])
def test_data_noise_and_sigma_data(name):
    problem = make_problem(name)
    data = problem.sample_data(1500, 0)
    noise = problem.sample_noise(2000, 0)
    assert data.shape == (1500, *problem.images(noise[:1]).shape[1:])
    assert data.dtype == noise.dtype == torch.float64
    assert float(problem.visible(noise).std()) == pytest.approx(problem.prior_std, rel=0.06)
    if problem.decode is not None:
        assert problem.images(noise / problem.prior_std).dtype == torch.float64
        return
    # The held-out part of the photographs is darker than the rest.
    assert float(data.std()) == pytest.approx(
        problem.denoiser.sigma_data, rel=0.3 if name == "photos" else 0.06
    )
    # Denoising slightly noisy data gives the data back.
    few = torch.cat([data[:8], problem.sample_noise(8, 0)[:, data.shape[1] :]], 1)
    if name != "digits-inpaint":
        torch.testing.assert_close(problem.denoiser(few, 0.002), few, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", PROBLEMS)
def test_noise_prefix_and_seed(name):
    problem = make_problem(name)
    assert torch.equal(problem.sample_noise(100, 3)[:7], problem.sample_noise(7, 3))
    assert not torch.equal(problem.sample_noise(7, 3), problem.sample_noise(7, 4))


def test_digits_data_is_drawn_without_replacement():
    images = make_problem("digits").sample_data(1797, 1)
    assert len(torch.unique(images.flatten(1), dim=0)) > 1790
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    assert make_problem("digits").sample_data(2000, 1).shape[0] == 2000


def test_no_noises_are_refused():
    with pytest.raises(ValueError, match="num_noises = 0 must be at least 1"):
        custom_problem(GaussianDenoiser(1.0), num_noises=0).reference()


def test_mnist_without_its_images():
    problem = make_problem("mnist")
    assert float(problem.sample_noise(500, 0).std()) == pytest.approx(problem.prior_std, rel=0.01)
    with pytest.raises(ValueError, match="problem 'mnist' has no data"):
        problem.sample_data(5, 0)
    (floor,) = Evaluator(problem, "heun", (0,)).floor()
    assert 0.01 < floor.mean < 0.2


def test_mnist_samples_are_digits_that_its_denoiser_restores():
    problem = make_problem("mnist")
    schedule = make_schedule("edm", problem, 10)
    digits = sample(problem.denoiser, problem.sample_noise(48, 5), schedule.sigmas, "heun")
    # As MNIST: black and white, mostly black, with an empty border.
    assert float((digits.abs() > 0.8).double().mean()) > 0.85
    assert float(digits[:, :, [0, 1, 30, 31]].mean()) < -0.99
    assert float(digits.std()) == pytest.approx(problem.denoiser.sigma_data, rel=0.1)
    # The classifier is sure of most of them, and all classes come up.
    likely = Features(problem.features).probabilities(digits)
    assert (likely.max(1) > 0.7).mean() > 0.6
    assert len(set(likely.argmax(1))) >= 9
    noise = torch.randn(digits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = problem.denoiser.sigma_data
    for sigma, better in ((0.1, 2.0), (0.5, 3.5), (2.0, 6.0)):
        noisy = digits + sigma * noise
        error = rmse(problem.denoiser(noisy, sigma), digits)
        assert error < sigma / better
        # The best linear denoiser of data of mean 0.
        assert error < 0.8 * rmse(noisy * c**2 / (c**2 + sigma**2), digits)


def test_ends_and_ranges():
    assert make_problem("gaussian-1d", final_sigmas_type="sigma_min").sigma_end == 1e-4
    assert make_problem("mixture-1d", final_sigmas_type="zero").sigma_end == 0.0
    changed = make_problem("mixture-1d", sigma_min=0.01, sigma_max=20)
    assert (changed.sigma_min, changed.sigma_max, changed.prior_std) == (0.01, 20.0, 20.0)
    # The Gaussian starts from its exact marginal.
    assert make_problem("gaussian-1d", sigma_max=5).prior_std == pytest.approx(np.sqrt(26))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "mixture1d"}, "unknown problem 'mixture1d'. Did you mean 'mixture-1d'"),
        ({"name": "zzz"}, "unknown problem 'zzz'. Known: gaussian-1d"),
        ({"name": "mixture-1d", "final_sigmas_type": "sigma_mn"}, "Did you mean 'sigma_min'"),
        ({"name": "mixture-1d", "sigma_min": 100.0}, "sigma_min = 100 must be below sigma_max = 80"),
        ({"name": "mixture-1d", "sigma_max": 0.0}, "sigma_max = 0 must be above 0"),
        ({"name": "mixture-1d", "sigma_max": float("nan")}, "sigma_max = nan is not finite"),
        ({"name": "mixture-1d", "sigma_min": -0.1}, "sigma_min = -0.1 must not be negative"),
        ({"name": "mixture-1d", "sigma_min": 0.0}, "needs sigma_min above 0; use final_sigmas_type='zero'"),
        ({"name": "mixture-1d", "device": "gpu"}, "device = 'gpu' is not a device"),
    ],
)
def test_bad_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_problem(**kwargs)


def test_device_that_is_not_there():
    assert check_device("cpu") == "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(ValueError, match=rf"device = 'cuda:{count}' is not there: torch sees {count} CUDA"):
        make_problem("mixture-1d", device=f"cuda:{count}")
    if count == 0:
        with pytest.raises(ValueError, match=r"device = 'cuda' is not there.*use 'cpu'"):
            custom_problem(GaussianDenoiser(), device="cuda")


def test_custom_problem():
    problem = custom_problem(GaussianDenoiser(0.5, shape=(3, 2)), sigma_min=0.01, sigma_max=10, name="mine")
    assert (problem.name, problem.shape, problem.final_sigmas_type, problem.sigma_end) == (
        "mine",
        (3, 2),
        "zero",
        0.0,
    )
    assert (problem.prior_std, problem.sigma_floor) == (10.0, 0.01)
    with pytest.raises(ValueError, match="problem 'mine' has no data"):
        problem.sample_data(5, 0)
    flow = problem.reference(4)
    exact = flow.start * np.sqrt(0.25 / (0.25 + 100.0))
    torch.testing.assert_close(flow.x_end, exact, rtol=1e-3, atol=1e-6)

    class Lacking:
        shape = (1,)

        def __call__(self, x, sigma):
            return x

    with pytest.raises(TypeError, match="Lacking has no attribute 'sigma_data'"):
        custom_problem(Lacking())
    with pytest.raises(TypeError, match="denoiser is str, not callable"):
        custom_problem("digits")
    with pytest.raises(ValueError, match="must be below sigma_max"):
        custom_problem(GaussianDenoiser(), sigma_min=5.0, sigma_max=1.0)
    with pytest.raises(ValueError, match="Did you mean 'zero'"):
        custom_problem(GaussianDenoiser(), final_sigmas_type="Zero")


def test_reference_is_cached_and_keyed():
    problem = make_problem("mixture-1d")
    assert make_problem("mixture-1d") is problem
    flow = problem.reference(16, seed=3, num_knots=17)
    assert make_problem("mixture-1d").reference(16, seed=3, num_knots=17) is flow
    assert isinstance(flow, ReferenceFlow)
    assert torch.equal(flow.start, problem.sample_noise(16, 3))
    assert problem.reference(16, seed=4, num_knots=17) is not flow
    assert problem.reference(17, seed=3, num_knots=17) is not flow
    other = make_problem("mixture-1d", final_sigmas_type="zero").reference(16, seed=3, num_knots=17)
    assert (flow.sigma_end, other.sigma_end) == (0.002, 0.0)
    for bad in (0, -5):
        with pytest.raises(ValueError, match=f"num_noises = {bad}"):
            problem.reference(bad)
