"""Training of the bundled models, in tiny runs: determinism, the card, and errors."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from art_env.evaluation import FeatureStatistics
from art_env.evaluation.features import Features
from art_env.networks import training
from art_env.networks.bundled import MODELS, load_autoencoder, load_bundled, weights_path
from art_env.networks.data import digit_images
from art_env.networks.mnist import read_mnist
from art_env.networks.training import RECIPES, fit, grid, score_job
from art_env.networks.unet import MODELS_DIR, UNetDenoiser
from benchmarks import model_card
from benchmarks.model_card import Config, heun_edm, main, write_card

TINY: dict[str, Any] = {"steps": 6, "batch": 8, "eval_images": 64, "threads": 1}


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(model_card, "TRAIN_PATCHES", 300)
    monkeypatch.setattr(model_card, "REAL_PATCHES", 100)
    monkeypatch.setattr(model_card, "LEVELS", (2, 3))


def _config(name: str, folder: Path, **changes: Any) -> Config:
    return Config(name, **{"out": folder / "models", "log_dir": folder / "log", **TINY, **changes})


def _weights(cfg: Config) -> dict[str, torch.Tensor]:
    return load_file(weights_path(cfg.name, cfg.out))


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_every_model_has_a_recipe() -> None:
    assert set(RECIPES) == set(MODELS)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """An archive in the form of MNIST's, of made-up images whose class is where they are bright."""
    labels = np.arange(80) % 10
    images = np.random.default_rng(0).integers(0, 60, (80, 28, 28))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 8] += 180
    np.savez(tmp_path / "mnist.npz", images=images.astype(np.uint8), labels=labels)
    return tmp_path / "mnist.npz"


def test_models_of_images_that_do_not_ship(tmp_path: Path, mnist: Path) -> None:
    log = {"log_dir": tmp_path / "log", "data": mnist, "eval_images": 70}
    features = _config("mnist-features", tmp_path, **log)
    notes = main(features)
    assert notes["command"].startswith("python -m benchmarks.model_card mnist-features --data PATH --seed 0")
    assert str(mnist) not in notes["command"]
    pixels = np.load(mnist)["images"].tobytes()
    assert (notes["data_images"], notes["data_sha256"]) == (80, hashlib.sha256(pixels).hexdigest())
    path = features.out / "mnist_statistics.safetensors"
    statistics = FeatureStatistics.load(path)
    real = Features(weights_path("mnist-features", features.out))(read_mnist(mnist)[0])
    assert statistics.distance(real) == pytest.approx(0, abs=1e-9)
    assert (statistics.count, statistics.floor_size, len(statistics.floors)) == (80, 70, 50)

    notes = main(_config("mnist", tmp_path, **log, steps=2, batch=2))
    assert notes["floors"]["real digits"] == pytest.approx(np.mean(statistics.floors))
    text = (features.out / "README.md").read_text()
    assert "in a border of two pixels of background, scaled to [-1, 1]; 80 of them (SHA-256" in text
    assert str(mnist) not in text
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights at .*model_card mnist-features --data PATH"):
        main(_config("mnist", tmp_path, **log))


@pytest.mark.parametrize(
    "name", ["digits-small", "digits-cond", "digits-features", "photos-features", "photos-autoencoder"]
)
def test_runs_repeat_and_seeds_differ(name: str, tmp_path: Path) -> None:
    """Neither the pictures nor the global random state may matter."""
    first = _config(name, tmp_path / "first")
    again = _config(name, tmp_path / "again", sample_every=1)
    other = _config(name, tmp_path / "other", seed=4)
    main(first)
    torch.manual_seed(123)
    main(again)
    main(other)
    assert _same(_weights(first), _weights(again))
    assert not _same(_weights(first), _weights(other))
    assert sorted(p.name for p in first.out.iterdir()) == ["README.md", weights_path(name).name]
    (events,) = first.folder.iterdir()
    assert "tfevents" in events.name


def test_base_training_is_that_of_the_shipped_file(tmp_path: Path) -> None:
    """The loop that made ``digits.safetensors``, written out: same draws in the same order."""
    recipe = replace(RECIPES["digits-base"], steps=5, batch=8)
    images = digit_images()[0]
    job = score_job(images, None, recipe, seed=0)
    fit(job, recipe, tmp_path / "log")

    gen = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = UNetDenoiser(recipe.net, float(images.double().std(correction=0)))  # type: ignore[arg-type]
    average = [p.detach().clone() for p in model.parameters()]
    adam = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.99))
    for step in range(5):
        adam.param_groups[0]["lr"] = 2e-3 * training._rate(step, 5)
        x0 = images[torch.randint(1797, (8,), generator=gen)]
        u = ((torch.arange(8) / 8) + torch.rand(8, generator=gen) / 8).clamp(1e-5, 1 - 1e-5)
        sigma = (-0.8 + 1.6 * torch.special.ndtri(u)).exp()
        noise = torch.randn(x0.shape, generator=gen)
        s, d = sigma[:, None, None, None], model.sigma_data
        loss = ((model(x0 + s * noise, sigma) - x0) / (s * d / (s * s + d**2).sqrt())).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        decay = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in model.parameters()], 1 - decay)
    assert all(torch.equal(a, b) for a, b in zip(job.result.parameters(), average, strict=True))


def test_a_recipe_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a UNetConfig"):
        score_job(digit_images()[0], None, RECIPES["digits-features"], seed=0)


def test_all_models_of_one_folder_share_a_card(tmp_path: Path) -> None:
    out = tmp_path / "models"
    # The order in which they need each other; the features in ``out`` are used before the bundled ones.
    order = ("photos-features", "photos-autoencoder", "photos-latent", "photos-base", "digits-cond")
    for name in order:
        notes = main(_config(name, tmp_path, log_dir=tmp_path / name))
        assert all(v == v for v in notes.values())
    text = (out / "README.md").read_text()
    for name in order:
        assert f"## `{weights_path(name).name}`" in text
        assert f"model_card {name} --seed 0 --steps 6 --batch 8 --eval-images 64 --threads 1`" in text
    assert text.count("| floor | |") == 3
    assert text.count("to held-out patches | to training area") == 2
    assert "Share of samples (K = 3)" in text

    latent, again = load_bundled("photos-latent", out), load_autoencoder(out)
    assert latent.shape == again.latent_shape
    assert set(latent.meta["frechet"]["training area"]) == {"2", "3"}
    assert load_bundled("digits-cond", out).config.classes == 10
    events = [p for p in (tmp_path / "photos-base").iterdir() if "tfevents" in p.name]
    assert len(events) == 1


def test_card_of_the_shipped_models_is_that_of_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_card, "LEVELS", (3, 5, 10, 18))
    for name in MODELS:
        (tmp_path / weights_path(name).name).symlink_to(weights_path(name))
    text = write_card(tmp_path).read_text()
    assert text == (MODELS_DIR / "README.md").read_text()
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(MODELS)
    assert "nan" not in text


def test_samples_of_the_gaussian_model_are_gaussian() -> None:
    noise = torch.randn(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = heun_edm(lambda x, s: x * 0.25 / (0.25 + s * s), noise, 40)
    assert float(x.std()) == pytest.approx(0.5 * float(noise.std()), rel=0.01)


def test_picture_grid() -> None:
    images = torch.full((17, 3, 4, 4), -1.0)
    images[9] = 1.0
    picture = grid(images)
    assert picture.shape == (3, 10, 40)
    assert torch.equal(picture[:, 5:9, 5:9], torch.ones(3, 4, 4))
    assert float(picture[:, :4, :4].max()) == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "digit-base"}, r"unknown model 'digit-base'.*Did you mean 'digits-base'"),
        (
            {"name": "mnist"},
            r"data = None: the images of mnist do not ship.*--data a folder with train-images",
        ),
        ({"data": Path("x.npz")}, "data = 'x.npz': digits-base is trained on images of scikit-learn; leave"),
        ({"steps": 0}, "steps = 0 is too small; give at least 1"),
        ({"batch": -1}, "batch = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"threads": 0}, "threads = 0"),
        ({"eval_images": 10}, "eval_images = 10 is too small; give at least 64"),
        ({"sample_every": 0}, "sample_every = 0"),
        ({"lr": 0.0}, r"lr = 0.0 must be positive.*0.002"),
        ({"lr": float("nan")}, "lr = nan"),
    ],
)
def test_bad_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**({"name": "digits-base"} | changes))


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"loss is (nan|inf) at step \d; lower lr \(now 1e\+30\)"):
        main(_config("digits-small", tmp_path, lr=1e30))
    assert not (tmp_path / "models" / "digits_small.safetensors").exists()


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for key, flag in (("out", "out"), ("log_dir", "log-dir")):
        cfg = _config("digits-small", tmp_path, **{key: tmp_path / "file" / "folder"})
        with pytest.raises(OSError, match=f"{flag} = .*file/folder' cannot be written.*another --{flag}"):
            main(cfg)


def test_missing_features_are_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str, folder: Path = tmp_path) -> Path:
        return weights_path(name, folder)

    monkeypatch.setattr(model_card, "weights_path", nowhere)
    for name, needed in (("photos-base", "photos-features"), ("digits-small", "digits-features")):
        with pytest.raises(FileNotFoundError, match=f"model_card {needed} --seed 0"):
            main(_config(name, tmp_path))


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    args = ["model_card", "digits-small", "--steps", "2", "--batch", "8", "--eval-images", "64"]
    args += ["--threads", "1", "--out", str(tmp_path / "models"), "--log-dir", str(tmp_path / "log")]
    monkeypatch.setattr("sys.argv", args)
    assert model_card.cli() == 0
    assert "parameters       95813" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["model_card", "digits-smal"])
    with pytest.raises(SystemExit, match="2"):
        model_card.cli()
    assert "unknown model 'digits-smal'. Did you mean" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*args, "--lr", "1e30"])
    assert model_card.cli() == 2
    assert re.search(r"error: the loss is (nan|inf)", capsys.readouterr().err)
