"""The feature extractors: old files, shapes, what they see, and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_float32_close
from safetensors.torch import load_file

from art_env.evaluation.features import Features
from art_env.evaluation.metrics import frechet_distance
from art_env.networks.bundled import weights_path
from art_env.networks.classifier import DIGIT_FEATURES, PHOTO_FEATURES, Classifier
from art_env.networks.data import digit_images, photo_patches
from art_env.networks.training import grid_cell
from art_env.networks.weights import load_weights, read_safetensors


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_digit_features() -> None:
    features = Features(DIGIT_FEATURES)
    images, labels = digit_images()
    real = features(images)
    assert real.shape == (1797, features.dim)
    assert real.dtype == np.float64
    assert features.meta["accuracy"] >= 0.97
    assert real.var(axis=0, ddof=1).mean() == pytest.approx(1.0, rel=1e-4)
    # Batches, dtype and container do not matter.
    assert_float32_close(Features(DIGIT_FEATURES, batch_size=100)(images.double().numpy()), real)
    # Values out of range count as the nearest in range.
    assert_float32_close(features(images[:5] * 3), features((images[:5] * 3).clamp(-1, 1)))
    # They tell digits apart: the nearest other digit is nearly always of the same class.
    ratio = torch.cdist(torch.from_numpy(real), torch.from_numpy(real)).fill_diagonal_(torch.inf)
    assert float((labels[ratio.argmin(1)] == labels).double().mean()) > 0.95


def test_frechet_of_digits_grows_with_damage() -> None:
    features = Features(DIGIT_FEATURES)
    images, _ = digit_images()
    images = images[torch.randperm(1797, generator=torch.Generator().manual_seed(0))]
    a, b = images[:898], images[898:1796]
    noise = torch.randn(b.shape, generator=torch.Generator().manual_seed(1))
    levels = [frechet_distance(features(a), features(b + s * noise)) for s in (0.0, 0.3, 0.6, 1.2)]
    assert levels == sorted(levels)
    assert levels[0] < 0.5
    assert levels[1] > levels[0] * 1.1


def test_frechet_of_digits_sees_a_missing_class() -> None:
    features = Features(DIGIT_FEATURES)
    images, labels = digit_images()
    real = features(images)
    without = real[labels.numpy() != 3]
    some = real[np.random.default_rng(0).permutation(len(real))[: len(without)]]
    assert frechet_distance(without, real) > 5 * frechet_distance(some, real)


def test_digit_features_errors(tmp_path: Path) -> None:
    features = Features(DIGIT_FEATURES)
    for shape in ((8, 8), (2, 8, 8), (2, 3, 8, 8), (2, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"give \[N, 1, 8, 8\]"):
            features(np.zeros(shape))
    with pytest.raises(ValueError, match="empty"):
        features(np.zeros((0, 1, 8, 8)))
    with pytest.raises(ValueError, match="finite"):
        features(torch.full((1, 1, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="batch_size"):
        Features(DIGIT_FEATURES, batch_size=0)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors.*model_card digits-features"):
        Features(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="does not hold a features"):
        Features(weights_path("digits-base"))


def test_digit_probabilities() -> None:
    features = Features(DIGIT_FEATURES)
    images, labels = digit_images()
    p = features.probabilities(images)
    assert p.shape == (1797, features.classes) == (1797, 10)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-12)
    assert (p.argmax(1) == labels.numpy()).mean() > 0.97
    with pytest.raises(ValueError, match=r"give \[N, 1, 8, 8\]"):
        features.probabilities(np.zeros((2, 3, 8, 8)))


def test_features_are_those_of_the_plain_network() -> None:
    """Written out, as the first version computed them: the file of that version means the same today."""
    t = load_file(DIGIT_FEATURES)
    x = digit_images()[0][:50]
    conv, relu = torch.nn.functional.conv2d, torch.relu
    h = relu(conv(x, t["conv1.weight"], t["conv1.bias"], padding=1))
    h = relu(conv(h, t["conv2.weight"], t["conv2.bias"], stride=2, padding=1))
    h = relu(conv(h, t["conv3.weight"], t["conv3.bias"], padding=1))
    expected = (h.flatten(1) @ t["hidden.weight"].T + t["hidden.bias"]) * t["scale"]
    assert_float32_close(Features(DIGIT_FEATURES)(x), expected.double().numpy())


def test_photo_features() -> None:
    features = Features(PHOTO_FEATURES)
    patches, where = photo_patches(4000, 11, return_location=True)
    real = features(patches)
    assert features.shape == (3, 16, 16)
    assert real.shape == (4000, features.dim) == (4000, 32)
    assert real.var(axis=0, ddof=1).mean() == pytest.approx(1.0, rel=0.05)
    cells = grid_cell(where)
    assert int(cells.min()) == 0
    assert int(cells.max()) == 23
    # Chance is 1 in 24.
    right = (features.probabilities(patches).argmax(1) == cells.numpy()).mean()
    assert right > 0.5
    with pytest.raises(ValueError, match=r"give \[N, 3, 16, 16\]"):
        features(np.zeros((2, 1, 8, 8)))


def test_distances_of_photos_grow_with_damage() -> None:
    features = Features(PHOTO_FEATURES)
    a, b = photo_patches(2000, 12), photo_patches(2000, 13)
    noise = torch.randn(b.shape, generator=torch.Generator().manual_seed(1))
    damaged = [features(b + s * noise) for s in (0.0, 0.1, 0.3, 1.0)]
    levels = [frechet_distance(features(a), d) for d in damaged]
    assert levels == sorted(levels)
    assert levels[0] < 0.3
    assert levels[2] > 2 * levels[0]


@pytest.mark.parametrize(
    "kwargs", [{}, {"channels": 3, "resolution": 16, "dim": 5, "classes": 4, "width": 6}]
)
def test_classifier_survives_a_file(kwargs: dict[str, int], tmp_path: Path) -> None:
    model = Classifier(**kwargs).eval()
    path = tmp_path / "features.safetensors"
    model.save(path, {"accuracy": 0.5})
    again = Features(path)
    assert again.meta == {"accuracy": 0.5}
    x = torch.rand(3, *again.shape) * 2 - 1
    assert_float32_close(again(x), model.features(x).detach().double().numpy())
    copy = Classifier(**kwargs)
    load_weights(copy, read_safetensors(path, Classifier.KIND)[0], path)
    assert copy(x).shape == (3, again.classes)


@pytest.mark.parametrize("kwargs", [{"resolution": 12}, {"dim": 0}, {"classes": -1}])
def test_impossible_classifiers_are_refused(kwargs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        Classifier(**kwargs)
