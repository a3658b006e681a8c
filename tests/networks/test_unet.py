"""The U-Net denoiser: preconditioning, derivatives, weight files, and what the bundled model can do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_float32_close
from safetensors.torch import load_file, save_file
from torch import Tensor

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion.denoiser import Denoiser
from art_env.networks.bundled import SCORE_MODELS, load_bundled
from art_env.networks.data import digit_images
from art_env.networks.unet import UNetConfig, UNetDenoiser
from art_env.networks.weights import read_safetensors
from benchmarks.model_card import heun_edm


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> UNetDenoiser:
    return load_bundled("digits-base")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return digit_images()[0].double()


def _random(config: UNetConfig | None = None, sigma_data: float = 0.7, seed: int = 0) -> UNetDenoiser:
    """A denoiser whose every weight is random: the zeros of a new one would hide errors."""
    torch.manual_seed(seed)
    net = UNetDenoiser(config or UNetConfig(), sigma_data)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval().requires_grad_(False)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_bundled_model_is_a_frozen_denoiser(model: UNetDenoiser) -> None:
    assert isinstance(model, Denoiser)
    assert model.shape == (1, 8, 8)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert 200_000 < sum(p.numel() for p in model.parameters()) < 400_000
    assert "--seed 0" in model.meta["command"]


def test_sigma_data_is_that_of_the_digits(model: UNetDenoiser, images: Tensor) -> None:
    assert model.sigma_data == pytest.approx(float(np.std(images.numpy())), rel=1e-6)


def test_output_passes_the_checked_wrapper_over_the_whole_range(model: UNetDenoiser) -> None:
    checked = CountedDenoiser(model)
    for sigma in (1e-6, 0.002, 0.1, 1.0, 80.0, 500.0):
        out = checked(sigma * _noise(3, 1, 8, 8), sigma)
        assert out.dtype == torch.float64
    assert checked.nfe == 6
    assert model(torch.zeros(2, 1, 8, 8), 1.0).dtype == torch.float32


def test_tends_to_the_identity_as_sigma_vanishes() -> None:
    net, x = _random(), _noise(4, 1, 8, 8)
    ratios = [float((net(x, s) - x).abs().max()) for s in (1e-1, 1e-3, 1e-5)]
    # c_out is proportional to sigma, so each factor of 100 in sigma shows.
    assert ratios[1] < ratios[0] / 30
    assert ratios[2] < ratios[1] / 30
    assert torch.equal(net(x, 0.0), x)


def test_untrained_is_the_linear_denoiser() -> None:
    net, x = UNetDenoiser(UNetConfig(), 0.7), _noise(4, 1, 8, 8)
    for sigma in (0.05, 0.7, 30.0):
        expected = x * 0.49 / (0.49 + sigma**2)
        torch.testing.assert_close(net(x, sigma), expected, rtol=1e-12, atol=0)


def test_preconditioning_is_table_1_of_edm() -> None:
    net, x, s, d = _random().double(), _noise(4, 1, 8, 8), 1.3, 0.7
    label = torch.tensor([np.log(s) / 4], dtype=torch.float64)
    f = net.net(x / np.sqrt(s**2 + d**2), label)
    expected = d**2 / (s**2 + d**2) * x + s * d / np.sqrt(s**2 + d**2) * f
    torch.testing.assert_close(net(x, s), expected, rtol=1e-10, atol=1e-12)
    assert float(f.abs().max()) > 0.05


def test_network_depends_on_sigma() -> None:
    net, x = _random().double(), _noise(4, 1, 8, 8)
    a, b = (net.net(x, torch.tensor([c], dtype=torch.float64)) for c in (-1.0, 0.5))
    assert float((a - b).abs().mean()) > 1e-2


def test_scalar_sigma_equals_one_sigma_per_row(model: UNetDenoiser) -> None:
    x = _noise(5, 1, 8, 8)
    append_dims = model(x, torch.full((5,), 0.6, dtype=torch.float64))
    assert_float32_close(model(x, 0.6), append_dims)
    assert_float32_close(model(x, torch.tensor(0.6)), append_dims)


def test_rows_are_independent(model: UNetDenoiser) -> None:
    x, sigma = _noise(4, 1, 8, 8), torch.tensor([0.1, 0.5, 2.0, 40.0], dtype=torch.float64)
    together = model(x, sigma)
    for i in range(4):
        assert_float32_close(together[i], model(x[i : i + 1], float(sigma[i]))[0])


@pytest.mark.parametrize("append_dims", [False, True])
def test_forward_derivative_of_the_slope_matches_finite_differences(append_dims: bool) -> None:
    """``(D - x) / sigma`` along ``(F, -1)``: the second derivative of a trajectory."""
    net, x = _random().double(), _noise(3, 1, 8, 8)
    sigma = torch.tensor([0.3, 1.0, 4.0] if append_dims else 0.8, dtype=torch.float64)

    def slope(x: Tensor, s: Tensor) -> Tensor:
        return (net(x, s) - x) / s.reshape(-1, 1, 1, 1)

    f = slope(x, sigma)
    out = torch.func.jvp(slope, (x, sigma), (f, -torch.ones_like(sigma)))
    value, tangent = out[0], out[1]
    h = 1e-5
    numeric = (slope(x + h * f, sigma - h) - slope(x - h * f, sigma + h)) / (2 * h)
    torch.testing.assert_close(value, f)
    torch.testing.assert_close(tangent, numeric, rtol=1e-6, atol=1e-7)
    assert float(tangent.abs().max()) > 1e-2


def test_reverse_gradients_match_forward_ones() -> None:
    net, x = _random().double(), _noise(3, 1, 8, 8).requires_grad_()
    sigma = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    weight, v = _noise(3, 1, 8, 8, seed=1), _noise(3, 1, 8, 8, seed=2)
    gx, gs = torch.autograd.grad((net(x, sigma) * weight).sum(), (x, sigma))
    tangent = torch.func.jvp(
        lambda a, b: net(a, b), (x.detach(), sigma.detach()), (v, torch.ones_like(sigma).detach())
    )[1]
    assert float((gx * v).sum() + gs) == pytest.approx(float((tangent * weight).sum()), rel=1e-9)


def test_gradient_reaches_a_schedule_through_two_steps(model: UNetDenoiser) -> None:
    middle = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def end(s: Tensor) -> Tensor:
        x = 10.0 * _noise(4, 1, 8, 8)
        x = x + (s - 10.0) * (x - model(x, 10.0)) / 10.0
        return model(x, s).square().mean()

    (grad,) = torch.autograd.grad(end(middle), middle)
    with torch.no_grad():
        numeric = (end(middle + 1e-2) - end(middle - 1e-2)) / 2e-2
    assert float(grad) == pytest.approx(float(numeric), rel=2e-2)
    assert float(grad) != 0.0


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(channels=3, resolution=16, widths=(8, 16, 24), blocks=(1, 1, 2)),
        UNetConfig(channels=2, resolution=4, widths=(8,), blocks=(1,)),
        UNetConfig(channels=1, resolution=12, widths=(8, 16), blocks=(0, 0)),
    ],
)
def test_other_sizes_run_and_survive_a_file(config: UNetConfig, tmp_path: Path) -> None:
    net = _random(config)
    x = _noise(2, *net.shape)
    out = net(x, 0.5)
    assert out.shape == x.shape
    net.save(tmp_path / "net.safetensors")
    assert torch.equal(UNetDenoiser.load(tmp_path / "net.safetensors")(x, 0.5), out)


@pytest.mark.parametrize(
    "kwargs",
    [{"resolution": 6}, {"widths": (8, 8), "blocks": (1,)}, {"widths": (), "blocks": ()}, {"hidden": 0}],
)
def test_impossible_sizes_are_refused(kwargs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"resolution|widths|size"):
        UNetConfig(**kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_sigma_data_is_refused(sigma_data: float) -> None:
    with pytest.raises(ValueError, match="sigma_data"):
        UNetDenoiser(UNetConfig(), sigma_data)


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "net.safetensors"
    net = _random(sigma_data=0.37)
    net.save(path, {"note": "ä", "loss": 0.25})
    again = UNetDenoiser.load(path)
    assert again.sigma_data == 0.37
    assert again.meta == {"note": "ä", "loss": 0.25}
    assert again.config == net.config
    for (k, a), (_, b) in zip(net.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), k
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net = _random()
    net.save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        net.save(path, {"bad": object()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("keep", [0, 5, 400, -100])
def test_truncated_weights(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    _random().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"digits\.safetensors.*truncated.*model_card digits-base"):
        load_bundled("digits-base", tmp_path)


def test_text_instead_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 20)
    with pytest.raises(ValueError, match=r"digits\.safetensors.*not a safetensors file"):
        load_bundled("digits-base", tmp_path)


def _rewrite(path: Path, tensors: dict[str, Tensor], drop: str = "") -> None:
    """Save ``tensors`` under the header of ``path``, less one entry."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        header = {k: v for k, v in f.metadata().items() if k != drop}
    save_file(tensors, path, metadata=header)


def test_wrong_keys_shapes_and_values(tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    _random().save(path)
    good = load_file(path)

    _rewrite(path, {k: v for k, v in good.items() if k != "net.stem.bias"} | {"extra": torch.zeros(1)})
    with pytest.raises(
        ValueError, match=r"digits\.safetensors.*net\.stem\.bias is missing; extra is unknown"
    ):
        load_bundled("digits-base", tmp_path)

    _rewrite(path, good | {"net.stem.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match=r"net\.stem\.bias has shape \(5,\)"):
        load_bundled("digits-base", tmp_path)

    for bad in (float("nan"), float("inf")):
        _rewrite(path, good | {"net.stem.bias": torch.full_like(good["net.stem.bias"], bad)})
        with pytest.raises(
            ValueError, match=r"digits\.safetensors.*not finite in net\.stem\.bias.*model_card digits-base"
        ):
            load_bundled("digits-base", tmp_path)

    _rewrite(path, good)
    load_bundled("digits-base", tmp_path)


@pytest.mark.parametrize("drop", ["kind", "config", "sigma_data"])
def test_broken_header(drop: str, tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    _random().save(path)
    _rewrite(path, load_file(path), drop)
    with pytest.raises(ValueError, match=r"digits\.safetensors.*header"):
        load_bundled("digits-base", tmp_path)
    if drop == "kind":
        with pytest.raises(ValueError, match="does not hold a other"):
            read_safetensors(path, "other")


@pytest.mark.parametrize(("sigma", "share"), [(0.1, 0.7), (0.5, 0.4), (2.0, 0.25)])
def test_denoises_real_digits(model: UNetDenoiser, images: Tensor, sigma: float, share: float) -> None:
    """The error is a fraction of the noise, and below that of the best linear denoiser ``c_skip x``."""
    x0 = images[:512]
    x = x0 + sigma * _noise(*x0.shape)
    error = float((model(x, sigma) - x0).square().mean().sqrt())
    mean, var = float(images.mean()), model.sigma_data**2
    linear = mean + (x - mean) * var / (var + sigma**2)
    assert error < share * sigma
    assert error < 0.9 * float((linear - x0).square().mean().sqrt())


def test_at_high_noise_the_guess_is_the_mean_digit(model: UNetDenoiser, images: Tensor) -> None:
    guess = model(80.0 * _noise(256, 1, 8, 8), 80.0).mean(0)
    assert float((guess - images.mean(0)).square().mean().sqrt()) < 0.1


def test_samples_lie_near_real_digits(model: UNetDenoiser, images: Tensor) -> None:
    noise = _noise(64, 1, 8, 8)
    samples = heun_edm(model, noise, 10)

    def to_data(x: Tensor) -> float:
        return float(torch.cdist(x.flatten(1), images.flatten(1)).min(dim=1).values.mean())

    # Gaussian images with the mean and covariance of digits are the ones to beat.
    flat = images.flatten(1)
    root = torch.linalg.cholesky(torch.cov(flat.T) + 1e-6 * torch.eye(64, dtype=torch.float64))
    gaussian = flat.mean(0) + noise.flatten(1) @ root.T
    assert to_data(samples) < 0.75 * to_data(gaussian)


CONDITIONAL = UNetConfig(widths=(8, 16), blocks=(0, 1), classes=3)


def test_labels_change_the_result_row_by_row() -> None:
    net, x = _random(CONDITIONAL).double(), _noise(4, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 3])
    for sigma in (0.6, torch.tensor([0.1, 0.5, 2.0, 40.0], dtype=torch.float64)):
        together = net(x, sigma, labels)
        assert together.shape == x.shape
        for i in range(4):
            s = sigma if isinstance(sigma, float) else float(sigma[i])
            torch.testing.assert_close(together[i], net(x[i : i + 1], s, labels[i : i + 1])[0])
    same = net(x[:1].expand(4, -1, -1, -1), 0.6, labels)
    assert all(float((same[i] - same[j]).abs().max()) > 1e-3 for i in range(4) for j in range(i))


def test_no_labels_is_the_null_class() -> None:
    net, x = _random(CONDITIONAL).double(), _noise(4, 1, 8, 8)
    torch.testing.assert_close(net(x, 0.6), net(x, 0.6, torch.full((4,), 3)))


def test_gradients_of_a_labelled_model() -> None:
    net, x = _random(CONDITIONAL).double(), _noise(3, 1, 8, 8)
    labels, sigma, v = torch.tensor([2, 0, 3]), torch.tensor(0.8, dtype=torch.float64), torch.ones_like(x)
    out = torch.func.jvp(lambda a, s: net(a, s, labels), (x, sigma), (v, torch.ones_like(sigma)))
    h = 1e-5
    numeric = (net(x + h * v, sigma + h, labels) - net(x - h * v, sigma - h, labels)) / (2 * h)
    torch.testing.assert_close(out[1], numeric, rtol=1e-6, atol=1e-7)


def test_bad_labels_are_refused(model: UNetDenoiser) -> None:
    x = _noise(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"without classes; leave labels out.*digits-cond"):
        model(x, 1.0, torch.tensor([0, 1]))
    net = _random(CONDITIONAL)
    for labels in (torch.tensor([0]), torch.tensor([0.0, 1.0]), torch.tensor([[0, 1]])):
        with pytest.raises(ValueError, match=r"give \[2\] int64"):
            net(x, 1.0, labels)
    for labels in (torch.tensor([0, 4]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match="give 0 to 2, or 3 for the null class"):
            net(x, 1.0, labels)
    with pytest.raises(ValueError, match="classes = -1"):
        UNetConfig(classes=-1)


def test_labelled_model_survives_a_file(tmp_path: Path) -> None:
    net, x, labels = _random(CONDITIONAL), _noise(2, 1, 8, 8), torch.tensor([1, 3])
    net.save(tmp_path / "net.safetensors")
    again = UNetDenoiser.load(tmp_path / "net.safetensors")
    assert again.config.classes == 3
    assert torch.equal(again(x, 0.5, labels), net(x, 0.5, labels))


def test_labels_leave_the_other_initial_weights_alone() -> None:
    torch.manual_seed(0)
    plain = UNetDenoiser(UNetConfig(), 0.7).state_dict()
    torch.manual_seed(0)
    labelled = UNetDenoiser(UNetConfig(classes=10), 0.7).state_dict()
    assert set(labelled) - set(plain) == {"net.classes.weight"}
    assert all(torch.equal(labelled[k], v) for k, v in plain.items())


@pytest.mark.parametrize("name", SCORE_MODELS)
def test_bundled_score_models(name: str) -> None:
    net = load_bundled(name)
    # The program had another name when most of them were made.
    assert net.meta["command"].startswith(
        ("python -m art_env.diffusion.train_", "python -m benchmarks.model_")
    )
    assert not any(p.requires_grad for p in net.parameters())
    x = 80.0 * _noise(2, *net.shape)
    labels = torch.tensor([3, 7]) if net.config.classes else None
    for sigma in (80.0, 1.0, 0.002):
        assert torch.isfinite(net(x, sigma, labels)).all()


def test_bundled_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'digits-large'"):
        load_bundled("digits-lage")
    with pytest.raises(ValueError, match="unknown model 'photos-autoencoder'"):
        load_bundled("photos-autoencoder")
    for name in SCORE_MODELS:
        with pytest.raises(
            FileNotFoundError, match=rf"no weights at .*\.safetensors.*model_card {name} .*--seed 0"
        ):
            load_bundled(name, tmp_path)
