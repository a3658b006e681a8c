"""Adapters: formulas against diffusers' own schedulers, files of every kind, and what bad input says."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_float32_close
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from art_env.adapters import diffusers as diffusers_adapter
from art_env.adapters import load as load_module
from art_env.adapters.callables import CallableDenoiser, FlowDenoiser
from art_env.adapters.conditional import InpaintingDenoiser
from art_env.adapters.counting import CountedDenoiser
from art_env.adapters.diffusers import DiffusersDenoiser
from art_env.adapters.edm import EDMDenoiser, load_edm_pickle
from art_env.adapters.guidance import GuidedDenoiser
from art_env.adapters.load import load_model
from art_env.diffusion.analytic import GaussianDenoiser
from art_env.diffusion.denoiser import Denoiser, DenoiserError, append_dims
from art_env.diffusion.ode import curvature, velocity
from art_env.networks.unet import UNetConfig, UNetDenoiser
from art_env.problems.custom import custom_problem

diffusers = pytest.importorskip("diffusers")

SIZES: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
CROSS = 12


@pytest.fixture(autouse=True)
def _fixed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _unet(**changes: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
    }
    return diffusers.UNet2DModel(**SIZES, **{**settings, **changes}).eval().requires_grad_(False)


def _conditional_unet(**changes: Any) -> Any:
    torch.manual_seed(1)
    settings = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": CROSS,
    }
    return diffusers.UNet2DConditionModel(**SIZES, **{**settings, **changes}).eval().requires_grad_(False)


def _ddpm(**changes: Any) -> Any:
    return diffusers.DDPMScheduler(**{"clip_sample": False, **changes})


def _vae() -> Any:
    torch.manual_seed(2)
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(4, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
    )


@pytest.fixture(scope="module")
def unet() -> Any:
    return _unet()


@pytest.fixture(scope="module")
def text_unet() -> Any:
    return _conditional_unet()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, unet: Any) -> Path:
    """A pipeline folder of a model of pixels."""
    folder = tmp_path_factory.mktemp("pixels") / "pipeline"
    diffusers.DDPMPipeline(unet=unet, scheduler=_ddpm()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved_text(tmp_path_factory: pytest.TempPathFactory, text_unet: Any) -> Path:
    """Folders of a model of latents, as a pipeline has them, with a prompt beside them."""
    folder = tmp_path_factory.mktemp("latents") / "pipeline"
    text_unet.save_pretrained(folder / "unet")
    diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    _vae().save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """The pixel pipeline, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _prompt(length: int = 5, seed: int = 3) -> Tensor:
    return _noise(length, CROSS, seed=seed).float()


def _edit(path: Path, **changes: Any) -> None:
    body = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**body, **changes}.items() if v != "DROP"}))


def _exact_gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """``E[x0 | x]`` of N(0, 0.25)."""
    s = append_dims(sigma, x)
    return x * 0.25 / (0.25 + s * s)


# --- callables and flow matching --------------------------------------------------------------------------


def test_callable_is_a_denoiser_with_its_attributes() -> None:
    d = CallableDenoiser(_exact_gaussian, (3,), 0.5, 0.01, 20.0)
    assert isinstance(d, Denoiser)
    assert (d.shape, d.sigma_data, d.sigma_min, d.sigma_max, d.decode) == ((3,), 0.5, 0.01, 20.0, None)
    x = _noise(4, 3)
    assert torch.equal(d(x, 2.0), _exact_gaussian(x, torch.tensor(2.0)))
    sigma = torch.tensor([0.1, 1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.equal(d(x, sigma), _exact_gaussian(x, sigma))


def test_callable_casts_to_the_network_and_back() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            assert x.dtype == sigma.dtype == torch.float32
            return x * self.scale

    assert CallableDenoiser(Net(), (2,))(_noise(3, 2), 1.0).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shape": ()}, "shape"),
        ({"shape": (0, 2)}, "shape"),
        ({"shape": 3}, "shape"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"sigma_min": float("nan")}, "sigma_min"),
        ({"sigma_max": float("inf")}, "sigma_max"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min = 2 must be below sigma_max = 1"),
    ],
)
def test_callable_names_a_bad_argument(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CallableDenoiser(_exact_gaussian, **{"shape": (3,), **change})


def test_callable_refuses_what_it_cannot_call_or_use() -> None:
    with pytest.raises(TypeError, match="int, not callable"):
        CallableDenoiser(3, (1,))  # type: ignore[arg-type]
    with pytest.raises(DenoiserError, match=r"shape \(2, 1\) for an input of shape \(2, 3\)"):
        CallableDenoiser(lambda x, s: x[:, :1], (3,))(_noise(2, 3), 1.0)
    with pytest.raises(DenoiserError, match="returned tuple"):
        CallableDenoiser(lambda x, s: (x,), (3,))(_noise(2, 3), 1.0)  # type: ignore[arg-type,return-value]
    d = CallableDenoiser(_exact_gaussian, (3,))
    with pytest.raises(ValueError, match=r"takes \[B, 3"):
        d(_noise(2, 4), 1.0)
    with pytest.raises(ValueError, match=r"sigma has shape \(3,\); give a scalar or \[2\]"):
        d(_noise(2, 3), torch.ones(3))


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_flow_of_a_gaussian_is_its_exact_denoiser(scale: float) -> None:
    """For N(0, d^2): E[noise - x0 | x_t] = x_t (t - (1 - t) d^2) / (t^2 + (1 - t)^2 d^2)."""

    def v(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        t = append_dims(t / scale, x)
        return x * (t - (1 - t) * 0.25) / (t * t + (1 - t) ** 2 * 0.25)

    d = FlowDenoiser(v, (3,), time_scale=scale)
    x, sigma = _noise(4, 3), torch.tensor([0.01, 0.5, 3.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(d(x, sigma), _exact_gaussian(x, sigma), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(d(x, 2.0), _exact_gaussian(x, torch.tensor(2.0)), rtol=1e-9, atol=1e-12)


# --- diffusers: formulas ----------------------------------------------------------------------------------

KINDS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_variance_preserving_step_agrees(unet: Any, name: str, kind: str) -> None:
    scheduler = getattr(diffusers, name)(clip_sample=False, prediction_type=kind)
    scheduler.set_timesteps(1000)
    d = DiffusersDenoiser(unet, scheduler)
    x_t = _noise(3, 1, 8, 8)
    for t in (0, 1, 37, 500, 998, 999):
        a = float(scheduler.alphas_cumprod[t])
        out = unet(x_t.float(), t).sample.double()
        want = scheduler.step(out, t, x_t).pred_original_sample
        got = d(x_t / a**0.5, ((1 - a) / a) ** 0.5)
        # t comes from log sigma in the table's float32; at the low end one unit in its last place counts.
        assert_float32_close(got, want.double(), 2e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((f"{name}DiscreteScheduler", kind) for name in ("Euler", "Heun") for kind in KINDS),
        *((f"EDM{name}Scheduler", kind) for name in ("Euler", "DPMSolverMultistep") for kind in KINDS[:2]),
    ],
)
def test_variance_exploding_step_agrees(unet: Any, name: str, kind: str) -> None:
    make = getattr(diffusers, name)
    d = DiffusersDenoiser(unet, make(prediction_type=kind))
    for i in (0, 1, 500, 900, 998):
        scheduler = make(prediction_type=kind)
        t, sigma = scheduler.timesteps[i], float(scheduler.sigmas[i])
        x = _noise(3, 1, 8, 8) * (1 + sigma)
        out = unet(scheduler.scale_model_input(x, t).float(), t.float()).sample.double()
        if name == "EDMDPMSolverMultistepScheduler":
            want = scheduler.convert_model_output(out, sample=x).double()
        else:
            want = scheduler.step(out, t, x).pred_original_sample.double()
        assert_float32_close(d(x, sigma), want, 2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_dpm_solver_step_agrees(unet: Any, kind: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type=kind)
    d = DiffusersDenoiser(unet, scheduler)
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[4]
    scheduler._init_step_index(t)
    x_t, sigma = _noise(2, 1, 8, 8), float(scheduler.sigmas[4])
    out = unet(x_t.float(), t).sample.double()
    want = scheduler.convert_model_output(out, sample=x_t).double()
    assert_float32_close(d(x_t * (1 + sigma**2) ** 0.5, sigma), want, 2e-4)


def test_schedulers_of_one_training_agree(unet: Any) -> None:
    names = (
        "DDPM",
        "DDIM",
        "PNDM",
        "EulerDiscrete",
        "EulerAncestralDiscrete",
        "LMSDiscrete",
        "UniPCMultistep",
    )
    x, sigma = _noise(3, 1, 8, 8), torch.tensor([0.3, 2.0, 50.0], dtype=torch.float64)
    outs = [DiffusersDenoiser(unet, getattr(diffusers, f"{n}Scheduler")())(x, sigma) for n in names]
    for out in outs[1:]:
        assert_float32_close(out, outs[0])


def test_flow_matching_step_agrees(unet: Any) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    d = DiffusersDenoiser(unet, scheduler)
    assert d.sigma_max == pytest.approx(999.0)
    for t in (0.01, 0.5, 0.98):
        scheduler.set_timesteps(sigmas=[t])
        x_t = _noise(2, 1, 8, 8)
        v = unet(x_t.float(), torch.tensor(1000 * t)).sample.double()
        want = scheduler.step(v, scheduler.timesteps[0], x_t).prev_sample
        assert_float32_close(d(x_t / (1 - t), t / (1 - t)), want)


def test_what_a_models_own_programs_sample_in(unet: Any) -> None:
    class Conditional(FlowDenoiser):
        has_condition = True

    flow = DiffusersDenoiser(unet, diffusers.FlowMatchEulerDiscreteScheduler())
    plain = DiffusersDenoiser(unet, diffusers.DDPMScheduler())
    mine, other = (Conditional(lambda x, t: x, (2, 4, 4)) for _ in range(2))
    inpaint = InpaintingDenoiser(mine, torch.eye(4).bool())
    spaces = [d.space for d in (flow, plain, mine, inpaint, GuidedDenoiser(mine, other, 2.0))]
    assert spaces == ["flow", "ve", "flow", "flow", "flow"]


def test_flow_shift_is_a_factor_of_sigma(unet: Any) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    t = scheduler.sigmas.double()
    d = DiffusersDenoiser(unet, scheduler)
    assert d.sigma_min == pytest.approx(float(t[-1] / (1 - t[-1])), rel=1e-4)
    assert d.sigma_max == pytest.approx(float(t[1] / (1 - t[1])), rel=1e-3)


def test_edm_range_and_data_come_from_the_scheduler(unet: Any) -> None:
    d = DiffusersDenoiser(unet, diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=30.0, sigma_data=0.7))
    assert (d.sigma_min, d.sigma_max, d.sigma_data) == (0.01, 30.0, 0.7)


def test_timesteps_are_interpolated_in_log_sigma() -> None:
    scheduler = _ddpm()
    a = scheduler.alphas_cumprod.double()
    sigmas = ((1 - a) / a).sqrt()
    scheme = diffusers_adapter._scheme(scheduler)
    assert isinstance(scheme, diffusers_adapter._Discrete)
    halfway = (sigmas[:-1] * sigmas[1:]).sqrt()
    numbers = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(scheme.time(sigmas), numbers, rtol=0, atol=1e-6)
    torch.testing.assert_close(scheme.time(halfway), numbers[:-1] + 0.5, rtol=0, atol=1e-6)
    ends = scheme.time(torch.tensor([1e-6, 1e6], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 999.0], dtype=torch.float64), rtol=0, atol=2e-3)


def test_zero_terminal_signal_stays_finite(unet: Any) -> None:
    d = DiffusersDenoiser(unet, _ddpm(rescale_betas_zero_snr=True, prediction_type="v_prediction"))
    assert d.sigma_max == pytest.approx(4096.0, rel=1e-6)
    assert torch.isfinite(d(_noise(2, 1, 8, 8) * 4096, 4096.0)).all()


def test_each_row_has_its_own_noise_level(unet: Any) -> None:
    d = DiffusersDenoiser(unet, _ddpm())
    x, sigma = _noise(3, 1, 8, 8), torch.tensor([0.1, 3.0, 40.0], dtype=torch.float64)
    each = torch.cat([d(x[i : i + 1], sigma[i]) for i in range(3)])
    for row, alone in zip(d(x, sigma), each, strict=True):
        assert_float32_close(row, alone)


def test_learned_variance_is_ignored() -> None:
    net = _unet(in_channels=2, out_channels=4)
    d = DiffusersDenoiser(net, _ddpm())
    assert d.shape == (2, 8, 8)
    a = float(_ddpm().alphas_cumprod[400])
    x_t = _noise(2, 2, 8, 8)
    eps = net(x_t.float(), 400).sample[:, :2].double()
    want = (x_t - (1 - a) ** 0.5 * eps) / a**0.5
    got = d(x_t / a**0.5, ((1 - a) / a) ** 0.5)
    assert_float32_close(got, want, 2e-4)


@pytest.mark.parametrize(
    ("model", "scheduler", "arguments", "text"),
    [
        ({}, {"prediction_type": "epsilonn"}, {}, "Did you mean 'epsilon'"),
        ({"in_channels": 3}, {}, {}, "in_channels = 3 and out_channels = 1"),
        ({"sample_size": None}, {}, {}, r"no sample_size; give shape=\(1, height, width\)"),
        ({}, {}, {"shape": (2, 8, 8)}, r"takes \(1, height, width\)"),
        ({}, {}, {"sigma_max": 1000.0}, "sigma_max = 1000 is outside .* 0.0100013 to 157.407"),
        ({}, {}, {"sigma_min": 0.001}, "sigma_min = 0.001 is outside .* 0.0100013 to 157.407"),
        ({}, {}, {"encoder_hidden_states": torch.zeros(2, 3)}, "takes no prompt"),
        ({"num_class_embeds": 3}, {}, {}, "needs a class; give class_label"),
        ({"num_class_embeds": 3}, {}, {"class_labels": 3}, "takes 0 to 2"),
        ({}, {}, {"added_cond_kwargs": {"what": torch.zeros(1)}}, "'what', which UNet2DModel does not take"),
    ],
)
def test_what_does_not_fit_is_named(model: Any, scheduler: Any, arguments: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DiffusersDenoiser(_unet(**model), _ddpm(**scheduler), **arguments)


def test_other_schedulers_and_objects_are_refused(unet: Any) -> None:
    with pytest.raises(ValueError, match="ScoreSdeVeScheduler has no alphas_cumprod"):
        DiffusersDenoiser(unet, diffusers.ScoreSdeVeScheduler())
    with pytest.raises(ValueError, match="Linear has no config"):
        DiffusersDenoiser(nn.Linear(1, 1), _ddpm())
    with pytest.raises(ValueError, match="unknown prediction_type of EDMEulerScheduler"):
        DiffusersDenoiser(unet, diffusers.EDMEulerScheduler(prediction_type="sample"))


# --- conditions and guidance ------------------------------------------------------------------------------


def test_prompt_is_broadcast_to_the_batch(text_unet: Any) -> None:
    prompt = _prompt()
    d = DiffusersDenoiser(text_unet, _ddpm(), encoder_hidden_states=prompt)
    assert (d.shape, d.sigma_data, d.has_condition) == ((4, 8, 8), 1.0, True)
    a = float(_ddpm().alphas_cumprod[300])
    x_t = _noise(3, 4, 8, 8)
    eps = text_unet(x_t.float(), 300, prompt[None].expand(3, -1, -1)).sample.double()
    got = d(x_t / a**0.5, ((1 - a) / a) ** 0.5)
    assert_float32_close(got, (x_t - (1 - a) ** 0.5 * eps) / a**0.5, 2e-4)
    other = DiffusersDenoiser(text_unet, _ddpm(), encoder_hidden_states=_prompt(seed=4))
    assert not torch.allclose(d(x_t, 1.0), other(x_t, 1.0))


def test_prompt_is_checked(text_unet: Any) -> None:
    with pytest.raises(ValueError, match="needs a prompt; give prompt_embeds"):
        DiffusersDenoiser(text_unet, _ddpm())
    with pytest.raises(ValueError, match=r"\(1, 5, 7\); UNet2DConditionModel takes \[length, 12\]"):
        DiffusersDenoiser(text_unet, _ddpm(), encoder_hidden_states=torch.zeros(5, 7))
    with pytest.raises(ValueError, match="one prompt"):
        DiffusersDenoiser(text_unet, _ddpm(), encoder_hidden_states=torch.zeros(2, 5, CROSS))


def test_conditions_of_sdxl_are_passed_on() -> None:
    net = _conditional_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 10,
    )
    added = {"text_embeds": _noise(1, 10).float(), "time_ids": torch.tensor([[8.0, 8, 0, 0, 8, 8]])}
    prompt = _prompt()
    c = DiffusersDenoiser(net, _ddpm(), encoder_hidden_states=prompt, added_cond_kwargs=added)
    u = DiffusersDenoiser(
        net,
        _ddpm(),
        encoder_hidden_states=0 * prompt,
        added_cond_kwargs={**added, "text_embeds": 0 * added["text_embeds"]},
    )
    x = _noise(3, 4, 8, 8)
    assert not torch.allclose(c(x, 1.0), u(x, 1.0))
    with pytest.raises(ValueError, match=r"\['text_embeds'\] has shape \(2, 10\); give \[1"):
        DiffusersDenoiser(
            net, _ddpm(), encoder_hidden_states=prompt, added_cond_kwargs={"text_embeds": torch.zeros(2, 10)}
        )


def test_models_of_transformers_work() -> None:
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        norm_num_groups=4,
        num_embeds_ada_norm=10,
    )
    d = DiffusersDenoiser(dit, _ddpm(), class_labels=3)
    assert d(_noise(2, 4, 8, 8), 1.0).shape == (2, 4, 8, 8)
    sd3 = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=CROSS,
        caption_projection_dim=16,
        pooled_projection_dim=6,
        pos_embed_max_size=8,
    )
    d = DiffusersDenoiser(
        sd3,
        diffusers.FlowMatchEulerDiscreteScheduler(),
        encoder_hidden_states=_prompt(),
        added_cond_kwargs={"pooled_projections": torch.zeros(1, 6)},
    )
    assert d(_noise(2, 4, 8, 8), torch.tensor([1.0, 2.0])).shape == (2, 4, 8, 8)


def test_guidance_is_one_batch_of_the_same_network(text_unet: Any) -> None:
    calls: list[int] = []
    hook = text_unet.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["sample"])), with_kwargs=True
    )
    scheduler = _ddpm()
    c = DiffusersDenoiser(text_unet, scheduler, encoder_hidden_states=_prompt())
    u = DiffusersDenoiser(text_unet, scheduler, encoder_hidden_states=0 * _prompt())
    x, sigma = _noise(3, 4, 8, 8), torch.tensor([0.2, 2.0, 30.0], dtype=torch.float64)
    want = u(x, sigma) + 3.0 * (c(x, sigma) - u(x, sigma))
    calls.clear()
    guided = GuidedDenoiser(c, u, 3.0)
    for row, alone in zip(guided(x, sigma), want, strict=True):
        assert_float32_close(row, alone, 5e-5)  # a multiple of a difference
    assert calls == [6]
    calls.clear()
    longer = DiffusersDenoiser(text_unet, scheduler, encoder_hidden_states=_prompt(7))
    GuidedDenoiser(longer, u, 3.0)(x, sigma)
    assert calls == [3, 3]
    hook.remove()
    checked = CountedDenoiser(guided)
    checked(x, 1.0)
    assert (guided.nfe_per_call, checked.nfe, checked.evals) == (2, 2, 6)


def test_guidance_of_other_denoisers() -> None:
    c, u = GaussianDenoiser(1.0), GaussianDenoiser(2.0)
    d = GuidedDenoiser(c, u, 2.0)
    x = _noise(4, 1)
    torch.testing.assert_close(d(x, 1.5), 2 * c(x, 1.5) - u(x, 1.5))
    assert (d.shape, d.nfe_per_call) == ((1,), 2)


def test_guidance_is_checked(unet: Any) -> None:
    plain = DiffusersDenoiser(unet, _ddpm())
    with pytest.raises(ValueError, match=r"guidance = 2.0 needs a model with a condition"):
        GuidedDenoiser(plain, DiffusersDenoiser(unet, _ddpm()), 2.0)
    c = GaussianDenoiser(1.0)
    with pytest.raises(ValueError, match="needs a model with a condition"):
        GuidedDenoiser(c, c, 2.0)
    with pytest.raises(ValueError, match="finite"):
        GuidedDenoiser(c, GaussianDenoiser(1.0), float("nan"))
    with pytest.raises(ValueError, match=r"shape \(1,\), the unconditional one \(1, 8, 8\)"):
        GuidedDenoiser(c, plain, 2.0)


# --- derivatives ------------------------------------------------------------------------------------------


def _central(d: Denoiser, x: Tensor, sigma: Tensor, h: float = 1e-4) -> Tensor:
    step = h * sigma
    F = velocity(d, x, sigma)
    ahead = velocity(d, x + append_dims(step, x) * F, sigma - step)
    behind = velocity(d, x - append_dims(step, x) * F, sigma + step)
    return (ahead - behind) / (2 * append_dims(step, x))


@pytest.mark.parametrize("kind", ["unet", "text", "edm", "flow"])
def test_curvature_in_forward_mode(kind: str) -> None:
    schedulers = {"edm": diffusers.EDMEulerScheduler(), "flow": diffusers.FlowMatchEulerDiscreteScheduler()}
    net = (_conditional_unet() if kind == "text" else _unet()).double()
    prompt = _prompt() if kind == "text" else None
    d = DiffusersDenoiser(net, schedulers.get(kind, _ddpm()), encoder_hidden_states=prompt)
    sigma = torch.tensor([0.05, 0.6, 3.0, 20.0], dtype=torch.float64)
    x = _noise(4, *d.shape) * append_dims(1 + sigma, _noise(4, *d.shape))
    F, Q = curvature(d, x, sigma)
    torch.testing.assert_close(F, velocity(d, x, sigma))
    error = (Q - _central(d, x, sigma)).flatten(1).norm(dim=1) / Q.flatten(1).norm(dim=1)
    assert float(error.max()) < 0.02
    assert d._forward_mode


def test_derivative_at_the_ends_of_the_range_is_not_cut_off(unet: Any) -> None:
    d = DiffusersDenoiser(unet, _ddpm())
    x = _noise(2, 1, 8, 8)
    for end, inside in ((d.sigma_min, d.sigma_min * 1.0001), (d.sigma_max, d.sigma_max / 1.0001)):
        at, near = (curvature(d, x * s, s)[1].norm() for s in (end, inside))
        assert float(at / near) == pytest.approx(1.0, abs=0.05)


class _NoForwardMode(torch.autograd.Function):
    """As the attention of EDM's networks: no rule for forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


@pytest.mark.parametrize("scalar", [True, False])
def test_networks_without_forward_mode_fall_back_to_differences(scalar: bool) -> None:
    d = CallableDenoiser(lambda x, s: _NoForwardMode.apply(x / append_dims(s, x)), (3,))
    exact = CallableDenoiser(lambda x, s: (x / append_dims(s, x)).tanh(), (3,))
    x = _noise(3, 3)
    sigma = torch.tensor(0.7 if scalar else [0.1, 1.0, 5.0], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="no derivative in forward mode"):
        F, Q = curvature(d, x, sigma)
    want_F, want_Q = curvature(exact, x, sigma)
    torch.testing.assert_close(F, want_F)
    torch.testing.assert_close(Q, want_Q, rtol=1e-3, atol=1e-3 * float(want_Q.abs().max()))
    torch.testing.assert_close(curvature(d, x, sigma)[1], Q)


def test_errors_that_are_not_about_forward_mode_come_out() -> None:
    def broken(x: Tensor, s: Tensor) -> Tensor:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        curvature(CallableDenoiser(broken, (3,)), _noise(2, 3), 1.0)


def test_gradients_in_sigma_flow_backwards(unet: Any) -> None:
    d = DiffusersDenoiser(unet, _ddpm())
    sigma = torch.tensor([1.0, 5.0], dtype=torch.float64, requires_grad=True)
    d(_noise(2, 1, 8, 8), sigma).square().sum().backward()
    assert sigma.grad is not None
    assert torch.isfinite(sigma.grad).all()
    assert (sigma.grad != 0).all()


# --- folders ----------------------------------------------------------------------------------------------


def test_pipeline_folder(saved: Path, unet: Any) -> None:
    d = load_model(saved)
    assert (d.shape, d.sigma_data, d.nfe_per_call, d.decode) == ((1, 8, 8), 0.5, 1, None)
    a = _ddpm().alphas_cumprod.double()
    sigmas = ((1 - a) / a).sqrt()
    assert (d.sigma_min, d.sigma_max) == pytest.approx((float(sigmas[0]), float(sigmas[-1])))
    x = _noise(2, 1, 8, 8)
    assert_float32_close(d(x, 2.0), DiffusersDenoiser(unet, _ddpm())(x, 2.0))
    assert not any(p.requires_grad for p in d.parameters())
    assert not any(m.training for m in d.modules() if m is not d)


def test_it_becomes_a_problem(saved: Path) -> None:
    d = load_model(str(saved), sigma_min=0.05, sigma_max=20.0)
    problem = custom_problem(d, sigma_min=d.sigma_min, sigma_max=d.sigma_max)
    flow = problem.reference(2, num_knots=5)
    assert torch.isfinite(flow.x).all()


@pytest.mark.parametrize("where", ["inside", "beside", "same"])
def test_bare_network_folder(tmp_path: Path, unet: Any, where: str) -> None:
    folder = tmp_path / "unet"
    unet.save_pretrained(folder)
    place = {"inside": folder / "scheduler", "beside": tmp_path / "scheduler", "same": folder}[where]
    _ddpm().save_pretrained(place)
    x = _noise(2, 1, 8, 8)
    want = DiffusersDenoiser(unet, _ddpm())(x, 2.0)
    assert_float32_close(load_model(folder)(x, 2.0), want)


def test_shape_and_range_can_be_chosen(saved: Path) -> None:
    d = load_model(saved, shape=(1, 16, 16), sigma_data=0.3, sigma_min=0.1, sigma_max=10.0)
    assert (d.shape, d.sigma_data, d.sigma_min, d.sigma_max) == ((1, 16, 16), 0.3, 0.1, 10.0)


def test_shards_and_variants_are_found(tmp_path: Path, unet: Any) -> None:
    want = DiffusersDenoiser(unet, _ddpm())(_noise(2, 1, 8, 8), 2.0)
    for name, save in (("shards", {"max_shard_size": "60KB"}), ("fp16", {"variant": "fp16"})):
        unet.save_pretrained(tmp_path / name, **save)
        _ddpm().save_pretrained(tmp_path / name)
        assert not (tmp_path / name / "diffusion_pytorch_model.safetensors").exists()
        got = load_model(tmp_path / name)(_noise(2, 1, 8, 8), 2.0)
        assert_float32_close(got, want)


def test_latent_pipeline_decodes(saved_text: Path) -> None:
    d = load_model(saved_text, prompt_embeds=_prompt())
    assert (d.shape, d.sigma_data) == ((4, 8, 8), 1.0)
    assert d.decode is not None
    z = _noise(2, 4, 8, 8)
    image = d.decode(z)
    assert (image.shape, image.dtype) == ((2, 3, 16, 16), torch.float64)
    vae = diffusers.AutoencoderKL.from_pretrained(saved_text / "vae")
    with torch.no_grad():
        want = vae.decode(z.float() / 0.5).sample.double()
    assert_float32_close(image, want)
    # Given the network's folder alone, what lies beside it is found too.
    assert load_model(saved_text / "unet", prompt_embeds=_prompt()).decode is not None


def test_guided_pipeline(saved_text: Path, tmp_path: Path) -> None:
    x = _noise(2, 4, 8, 8)
    c = load_model(saved_text, prompt_embeds=_prompt())
    u = load_model(saved_text, prompt_embeds=_prompt(seed=4))
    d = load_model(saved_text, guidance=5.0, prompt_embeds=_prompt(), negative_prompt_embeds=_prompt(seed=4))
    assert isinstance(d, GuidedDenoiser)
    assert d.nfe_per_call == 2
    assert d.decode is not None
    assert_float32_close(d(x, 2.0), u(x, 2.0) + 5.0 * (c(x, 2.0) - u(x, 2.0)), 5e-5)
    stored = {"prompt_embeds": _prompt(), "negative_prompt_embeds": _prompt(seed=4)}
    save_file(stored, tmp_path / "prompt.safetensors")
    same = load_model(saved_text, guidance=5.0, prompt_embeds=tmp_path / "prompt.safetensors")
    assert_float32_close(same(x, 2.0), d(x, 2.0), 5e-5)


def test_guided_classes(tmp_path: Path) -> None:
    _unet(num_class_embeds=4).save_pretrained(tmp_path)
    _ddpm().save_pretrained(tmp_path)
    x = _noise(2, 1, 8, 8)
    c, u = (load_model(tmp_path, class_label=k)(x, 2.0) for k in (1, 3))
    d = load_model(tmp_path, class_label=1, null_label=3, guidance=2.0)
    assert_float32_close(d(x, 2.0), u + 2.0 * (c - u), 5e-5)
    with pytest.raises(ValueError, match="needs null_label"):
        load_model(tmp_path, class_label=1, guidance=2.0)
    with pytest.raises(ValueError, match="needs a class; give class_label"):
        load_model(tmp_path)


def test_guidance_needs_a_condition_and_its_opposite(saved: Path, saved_text: Path) -> None:
    with pytest.raises(ValueError, match=r"pipeline: guidance = 2.0, but UNet2DModel has no condition"):
        load_model(saved, guidance=2.0)
    with pytest.raises(ValueError, match="needs negative_prompt_embeds"):
        load_model(saved_text, guidance=2.0, prompt_embeds=_prompt())
    with pytest.raises(ValueError, match="needs a prompt; give prompt_embeds"):
        load_model(saved_text)


def test_sigma_range_names_both(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"pipeline: sigma_max = 500 is outside .* 0.0100013 to 157.407"):
        load_model(saved, sigma_max=500.0)


def test_no_weights(copy: Path) -> None:
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"unet has config.json but no weights"):
        load_model(copy)


def test_no_config(copy: Path, tmp_path: Path) -> None:
    (copy / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"copy has no config.json.*save_pretrained"):
        load_model(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no config.json"):
        load_model(tmp_path / "empty")


def test_no_scheduler(copy: Path) -> None:
    shutil.rmtree(copy / "scheduler")
    with pytest.raises(ValueError, match=r"no scheduler_config.json .*scheduler.save_pretrained"):
        load_model(copy)


def test_broken_configs(copy: Path) -> None:
    scheduler, model = copy / "scheduler" / "scheduler_config.json", copy / "unet" / "config.json"
    _edit(scheduler, prediction_type="noise")
    with pytest.raises(ValueError, match=r"copy: unknown prediction_type of DDPMScheduler 'noise'"):
        load_model(copy)
    _edit(scheduler, _class_name="NoScheduler")
    with pytest.raises(ValueError, match=r"scheduler_config.json: _class_name = 'NoScheduler'"):
        load_model(copy)
    _edit(model, _class_name="UNet2DModle")
    with pytest.raises(ValueError, match=r"config.json: .*Did you mean 'UNet2DModel'"):
        load_model(copy)
    _edit(model, _class_name="DROP")
    with pytest.raises(ValueError, match=r"config.json has no _class_name"):
        load_model(copy)
    model.write_text("{")
    with pytest.raises(ValueError, match=r"config.json: not valid JSON.*that diffusers saved"):
        load_model(copy)


def test_channels_that_do_not_fit(copy: Path) -> None:
    _unet(in_channels=3, out_channels=1).save_pretrained(copy / "unet")
    with pytest.raises(ValueError, match=r"copy: UNet2DModel has in_channels = 3 and out_channels = 1"):
        load_model(copy)


def test_broken_weights(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    bad = {k: v.clone() for k, v in tensors.items()}
    bad["conv_in.weight"][0, 0, 0, 0] = float("nan")
    bad["conv_out.bias"][0] = float("inf")
    save_file(bad, path)
    with pytest.raises(ValueError, match=r"unet has a value that is not finite in conv_in.weight"):
        load_model(copy)
    save_file({k: v for k, v in tensors.items() if k != "conv_out.bias"}, path)
    with pytest.raises(ValueError, match=r"unet: weight conv_out.bias is missing"):
        load_model(copy)
    save_file({**tensors, "conv_out.bias": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"unet: the weights cannot be loaded .*conv_out.bias"):
        load_model(copy)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"unet: the weights cannot be loaded"):
        load_model(copy)


def test_a_model_that_fails_is_caught_at_once(tmp_path: Path) -> None:
    _unet(time_embedding_type="fourier").save_pretrained(tmp_path)
    _ddpm().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not finite at sigma = 0.0100013"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match=r"failed on a trial batch of shape \(2, 1, 9, 9\)"):
        load_model(tmp_path, shape=(1, 9, 9))


# --- the hub ----------------------------------------------------------------------------------------------


def test_hub_id_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"'nobody/nothing' here, .* the network.*hf download nobody/nothing"
    ):
        load_model("nobody/nothing")


def test_hub_id_is_downloaded_without_other_parts(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    asked: list[list[str]] = []

    def fake(name: str, allow_patterns: list[str]) -> str:
        assert name == "owner/name"
        asked.append(allow_patterns)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    assert load_model("owner/name").shape == (1, 8, 8)
    assert len(asked) == 1
    assert "unet/diffusion_pytorch_model.safetensors" in asked[0]
    assert not any(p.startswith("text_encoder") or p == "*.safetensors" for p in asked[0])


def test_path_that_is_not_there() -> None:
    for path in ("./nothing/there", "nothing", "/no/such/folder"):
        with pytest.raises(FileNotFoundError, match="no file or folder at"):
            load_model(path)


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for path in (saved, "owner/name"):
        with pytest.raises(ImportError, match=r'pip install "art-rl\[diffusers\]"'):
            load_model(path)


# --- EDM pickles ------------------------------------------------------------------------------------------

EDM_MODULE = """
import torch


class Net(torch.nn.Module):
    img_channels, img_resolution, sigma_data = 1, 4, 0.4
    sigma_min, sigma_max = 0.0, float("inf")

    def __init__(self, label_dim=0):
        super().__init__()
        self.label_dim = label_dim
        self.layer = torch.nn.Linear(16, 16)
        self.map = torch.nn.Linear(label_dim, 16, bias=False) if label_dim else None

    def forward(self, x, sigma, class_labels=None):
        assert x.dtype == torch.float32
        s = sigma.to(torch.float32).reshape(-1, 1)
        h = self.layer((x / (s * s + 0.16).sqrt()[..., None, None]).flatten(1)).tanh()
        if self.map is not None:
            labels = torch.zeros([1, self.label_dim]) if class_labels is None else class_labels
            h = h + self.map(labels.reshape(-1, self.label_dim))
        return h.reshape(x.shape)


class Old:
    def __call__(self, x, sigma, labels):
        return x
"""


@pytest.fixture
def edm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module as EDM's repository has it, on the path for one test."""
    (tmp_path / "tiny_edm.py").write_text(EDM_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("tiny_edm", None)
    module = __import__("tiny_edm")
    yield module
    sys.modules.pop("tiny_edm", None)


def _pickled(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def test_edm_pickle(edm: Any, tmp_path: Path) -> None:
    net = edm.Net()
    path = _pickled(tmp_path / "net.pkl", {"ema": net, "loss_fn": None})
    d = load_edm_pickle(path, trust_pickle=True)
    assert isinstance(d, EDMDenoiser)
    assert (d.shape, d.sigma_data, d.sigma_min, d.sigma_max) == ((1, 4, 4), 0.4, 0.002, 80.0)
    x, sigma = _noise(3, 1, 4, 4), torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    with torch.no_grad():
        assert_float32_close(d(x, sigma), net(x.float(), sigma.float()).double())
        assert_float32_close(d(x, 1.0), net(x.float(), torch.tensor(1.0)).double())
    wide = load_model(path, trust_pickle=True, sigma_min=0.001, sigma_max=200.0, sigma_data=0.5)
    assert (wide.sigma_data, wide.sigma_min, wide.sigma_max) == (0.5, 0.001, 200.0)


def test_edm_classes_and_guidance(edm: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = _pickled(tmp_path / "net.pkl", {"ema": edm.Net(3)})
    x = _noise(2, 1, 4, 4)
    u, c = (load_model(path, trust_pickle=True, class_label=k)(x, 1.0) for k in (None, 2))
    assert not torch.allclose(u, c)
    d = load_model(path, trust_pickle=True, class_label=2, guidance=1.5)
    assert_float32_close(d(x, 1.0), u + 1.5 * (c - u), 5e-5)
    assert d.nfe_per_call == 2
    with pytest.raises(ValueError, match=r"class_label = 3: .* takes 0 to 2"):
        load_model(path, trust_pickle=True, class_label=3)
    with pytest.raises(ValueError, match=r"guidance = 1.5 needs a class .* give class_label"):
        load_model(path, trust_pickle=True, guidance=1.5)


def test_edm_pickle_is_not_read_without_trust(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    flag = tmp_path / "ran"
    path.write_bytes(b"cpathlib\nPath.touch\n(cpathlib\nPath\n(V" + str(flag).encode() + b"\ntRtR.")
    with pytest.raises(ValueError, match=r"runs whatever code it contains.*trust_pickle=True"):
        load_model(path)
    assert not flag.exists()


def test_edm_pickle_that_is_something_else(edm: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"

    def refuses(content: Any, text: str) -> None:
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        with pytest.raises(ValueError, match=text):
            load_model(path, trust_pickle=True)

    refuses(b"not a pickle", "net.pkl is not a pickle that can be read")
    refuses(b"", "is not a pickle that can be read")
    refuses({"model": 1}, r"no entry 'ema', only \['model'\]")
    refuses({"ema": 3}, "holds int, not a network")
    refuses(edm.Old(), "Old has no img_channels")
    refuses(b"cno_such_module\nNet\n.", "needs the module 'no_such_module'; put a clone")
    net = edm.Net()
    with torch.no_grad():
        net.layer.weight[0, 0] = float("nan")
    refuses({"ema": net}, "not finite in layer.weight")
    net = edm.Net()
    net.sigma_min, net.sigma_max = 0.02, 50.0
    path.write_bytes(pickle.dumps({"ema": net}))
    assert load_model(path, trust_pickle=True).sigma_max == 50.0
    with pytest.raises(ValueError, match=r"net.pkl: sigma_max = 80 is outside .* 0.02 to 50"):
        load_model(path, trust_pickle=True, sigma_max=80.0)
    with pytest.raises(FileNotFoundError, match="no file at"):
        load_edm_pickle(tmp_path / "none.pkl", trust_pickle=True)


# --- this package's own files -----------------------------------------------------------------------------


def test_own_file(tmp_path: Path) -> None:
    net = UNetDenoiser(UNetConfig(widths=(4, 8), blocks=(1, 1)), 0.6).requires_grad_(False)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    net.save(tmp_path / "own.safetensors")
    d = load_model(tmp_path / "own.safetensors", sigma_max=40.0)
    assert (d.shape, d.sigma_data, d.sigma_min, d.sigma_max) == ((1, 8, 8), 0.6, 0.002, 40.0)
    x = _noise(2, 1, 8, 8)
    with torch.no_grad():
        assert_float32_close(d(x, 2.0), net(x, 2.0))
    assert_float32_close(curvature(d, x, 2.0)[1], curvature(net, x, 2.0)[1], 1e-4)
    for arguments, text in (
        ({"guidance": 2.0}, "guidance = 2.0 needs a class .* leave guidance out"),
        ({"class_label": 1}, "has no classes; leave class_label out"),
        ({"sigma_max": 100.0}, "own.safetensors: sigma_max = 100 is outside .* 0.002 to 80"),
        ({"prompt_embeds": _prompt()}, "prompt_embeds given, but .* leave prompt_embeds out"),
    ):
        with pytest.raises(ValueError, match=text):
            load_model(tmp_path / "own.safetensors", **arguments)


def test_own_file_with_classes(tmp_path: Path) -> None:
    net = UNetDenoiser(UNetConfig(widths=(4, 8), blocks=(1, 1), classes=3), 0.6)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    net.save(tmp_path / "own.safetensors")
    x = _noise(2, 1, 8, 8)
    with torch.no_grad():
        u, c = net(x, 2.0), net(x, 2.0, torch.tensor([1, 1]))
    assert not torch.allclose(u, c)
    path = tmp_path / "own.safetensors"
    assert_float32_close(load_model(path)(x, 2.0), u)
    assert_float32_close(load_model(path, class_label=1)(x, 2.0), c)
    guided = load_model(path, class_label=1, guidance=3.0)
    assert_float32_close(guided(x, 2.0), u + 3.0 * (c - u), 5e-5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"does not hold a unet-denoiser.*save_pretrained"):
        load_model(tmp_path / "other.safetensors")
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.ckpt is a .ckpt; give"):
        load_model(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="no tensor 'prompt_embeds', only"):
        load_module._read_prompt(tmp_path / "other.safetensors")
