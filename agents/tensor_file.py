"""Nested settings, numbers and arrays in one safetensors file, which runs no code when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from art_env._util.files import atomic_path

# Keys of the JSON text that stand for something that JSON has no word for.
TENSOR, ARRAY, ITEMS = "__tensor__", "__array__", "__items__"


def write_tree(path: str | Path, kind: str, tree: Mapping[str, Any]) -> None:
    """Write a file in one piece.

    Args:
        path: the file; its folder must be there.
        kind: what it is, for who reads it.
        tree: dicts, lists, tuples (read as lists), text, numbers, None, tensors and arrays.

    Raises:
        TypeError: a value of another kind; names where it stands.
        OSError: the file cannot be written; names it.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_pack(tree, "", arrays))
    head = {"kind": kind, "tree": text, "sha256": _digest(text, arrays)}
    data = save(arrays, metadata=head)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_tree(path: str | Path, kind: str, fix: str) -> dict[str, Any]:
    """Read what ``write_tree`` wrote.

    Args:
        path: the file.
        kind: what it must be.
        fix: what error messages tell the user to do.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, of another kind, or damaged; names it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {kind} file at {str(path)!r}; {fix}")
    try:
        with safe_open(path, framework="numpy") as file:
            head = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no {kind} file, or truncated ({error}); {fix}") from error
    if head.get("kind") != kind or "tree" not in head:
        raise ValueError(f"{path} holds no {kind} (its header says {head.get('kind')}); {fix}")
    if head.get("sha256") != _digest(head["tree"], arrays):
        raise ValueError(f"{path} is damaged: its content does not match its checksum; {fix}")
    try:
        tree: dict[str, Any] = _unpack(json.loads(head["tree"]), arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has a broken header ({error!r}); {fix}") from error
    return tree


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Of everything in a file: safetensors has no checksum of its own."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _pack(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """The value as JSON has it; arrays go to ``arrays``."""
    if isinstance(value, torch.Tensor | np.ndarray):
        name, is_tensor = place or "value", isinstance(value, torch.Tensor)
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        arrays[name] = np.array(array, order="C")
        return {TENSOR if is_tensor else ARRAY: name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _pack(item, f"{place}/{key}", arrays) for key, item in value.items()}
        return {ITEMS: [[key, _pack(item, f"{place}/{key}", arrays)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{place}/{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{place.strip('/')} = {value!r} cannot be kept in a file; use plain values there")


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TENSOR}:
        return torch.from_numpy(np.array(arrays[value[TENSOR]]))
    if value.keys() == {ARRAY}:
        return arrays[value[ARRAY]]
    if value.keys() == {ITEMS}:
        return {key: _unpack(item, arrays) for key, item in value[ITEMS]}
    return {key: _unpack(item, arrays) for key, item in value.items()}
