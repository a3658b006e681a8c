"""Schedules with weights in other programs: each program's own loop ends at the samples of the learned solver."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import diffusers
import numpy as np
import pytest
import torch
from closeness import assert_float32_close
from programs import SD, D, Network, grid, k_module, loop, noise, training_sigmas, unet
from torch import Tensor

from art_env.adapters import DiffusersDenoiser
from art_env.diffusion import sample
from art_env.export import (
    comfyui_node,
    diffusers_kwargs,
    edm_script,
    learned_sampler,
    learned_scheduler,
    sample_learned,
    to_comfyui,
    to_diffusers,
    to_edm,
    to_flow,
    to_k_diffusion,
)
from art_env.export.__main__ import LEARNED_TARGETS, TARGETS, main
from art_env.export.scheduler import FlowMatchLearnedMultistepScheduler, LearnedMultistepScheduler
from art_env.schedules import Schedule

torch.set_num_threads(1)
# NumPy on how diffusers turns tensors into arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

STEPS = [1, 3, 5, 12]


def learned(K: int, top: float, bottom: float, m: int = 3, zero: bool = True) -> Schedule:
    """An uneven grid with weights of the size that learned ones have."""
    weights = np.random.default_rng(K).uniform(-0.3, 0.7, (K, m))
    return Schedule(grid(K, top, bottom, zero).sigmas, "mine", weights=weights)


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def assert_learned(got: Tensor, schedule: Schedule, x: Tensor, model=D, rtol: float = 1e-5) -> None:
    """Compare samples with those of the learned solver from the start ``x``, and with those without the weights.

    Programs compute in float32: a unit in the last place of the start may stay.
    """
    with torch.no_grad():
        want = sample(model, x, schedule.sigmas, schedule.solver, weights=schedule.weights)
        plain = sample(model, x, schedule.sigmas, "euler")
    tolerance = rtol * rms(want) + (1.2e-7 * rms(x) if rtol >= 1e-5 else 0.0)
    assert rms(got - want) <= tolerance
    if schedule.num_steps > 1:
        assert rms(got - plain) > 100 * tolerance


# --- k-diffusion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", STEPS)
@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k_diffusion(K, m, dtype):
    schedule = learned(K, 80.0, 0.002, m)
    sampler, sigmas = learned_sampler(schedule, dtype)
    assert sigmas.dtype == dtype
    asked = []

    def model(x, sigma):
        asked.append(float(sigma[0]))
        return D(x, sigma)

    x = noise(80.0)
    got = sampler(model, x, sigmas, disable=True)
    np.testing.assert_allclose(asked, schedule.sigmas[:-1], rtol=1e-7)
    assert_learned(got, schedule, x, rtol=1e-5 if dtype == torch.float32 else 1e-12)


def test_k_diffusion_on_a_schedule_that_ends_above_zero():
    schedule = learned(7, 80.0, 0.002, zero=False)
    sampler, sigmas = learned_sampler(schedule, torch.float64)
    x = noise(80.0)
    assert_learned(sampler(D, x, sigmas), schedule, x, rtol=1e-12)


@pytest.mark.parametrize("K", STEPS)
def test_k_diffusion_in_the_coordinates_of_a_flow_model(K):
    schedule = learned(K, 80.0, 0.002)
    sampler, times = learned_sampler(schedule, torch.float64, flow=True)
    np.testing.assert_allclose(times, schedule.sigmas / (1 + schedule.sigmas), rtol=1e-15)

    def model(x, t):  # ComfyUI's denoisers of flow models: x_t and t
        s = t / (1 - t)
        return D(x * (1 + s[:, None]), s)

    x = noise(80.0)
    assert_learned(sampler(model, x / 81, times), schedule, x, rtol=1e-12)


def test_k_diffusion_has_the_arguments_of_the_others():
    schedule = learned(4, 80.0, 0.002)
    sampler, sigmas = learned_sampler(schedule)
    x = noise(80.0)
    seen = []

    def model(x, sigma, scale):
        return scale * D(x, sigma)

    got = sampler(model, x, sigmas, {"scale": 1.0}, seen.append, True)
    assert_learned(got, schedule, x)
    euler_seen = []
    k_module("sampling").sample_euler(model, x, sigmas, {"scale": 1.0}, euler_seen.append, True)
    assert [s["i"] for s in seen] == [s["i"] for s in euler_seen] == [0, 1, 2, 3]
    for ours, theirs in zip(seen, euler_seen, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["sigma"] == theirs["sigma"] == ours["sigma_hat"]
    # The first two steps begin where Euler's do.
    assert_float32_close(seen[1]["denoised"], euler_seen[1]["denoised"])
    with pytest.raises(ValueError, match="weights for 4 steps, but sigmas has 2"):
        sampler(model, x, sigmas[2:], {"scale": 1.0})


@pytest.mark.parametrize(
    ("wrapper", "kind"), [("CompVisDenoiser", "epsilon"), ("CompVisVDenoiser", "v_prediction")]
)
def test_k_diffusion_on_its_wrappers(wrapper, kind):
    net, scheduler = unet(), diffusers.DDPMScheduler(**SD, prediction_type=kind)
    inner = types.SimpleNamespace(
        alphas_cumprod=scheduler.alphas_cumprod,
        apply_model=lambda x, t, cond=None: net(x, t).sample,
    )
    args = {"cond": None} if kind == "v_prediction" else {}
    model = getattr(k_module("external"), wrapper)(inner)
    schedule = learned(6, 14.0, 0.03)
    sampler, sigmas = learned_sampler(schedule)
    x = 14.0 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_learned(sampler(model, x, sigmas, args), schedule, x.double(), DiffusersDenoiser(net, scheduler))


# --- diffusers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", STEPS)
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_diffusers(K, m, kind):
    schedule = learned(K, 14.0, 0.03, m)
    own = diffusers.DDIMScheduler(**SD, prediction_type=kind)
    scheduler = learned_scheduler(schedule, own)
    table = np.log(training_sigmas(own))
    network = Network(kind, lambda t: np.exp(np.interp(t, np.arange(1000), table)))
    scheduler.set_timesteps(K, device="cpu")
    assert scheduler.order == 1
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas, rtol=1e-7)
    x = noise(scheduler.init_noise_sigma)
    for _ in range(2):  # and the first run leaves nothing behind
        network.asked.clear()
        scheduler.set_timesteps(K)
        got = loop(scheduler, network, x)
        np.testing.assert_allclose(network.asked, schedule.sigmas[:-1], rtol=2e-6)
        assert_learned(got, schedule, x)


@pytest.mark.parametrize("zero", [True, False])
def test_diffusers_with_the_settings_of_stable_video_diffusion(zero):
    settings = {"timestep_type": "continuous", "sigma_min": 0.002, "sigma_max": 700.0}
    own = diffusers.EulerDiscreteScheduler(
        **SD, prediction_type="v_prediction", use_karras_sigmas=True, **settings
    )
    schedule = learned(9, 700.0, 0.002, zero=zero)
    scheduler = to_diffusers(schedule, learned_scheduler(schedule, own))
    network = Network("v_prediction", lambda t: np.exp(4 * t))
    x = noise(700.0)
    assert_learned(loop(scheduler, network, x), schedule, x, rtol=2e-5)


@pytest.mark.parametrize("K", STEPS)
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("zero", [True, False])
def test_diffusers_flow(K, m, zero):
    schedule = learned(K, 80.0, 0.002, m, zero)
    scheduler = learned_scheduler(schedule, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    # The calls of pipelines: SD3's, and Flux's with sigmas and mu of its own.
    scheduler.set_timesteps(K, device="cpu")
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / K, K), device="cpu", mu=1.1)
    t = scheduler.sigmas.double().numpy()
    np.testing.assert_allclose(t, schedule.sigmas / (1 + schedule.sigmas), rtol=1e-6)
    network = Network("flow", lambda t: t / (1000 - t))
    x = noise(80.0)
    got = loop(scheduler, network, x / 81)
    np.testing.assert_allclose(network.asked, schedule.sigmas[:-1], rtol=2e-5)
    assert_learned(got * (1 + schedule.sigma_end), schedule, x)


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_diffusers_from_the_middle(kind):
    """An image-to-image pipeline: the steps before the first one were not made."""
    schedule = learned(6, 14.0, 0.03)
    tail = Schedule(schedule.sigmas[2:], weights=schedule.weights[2:])
    image, eps = noise(0.5), noise(1.0).flip(0)
    s = tail.sigma_max
    if kind == "flow":
        scheduler = learned_scheduler(
            schedule, diffusers.FlowMatchEulerDiscreteScheduler(), image_to_image=True
        )
        network = Network("flow", lambda t: t / (1000 - t))
    else:
        scheduler = learned_scheduler(schedule, diffusers.EulerDiscreteScheduler(**SD))
        table = np.log(training_sigmas(scheduler))
        network = Network("epsilon", lambda t: np.exp(np.interp(t, np.arange(1000), table)))
    # After a run in full, whose slopes must not come in.
    scheduler.set_timesteps(6)
    loop(scheduler, network, eps)
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(2)
    first = scheduler.timesteps[2].repeat(len(image))
    if kind == "flow":
        x = scheduler.scale_noise(image, first, eps)
        start = x * (1 + s)
    else:
        x = start = scheduler.add_noise(image, eps, first)
    torch.testing.assert_close(start, image + s * eps, rtol=1e-5, atol=1e-5)
    for t in scheduler.timesteps[2:]:
        scaled = scheduler.scale_model_input(x, t) if kind == "epsilon" else x
        x = scheduler.step(network(scaled, t), t, x, return_dict=False)[0]
    assert_learned(x, tail, start)


def test_a_loop_that_starts_again_without_set_timesteps():
    schedule = learned(4, 14.0, 0.03)
    scheduler = learned_scheduler(schedule, diffusers.EulerDiscreteScheduler(**SD))
    table = np.log(training_sigmas(scheduler))
    network = Network("epsilon", lambda t: np.exp(np.interp(t, np.arange(1000), table)))
    x = noise(14.0)
    first = loop(scheduler, network, x)
    scheduler._step_index = None
    assert torch.equal(loop(scheduler, network, x), first)


@pytest.mark.parametrize("flow", [False, True])
def test_half_precision(flow):
    cls = diffusers.FlowMatchEulerDiscreteScheduler if flow else diffusers.EulerDiscreteScheduler
    scheduler = learned_scheduler(learned(4, 80.0 if flow else 14.0, 0.03), cls())
    x = noise(0.1).half()
    for t in scheduler.timesteps:
        x = scheduler.step(torch.ones_like(x), t, x).prev_sample
        assert x.dtype == torch.float16
        assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    "own",
    [
        diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        diffusers.DDIMScheduler(
            **SD, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"
        ),
        diffusers.PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=1),
        diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="leading", use_karras_sigmas=True),
        diffusers.DPMSolverMultistepScheduler(**SD, use_lu_lambdas=True),
        diffusers.DDPMScheduler(trained_betas=[0.001, 0.01, 0.1, 0.4], num_train_timesteps=4),
    ],
    ids=lambda s: type(s).__name__,
)
def test_schedulers_of_many_models(own):
    table = training_sigmas(own)
    table = table[np.isfinite(table)]
    schedule = learned(5, min(float(table[-1]), 100.0), float(table[0]))
    scheduler = learned_scheduler(schedule, own)
    assert type(scheduler) is LearnedMultistepScheduler
    assert scheduler.config.prediction_type == own.config.prediction_type
    assert scheduler.init_noise_sigma == schedule.sigma_max
    times = np.interp(np.log(schedule.sigmas[:-1]), np.log(table), np.arange(len(table)))
    np.testing.assert_allclose(scheduler.timesteps, times, rtol=1e-4, atol=1e-3)
    again = learned_scheduler(learned(3, float(table[-1]), float(table[0])), scheduler)
    assert again.schedule.num_steps == 3


@pytest.mark.parametrize(
    "own",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0, shift_terminal=0.1),
        diffusers.FlowMatchHeunDiscreteScheduler(),
        diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    ],
    ids=lambda s: type(s).__name__,
)
def test_schedulers_of_flow_models(own):
    schedule = learned(5, 100.0, 0.01)
    scheduler = learned_scheduler(schedule, own)
    assert type(scheduler) is FlowMatchLearnedMultistepScheduler
    np.testing.assert_allclose(
        scheduler.timesteps, 1000 * schedule.sigmas[:-1] / (1 + schedule.sigmas[:-1]), rtol=1e-6
    )


def ldm_pipeline(scheduler) -> diffusers.DiffusionPipeline:
    torch.manual_seed(1)
    vqvae = diffusers.VQModel(block_out_channels=(4,), norm_num_groups=4, latent_channels=3).eval()
    pipe = diffusers.LDMPipeline(vqvae=vqvae, unet=unet(3), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents_of(pipe, **kwargs) -> Tensor:
    """The samples of a pipeline's call, before they become an image."""
    seen = []
    decode = pipe.vqvae.decode
    with patch.object(pipe.vqvae, "decode", lambda z: seen.append(z) or decode(z)):
        pipe(batch_size=2, generator=torch.Generator().manual_seed(3), output_type="np", **kwargs)
    return seen[0] * pipe.vqvae.config.scaling_factor


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_pipeline_before_and_after_it_was_saved(kind, tmp_path):
    own = diffusers.DDPMScheduler(**SD, prediction_type=kind)
    schedule = learned(5, 14.0, 0.03)
    pipe = ldm_pipeline(own)
    pipe.scheduler = learned_scheduler(schedule, pipe.scheduler)
    x = 14.0 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    got = latents_of(pipe, num_inference_steps=5)
    assert_learned(got, schedule, x.double(), DiffusersDenoiser(pipe.unet, own))
    assert torch.equal(latents_of(pipe, **diffusers_kwargs(schedule, pipe.scheduler)), got)
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.LDMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.scheduler.schedule == schedule
    assert_float32_close(latents_of(loaded, num_inference_steps=5), got)
    with pytest.raises(
        ValueError, match=r"num_inference_steps = 50, .* has 5 steps, .*num_inference_steps=5"
    ):
        latents_of(pipe)


@pytest.mark.parametrize(
    "own",
    [
        diffusers.DDPMScheduler(**SD, prediction_type="v_prediction"),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, num_train_timesteps=500),
    ],
    ids=lambda s: type(s).__name__,
)
def test_saved_and_loaded(own, tmp_path, caplog):
    schedule = learned(5, 14.0 if hasattr(own, "alphas_cumprod") else 80.0, 0.03)
    scheduler = learned_scheduler(schedule, own)
    scheduler.save_pretrained(tmp_path)
    body = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert (body["sigmas"], body["weights"]) == (schedule.sigmas.tolist(), schedule.weights.tolist())
    for same in (
        type(scheduler).from_pretrained(tmp_path),
        type(scheduler).from_config(scheduler.config),
        copy.deepcopy(scheduler),
    ):
        assert same.schedule == schedule
        assert dict(same.config) == dict(scheduler.config)
        assert torch.equal(same.timesteps, scheduler.timesteps)
    assert not caplog.records
    with pytest.raises(ValueError, match=r"needs the sigmas and weights .*learned_scheduler"):
        type(scheduler).from_config(own.config)


def test_what_diffusers_cannot_take_is_refused():
    schedule, plain = learned(5, 14.0, 0.03), grid(5, 14.0, 0.03)
    with pytest.raises(ValueError, match=r"'mine' has no weights; use art_env.export.diffusers_kwargs"):
        learned_scheduler(plain, diffusers.EulerDiscreteScheduler(**SD))
    for thing in (diffusers.EulerDiscreteScheduler, "euler", None):
        with pytest.raises(ValueError, match="is not a scheduler instance of diffusers"):
            learned_scheduler(schedule, thing)
    for own in (diffusers.EDMEulerScheduler(), diffusers.IPNDMScheduler(), diffusers.ScoreSdeVeScheduler()):
        with pytest.raises(ValueError, match=f"{type(own).__name__} has EDM's .* use art_env.export.learned"):
            learned_scheduler(schedule, own)
    with pytest.raises(
        ValueError, match=r"starts at sigma=3, .*learned_scheduler\(..., image_to_image=True\)"
    ):
        learned_scheduler(learned(5, 3.0, 0.03), diffusers.EulerDiscreteScheduler(**SD))
    with pytest.raises(ValueError, match=r"is one of a flow model .*flow model's own scheduler"):
        learned_scheduler(replace(schedule, space="flow"), diffusers.EulerDiscreteScheduler(**SD))
    with pytest.raises(ValueError, match="invert_sigmas=True"):
        learned_scheduler(schedule, diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    with pytest.raises(ValueError, match="DDPMScheduler are not known to EulerDiscreteScheduler: sigmoid"):
        learned_scheduler(schedule, diffusers.DDPMScheduler(beta_schedule="sigmoid"))
    other = diffusers.DDPMScheduler(**SD)
    other.alphas_cumprod = other.alphas_cumprod**1.01
    with pytest.raises(ValueError, match="DDPMScheduler has other noise levels than"):
        learned_scheduler(schedule, other)
    with pytest.raises(ValueError, match=r"sigma=80, above DDPMScheduler's sigma_max=14.61"):
        learned_scheduler(learned(5, 80.0, 0.03), diffusers.DDPMScheduler(**SD))
    with pytest.raises(ValueError, match=r"weights for learned_4m, .*use art_env.export.learned_scheduler"):
        to_diffusers(schedule, diffusers.EulerDiscreteScheduler(**SD))


def test_a_learned_scheduler_keeps_to_its_schedule():
    for own in (diffusers.EulerDiscreteScheduler(**SD), diffusers.FlowMatchEulerDiscreteScheduler()):
        schedule = learned(5, 14.0 if hasattr(own, "alphas_cumprod") else 80.0, 0.03)
        scheduler = learned_scheduler(schedule, own)
        assert diffusers_kwargs(schedule, scheduler) == {"num_inference_steps": 5}
        for other in (grid(5, 14.0, 0.03), learned(5, 14.0, 0.03, 2), learned(4, 14.0, 0.03)):
            with pytest.raises(ValueError, match="was made for another schedule than 'mine'; use"):
                diffusers_kwargs(other, scheduler)
        for given in ({"num_inference_steps": 6}, {"timesteps": [999, 1]}, {"sigmas": [2.0, 1.0, 0.5]}):
            with pytest.raises(ValueError, match="give num_inference_steps=5"):
                scheduler.set_timesteps(**given)


# --- source text and the command line ---------------------------------------------------------------------


class Comfy:
    """The parts of ComfyUI that a sampler node meets: a model's sampling, and how KSAMPLER calls a sampler."""

    def __init__(self):
        self.package, self.sampling, self.samplers = (
            types.ModuleType(f"comfy{name}") for name in ("", ".model_sampling", ".samplers")
        )
        self.package.model_sampling, self.package.samplers = self.sampling, self.samplers
        self.sampling.CONST = type("CONST", (), {})
        self.sampling.EPS = type("EPS", (), {})
        self.samplers.KSAMPLER = lambda function, extra_options: (function, extra_options)
        names = ("comfy", "comfy.model_sampling", "comfy.samplers")
        self.modules = dict(zip(names, (self.package, self.sampling, self.samplers), strict=True))

    def load(self, text: str) -> dict:
        scope: dict = {}
        with patch.dict(sys.modules, self.modules):
            exec(text, scope)
        return scope


@pytest.mark.parametrize("flow", [False, True])
def test_comfyui_node(flow):
    schedule, comfy = learned(6, 80.0, 0.002), Comfy()
    scope = comfy.load(comfyui_node(schedule))
    ((key, node),) = scope["NODE_CLASS_MAPPINGS"].items()
    assert scope["NODE_DISPLAY_NAME_MAPPINGS"] == {key: "ART schedule: mine, learned_4m, 6 steps"}
    assert node.INPUT_TYPES() == {"required": {"model": ("MODEL",)}}
    assert node.RETURN_TYPES == ("SAMPLER", "SIGMAS")
    kind = comfy.sampling.CONST if flow else comfy.sampling.EPS
    model = types.SimpleNamespace(get_model_object=lambda name: {"model_sampling": kind()}[name])
    (function, options), sigmas = getattr(node(), node.FUNCTION)(model)
    assert sigmas.dtype == torch.float32

    def denoise(x, t, model_options):
        s = t / (1 - t) if flow else t
        return D(x * (1 + s[:, None]) if flow else x, s)

    x = noise(80.0)
    got = function(
        denoise,
        x / 81 if flow else x,
        sigmas,
        extra_args={"model_options": {}},
        callback=lambda step: None,
        disable=True,
        **options,
    )
    assert_learned(got, schedule, x, rtol=2e-5)
    other = comfy.load(comfyui_node(learned(6, 80.0, 0.002, 1)))["NODE_CLASS_MAPPINGS"]
    assert key not in other


def test_edm_script():
    """In EDM's call of its sampler, with a network in float32."""
    schedule = learned(6, 80.0, 0.002)
    scope: dict = {"torch": torch}
    exec(edm_script(schedule), scope)

    def net(x, sigma, class_labels):
        assert (sigma.shape, class_labels) == ((64,), "cat")
        return D(x, sigma).float()

    latents = noise(1.0)
    options = {"num_steps": 18, "rho": 7, "S_churn": 0}
    got = scope["edm_sampler"](net, latents.float(), "cat", randn_like=torch.randn_like, **options)
    assert got.dtype == torch.float64
    assert_learned(got, schedule, 80.0 * latents.float().double())


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.json" for name in ("learned", "plain", "config", "flow", "edm")}
    learned(5, 14.0, 0.03).save(paths["learned"])
    grid(5, 14.0, 0.03).save(paths["plain"])
    paths["config"].write_text(json.dumps({"_class_name": "PNDMScheduler", **SD}))
    paths["flow"].write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}))
    paths["edm"].write_text(json.dumps({"_class_name": "EDMEulerScheduler"}))
    return paths


def text_of(files, capsys, target: str, *options: str) -> str:
    assert main([str(files["learned"]), "--to", target, *options]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# mine, learned_4m, 5 steps\n# ")
    return text


def test_text_for_k_diffusion(files, capsys):
    """It needs torch alone, and may stand anywhere in a file."""
    text = "before = 1\n" + text_of(files, capsys, "k-diffusion")
    assert "art_env" not in text
    scope: dict = {}
    exec(text, scope)
    schedule = Schedule.load(files["learned"])
    x = noise(14.0)
    got = scope["sample"](D, x, scope["sigmas"])
    assert_learned(got, schedule, x)
    sampler, sigmas = learned_sampler(schedule)
    assert torch.equal(got, sampler(D, x, sigmas))
    assert torch.equal(got, sample_learned(D, x, sigmas, weights=schedule.weights))


def test_text_for_the_others(files, capsys):
    schedule = Schedule.load(files["learned"])
    assert text_of(files, capsys, "comfyui") == comfyui_node(schedule)
    assert text_of(files, capsys, "edm") == edm_script(schedule)
    for options in ((), ("--scheduler-config", str(files["config"]))):
        text = text_of(files, capsys, "diffusers-learned", *options)
        assert "num_inference_steps=5" in text
        pipe = types.SimpleNamespace(scheduler=diffusers.PNDMScheduler(**SD))
        exec(text, {"pipe": pipe})
        assert type(pipe.scheduler) is LearnedMultistepScheduler
        assert pipe.scheduler.schedule == schedule
    text_of(files, capsys, "diffusers-learned", "--scheduler-config", str(files["flow"]), "--image-to-image")


def test_text_of_a_schedule_with_an_odd_name():
    schedule = Schedule([3.0, 1.0, 0.0], 'my "best"\nimport os', weights=[[0.0], [0.5]])
    for text in (comfyui_node(schedule), edm_script(schedule)):
        assert text.startswith('# my "best" import os, learned_2m, 2 steps\n')
    names = Comfy().load(comfyui_node(schedule))["NODE_DISPLAY_NAME_MAPPINGS"]
    assert list(names.values()) == ['ART schedule: my "best" import os, learned_2m, 2 steps']


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in LEARNED_TARGETS])
def test_programs_without_a_place_for_weights_are_refused(files, capsys, target):
    assert main([str(files["learned"]), "--to", target]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"learned.json has weights for learned_4m, which {target} has no place for" in error
    assert "use --to diffusers-learned, k-diffusion, edm, comfyui, or learn a list alone" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plain", "--to", "diffusers-learned"], "plain.json has no weights"),
        (["learned", "--to", "diffusers-lerned"], "Did you mean 'diffusers-learned'?"),
        (["learned", "--to", "diffusers-learned", "--scheduler-config", "edm"], "EDM's preconditioning"),
        (["learned", "--to", "diffusers-learned", "--scheduler-config", "plain"], "no scheduler 'None'"),
        (["learned", "--to", "comfyui", "--scheduler-config", "edm"], "is for the diffusers targets"),
        (["learned", "--to", "diffusers-learned", "--shift", "3"], "--shift is for diffusers-flow"),
    ],
)
def test_errors_are_one_line(files, capsys, arguments, message):
    assert main([str(files.get(a, a)) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert message in captured.err


def test_functions_for_lists_alone_refuse_weights():
    schedule = learned(5, 14.0, 0.03)
    for function, instead in (
        (to_k_diffusion, "learned_sampler"),
        (to_comfyui, "comfyui_node"),
        (to_edm, "edm_script"),
        (to_flow, "learned_scheduler"),
    ):
        with pytest.raises(ValueError, match=f"weights for learned_4m, .*; use art_env.export.{instead}, or"):
            function(schedule)
    for function in (learned_sampler, comfyui_node, edm_script):
        with pytest.raises(ValueError, match=r"'mine' has no weights; use art_env.export.to_"):
            function(grid(5, 14.0, 0.03))


def test_text_needs_no_diffusers(files):
    code = (
        "import sys; sys.modules['diffusers'] = None; from art_env.export.__main__ import main; "
        f"sys.exit(main([{str(files['learned'])!r}, '--to', 'k-diffusion']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
