"""Nested values in one safetensors file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agents.tensor_file import read_tree, write_tree


def test_every_value_comes_back(tmp_path) -> None:
    tree = {
        "numbers": {"big": 2**127 + 1, "third": 1 / 3, "infinite": float("inf"), "none": None, "yes": True},
        "by number": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "list": [1, "two", [np.array(7.0), np.arange(6).reshape(2, 3).T]],
        "nan": np.array([np.nan, 1.0]),
        "unsigned": np.array([2**32 - 1], dtype=np.uint32),
        "flags": np.array([True, False]),
        "scalar": np.float64(0.1),
    }
    write_tree(tmp_path / "a.safetensors", "thing", tree)
    again = read_tree(tmp_path / "a.safetensors", "thing", "fix it")
    assert again["numbers"] == tree["numbers"]
    assert torch.equal(again["by number"][0]["step"], torch.tensor(3.0))
    assert again["by number"][1] == {}
    assert again["list"][:2] == [1, "two"]
    assert again["list"][2][0].shape == ()
    assert (again["list"][2][1] == np.arange(6).reshape(2, 3).T).all()
    np.testing.assert_array_equal(again["nan"], tree["nan"])
    for name in ("unsigned", "flags"):
        assert again[name].dtype == tree[name].dtype
        assert (again[name] == tree[name]).all()
    assert again["scalar"] == 0.1


def test_every_byte_counts(tmp_path) -> None:
    """A file with any one byte changed is refused, with its name."""
    path = tmp_path / "a.safetensors"
    write_tree(path, "thing", {"numbers": np.arange(20.0), "text": "abc"})
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        said, numbers = _read(path)
        # The padding between header and tensors means nothing.
        assert said.endswith("fix it") if numbers is None else (numbers == np.arange(20.0)).all()
        assert numbers is not None or "a.safetensors" in said


def _read(path: Path) -> tuple[str, np.ndarray | None]:
    try:
        return "", read_tree(path, "thing", "fix it")["numbers"]
    except ValueError as error:
        return str(error), None


def test_another_kind_and_no_file(tmp_path) -> None:
    write_tree(tmp_path / "a.safetensors", "thing", {})
    with pytest.raises(ValueError, match=r"holds no other \(its header says thing\); fix it"):
        read_tree(tmp_path / "a.safetensors", "other", "fix it")
    with pytest.raises(FileNotFoundError, match=r"no thing file at .*b\.safetensors'; fix it"):
        read_tree(tmp_path / "b.safetensors", "thing", "fix it")


def test_what_a_file_cannot_keep(tmp_path) -> None:
    with pytest.raises(TypeError, match=r"a/1 = .*object.* cannot be kept in a file"):
        write_tree(tmp_path / "a.safetensors", "thing", {"a": [1, object()]})
    assert not list(tmp_path.iterdir())
