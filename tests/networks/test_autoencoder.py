"""The autoencoder of photo patches: shapes, standardised latents, files, and what the bundled one can do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from art_env.evaluation.features import Features
from art_env.evaluation.metrics import frechet_distance
from art_env.networks.autoencoder import Autoencoder, AutoencoderConfig
from art_env.networks.bundled import load_autoencoder, load_bundled, weights_path
from art_env.networks.classifier import PHOTO_FEATURES
from art_env.networks.data import photo_patches
from benchmarks.model_card import heun_edm


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    return load_autoencoder()


def _new(**kwargs: int) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(**kwargs)).eval().requires_grad_(False)


@pytest.mark.parametrize("kwargs", [{}, {"channels": 1, "resolution": 8, "latent": 2, "width": 6}])
def test_shapes_and_dtypes(kwargs: dict[str, int]) -> None:
    net = _new(**kwargs)
    for dtype in (torch.float32, torch.float64):
        x = torch.rand(3, *net.shape, dtype=dtype)
        z = net.encode(x)
        assert z.shape == (3, *net.latent_shape)
        assert net.decode(z).shape == x.shape
        assert z.dtype == net.decode(z).dtype == dtype


def test_standardise() -> None:
    net, x = _new(), photo_patches(500, 0)
    net.standardise(x, batch_size=128)
    z = net.encode(x.double())
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8, dtype=torch.float64), atol=1e-3, rtol=0)


def test_training_loss_is_the_error_of_the_finished_model() -> None:
    """The batch's statistics in training are the constants afterwards."""
    net, x = _new(), photo_patches(64, 0)
    net.standardise(x)
    loss = net.training_loss(x, torch.zeros(64, *net.latent_shape))
    torch.testing.assert_close(loss, (net.decode(net.encode(x)) - x).square().mean(), rtol=1e-3, atol=0)


def test_file_round_trip(tmp_path: Path) -> None:
    net, x = _new(latent=3), photo_patches(20, 0)
    net.standardise(x)
    net.save(tmp_path / "ae.safetensors", {"loss": 0.5})
    again = Autoencoder.load(tmp_path / "ae.safetensors")
    assert again.meta == {"loss": 0.5}
    assert again.config == net.config
    assert torch.equal(again.encode(x), net.encode(x))
    assert torch.equal(again.decode(net.encode(x)), net.decode(net.encode(x)))
    assert not any(p.requires_grad for p in again.parameters())


def test_errors(model: Autoencoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x has shape \(2, 1, 8, 8\); give \[B, 3, 16, 16\]"):
        model.encode(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"z has shape \(8, 4, 4\); give \[B, 8, 4, 4\]"):
        model.decode(torch.zeros(8, 4, 4))
    for kwargs in ({"resolution": 6}, {"width": 5}, {"latent": 0}):
        with pytest.raises(ValueError, match=r"resolution|size"):
            AutoencoderConfig(**kwargs)
    with pytest.raises(FileNotFoundError, match="model_card photos-autoencoder --seed 0"):
        load_autoencoder(tmp_path)
    with pytest.raises(ValueError, match="does not hold a autoencoder"):
        Autoencoder.load(weights_path("digits-base"))
    path = tmp_path / "ae.safetensors"
    path.write_bytes(weights_path("photos-autoencoder").read_bytes()[:500])
    with pytest.raises(ValueError, match="truncated"):
        Autoencoder.load(path)


def test_bundled_reconstructs_what_it_has_not_seen(model: Autoencoder) -> None:
    x = photo_patches(1000, 5, "held_out")
    z = model.encode(x)
    error = float((model.decode(z) - x).square().mean().sqrt())
    # Averages over 2x2 pixels hold more numbers (192) than a latent (128).
    coarse = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert error < 0.9 * float((coarse - x).square().mean().sqrt())


def test_bundled_latents_are_standardised(model: Autoencoder) -> None:
    z = model.encode(photo_patches(4000, 5))
    assert float(z.mean((0, 2, 3)).abs().max()) < 0.05
    assert float((z.std((0, 2, 3)) - 1).abs().max()) < 0.05
    assert load_bundled("photos-latent").sigma_data == pytest.approx(1.0, abs=0.01)


def test_latent_samples_decode_to_patches(model: Autoencoder) -> None:
    """Nearer to real patches than latents drawn independently."""
    features = Features(PHOTO_FEATURES)
    real = features(photo_patches(2000, 6))
    noise = torch.randn(200, *model.latent_shape, generator=torch.Generator().manual_seed(0)).double()
    samples = model.decode(heun_edm(load_bundled("photos-latent"), noise, 10))
    assert frechet_distance(features(samples), real) < 0.5 * frechet_distance(
        features(model.decode(noise)), real
    )
