"""Training of the bundled models, in tiny runs: determinism, resuming after a kill, the card, and errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from art_env.networks import training
from art_env.networks.bundled import MODELS, load_autoencoder, load_bundled, weights_path
from art_env.networks.data import digit_images
from art_env.networks.training import RECIPES, Config, fit, grid, score_job
from art_env.networks.unet import MODELS_DIR, UNetDenoiser
from benchmarks import model_card
from benchmarks.model_card import heun_edm, main, write_card

TINY: dict[str, Any] = {"steps": 6, "batch": 8, "eval_images": 64, "threads": 1, "checkpoint_every": 2}


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(model_card, "TRAIN_PATCHES", 300)
    monkeypatch.setattr(training, "TRAIN_PATCHES", 300)
    monkeypatch.setattr(model_card, "REAL_PATCHES", 100)
    monkeypatch.setattr(model_card, "LEVELS", (2, 3))
    training._train_patches.cache_clear()


def _config(name: str, folder: Path, **changes: Any) -> Config:
    return Config(name, **{"out": folder / "models", "log_dir": folder / "log", **TINY, **changes})


def _weights(cfg: Config) -> dict[str, torch.Tensor]:
    return load_file(weights_path(cfg.name, cfg.out))


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_every_model_has_a_recipe() -> None:
    assert set(RECIPES) == set(MODELS)


def test_another_seed_and_resuming_a_finished_run(tmp_path: Path) -> None:
    a, b = (_config("digits-small", tmp_path / str(seed), seed=seed) for seed in (3, 4))
    main(a)
    main(b)
    before = _weights(a)
    assert not _same(before, _weights(b))
    assert sorted(p.name for p in a.out.iterdir()) == ["README.md", "digits_small.safetensors"]
    weights_path(a.name, a.out).unlink()
    a.resume = True
    main(a)
    assert _same(before, _weights(a))


@pytest.mark.parametrize("name", ["digits-cond", "digits-features", "photos-features", "photos-autoencoder"])
def test_resumed_after_a_kill_is_bit_identical(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at step 4, before that checkpoint is written; goes on from step 2."""
    whole, broken = _config(name, tmp_path / "whole"), _config(name, tmp_path / "broken")
    main(whole)
    store = training._store

    def kill(job: Any, cfg: Config, step: int, *rest: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        store(job, cfg, step, *rest)

    monkeypatch.setattr(training, "_store", kill)
    with pytest.raises(KeyboardInterrupt):
        main(broken)
    assert not weights_path(name, broken.out).exists()
    monkeypatch.setattr(training, "_store", store)
    # Neither the pictures nor the global random state may matter.
    torch.manual_seed(123)
    broken.resume, broken.sample_every = True, 1
    main(broken)
    assert _same(_weights(whole), _weights(broken))


def test_base_training_is_that_of_the_shipped_file(tmp_path: Path) -> None:
    """The loop that made ``digits.safetensors``, written out: same draws in the same order."""
    cfg = _config("digits-base", tmp_path, steps=5)
    cfg.folder.mkdir(parents=True)
    images = digit_images()[0]
    job = score_job(images, None, cfg)
    fit(job, cfg)

    gen = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = UNetDenoiser(RECIPES["digits-base"].net, float(images.double().std(correction=0)))  # type: ignore[arg-type]
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
        ({"steps": 0}, "steps = 0 is too small; give at least 1"),
        ({"batch": -1}, "batch = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"threads": 0}, "threads = 0"),
        ({"eval_images": 10}, "eval_images = 10 is too small; give at least 64"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0"),
        ({"lr": 0.0}, r"lr = 0.0 must be positive.*0.002"),
        ({"lr": float("nan")}, "lr = nan"),
    ],
)
def test_bad_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**({"name": "digits-base"} | changes))


def test_resume_without_or_with_another_checkpoint(tmp_path: Path) -> None:
    cfg = _config("digits-small", tmp_path, resume=True)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*checkpoint\.pt; start without --resume"):
        main(cfg)
    cfg.resume = False
    main(cfg)
    for changes, message in (
        ({"steps": 7}, "steps = 7 .* made with 6"),
        ({"seed": 1}, "seed = 1 .* made with 0"),
        ({"name": "digits-base"}, "name = digits-base .* made with digits-small"),
    ):
        other = _config(**({"name": "digits-small", "folder": tmp_path, "resume": True} | changes))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            main(other)
    checkpoint = cfg.folder / "checkpoint.pt"
    for content in (b"", b"text", checkpoint.read_bytes()[:1000]):
        checkpoint.write_bytes(content)
        cfg.resume = True
        with pytest.raises(ValueError, match=r"checkpoint\.pt is no checkpoint.*start without --resume"):
            main(cfg)


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"loss of digits-small is (nan|inf) at step \d.*lower --lr"):
        main(_config("digits-small", tmp_path, lr=1e30))
    assert not (tmp_path / "models" / "digits_small.safetensors").exists()


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for key, flag in (("out", "out"), ("log_dir", "log-dir")):
        cfg = _config("digits-small", tmp_path)
        setattr(cfg, key, tmp_path / "file" / "folder")
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
    model_card.cli()
    assert "parameters       95813" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["model_card", "digits-smal"])
    with pytest.raises(SystemExit):
        model_card.cli()
    assert "unknown model 'digits-smal'. Did you mean" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*args, "--log-dir", str(tmp_path / "new"), "--resume"])
    with pytest.raises(SystemExit, match=r"error: resume: there is no checkpoint"):
        model_card.cli()
