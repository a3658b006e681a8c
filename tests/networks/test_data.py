"""The bundled images: ranges, determinism, and that held-out patches stay out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_env.networks.data import PATCH, digit_images, patch_columns, photo_patches, photos


def test_digit_images() -> None:
    images, labels = digit_images()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert float(images.min()) == -1.0
    assert float(images.max()) == 1.0
    assert labels.dtype == torch.int64
    assert sorted(set(labels.tolist())) == list(range(10))


def test_photos_are_halved_by_averaging() -> None:
    from sklearn.datasets import load_sample_images

    raw = load_sample_images().images[1].astype(np.float64)
    halved = photos()
    assert halved.shape == (2, 3, 213, 320)
    expected = raw[200:202, 400:402].mean((0, 1)) / 127.5 - 1
    np.testing.assert_allclose(halved[1, :, 100, 200].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_patches_lie_where_they_say(split: str) -> None:
    patches, where = photo_patches(300, 0, split, return_location=True)
    assert patches.shape == (300, 3, PATCH, PATCH)
    assert patches.dtype == torch.float32
    assert float(patches.abs().max()) <= 1.0
    assert where.shape == (300, 3)
    mirrored = 0
    for patch, (photo, row, column) in zip(patches, where.tolist(), strict=True):
        plain = photos()[photo, :, row : row + PATCH, column : column + PATCH]
        assert torch.equal(patch, plain) or torch.equal(patch, plain.flip(2))
        mirrored += not torch.equal(patch, plain)
    assert 100 < mirrored < 200


def test_held_out_patches_overlap_no_training_patch() -> None:
    train = photo_patches(20_000, 0, return_location=True)[1]
    held = photo_patches(20_000, 0, "held_out", return_location=True)[1]
    assert int(train[:, 2].max()) + PATCH <= int(held[:, 2].min())
    # Both splits are used to their edges, on both photographs and all rows.
    assert (int(train[:, 2].min()), int(train[:, 2].max())) == patch_columns("train") == (0, 240)
    assert (int(held[:, 2].min()), int(held[:, 2].max())) == patch_columns("held_out") == (256, 304)
    for where in (train, held):
        assert set(where[:, 0].tolist()) == {0, 1}
        assert (int(where[:, 1].min()), int(where[:, 1].max())) == (0, 213 - PATCH)


def test_patches_depend_on_the_seed_only() -> None:
    a = photo_patches(50, 3)
    assert torch.equal(a, photo_patches(50, 3))
    assert not torch.equal(a, photo_patches(50, 4))
    assert torch.equal(a, photo_patches(50, 3, "train", return_location=True)[0])
    # A caller may write into its patches.
    a.zero_()
    assert float(photo_patches(50, 3).abs().max()) > 0


def test_errors() -> None:
    with pytest.raises(ValueError, match="n = 0"):
        photo_patches(0, 0)
    with pytest.raises(ValueError, match=r"unknown split 'heldout'.*Did you mean 'held_out'"):
        photo_patches(3, 0, "heldout")
