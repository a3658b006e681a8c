"""CheckedDenoiser: what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_env.diffusion import CheckedDenoiser, DenoiserError, GaussianDenoiser, get_solver, sample
from art_env.diffusion.denoiser import append_dims
from art_env.schedules import edm

torch.set_num_threads(1)


class Broken:
    """A real denoiser whose output is spoilt from one noise level on."""

    shape = (2,)
    sigma_data = 1.0

    def __init__(self, spoil, below=float("inf")):
        self.spoil, self.below = spoil, below

    def __call__(self, x, sigma):
        out = GaussianDenoiser(shape=(2,))(x, sigma)
        return self.spoil(out) if float(torch.as_tensor(sigma).max()) < self.below else out


def _row_one(value):
    def spoil(out):
        out = out.clone()
        out[1, 0] = value
        return out

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: out.numpy(), "returned ndarray; return a torch.Tensor"),
        (lambda out: None, "returned NoneType"),
        (lambda out: (out,), "returned tuple"),
        (lambda out: out[:, :1], r"returned shape \(3, 1\) for an input of shape \(3, 2\)"),
        (lambda out: out[0], r"returned shape \(2,\)"),
        (lambda out: out.float(), "returned dtype torch.float32 for an input of torch.float64.*out.to"),
        (_row_one(float("nan")), "returned a value that is not finite in row 1"),
        (_row_one(float("inf")), "returned a value that is not finite in row 1"),
        (_row_one(-float("inf")), "returned a value that is not finite in row 1"),
    ],
)
@pytest.mark.parametrize("sigma", [0.25, torch.tensor([0.25, 0.25, 0.25])])
def test_refuses_and_names_sigma_and_step(spoil, message, sigma):
    denoiser = CheckedDenoiser(Broken(spoil), "denoiser of 'mine'")
    denoiser.step = 4
    with pytest.raises(DenoiserError, match=f"denoiser of 'mine' at sigma=0.25, step 4 {message}"):
        denoiser(torch.ones(3, 2, dtype=torch.float64), sigma)
    assert issubclass(DenoiserError, ValueError)


def test_names_the_sigma_of_the_bad_row():
    denoiser = CheckedDenoiser(Broken(_row_one(float("nan"))))
    with pytest.raises(DenoiserError, match=r"sigma=0\.5 returned .* row 1"):
        denoiser(torch.ones(3, 2, dtype=torch.float64), torch.tensor([3.0, 0.5, 2.0]))


def test_infinities_that_cancel_are_found():
    def spoil(out):
        out = out.clone()
        out[2] = torch.tensor([float("inf"), -float("inf")])
        return out

    with pytest.raises(DenoiserError, match="row 2"):
        CheckedDenoiser(Broken(spoil))(torch.ones(3, 2, dtype=torch.float64), 1.0)


def test_large_finite_output_passes():
    """The sum overflows; no term does."""
    denoiser = CheckedDenoiser(Broken(lambda out: torch.full_like(out, 1.7e308)))
    assert torch.isfinite(denoiser(torch.ones(3, 2, dtype=torch.float64), 1.0)).all()


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "dpmpp_2m", "ipndm"])
def test_sample_names_the_step(solver):
    """Spoilt below sigma = 1: the step named is the one whose stage asked there."""
    sigmas = edm(8, 0.002, 80.0).sigmas
    denoiser = CheckedDenoiser(Broken(_row_one(float("nan")), below=1.0))
    first_below = int(np.argmax(sigmas < 1.0))
    step = first_below if get_solver(solver).evals_per_step == 1 else first_below - 1
    with pytest.raises(DenoiserError, match=f"step {step} "):
        sample(denoiser, torch.ones(3, 2, dtype=torch.float64), sigmas, get_solver(solver))


def test_append_dims_broadcasts():
    x = torch.zeros(3, 1, 2, 2, dtype=torch.float64)
    assert append_dims(0.5, x).shape == ()
    assert append_dims(torch.tensor([1.0, 2.0, 3.0]), x).shape == (3, 1, 1, 1)
    assert append_dims(torch.tensor([1.0, 2.0, 3.0]), x).dtype == torch.float64
