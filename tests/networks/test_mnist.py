"""Reading MNIST's files: the format, an archive, and what is refused. The images here are made up."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from art_env.networks.mnist import read_idx, read_mnist

N = 6
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 28, 28), dtype=np.uint8)
LABELS = np.array([5, 0, 4, 1, 9, 2], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    """The bytes of an IDX file."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def folder(path: Path, images: bytes = idx(IMAGES), labels: bytes = idx(LABELS)) -> Path:
    """A folder with MNIST's two training files."""
    path.mkdir(exist_ok=True)
    (path / "train-images-idx3-ubyte").write_bytes(images)
    (path / "train-labels-idx1-ubyte").write_bytes(labels)
    return path


def check(images: torch.Tensor, labels: torch.Tensor) -> None:
    assert images.shape == (N, 1, 32, 32)
    assert images.dtype == torch.float32
    expected = torch.full((N, 1, 32, 32), -1.0)
    expected[:, 0, 2:30, 2:30] = torch.from_numpy(IMAGES).float() / 127.5 - 1
    assert torch.equal(images, expected)
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS.tolist()


def test_header_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 10, 20, 30, 40, 50, 255]))
    assert read_idx(path).tolist() == [[10, 20, 30], [40, 50, 255]]


def test_folder_file_and_zipped(tmp_path: Path) -> None:
    plain = folder(tmp_path / "plain")
    check(*read_mnist(plain))
    check(*read_mnist(plain / "train-images-idx3-ubyte"))
    zipped = folder(tmp_path / "zipped", gzip.compress(idx(IMAGES)), gzip.compress(idx(LABELS)))
    for file in list(zipped.iterdir()):
        file.rename(f"{file}.gz")
    check(*read_mnist(zipped))
    check(*read_mnist(zipped / "train-images-idx3-ubyte.gz"))
    # Other copies of the data call the files so; one of the two may be unzipped.
    dotted = tmp_path / "dotted"
    dotted.mkdir()
    (dotted / "train-images.idx3-ubyte").write_bytes(idx(IMAGES))
    (dotted / "train-labels.idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    check(*read_mnist(dotted))


def test_archive(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "mnist.npz", images=IMAGES, labels=LABELS)
    check(*read_mnist(tmp_path / "mnist.npz"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "begins with the bytes of nothing; an IDX file"),
        (b"\x00\x00\x0d\x03" + idx(IMAGES)[4:], "begins with the bytes 00 00 0d 03; an IDX file of unsigned"),
        (b"PNG!" + idx(IMAGES), "begins with the bytes 50 4e 47 21"),
        (bytes([0, 0, 8, 0]), "begins with the bytes 00 00 08 00"),
        (idx(IMAGES)[:9], "has 9 bytes, its header alone 16: it is truncated; download it again"),
        (idx(IMAGES)[:-1], r"has 4703 values, its header says \(6, 28, 28\), so 4704: it is truncated"),
        (idx(IMAGES) + b"\x00", r"has 4705 values.*so 4704: it is too long"),
        (gzip.compress(idx(IMAGES))[:-20], "is truncated or not a gzip file"),
        (b"\x1f\x8b" + idx(IMAGES), "is truncated or not a gzip file"),
    ],
)
def test_broken_files(raw: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte {message}"):
        read_mnist(folder(tmp_path, images=raw))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            IMAGES[:, :20],
            LABELS,
            r"images .* have shape \(6, 20, 28\) and type uint8; those of MNIST are \[N, 28",
        ),
        (IMAGES[0], LABELS, r"images .* have shape \(28, 28\)"),
        (IMAGES[:0], LABELS[:0], r"images .* have shape \(0, 28, 28\)"),
        (IMAGES, LABELS[:4], r"labels .* have shape \(4,\).*one whole number for each of the 6 images"),
        (IMAGES, IMAGES, r"labels .* have shape \(6, 28, 28\)"),
        (IMAGES, LABELS + 1, r"labels .* lie in 1\.\.10; those of MNIST are 0 to 9"),
    ],
)
def test_wrong_contents(images: np.ndarray, labels: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_mnist(folder(tmp_path / "idx", idx(images), idx(labels)))
    np.savez(tmp_path / "mnist.npz", images=images, labels=labels)
    with pytest.raises(ValueError, match=message):
        read_mnist(tmp_path / "mnist.npz")


def test_wrong_types_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, images=IMAGES / 255.0, labels=LABELS)
    with pytest.raises(ValueError, match="type float64; those of MNIST are"):
        read_mnist(path)
    np.savez(path, images=IMAGES, labels=LABELS / 2)
    with pytest.raises(ValueError, match="type float64; give one whole number"):
        read_mnist(path)
    np.savez(path, x_train=IMAGES, labels=LABELS)
    with pytest.raises(ValueError, match="no array 'images', only x_train, labels; give --data"):
        read_mnist(path)
    np.savez(path, images=np.array([{}]), labels=LABELS)  # a pickle, which may run code
    with pytest.raises(ValueError, match="not an npz archive"):
        read_mnist(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="truncated or not an npz archive"):
        read_mnist(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"data = '.*nowhere' is neither a file nor a folder; give --data"
    ):
        read_mnist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no npz archive at"):
        read_mnist(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte in the folder"):
        read_mnist(tmp_path)
    there = folder(tmp_path / "some")
    (there / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"no IDX file at .*train-labels-idx1-ubyte"):
        read_mnist(there)
    (tmp_path / "digits").write_bytes(idx(IMAGES))
    with pytest.raises(ValueError, match="has no 'images' in its name"):
        read_mnist(tmp_path / "digits")
