"""MNIST's images from files of the user: its own IDX format, or an npz archive. None ship with this package.

The data: Yann LeCun and Corinna Cortes, "The MNIST database of handwritten digits", CC BY-SA 3.0. The format:
http://yann.lecun.com/exdb/mnist, section "File formats".
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 28
PADDING = 2
UBYTE = 8
# Some copies have a dot where others have a hyphen.
IMAGES = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")
HOW = (
    "give --data a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte (with .gz or without), or an "
    ".npz with the arrays images and labels"
)


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, plain or gzipped.

    The file begins with two zero bytes, a byte for the type, and one for the number of dimensions; their sizes
    follow as big-endian 32-bit integers, then the values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another format, or fewer or more values than the header says.
    """
    path = Path(path)
    again = "download it again"
    if not path.is_file():
        raise FileNotFoundError(f"no IDX file at {path}; {HOW}")
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is truncated or not a gzip file ({error}); {again}") from error
    magic = raw[:4]
    if len(magic) < 4 or magic[:3] != bytes([0, 0, UBYTE]) or magic[3] == 0:
        raise ValueError(
            f"{path} begins with the bytes {magic.hex(' ') or 'of nothing'}; an IDX file of unsigned bytes begins "
            f"with 00 00 08 and the number of dimensions: {again}"
        )
    begin = 4 + 4 * magic[3]
    if len(raw) < begin:
        raise ValueError(f"{path} has {len(raw)} bytes, its header alone {begin}: it is truncated; {again}")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", magic[3], 4))
    expected = math.prod(shape)
    if len(raw) - begin != expected:
        fault = "truncated" if len(raw) - begin < expected else "too long"
        raise ValueError(
            f"{path} has {len(raw) - begin} values, its header says {shape}, so {expected}: it is {fault}; {again}"
        )
    return np.frombuffer(raw, np.uint8, offset=begin).reshape(shape)


def read_mnist(path: str | Path) -> tuple[Tensor, Tensor]:
    """Images and labels of MNIST.

    Args:
        path: an npz archive with the arrays ``images`` and ``labels``, an IDX file of images (its labels lie beside
            it, under MNIST's own name), or a folder with the two training files.

    Returns:
        Images ``[N, 1, 32, 32]`` float32 in ``[-1, 1]``, with a border of background of two pixels, so that they can
        be halved five times; labels ``[N]`` int64, 0 to 9.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or holds something else.
    """
    path = Path(path)
    if path.suffix == ".npz":
        images, labels = _read_npz(path)
    else:
        file = _images_file(path)
        images, labels = read_idx(file), read_idx(_labels_file(file))
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE) or len(images) == 0:
        raise ValueError(
            f"images in {path} have shape {images.shape} and type {images.dtype}; those of MNIST are "
            f"[N, 28, 28] uint8: {HOW}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels in {path} have shape {labels.shape} and type {labels.dtype}; give one whole number for each of "
            f"the {len(images)} images: {HOW}"
        )
    if int(labels.min()) < 0 or int(labels.max()) > 9:
        raise ValueError(
            f"labels in {path} lie in {labels.min()}..{labels.max()}; those of MNIST are 0 to 9: {HOW}"
        )
    pixels = torch.from_numpy(images.copy()).float()[:, None] / 127.5 - 1.0
    padded = torch.nn.functional.pad(pixels, (PADDING,) * 4, value=-1.0)
    return padded, torch.from_numpy(labels.astype(np.int64))


def _read_npz(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    if not path.is_file():
        raise FileNotFoundError(f"no npz archive at {path}; {HOW}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("images", "labels") if key in archive}
            names = ", ".join(archive) or "nothing"
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        raise ValueError(f"{path} is truncated or not an npz archive ({error}); {HOW}") from error
    for key in ("images", "labels"):
        if key not in arrays:
            raise ValueError(f"{path} has no array {key!r}, only {names}; {HOW}")
    return arrays["images"], arrays["labels"]


def _images_file(path: Path) -> Path:
    """The file of images: ``path`` itself, or the training file in the folder ``path``."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"data = {str(path)!r} is neither a file nor a folder; {HOW}")
    for name in IMAGES:
        for file in (path / name, path / f"{name}.gz"):
            if file.is_file():
                return file
    raise FileNotFoundError(f"no {IMAGES[0]} in the folder {path}; {HOW}")


def _labels_file(images: Path) -> Path:
    """The labels beside a file of images, zipped or not."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if name == images.name.removesuffix(".gz"):
        raise ValueError(f"{images} has no 'images' in its name, so that its labels cannot be found; {HOW}")
    plain = images.with_name(name)
    return plain if plain.is_file() else images.with_name(f"{name}.gz")
