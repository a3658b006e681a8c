"""Images that ship with scikit-learn: the 8x8 handwritten digits, and patches of its two photographs."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name

PATCH = 16
SPLITS = ("train", "held_out")


def digit_images() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images ``[1797, 1, 8, 8]`` float32 in ``[-1, 1]``, labels ``[1797]`` int64."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images / 8.0 - 1.0).float()[:, None]
    return images, torch.from_numpy(np.asarray(raw.target, dtype=np.int64))


@lru_cache(maxsize=1)
def photos() -> Tensor:
    """The two photographs of ``sklearn.datasets.load_sample_images``, ``[2, 3, 213, 320]`` in ``[-1, 1]``.

    Halved by averaging 2x2 pixels, so that a patch of 16 pixels shows some structure; the odd last row is cut.
    """
    from sklearn.datasets import load_sample_images

    raw = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2).float()
    return torch.nn.functional.avg_pool2d(raw, 2) / 127.5 - 1.0


def patch_columns(split: str) -> tuple[int, int]:
    """First and last left edge of a patch of ``split``; no patch of one split overlaps one of the other.

    The right-hand fifth of each photograph is held out.

    Raises:
        ValueError: unknown split.
    """
    check_name("split", split, SPLITS)
    width = photos().shape[-1]
    border = width - width // 5
    return (0, border - PATCH) if split == "train" else (border, width - PATCH)


@overload
def photo_patches(
    n: int, seed: int, split: str = "train", return_location: Literal[False] = False
) -> Tensor: ...


@overload
def photo_patches(
    n: int, seed: int, split: str = "train", *, return_location: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def photo_patches(
    n: int, seed: int, split: str = "train", return_location: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Random patches of two photographs, half of them mirrored left to right.

    Args:
        n: number of patches.
        seed: of photograph, position and mirroring; the same seed gives the same patches.
        split: ``"train"`` (left four fifths of each photograph) or ``"held_out"`` (the rest).
        return_location: also say where each patch lies.

    Returns:
        ``[n, 3, 16, 16]`` float32 in ``[-1, 1]``; with ``return_location`` also ``[n, 3]`` int64: photograph,
        row and column of the upper left pixel (before mirroring) in ``photos()``.

    Raises:
        ValueError: ``n`` below 1, or unknown split.
    """
    if n < 1:
        raise ValueError(f"n = {n} patches; ask for at least 1")
    first, last = patch_columns(split)
    images = photos()
    rng = np.random.default_rng([seed, SPLITS.index(split), 0x9407])
    which = rng.integers(0, len(images), n)
    rows = rng.integers(0, images.shape[2] - PATCH + 1, n)
    columns = rng.integers(first, last + 1, n)
    mirrored = torch.from_numpy(rng.random(n) < 0.5)
    location = torch.from_numpy(np.stack([which, rows, columns], axis=1).astype(np.int64))
    windows = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
    # Advanced indices on both sides of a slice come first: [n, 3, 16, 16].
    patches = windows[location[:, 0], :, location[:, 1], location[:, 2]]
    patches = torch.where(mirrored[:, None, None, None], patches.flip(3), patches).contiguous()
    return (patches, location) if return_location else patches
