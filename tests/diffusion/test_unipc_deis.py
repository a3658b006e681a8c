"""UniPC and DEIS against diffusers' schedulers, and where each is another known rule."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from art_env.diffusion import SOLVERS, sample
from art_env.diffusion.steps import SolverState
from art_env.problems.library import make_problem
from art_env.schedules import edm, log_snr

torch.set_num_threads(1)
# NumPy on how diffusers turns tensors into arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
SCHEDULERS = {
    "unipc": diffusers.UniPCMultistepScheduler,
    "deis": diffusers.DEISMultistepScheduler,
}


@pytest.fixture(scope="module")
def mixture():
    x = 80 * torch.randn(32, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return make_problem("mixture-1d").denoiser, x


def _of_diffusers(name, order, denoiser, x, sigmas, lower_order_final):
    """Its samples, in float64; its grid is set by hand, since the scheduler takes none."""
    scheduler = SCHEDULERS[name](
        solver_order=order, prediction_type="sample", lower_order_final=lower_order_final
    )
    K = len(sigmas) - 1
    scheduler.set_timesteps(K)
    scheduler.sigmas, scheduler.timesteps = torch.tensor(sigmas), torch.arange(K)
    scheduler.set_begin_index(0)
    scale = np.sqrt(1 + sigmas**2)
    vp = x / scale[0]
    for k, t in enumerate(scheduler.timesteps):
        vp = scheduler.step(denoiser(vp * scale[k], torch.tensor(sigmas[k])), t, vp).prev_sample
    return vp * scale[-1]


@pytest.mark.parametrize("K", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("make", [edm, log_snr])
def test_unipc_is_that_of_diffusers(mixture, make, order, K):
    for end in ("zero", "sigma_min"):
        sigmas = make(K, 0.002, 80.0, final_sigmas_type=end).sigmas
        theirs = _of_diffusers("unipc", order, *mixture, sigmas, lower_order_final=True)
        ours = sample(*mixture, sigmas, f"unipc_{order}")
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("K", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("make", [edm, log_snr])
def test_deis_is_that_of_diffusers(mixture, make, order, K):
    sigmas = make(K, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas
    theirs = _of_diffusers("deis", order, *mixture, sigmas, lower_order_final=False)
    torch.testing.assert_close(sample(*mixture, sigmas, f"deis_{order}"), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["deis_2", "deis_3", "unipc_2", "unipc_3"])
def test_a_step_to_zero_ends_at_a_denoised_sample(mixture, name):
    denoiser, x = mixture
    sigmas = edm(5, 0.002, 80.0).sigmas
    assert sigmas[-1] == 0
    before = []
    end = sample(denoiser, x, sigmas, name, lambda k, y: before.append(y))
    if name.startswith("deis"):
        torch.testing.assert_close(
            end, denoiser(before[-2], torch.tensor(sigmas[-2])), rtol=1e-12, atol=1e-12
        )
    torch.testing.assert_close(before[0], sample(denoiser, x, sigmas[:2], "euler"), rtol=1e-12, atol=1e-12)


def test_unipc_2_predicts_as_dpmpp_2m(mixture):
    """It differs by the corrector, which an exact start has no use for."""

    denoiser, x = mixture[0], mixture[1] / 8
    before, now, after = torch.tensor([20.0, 10.0, 3.0], dtype=torch.float64)
    past = ((denoiser(2 * x, before), before),)
    args = denoiser, x, now, after
    got, _ = SOLVERS["unipc_2"].step(*args, SolverState(None, past, exact=True))
    want, _ = SOLVERS["dpmpp_2m"].step(*args, SolverState(None, past))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    corrected, _ = SOLVERS["unipc_2"].step(*args, SolverState(None, past))
    assert not torch.allclose(corrected, got)
