"""Schedules of one model's noise levels, against diffusers, k-diffusion and what ComfyUI's rules say."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules
from export.programs import SD, k_module
from scipy.stats import beta as beta_distribution

from art_env.problems.library import make_problem
from art_env.schedules.model_lists import AYS, MODEL_LISTS, TABLES, ays, beta, sgm_uniform, simple
from art_env.schedules.registry import make_schedule

torch.set_num_threads(1)
SD_RANGE = float(TABLES["sd"][0]), float(TABLES["sd"][-1])


def test_tables_are_those_that_the_models_were_trained_on():
    for table, settings in (("sd", SD), ("vp", {"beta_start": 1e-4, "beta_end": 0.02})):
        left = diffusers.DDPMScheduler(**{"beta_schedule": "linear", **settings}).alphas_cumprod.double()
        np.testing.assert_allclose(TABLES[table], ((1 - left) / left).sqrt().numpy(), rtol=3e-4)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("K", [1, 4, 7, 20])
def test_in_the_models_own_range_nothing_is_stretched(table, K):
    levels = TABLES[table]
    own = float(levels[0]), float(levels[-1])
    top_down = levels[::-1]
    np.testing.assert_allclose(
        simple(K, *own, table).sigmas[:-1], [top_down[int(i * 1000 / K)] for i in range(K)], rtol=1e-12
    )
    times = [999 * beta_distribution.ppf(1 - i / K, 0.6, 0.6) for i in range(K)]
    np.testing.assert_allclose(
        beta(K, *own, table).sigmas[:-1], levels[np.rint(times).astype(int)], rtol=1e-12
    )
    discrete = k_module("external").DiscreteSchedule(torch.tensor(levels), quantize=False)
    even = discrete.t_to_sigma(torch.linspace(999, 0, K + 1, dtype=torch.float64))[:-1]
    np.testing.assert_allclose(sgm_uniform(K, *own, table).sigmas[:-1], even.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "name"),
    [("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL"), ("svd", "StableDiffusionVideo")],
)
def test_align_your_steps_is_that_of_diffusers(model, name):
    """Its lists end at 0, as ours do for ten steps of the model's own range."""
    theirs = AysSchedules[f"{name}Sigmas"]
    np.testing.assert_allclose(ays(10, AYS[model][-1], AYS[model][0], model).sigmas, theirs, rtol=1e-12)


def test_align_your_steps_of_other_numbers_is_even_in_log_sigma_between_the_published_levels():
    five = ays(5, AYS["sdxl"][-1], AYS["sdxl"][0], "sdxl", final_sigmas_type="sigma_min").sigmas
    np.testing.assert_allclose(five, AYS["sdxl"][::2], rtol=1e-12)
    twenty = ays(20, AYS["sdxl"][-1], AYS["sdxl"][0], "sdxl").sigmas
    np.testing.assert_allclose(
        twenty[1:-1:2], np.sqrt(np.multiply(AYS["sdxl"][:-1], AYS["sdxl"][1:])), rtol=1e-12
    )


@pytest.mark.parametrize("name", MODEL_LISTS)
@pytest.mark.parametrize("K", [1, 2, 3, 5, 10, 30])
def test_stretched_linearly_in_log_sigma(name, K):
    build = MODEL_LISTS[name]
    zero = build(K, 0.002, 80.0)
    above = build(K, 0.002, 80.0, final_sigmas_type="sigma_min")
    assert (zero.num_steps, zero.name, zero.sigmas[0], zero.sigmas[-1]) == (K, name, 80.0, 0.0)
    np.testing.assert_array_equal(zero.sigmas[:-1], above.sigmas[:-1])
    assert above.sigmas[-1] == 0.002
    low, high = (AYS[name[4:]][-1], AYS[name[4:]][0]) if name.startswith("ays") else SD_RANGE
    own = build(K, low, high).sigmas[:-1]
    slope = np.log(80.0 / 0.002) / np.log(high / low)
    np.testing.assert_allclose(np.log(80.0 / zero.sigmas[:-1]), slope * np.log(high / own), atol=1e-9)


def test_by_names():
    digits, gaussian = make_problem("digits"), make_problem("gaussian-1d")
    assert make_schedule("beta:table=vp", digits, 5).name == "beta:table=vp"
    assert make_schedule("beta:table=vp", digits, 5) == beta(5, 0.002, 80.0, "vp")
    assert make_schedule("ays_sd15", digits, 7) == ays(7, 0.002, 80.0, "sd15")
    for name in MODEL_LISTS:  # a range that runs to 0
        assert make_schedule(name, gaussian, 4).sigmas[-1] == 0


def test_bad_arguments():
    digits = make_problem("digits")
    for build, message in (
        (lambda: simple(5, 0.0, 80.0), "simple needs sigma_min above 0"),
        (lambda: simple(1001, 0.002, 80.0), "num_steps = 1001 is more than the 1000 levels"),
        (lambda: beta(900, 0.002, 80.0), "num_steps = 900: two steps of beta fall on one level"),
        (lambda: beta(5, 90.0, 80.0), "sigma_min = 90 must be below"),
        (lambda: simple(5, 0.002, 80.0, "sdxl"), "unknown table 'sdxl'"),
        (lambda: ays(5, 0.002, 80.0, "sd3"), "unknown model 'sd3'. Did you mean 'sdxl'|unknown model 'sd3'"),
        (lambda: sgm_uniform(5, 0.002, 80.0, final_sigmas_type="one"), "unknown final_sigmas_type"),
        (lambda: make_schedule("beta:table=sdd", digits, 5), "unknown table 'sdd'. Did you mean 'sd'"),
        (lambda: make_schedule("beta:rho=2", digits, 5), "unknown option 'rho'.*as in beta:table=vp"),
        (lambda: make_schedule("ays_sdxl:table=vp", digits, 5), "ays_sdxl has no options"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
