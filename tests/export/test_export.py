"""Exported grids in the real schedulers and samplers: the levels that they visit and the samples that they end at."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from programs import SD, D, Network, grid, k_module, loop, noise, training_sigmas
from torch import Tensor

from art_env.diffusion import sample
from art_env.export import (
    diffusers_kwargs,
    learned_scheduler,
    to_comfyui,
    to_diff_sampler,
    to_diffusers,
    to_edm,
    to_flow,
    to_k_diffusion,
)
from art_env.export.__main__ import TARGETS, main
from art_env.export.diffusers import STEPS
from art_env.schedules import Schedule, edm

torch.set_num_threads(1)
# NumPy on how diffusers turns tensors into arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

# Largest difference to art_env's own sampler, relative to the largest coordinate of the samples.
RTOL = 1e-5
SD_MIN, SD_MAX = 0.0292, 14.6146


def assert_same(got: Tensor, solver: str, x: Tensor, sigmas, rtol: float = RTOL) -> None:
    """Compare samples with art_env's own from the start ``x``.

    Schedulers compute in float32: one unit in its last place of the start stays after a single giant step.
    """
    want = sample(D, x, sigmas, solver)
    rounding = 1.2e-7 * float(x.abs().max()) if rtol >= RTOL else 0.0
    assert float((got - want).abs().max()) <= rtol * float(want.abs().max()) + rounding


@pytest.mark.parametrize("K", [1, 2, 5, 18])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_diffusers_euler(K, kind):
    schedule = grid(K, 14.0, 0.03)
    scheduler = diffusers.EulerDiscreteScheduler(**SD, prediction_type=kind, timestep_spacing="trailing")
    assert to_diffusers(schedule, scheduler) is scheduler
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas, rtol=1e-7)
    table = np.log(training_sigmas(scheduler))
    network = Network(kind, lambda t: np.exp(np.interp(t, np.arange(1000), table)))
    x = noise(float(scheduler.init_noise_sigma))
    got = loop(scheduler, network, x)
    np.testing.assert_allclose(network.asked, schedule.sigmas[:-1], rtol=2e-6)
    assert_same(got, "euler", x, schedule.sigmas)


def test_diffusers_euler_takes_a_schedule_that_ends_above_zero():
    schedule = grid(6, 14.0, 0.03, zero=False)
    scheduler = to_diffusers(schedule, diffusers.EulerDiscreteScheduler(**SD))
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas, rtol=1e-7)
    table = np.log(training_sigmas(scheduler))
    network = Network("epsilon", lambda t: np.exp(np.interp(t, np.arange(1000), table)))
    x = noise(14.0)
    assert_same(loop(scheduler, network, x), "euler", x, schedule.sigmas)
    assert len(network.asked) == 6


def test_diffusers_euler_with_the_settings_of_stable_video_diffusion():
    settings = {
        "timestep_type": "continuous",
        "sigma_min": 0.002,
        "sigma_max": 700.0,
        "use_karras_sigmas": True,
    }
    scheduler = diffusers.EulerDiscreteScheduler(**SD, prediction_type="v_prediction", **settings)
    schedule = grid(9, 700.0, 0.002)
    to_diffusers(schedule, scheduler)
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas, rtol=1e-7)
    network = Network("v_prediction", lambda t: np.exp(4 * t))
    x = noise(700.0)
    got = loop(scheduler, network, x)
    np.testing.assert_allclose(network.asked, schedule.sigmas[:-1], rtol=2e-6)
    assert_same(got, "euler", x, schedule.sigmas)
    with pytest.raises(ValueError, match=r"sigma=800, above EulerDiscreteScheduler's sigma_max=700"):
        to_diffusers(grid(9, 800.0, 0.002), scheduler)


@pytest.mark.parametrize("K", [1, 2, 5, 18])
def test_diffusers_heun(K):
    schedule = grid(K, 14.0, 0.03)
    scheduler = to_diffusers(schedule, diffusers.HeunDiscreteScheduler(**SD, timestep_spacing="trailing"))
    visited = np.append(scheduler.sigmas[:1], scheduler.sigmas[1::2])
    np.testing.assert_allclose(visited, schedule.sigmas, rtol=1e-6)
    table = training_sigmas(scheduler)
    network = Network("epsilon", lambda t: np.interp(t, np.arange(1000), table))
    x = noise(float(scheduler.init_noise_sigma))
    got = loop(scheduler, network, x)
    assert len(network.asked) == 2 * K - 1
    np.testing.assert_allclose(network.asked[::2], schedule.sigmas[:-1], rtol=2e-6)
    assert_same(got, "heun", x, schedule.sigmas)


@pytest.mark.parametrize("K", [1, 2, 5, 18])
@pytest.mark.parametrize(("low", "high", "rho"), [(0.002, 80.0, 7.0), (0.001, 120.0, 3.0)])
def test_diffusers_edm_euler(K, low, high, rho):
    schedule = grid(K, high, 0.002)
    scheduler = diffusers.EDMEulerScheduler(sigma_min=low, sigma_max=high, rho=rho)
    to_diffusers(schedule, scheduler)
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas, rtol=1e-6)
    network = Network("edm", lambda t: np.exp(4 * t))
    x = noise(high)
    got = loop(scheduler, network, x)
    np.testing.assert_allclose(network.asked, schedule.sigmas[:-1], rtol=2e-6)
    assert_same(got, "euler", x, schedule.sigmas)


@pytest.mark.parametrize("K", [1, 2, 5, 18])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_diffusers_flow(K, shift):
    schedule = grid(K, 80.0, 0.002)
    scheduler = to_diffusers(schedule, diffusers.FlowMatchEulerDiscreteScheduler(shift=shift))
    t = scheduler.sigmas.double().numpy()
    np.testing.assert_allclose(t, schedule.sigmas / (1 + schedule.sigmas), rtol=1e-6)
    network = Network("flow", lambda t: t / (1000 - t))
    x = noise(80.0)
    got = loop(scheduler, network, x / 81)
    np.testing.assert_allclose(network.asked, schedule.sigmas[:-1], rtol=2e-5)
    assert_same(got, "euler", x, schedule.sigmas)


@pytest.mark.parametrize(("kind", "shift"), [("exponential", np.exp(1.1)), ("linear", 1.1)])
def test_diffusers_flow_with_dynamic_shift(kind, shift):
    schedule = grid(5, 80.0, 0.002)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    for function in (to_diffusers, diffusers_kwargs):
        with pytest.raises(ValueError, match=r"use_dynamic_shifting=False, shift=1.0\), or, .*mu="):
            function(schedule, scheduler)
    to_diffusers(schedule, scheduler, mu=1.1)
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas / (1 + schedule.sigmas), rtol=1e-6)
    fixed = type(scheduler).from_config(scheduler.config, use_dynamic_shifting=False, shift=shift)
    given = diffusers_kwargs(schedule, fixed)
    np.testing.assert_allclose(given["sigmas"], to_flow(schedule, shift), rtol=1e-12)
    # A pipeline passes its own mu, whatever the scheduler: it moves nothing any more.
    fixed.set_timesteps(**given, mu=0.3)
    np.testing.assert_allclose(fixed.sigmas, schedule.sigmas / (1 + schedule.sigmas), rtol=1e-6)


def test_flow_times():
    schedule = Schedule([3.0, 1.0, 0.25, 0.0])
    np.testing.assert_allclose(to_flow(schedule), [0.75, 0.5, 0.2])
    moved = to_flow(schedule, 3.0)
    np.testing.assert_allclose(3 * moved / (1 + 2 * moved), [0.75, 0.5, 0.2])
    for shift in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="shift"):
            to_flow(schedule, shift)


def test_dpm_solver_takes_whole_timesteps_only_if_told_to():
    schedule = grid(8, 14.0, 0.03)
    scheduler = diffusers.DPMSolverMultistepScheduler(**SD)
    with pytest.raises(ValueError, match=r"quantize=True.*EulerDiscreteScheduler"):
        to_diffusers(schedule, scheduler)
    to_diffusers(schedule, scheduler, quantize=True)
    visited = scheduler.sigmas.double().numpy()
    assert visited[-1] == 0
    np.testing.assert_allclose(visited, schedule.sigmas, rtol=0.2)  # timesteps 0 and 1 differ by 40%
    assert np.abs(visited / np.where(visited > 0, schedule.sigmas, 1) - 1).max() > 1e-4
    with pytest.raises(ValueError, match="round to the same timestep 0"):
        to_diffusers(Schedule([14.0, 0.033, 0.03, 0.0]), scheduler, quantize=True)


@pytest.mark.parametrize("K", [1, 2, 5, 18])
@pytest.mark.parametrize("exact", [False, True])
def test_dpmpp_2m_is_that_of_diffusers(K, exact):
    """In its variance-preserving coordinates, on its rounded grid or with ``.sigmas`` set by hand."""
    schedule = grid(K, 14.0, 0.03)
    scheduler = diffusers.DPMSolverMultistepScheduler(**SD)
    to_diffusers(schedule, scheduler, quantize=True)
    if exact:
        scheduler.sigmas = to_k_diffusion(schedule)
    sigmas = scheduler.sigmas.double()
    levels = dict(zip(scheduler.timesteps.tolist(), sigmas.tolist(), strict=False))
    network = Network("epsilon", lambda t: levels[int(t)])
    x = noise(float(sigmas[0]))
    # Its samples are x / sqrt(1 + sigma^2).
    got = loop(scheduler, network, x / np.sqrt(1 + float(sigmas[0]) ** 2))
    assert network.asked == sigmas[:-1].tolist()
    assert_same(got, "dpmpp_2m", x, sigmas)


def test_ipndm_is_that_of_diffusers():
    """The same formula, in variance-preserving coordinates and from v; its grid is fixed, so it is set by hand."""
    schedule = grid(9, 80.0, 0.002)
    scheduler = diffusers.IPNDMScheduler()
    with pytest.raises(ValueError, match="IPNDMScheduler cannot be given a grid"):
        to_diffusers(schedule, scheduler)
    scheduler.set_timesteps(9)
    sigmas = torch.tensor(schedule.sigmas)
    scheduler.alphas = 1 / torch.sqrt(1 + sigmas**2)
    scheduler.betas = sigmas * scheduler.alphas
    levels = dict(zip(scheduler.timesteps.tolist(), schedule.sigmas, strict=False))
    network = Network("v_prediction", lambda t: levels[t])
    x = noise(80.0)
    vp = x * scheduler.alphas[0]
    for t in scheduler.timesteps:
        # v of Network is that of its eps and x0: alpha eps - sigma x0.
        vp = scheduler.step(network(vp, t), t, vp).prev_sample
    assert_same(vp, "ipndm", x, schedule.sigmas)


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "PNDMScheduler",
        "LMSDiscreteScheduler",
        "DEISMultistepScheduler",
        "UniPCMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "EDMDPMSolverMultistepScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ],
)
def test_schedulers_without_a_grid_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} cannot be given a grid.*EulerDiscreteScheduler, Heun"):
        to_diffusers(grid(5, 14.0, 0.03), getattr(diffusers, name)())


def test_what_is_not_a_scheduler_is_refused():
    for thing in (diffusers.EulerDiscreteScheduler, "euler", None):
        with pytest.raises(ValueError, match="cannot be given a grid"):
            to_diffusers(grid(5, 14.0, 0.03), thing)


def test_subclasses_are_their_parent():
    class Mine(diffusers.EulerDiscreteScheduler):
        pass

    schedule = grid(5, 14.0, 0.03)
    np.testing.assert_allclose(to_diffusers(schedule, Mine(**SD)).sigmas, schedule.sigmas, rtol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusers.HeunDiscreteScheduler(**SD),
        lambda: diffusers.EDMEulerScheduler(sigma_max=14.0, sigma_min=0.03),
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
        lambda: diffusers.DPMSolverMultistepScheduler(**SD),
    ],
)
def test_a_schedule_that_ends_above_zero_is_refused_where_zero_is_appended(make):
    with pytest.raises(
        ValueError, match=r"ends at sigma=0.03, but .* goes on to 0.*final_sigmas_type='zero'"
    ):
        to_diffusers(grid(5, 14.0, 0.03, zero=False), make(), quantize=True)


@pytest.mark.parametrize(
    ("make", "top", "bottom", "message"),
    [
        (lambda: diffusers.EulerDiscreteScheduler(**SD), 80.0, 0.03, r"sigma=80, above .*sigma_max=14.61"),
        (lambda: diffusers.EulerDiscreteScheduler(**SD), 14.0, 0.002, r"0.002, below .*sigma_min=0.0291"),
        (lambda: diffusers.HeunDiscreteScheduler(**SD), 80.0, 0.03, r"sigma=80, above .*sigma_max=14.61"),
        (lambda: diffusers.HeunDiscreteScheduler(**SD), 14.0, 0.002, r"0.002, below .*sigma_min=0.0291"),
        (
            lambda: diffusers.DPMSolverMultistepScheduler(**SD),
            80.0,
            0.03,
            r"sigma=80, above .*sigma_max=14.61",
        ),
        (lambda: diffusers.EDMEulerScheduler(), 120.0, 0.002, r"sigma=120, above .*sigma_max=80"),
        (lambda: diffusers.EDMEulerScheduler(), 80.0, 0.001, r"0.001, below .*sigma_min=0.002"),
        (
            lambda: diffusers.EDMEulerScheduler(),
            40.0,
            0.002,
            r"starts at sigma=40.*initial noise.*sigma_max=80.*=40",
        ),
    ],
)
def test_a_schedule_outside_the_range_of_the_model_is_refused(make, top, bottom, message):
    with pytest.raises(ValueError, match=message):
        to_diffusers(grid(5, top, bottom), make(), quantize=True)


def test_ends_of_the_range_may_be_rounded():
    schedule = edm(6, SD_MIN * 0.9995, SD_MAX * 1.0005)
    for cls in (diffusers.EulerDiscreteScheduler, diffusers.HeunDiscreteScheduler):
        got = to_diffusers(schedule, cls(**SD)).sigmas
        assert float(got[0]) == pytest.approx(SD_MAX, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diffusers.HeunDiscreteScheduler(**SD, use_karras_sigmas=True), "use_karras_sigmas=False"),
        (lambda: diffusers.HeunDiscreteScheduler(**SD, use_beta_sigmas=True), "use_beta_sigmas=False"),
        (lambda: diffusers.DPMSolverMultistepScheduler(**SD, use_lu_lambdas=True), "use_lu_lambdas=False"),
        (
            lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
            "use_karras_sigmas=False",
        ),
        (lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1), "shift_terminal=None"),
        (lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas=False"),
        (
            lambda: diffusers.EDMEulerScheduler(sigma_max=14.0, sigma_schedule="exponential"),
            "schedule='karras'",
        ),
        (lambda: diffusers.EDMEulerScheduler(sigma_max=14.0, final_sigmas_type="sigma_min"), "type='zero'"),
        (lambda: diffusers.DPMSolverMultistepScheduler(**SD, final_sigmas_type="sigma_min"), "type='zero'"),
    ],
)
def test_settings_that_change_the_grid_are_refused_with_the_cure(make, message):
    scheduler = make()
    before = scheduler.timesteps.clone()
    with pytest.raises(ValueError, match=f"from_config\\(scheduler.config, .*{message}"):
        to_diffusers(grid(5, 14.0, 0.03), scheduler, quantize=True)
    assert torch.equal(scheduler.timesteps, before)


def test_euler_ignores_its_own_spacing():
    schedule = grid(5, 14.0, 0.03)
    scheduler = diffusers.EulerDiscreteScheduler(**SD, use_karras_sigmas=True, final_sigmas_type="sigma_min")
    np.testing.assert_allclose(to_diffusers(schedule, scheduler).sigmas, schedule.sigmas, rtol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusers.EulerDiscreteScheduler(**SD),
        lambda: diffusers.HeunDiscreteScheduler(**SD),
        lambda: diffusers.EDMEulerScheduler(sigma_min=0.03, sigma_max=14.0),
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
)
def test_pipeline_arguments_do_what_to_diffusers_does(make):
    scheduler = make()
    schedule = grid(5, 80.0 if "Flow" in type(scheduler).__name__ else 14.0, 0.03)
    before = scheduler.sigmas.clone()
    kwargs = diffusers_kwargs(schedule, scheduler)
    assert torch.equal(scheduler.sigmas, before)
    scheduler.set_timesteps(device="cpu", **kwargs)  # the call of a pipeline
    want = to_diffusers(schedule, make())
    assert torch.equal(scheduler.sigmas, want.sigmas)
    assert torch.equal(scheduler.timesteps, want.timesteps)


# RMSE to this package's solver from the same noise, over the samples' standard deviation: what each setting does.
OTHER_SAMPLERS = [
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "'dpmsolver\\+\\+'"),
    ("DPMSolverMultistepScheduler", {"solver_order": 1}, "solver_order=2"),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order=2"),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "solver_type='midpoint'"),
    ("DPMSolverMultistepScheduler", {"thresholding": True}, "thresholding=False"),
    ("HeunDiscreteScheduler", {"clip_sample": True}, "clip_sample=False"),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "stochastic_sampling=False"),
]


@pytest.mark.parametrize(("name", "settings", "fix"), OTHER_SAMPLERS)
def test_settings_that_make_another_sampler_are_refused_with_the_cure(name, settings, fix):
    cls, is_flow = getattr(diffusers, name), name.startswith("Flow")
    own = {} if is_flow else SD
    schedule = grid(8, 80.0 if is_flow else 14.0, 0.03)
    scheduler = cls(**own, **settings)
    for function in (to_diffusers, diffusers_kwargs):
        with pytest.raises(ValueError, match=f"is another sampler than .*from_config\\(.*, .*{fix}"):
            function(schedule, scheduler, quantize=True)

    def samples(one):
        table = np.log(training_sigmas(one)) if not is_flow else None
        sigma_of = (
            (lambda t: t / (1000 - t)) if is_flow else lambda t: np.exp(np.interp(t, range(1000), table))
        )
        network = Network("flow" if is_flow else "epsilon", sigma_of)
        torch.manual_seed(0)
        x = noise(14.0 if name == "HeunDiscreteScheduler" else 1.0)[:, :, None, None]
        return loop(one, lambda scaled, t: network(scaled.flatten(1), t)[:, :, None, None], x)

    # The reason: its samples are others.
    good = to_diffusers(schedule, cls.from_config(scheduler.config, **STEPS[name]), quantize=True)
    kwargs = diffusers_kwargs(schedule, cls(**own), quantize=True)
    scheduler.set_timesteps(**kwargs)
    want, got = samples(good), samples(scheduler)
    assert float((got - want).square().mean().sqrt()) > 0.01 * float(want.std())


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusers.EulerDiscreteScheduler(**SD),
        lambda: diffusers.HeunDiscreteScheduler(**SD),
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
        lambda: diffusers.DPMSolverMultistepScheduler(**SD),
    ],
)
def test_a_list_that_begins_in_the_middle_is_for_images(make):
    middle = grid(5, 3.0, 0.03)
    with pytest.raises(ValueError, match=r"starts at sigma=3, .*noise alone; .*image_to_image=True"):
        diffusers_kwargs(middle, make(), quantize=True)
    kwargs = diffusers_kwargs(middle, make(), quantize=True, image_to_image=True)
    scheduler = make()
    scheduler.set_timesteps(**kwargs)
    to_diffusers(middle, make(), quantize=True)  # a loop of one's own makes its own start


@pytest.mark.parametrize(
    ("made_for", "make", "fix"),
    [
        (
            "heun",
            lambda: diffusers.EulerDiscreteScheduler(**SD),
            "use HeunDiscreteScheduler, or learn .*'euler'",
        ),
        (
            "euler",
            lambda: diffusers.HeunDiscreteScheduler(**SD),
            "use EulerDiscreteScheduler, or learn .*'heun'",
        ),
        ("ipndm", lambda: diffusers.EulerDiscreteScheduler(**SD), "better; learn one with solver='euler'"),
        (
            "heun",
            lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
            "better; learn one with solver='euler'",
        ),
        ("euler", lambda: diffusers.DPMSolverMultistepScheduler(**SD), "solver='dpmpp_2m'"),
    ],
)
def test_a_list_for_another_solver_is_warned_of(made_for, make, fix):
    schedule = replace(grid(5, 14.0, 0.03), meta={"solver": made_for})
    with pytest.warns(UserWarning, match=f"was made for the solver '{made_for}', but .*{fix}") as caught:
        to_diffusers(schedule, make(), quantize=True)
    assert {w.filename for w in caught if w.category is UserWarning} == {__file__}
    with pytest.warns(UserWarning, match=fix) as caught:
        diffusers_kwargs(schedule, make(), quantize=True, image_to_image=True)
    assert {w.filename for w in caught if w.category is UserWarning} == {__file__}


def test_a_list_for_the_schedulers_own_solver_is_not_warned_of(files, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for solver in ("euler", None):
            schedule = replace(grid(5, 14.0, 0.03), meta={"solver": solver})
            to_diffusers(schedule, diffusers.EulerDiscreteScheduler(**SD))
    replace(grid(5, 14.0, 0.03), meta={"solver": "heun"}).save(files["zero"])
    options = ["--scheduler-config", str(files["config"])]
    assert main([str(files["zero"]), "--to", "diffusers-euler", *options]) == 0
    err = capsys.readouterr().err
    assert err.startswith("export: warning: schedule 'mine' was made for the solver 'heun'")
    assert err.count("\n") == 1
    assert main([str(files["zero"]), "--to", "k-diffusion"]) == 0
    assert (
        "sample_heun(model, torch.randn(shape) * sigmas[0], sigmas), which they were made for"
        in capsys.readouterr().out
    )
    assert main([str(files["zero"]), "--to", "comfyui"]) == 0
    assert "; made for heun" in capsys.readouterr().out


# Sabour et al. 2024, as diffusers has them (AysSchedules["StableDiffusionSigmas"]).
AYS = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]


def test_published_levels_of_few_digits_are_taken():
    """The lowest level of SD's table is 0.02917, which is quoted as 0.029."""
    schedule = Schedule(AYS)
    euler = to_diffusers(schedule, diffusers.EulerDiscreteScheduler(**SD))
    np.testing.assert_allclose(euler.sigmas, AYS, rtol=1e-6)
    kwargs = diffusers_kwargs(Schedule([*AYS, 0.0]), diffusers.HeunDiscreteScheduler(**SD))
    assert kwargs["timesteps"][-1] == 0
    learned = Schedule(AYS, weights=np.full((10, 1), 0.5))
    assert learned_scheduler(learned, diffusers.DDPMScheduler(**SD)).schedule == learned


@pytest.mark.parametrize("lowest", [0.028, 0.0291, 0.02, 0.02899])
def test_levels_that_are_no_rounded_end_are_refused(lowest):
    for cls in (diffusers.EulerDiscreteScheduler, diffusers.HeunDiscreteScheduler):
        with pytest.raises(ValueError, match=r"below .*sigma_min=0.0291"):
            to_diffusers(Schedule([*AYS[:-1], lowest, 0.0]), cls(**SD))
    with pytest.raises(ValueError, match=r"above .*sigma_max=14.61"):
        to_diffusers(Schedule([14.7, *AYS[1:]]), diffusers.EulerDiscreteScheduler(**SD))


def test_rounded_ends_that_become_equal_are_refused():
    with pytest.raises(ValueError, match=r"two noise levels .* are the same in HeunDiscreteScheduler"):
        to_diffusers(Schedule([14.0, 0.02915, 0.029, 0.0]), diffusers.HeunDiscreteScheduler(**SD))


def test_a_scheduler_that_does_something_else_is_noticed():
    class Other(diffusers.EulerDiscreteScheduler):
        def set_timesteps(self, *args, sigmas, **kwargs):
            super().set_timesteps(*args, sigmas=sigmas[:-1], **kwargs)

    with pytest.raises(ValueError, match="not supported"):
        to_diffusers(grid(5, 14.0, 0.03), Other(**SD))


@pytest.mark.parametrize("K", [1, 2, 5, 18])
@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k_diffusion(K, solver, dtype):
    sampler = getattr(k_module("sampling"), f"sample_{solver}")
    schedule = grid(K, 80.0, 0.002)
    sigmas = to_k_diffusion(schedule, dtype)
    assert sigmas.dtype == dtype
    asked = []

    def model(x, sigma):
        asked.append(float(sigma[0]))
        return D(x, sigma)

    x = noise(80.0)
    got = sampler(model, x, sigmas, disable=True)
    np.testing.assert_allclose(asked[:: 2 if solver == "heun" else 1], schedule.sigmas[:-1], rtol=1e-7)
    oracle = RTOL if dtype == torch.float32 else 1e-12
    assert_same(got, solver, x, schedule.sigmas, oracle)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_k_diffusion_on_a_schedule_that_ends_above_zero(solver):
    sampler = getattr(k_module("sampling"), f"sample_{solver}")
    schedule = grid(7, 80.0, 0.002, zero=False)
    x = noise(80.0)
    got = sampler(D, x, to_k_diffusion(schedule, torch.float64), disable=True)
    assert_same(got, solver, x, schedule.sigmas, 1e-12)


def test_k_diffusion_refuses_levels_that_become_equal():
    schedule = Schedule([1.0, 1.0 - 1e-12, 0.0])
    with pytest.raises(
        ValueError, match=r"sigmas\[1\] = 1 equals sigmas\[0\] in torch.float32; use torch.float64"
    ):
        to_k_diffusion(schedule)
    assert to_k_diffusion(schedule, torch.float64).tolist() == schedule.sigmas.tolist()


def test_edm():
    schedule = grid(5, 80.0, 0.002)
    assert to_edm(schedule) == schedule.sigmas.tolist()
    with pytest.raises(ValueError, match=r"ends at sigma=0.002, but EDM's sampler goes on to 0"):
        to_edm(grid(5, 80.0, 0.002, zero=False))


def flow_grid(K: int) -> Schedule:
    return replace(grid(K, 999.0, 1 / 999), space="flow")


@pytest.mark.parametrize("K", [1, 4, 9])
def test_comfyui_samples_flow_models_in_their_own_times(K):
    """ComfyUI's sampler euler: x + (t' - t) (x - denoised) / t, from x = (1 - t) 0 + t noise."""
    schedule = flow_grid(K)
    times = [float(s) for s in to_comfyui(schedule).split(",")]
    assert times[0] == pytest.approx(0.999, abs=1e-12)
    assert times[-1] == 0

    def model(x, t):
        return D(x / (1 - t), float(t / (1 - t)))

    x = noise(1.0) * times[0]
    start = x / (1 - times[0])
    for t, t_next in itertools.pairwise(times):
        x = x + (t_next - t) * (x - model(x, t)) / t
    assert_same(x, "euler", start, schedule.sigmas, 1e-9)
    assert to_comfyui(replace(schedule, space="ve")).startswith("999.0")


@pytest.mark.parametrize("K", [1, 5])
def test_k_diffusion_in_the_times_of_a_flow_model(K):
    schedule = flow_grid(K)
    with pytest.raises(ValueError, match=r"pass flow=True .*flow=False"):
        to_k_diffusion(schedule)
    assert to_k_diffusion(schedule, torch.float64, flow=False).tolist() == schedule.sigmas.tolist()
    times = to_k_diffusion(schedule, torch.float64, flow=True)
    asked = []

    def model(x, t):
        asked.append(float(t[0]))
        return D(x / (1 - t[0]), asked[-1] / (1 - asked[-1]))

    x = noise(1.0) * times[0]
    got = k_module("sampling").sample_euler(model, x, times, disable=True)
    assert asked[0] == pytest.approx(0.999)
    assert_same(got, "euler", x / (1 - times[0]), schedule.sigmas, 1e-9)


@pytest.mark.parametrize(
    "export",
    [
        to_edm,
        lambda s: to_diff_sampler(Schedule(s.sigmas[:-1], s.name, space=s.space)),
        lambda s: diffusers_kwargs(s, diffusers.EulerDiscreteScheduler(**SD)),
        lambda s: to_diffusers(s, diffusers.EDMEulerScheduler(sigma_max=999.0, sigma_min=0.001)),
    ],
)
def test_other_programs_refuse_the_schedule_of_a_flow_model(export):
    with pytest.raises(ValueError, match=r"is one of a flow model .*; use .*space='ve'"):
        export(flow_grid(5))
    to_diffusers(flow_grid(5), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))


def test_text_of_the_schedule_of_a_flow_model(files, capsys):
    def text(name, target, *options):
        assert main([str(files[name]), "--to", target, *options]) == 0
        return capsys.readouterr().out

    assert "times of a flow model" in text("flow", "comfyui")
    assert text("flow", "comfyui").splitlines()[1] == to_comfyui(flow_grid(5))
    # A file that is too old to say it.
    old = json.loads(files["flow"].read_text())
    del old["space"]
    files["flow"].write_text(json.dumps(old))
    assert "is no flow model (of one: --space flow)" in text("flow", "comfyui")
    assert text("flow", "comfyui", "--space", "flow").splitlines()[1] == to_comfyui(flow_grid(5))
    got = pasted(text("flow", "k-diffusion", "--space", "flow"))["sigmas"]
    assert torch.equal(got, to_k_diffusion(flow_grid(5), flow=True))


def test_comfyui():
    schedule = Schedule([80.0, 1 / 3, 1.2345678901234567e-07, 0.0])
    text = to_comfyui(schedule)
    # The node searches for digits and dots, so that 1e-07 would be two numbers.
    assert set(text) <= set("0123456789., ")
    assert [float(s) for s in text.split(",")] == schedule.sigmas.tolist()


def test_diff_sampler():
    schedule = grid(5, 80.0, 0.002, zero=False)
    option = to_diff_sampler(schedule)
    assert option.startswith("--t_steps=[")
    assert " " not in option
    assert json.loads(option.removeprefix("--t_steps=")) == schedule.sigmas.tolist()
    with pytest.raises(ValueError, match="final_sigmas_type='sigma_min'"):
        to_diff_sampler(grid(5, 80.0, 0.002))


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.json" for name in ("zero", "min", "flow", "config")}
    flow_grid(5).save(paths["flow"])
    grid(5, 14.0, 0.03).save(paths["zero"])
    grid(5, 14.0, 0.03, zero=False).save(paths["min"])
    # Its clip_sample and its thresholding are those of DDPM: the text must not take them over.
    config = {"_class_name": "DDPMScheduler", "clip_sample": True, "thresholding": True, **SD}
    paths["config"].write_text(json.dumps(config))
    return paths


def pasted(text: str) -> dict:
    """What a user has after pasting the text into Python."""
    scope = {"torch": torch, "latents": torch.zeros(1)}
    exec(text, scope)
    return scope


def test_pasted_text_makes_the_grid(files, capsys):
    schedule = Schedule.load(files["zero"])

    def text(target, *options):
        assert main([str(files["zero"]), "--to", target, *options]) == 0
        return capsys.readouterr().out

    config = ("--scheduler-config", str(files["config"]))
    assert pasted(text("diffusers-euler"))["sigmas"] == schedule.sigmas.tolist()
    assert pasted(text("diffusers-euler", *config))["sigmas"] == schedule.sigmas.tolist()
    heun, heun_text = diffusers.HeunDiscreteScheduler(**SD), text("diffusers-heun", *config)
    assert pasted(heun_text)["timesteps"] == diffusers_kwargs(schedule, heun)["timesteps"]
    assert "from_config(pipe.scheduler.config, clip_sample=False)" in heun_text
    edm_text = text("diffusers-edm-euler")
    low = float(schedule.sigmas[-2])
    assert (
        f"(pipe.scheduler.config, sigma_min={low!r}, sigma_max={schedule.sigma_max!r}, rho=7.0)" in edm_text
    )
    scheduler = diffusers.EDMEulerScheduler(sigma_min=low, sigma_max=14.0)
    scheduler.set_timesteps(sigmas=pasted(edm_text)["sigmas"])
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas, rtol=1e-6)
    for options, shift in (((), 1.0), (("--shift", "3.0"), 3.0)):
        flow_text = text("diffusers-flow", "--image-to-image", *options)
        assert pasted(flow_text)["sigmas"] == to_flow(schedule, shift).tolist()
        assert f"stochastic_sampling=False, shift={shift}, use_dynamic_shifting=False)" in flow_text
    assert torch.equal(pasted(text("k-diffusion"))["sigmas"], to_k_diffusion(schedule))
    edm_text = text("edm")
    assert "--steps=5" in edm_text
    assert pasted(edm_text)["t_steps"].tolist() == to_edm(schedule)
    assert text("comfyui").splitlines()[1:] == [to_comfyui(schedule)]
    assert main([str(files["min"]), "--to", "diff-sampler"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [to_diff_sampler(Schedule.load(files["min"]))]


def test_configs_of_other_models(files, capsys):
    def run(target, settings, *options):
        files["config"].write_text(json.dumps(settings))
        rc = main([str(files["zero"]), "--to", target, "--scheduler-config", str(files["config"]), *options])
        captured = capsys.readouterr()
        return rc, captured.out, captured.err

    schedule = Schedule.load(files["zero"])
    rc, out, _ = run("diffusers-edm-euler", {"sigma_min": 0.01, "sigma_max": 14.0})
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=14.0)
    scheduler.set_timesteps(sigmas=pasted(out)["sigmas"])
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas, rtol=1e-6)
    rc, _, err = run("diffusers-flow", {"shift": 2.0})
    assert (rc, "starts at sigma=14" in err) == (2, True)
    rc, out, _ = run("diffusers-flow", {"shift": 2.0}, "--image-to-image")
    assert pasted(out)["sigmas"] == to_flow(schedule, 2.0).tolist()
    rc, out, _ = run("diffusers-flow", {"shift": 2.0}, "--shift", "5.0", "--image-to-image")
    assert pasted(out)["sigmas"] == to_flow(schedule, 5.0).tolist()
    assert "stochastic_sampling=False, shift=5.0)" in out
    rc, _, err = run("diffusers-edm-euler", {"sigma_max": 80.0})
    assert (rc, "initial noise" in err) == (2, True)
    rc, _, err = run("diffusers-flow", {"use_dynamic_shifting": True})
    assert (rc, "use_dynamic_shifting=False" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zero", "--to", "k-difusion"], "unknown target 'k-difusion'. Did you mean 'k-diffusion'?"),
        (["zero", "--to", "diffusers-heun"], "needs --scheduler-config"),
        (["zero", "--to", "diff-sampler"], "final_sigmas_type='sigma_min'"),
        (["min", "--to", "edm"], "final_sigmas_type='zero'"),
        (["zero", "--to", "edm", "--shift", "3"], "--shift is for diffusers-flow"),
        (
            ["zero", "--to", "edm", "--scheduler-config", "config"],
            "--scheduler-config is for the diffusers targets",
        ),
        (["zero", "--to", "diffusers-flow"], "(--image-to-image) if the pipeline starts from an image"),
        (["flow", "--to", "k-diffusion"], "pass flow=True (--space flow)"),
        (["flow", "--to", "edm"], "to_flow, or dataclasses.replace(schedule, space='ve') (--space ve)"),
        (["zero", "--to", "edm", "--space", "vp"], "unknown space 'vp'"),
        (["binary", "--to", "edm"], "not a text file"),
        (["deep", "--to", "edm"], "nested too deeply"),
        (["zero", "--to", "diffusers-heun", "--scheduler-config", "deep"], "nested too deeply"),
        (["missing", "--to", "edm"], "no schedule file at"),
        (["config", "--to", "edm"], "not a schedule"),
        (["zero", "--to", "diffusers-heun", "--scheduler-config", "missing"], "No such file"),
        (["zero", "--to", "diffusers-heun", "--scheduler-config", "broken"], "not valid JSON"),
        (["zero", "--to", "diffusers-heun", "--scheduler-config", "list"], "not a scheduler config"),
        (["zero", "--to", "edm", "--out", "missing/edm.txt"], "cannot write edm.txt"),
    ],
)
def test_errors_are_one_line(files, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").write_text("{")
    (tmp_path / "list").write_text("[]")
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "binary").write_bytes(b"PK\x03\x04\xff\xfe")
    assert main([str(files.get(a, a)) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("export: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_command_line(files, tmp_path):
    """As users call it; plain lists must not import diffusers."""
    out = tmp_path / "sigmas.txt"
    code = (
        "import runpy, sys; sys.modules['diffusers'] = None; "
        f"sys.argv = ['export', {str(files['zero'])!r}, '--to', 'comfyui', '--out', {str(out)!r}]; "
        "runpy.run_module('art_env.export', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.read_text().splitlines()[1] == to_comfyui(Schedule.load(files["zero"]))


def test_help_names_every_target(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for target in TARGETS:
        assert target in shown


def test_a_model_of_little_noise_begins_at_its_own_top():
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=3.0)
    assert "sigmas" in diffusers_kwargs(grid(5, 3.0, 0.002), scheduler)
