"""Adaptive steps: evaluations counted, error under control, order, and the matched cost."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion import GaussianDenoiser, sample
from art_env.diffusion.adaptive import match_tolerance, sample_adaptive
from art_env.problems.library import make_problem

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def mixture():
    problem = make_problem("mixture-1d")
    return problem.denoiser, problem.reference(256, seed=5)


class Recorder:
    """A Gaussian denoiser that keeps the noise levels that it is asked about, by row of the initial noises."""

    shape, sigma_data = (1,), 1.0

    def __init__(self) -> None:
        self.exact = GaussianDenoiser()
        self.asked: list[list[float]] = []

    def __call__(self, x, sigma):
        self.asked.append(torch.as_tensor(sigma).tolist())
        return self.exact(x, sigma)


@pytest.mark.parametrize("sigma_end", [0.0, 0.002])
def test_every_evaluation_is_counted(mixture, sigma_end):
    """Also those of rejected steps, and none of rows that are finished."""
    counting = CountedDenoiser(mixture[0])
    x, nfe = sample_adaptive(counting, mixture[1].start, 80.0, 0.002, sigma_end, 0.02)
    assert (x.shape, nfe.shape, nfe.dtype) == ((256, 1), (256,), torch.int64)
    assert int(nfe.sum()) == counting.evals
    assert int(nfe.min()) < int(nfe.max())
    alone = sample_adaptive(mixture[0], mixture[1].start[7:8], 80.0, 0.002, sigma_end, 0.02)
    torch.testing.assert_close((x[7:8], nfe[7:8]), alone)


def test_a_rejected_step_keeps_its_first_slope():
    """One trajectory by hand: levels asked about are start, attempts, and each accepted level once more."""
    denoiser = Recorder()
    x = torch.tensor([[90.0]], dtype=torch.float64)
    _, nfe = sample_adaptive(denoiser, x, 80.0, 0.002, 0.002, 0.05)
    asked = [s[0] for s in denoiser.asked]
    assert len(asked) == int(nfe)
    assert asked[:2] == pytest.approx([80.0, 8.0])
    accepted, rejected, at, i = 0, 0, asked[0], 1
    while i < len(asked):
        attempt = asked[i]
        assert attempt < at
        if attempt == 0.002 or (i + 1 < len(asked) and asked[i + 1] == attempt):
            accepted, at, i = accepted + 1, attempt, i + 2
        else:
            rejected, i = rejected + 1, i + 1
            assert attempt < asked[i]  # the next attempt is shorter
    assert int(nfe) == 2 * accepted + rejected
    assert rejected > 0


def test_guidance_costs_twice(mixture):
    class Guided(Recorder):
        nfe_per_call = 2

    x = torch.full((3, 1), 80.0, dtype=torch.float64)
    single = sample_adaptive(Recorder(), x, 80.0, 0.002, 0.0, 0.05)[1]
    assert (sample_adaptive(Guided(), x, 80.0, 0.002, 0.0, 0.05)[1] == 2 * single).all()


def test_error_falls_with_the_tolerance(mixture):
    denoiser, reference = mixture
    results = [sample_adaptive(denoiser, reference.start, 80.0, 0.002, 0.002, 10.0**-k) for k in range(1, 6)]
    errors = [float((x - reference.x_end).square().mean().sqrt()) for x, _ in results]
    costs = [float(nfe.double().mean()) for _, nfe in results]
    assert all(b < 0.7 * a for a, b in pairwise(errors))
    assert all(b > a for a, b in pairwise(costs))
    assert errors[-1] < 3e-3


def test_order_of_convergence():
    """Euler's error is held at the tolerance: steps are like its square root, and Heun's error like itself."""
    x = torch.tensor([[1.0], [-2.5]], dtype=torch.float64)
    exact = x * math.sqrt((1 + 0.05**2) / (1 + 3.0**2))
    tolerances = [1e-4, 1e-5, 1e-6, 1e-7]
    found = [sample_adaptive(GaussianDenoiser(), x, 3.0, 0.05, 0.05, t) for t in tolerances]
    errors = np.log([float((end - exact).abs().max()) for end, _ in found])
    steps = np.log([float(nfe.double().mean()) for _, nfe in found])
    assert np.polyfit(np.log(tolerances), steps, 1)[0] == pytest.approx(-0.5, abs=0.05)
    assert np.polyfit(steps, errors, 1)[0] == pytest.approx(-2, abs=0.3)


def test_steps_are_those_of_heun(mixture):
    """With a tolerance that rejects nothing, the trajectory is that of the list of levels asked about."""
    x = torch.tensor([[70.0]], dtype=torch.float64)
    denoiser = Recorder()
    end, nfe = sample_adaptive(denoiser, x, 80.0, 0.002, 0.0, 1e3, first_step=0.5)
    levels = [s[0] for s in denoiser.asked[::2]]
    assert int(nfe) == 2 * len(levels) - 1
    torch.testing.assert_close(end, sample(GaussianDenoiser(), x, [*levels, 0.0], "heun"))


@pytest.mark.parametrize("target", [9, 19, 35])
@pytest.mark.parametrize("sigma_end", [0.0, 0.002])
def test_matched_evaluations(mixture, target, sigma_end):
    denoiser = mixture[0]
    noises = make_problem("mixture-1d").sample_noise(2048, 5)
    tolerance = match_tolerance(denoiser, noises, 80.0, 0.002, sigma_end, target)
    pilot = sample_adaptive(denoiser, noises, 80.0, 0.002, sigma_end, tolerance)[1]
    assert float(pilot.double().mean()) == pytest.approx(target, rel=0.006)
    fresh = make_problem("mixture-1d").sample_noise(4096, 77)
    nfe = sample_adaptive(denoiser, fresh, 80.0, 0.002, sigma_end, tolerance)[1]
    assert float(nfe.double().mean()) == pytest.approx(target, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": 0.0}, "tolerance = 0.0 must be a positive number"),
        ({"tolerance": math.nan}, "tolerance = nan"),
        ({"tolerance": 1e-20}, "tolerance = 1e-20 cannot be met"),
        ({"sigma_floor": 0.0}, "sigma_floor = 0 must lie between 0 and sigma_max = 3"),
        ({"sigma_floor": 5.0}, "sigma_floor = 5 must lie"),
        ({"sigma_end": 0.01}, "sigma_end = 0.01 must be 0 or sigma_floor = 0.05"),
        ({"first_step": 0.0}, "first_step = 0.0 must be above 0 and at most 1"),
        ({"safety": 1.5}, "safety = 1.5"),
        ({"max_factor": 1.0}, "min_factor = 0.2 and max_factor = 1.0 must enclose 1"),
    ],
)
def test_bad_arguments(changes, message):
    usual = {"sigma_max": 3.0, "sigma_floor": 0.05, "sigma_end": 0.05, "tolerance": 0.01}
    with pytest.raises(ValueError, match=message):
        sample_adaptive(GaussianDenoiser(), torch.ones(2, 1, dtype=torch.float64), **{**usual, **changes})


def test_a_cost_that_no_tolerance_has(mixture):
    with pytest.raises(ValueError, match=r"nfe = 1 is below \d.*, the fewest that adaptive steps take"):
        match_tolerance(mixture[0], mixture[1].start, 80.0, 0.002, 0.002, 1)
