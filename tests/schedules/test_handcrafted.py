"""Hand-crafted schedules against Table 1's exact values and their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from export.programs import k_module

from art_env.diffusion import GaussianDenoiser, sample
from art_env.problems.library import make_problem
from art_env.schedules import HANDCRAFTED, arctan, cosine, edm, log_snr, uniform
from art_env.schedules.handcrafted import BETA_MIN, BETA_RANGE, polyexponential, vp
from art_env.schedules.registry import check_spec, make_schedule

torch.set_num_threads(1)

STEPS = (2, 5, 10, 20, 50, 100)
TABLE_1 = {
    "uniform": (lambda K: uniform(K, 0.0, 3.0), (0.4648, 0.2117, 0.1103, 0.0565, 0.0230, 0.0116)),
    "edm": (lambda K: edm(K, 0.0, 3.0), (0.6617, 0.3158, 0.1736, 0.0908, 0.0373, 0.0188)),
    "edm rho=3": (lambda K: edm(K, 0.0, 3.0, 3.0), (0.4109, 0.1923, 0.1014, 0.0520, 0.0212, 0.0106)),
    "log_snr": (
        lambda K: log_snr(K, 1e-4, 3.0, final_sigmas_type="sigma_min"),
        (0.6674, 0.3982, 0.2081, 0.1097, 0.0453, 0.0229),
    ),
    "arctan": (lambda K: arctan(K, 0.0, 3.0), (0.3419, 0.1459, 0.0752, 0.0383, 0.0155, 0.0078)),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1(name):
    """Euler on gaussian-1d is linear: a start at one standard deviation of N(0, 10) ends at 1 - W2."""
    build, expected = TABLE_1[name]
    x = torch.tensor([[np.sqrt(10.0)], [-np.sqrt(10.0)]], dtype=torch.float64)
    for K, value in zip(STEPS, expected, strict=True):
        end = sample(GaussianDenoiser(), x, build(K).sigmas, "euler")
        assert abs(1.0 - float(end[0])) == pytest.approx(value, abs=5.1e-5), K
        assert float(end[1]) == -float(end[0])


@pytest.mark.parametrize("K", [1, 2, 5, 30])
def test_arctan_end_error_in_closed_form(K):
    """The end error of even steps of the angle is 1 - cos(dangle)^K, for any std of the data."""
    c = 0.7
    x = torch.tensor([[np.hypot(5.0, c)]], dtype=torch.float64)
    end = float(sample(GaussianDenoiser(c), x, arctan(K, 0.0, 5.0, c).sigmas, "euler"))
    assert end / c == pytest.approx(np.cos(np.arctan(5.0 / c) / K) ** K, rel=1e-12)


@pytest.mark.parametrize("name", HANDCRAFTED)
def test_terminal_conventions(name):
    build = HANDCRAFTED[name]
    zero = build(6, 0.002, 80.0)
    ramp = build(6, 0.002, 80.0, final_sigmas_type="sigma_min")
    assert zero.num_steps == ramp.num_steps == 6
    assert (zero.sigmas[0], zero.sigmas[-2], zero.sigmas[-1]) == (80.0, 0.002, 0.0)
    assert (ramp.sigmas[0], ramp.sigmas[-1]) == (80.0, 0.002)
    # K levels and then 0: the levels are the ramp of one step fewer.
    np.testing.assert_array_equal(
        zero.sigmas[:-1], build(5, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas
    )
    assert zero.name == name
    # One step: straight there.
    assert build(1, 0.002, 80.0).sigmas.tolist() == [80.0, 0.0]
    assert build(1, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas.tolist() == [80.0, 0.002]


@pytest.mark.parametrize("name", HANDCRAFTED)
def test_two_steps_to_zero_are_the_same_for_everybody(name):
    """Why EDM and DPM rows agree at K=2 in the paper's image tables."""
    assert HANDCRAFTED[name](2, 0.002, 80.0).sigmas.tolist() == [80.0, 0.002, 0.0]


@pytest.mark.parametrize("name", HANDCRAFTED)
@pytest.mark.parametrize("K", [1, 2, 6])
def test_the_last_of_k_steps_to_sigma_min_may_be_called_zero(name, K):
    """The convention of DPM-Solver and diff-sampler: the ramp to sigma_min of as many steps, but for its end."""
    build = HANDCRAFTED[name]
    replaced = build(K, 0.002, 80.0, zero="replace")
    ramp = build(K, 0.002, 80.0, final_sigmas_type="sigma_min")
    np.testing.assert_array_equal(replaced.sigmas[:-1], ramp.sigmas[:-1])
    assert replaced.sigmas[-1] == 0
    assert replaced.name == f"{name}:zero=replace"
    with pytest.raises(ValueError, match="zero = 'replace': a list that ends at sigma_min has no 0"):
        build(K, 0.002, 80.0, final_sigmas_type="sigma_min", zero="replace")
    with pytest.raises(ValueError, match=r"unknown zero 'replaced'\. Did you mean 'replace'"):
        build(K, 0.002, 80.0, zero="replaced")


def test_names_say_all_options():
    assert edm(5, 0.002, 80.0, 3.0, zero="replace").name == "edm:rho=3,zero=replace"
    assert edm(5, 0.0, 80.0, zero="replace").sigmas.tolist() == edm(5, 0.0, 80.0).sigmas.tolist()


@pytest.mark.parametrize("n", [4, 11])
def test_vp_and_polyexponential_are_those_of_k_diffusion(n):
    sampling = k_module("sampling")
    theirs = sampling.get_sigmas_vp(n).double().numpy()
    np.testing.assert_allclose(vp(n, theirs[-2], theirs[0]).sigmas, theirs, rtol=2e-4)
    for rho in (1.0, 0.5, 3.0):
        theirs = sampling.get_sigmas_polyexponential(n, 0.002, 80.0, rho).double().numpy()
        np.testing.assert_allclose(polyexponential(n, 0.002, 80.0, rho).sigmas, theirs, rtol=1e-4)
    np.testing.assert_allclose(polyexponential(n, 0.002, 80.0).sigmas, log_snr(n, 0.002, 80.0).sigmas)


def test_each_is_even_in_its_own_coordinate():
    kwargs = {"sigma_min": 0.01, "sigma_max": 20.0, "final_sigmas_type": "sigma_min"}
    coordinates = {
        "uniform": (uniform(9, **kwargs), lambda s: s),
        "edm": (edm(9, **kwargs), lambda s: s ** (1 / 7)),
        "edm:rho=3": (edm(9, rho=3, **kwargs), lambda s: s ** (1 / 3)),
        "log_snr": (log_snr(9, **kwargs), np.log),
        "arctan": (arctan(9, **kwargs), np.arctan),
        "arctan:c=0.5": (arctan(9, c=0.5, **kwargs), lambda s: np.arctan(s / 0.5)),
        "cosine": (cosine(9, **kwargs), np.arctan),
        "vp": (
            vp(9, **kwargs),
            lambda s: np.sqrt(BETA_MIN**2 + 2 * BETA_RANGE * np.log1p(s**2)),
        ),
        "polyexponential:rho=2": (
            polyexponential(9, rho=2, **kwargs),
            lambda s: np.sqrt(np.log(s / 0.01)),
        ),
    }
    for name, (schedule, coordinate) in coordinates.items():
        steps = np.diff(coordinate(schedule.sigmas))
        np.testing.assert_allclose(steps, steps.mean(), rtol=1e-9)
        assert schedule.name == name


def test_edm_matches_the_papers_formula():
    """Karras et al. 2022, eq. 5, at the CIFAR-10 setting."""
    N, rho = 18, 7
    i = np.arange(N)
    expected = (80 ** (1 / rho) + i / (N - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    np.testing.assert_allclose(edm(18, 0.002, 80.0).sigmas, np.append(expected, 0.0), rtol=1e-12)
    assert edm(18, 0.002, 80.0).sigmas[1] == pytest.approx(57.5859, rel=1e-5)


@pytest.mark.parametrize("name", HANDCRAFTED)
@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (80.0, 0.002, "must be below sigma_max.*swap"),
        (1.0, 1.0, "must be below sigma_max"),
        (0.1, 0.0, "sigma_max = 0 must be above 0"),
        (0.1, -1.0, "sigma_max = -1 must be above 0"),
        (0.1, float("inf"), "sigma_max = inf is not finite"),
        (0.1, float("nan"), "sigma_max = nan is not finite"),
        (float("nan"), 1.0, "sigma_min = nan is not finite"),
    ],
)
def test_bad_ranges(name, low, high, message):
    with pytest.raises(ValueError, match=message):
        HANDCRAFTED[name](5, low, high)


@pytest.mark.parametrize("name", ["uniform", "edm", "cosine", "arctan", "vp"])
def test_negative_sigma_min(name):
    with pytest.raises(ValueError, match="sigma_min = -1 must not be negative"):
        HANDCRAFTED[name](5, -1.0, 80.0)


@pytest.mark.parametrize("name", HANDCRAFTED)
def test_bad_steps_and_end(name):
    for K in (0, -1, 2.0, True, "5"):
        with pytest.raises(ValueError, match=r"num_steps = .*whole number of at least 1"):
            HANDCRAFTED[name](K, 0.002, 80.0)
    with pytest.raises(ValueError, match=r"unknown final_sigmas_type 'zreo'\. Did you mean 'zero'"):
        HANDCRAFTED[name](5, 0.002, 80.0, final_sigmas_type="zreo")
    with pytest.raises(ValueError, match="Did you mean 'sigma_min'"):
        HANDCRAFTED[name](5, 0.002, 80.0, final_sigmas_type="sigma-min")


@pytest.mark.parametrize("bad", [0.0, -7.0, float("nan"), float("inf")])
def test_bad_rho_and_c(bad):
    for build in (edm, polyexponential):
        with pytest.raises(ValueError, match="rho = "):
            build(5, 0.002, 80.0, bad)
    with pytest.raises(ValueError, match="c = "):
        arctan(5, 0.002, 80.0, bad)


@pytest.mark.parametrize("name", ["log_snr", "polyexponential"])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_even_steps_of_log_sigma_have_no_zero(name, low):
    with pytest.raises(ValueError, match=f"{name} needs sigma_min above 0"):
        HANDCRAFTED[name](5, low, 80.0)


def test_by_names_with_several_options():
    digits, mixture = make_problem("digits"), make_problem("mixture-1d")
    assert make_schedule("edm:rho=3,zero=replace", digits, 5) == edm(5, 0.002, 80.0, 3.0, zero="replace")
    assert make_schedule("edm:zero=append", digits, 5) == edm(5, 0.002, 80.0)
    tuned = make_schedule("edm_tuned:zero=replace", make_problem("mixture-1d", final_sigmas_type="zero"), 3)
    assert (tuned.name, tuned.sigmas[-1]) == ("edm_tuned:zero=replace", 0.0)
    assert tuned.sigmas[-2] > 0.01
    # Log-SNR of a range that runs to 0 may end there after all.
    assert make_schedule("log_snr:zero=replace", make_problem("gaussian-1d"), 4).sigmas[-1] == 0
    for spec, message in (
        ("edm:zero=replaced", "unknown zero 'replaced'. Did you mean 'replace'"),
        ("edm:zero=2", "unknown zero '2'"),
        ("edm:rho=replace", "rho = 'replace' is not a number"),
        ("log_snr:rho=3", "unknown option 'rho'.*as in log_snr:zero=replace"),
    ):
        with pytest.raises(ValueError, match=message):
            check_spec(spec, digits)
    with pytest.raises(ValueError, match="zero = 'replace': a list that ends at sigma_min has no 0"):
        check_spec("edm:zero=replace", mixture)
