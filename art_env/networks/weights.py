"""Weights of the bundled networks on disk: safetensors files whose header says what network they are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from art_env._util.files import atomic_path

Network = TypeVar("Network", bound=nn.Module)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]
) -> None:
    """Write tensors and JSON-able metadata to one file, all or nothing (a temporary name, then a rename).

    Args:
        path: the file; its folder is made if absent.
        tensors: by name; stored as they are.
        metadata: by name; each value is stored as a JSON string in the file's header.

    Raises:
        TypeError: a metadata value cannot be written as JSON.
        OSError: the folder cannot be written; the text names it.
    """
    path = Path(path)
    header = {k: json.dumps(v, sort_keys=True) for k, v in metadata.items()}
    data = save({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, metadata=header)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as tmp:
        tmp.write_bytes(data)


def read_safetensors(path: str | Path, kind: str, fix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file written by ``write_safetensors`` and check that every value is finite.

    Args:
        path: the file.
        kind: the metadata entry ``kind`` that the file must state.
        fix: what error messages tell the user to do.

    Returns:
        The tensors by name, and the decoded metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a safetensors file, truncated, of another kind, or with a value that is not finite.
    """
    path = Path(path)
    fix = fix or "write it again"
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; {fix}")
    try:
        with safe_open(path, framework="pt") as f:
            header = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as e:
        raise ValueError(f"{path} is truncated or not a safetensors file ({e}); {fix}") from e
    try:
        metadata = {k: json.loads(v) for k, v in header.items()}
    except json.JSONDecodeError:
        metadata = {}
    if metadata.get("kind") != kind:
        raise ValueError(f"{path} does not hold a {kind} (its header says {header.get('kind')}); {fix}")
    for name, t in tensors.items():
        if not torch.isfinite(t).all():
            raise ValueError(f"{path} has a value that is not finite in {name}; {fix}")
    return tensors, metadata


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, fix: str = "") -> None:
    """Copy tensors into a module, exactly: every name, every shape.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs; names the file and the first culprits.
    """
    want = module.state_dict()
    wrong = [f"{k} is missing" for k in want if k not in tensors]
    wrong += [f"{k} is unknown" for k in tensors if k not in want]
    wrong += [
        f"{k} has shape {tuple(tensors[k].shape)}, not {tuple(v.shape)}"
        for k, v in want.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{path} does not fit the model: {'; '.join(wrong[:3])}{more}; {fix or 'write it again'}"
        )
    module.load_state_dict(dict(tensors))


def restore(
    path: str | Path, kind: str, build: Callable[[dict[str, Any]], Network], fix: str = ""
) -> Network:
    """The network in a file written by ``write_safetensors``, frozen (no gradients for weights) and in eval mode.

    Args:
        path: the file.
        kind: the metadata entry ``kind`` that the file must state.
        build: makes the network, untrained, from the metadata.
        fix: what error messages tell the user to do.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as ``read_safetensors`` and ``load_weights``, or metadata that ``build`` can do nothing with.
    """
    tensors, head = read_safetensors(path, kind, fix)
    try:
        network = build(head)
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(
            f"{path} has a broken header ({type(e).__name__}: {e}); {fix or 'write it again'}"
        ) from e
    load_weights(network, tensors, path, fix)
    return network.eval().requires_grad_(False)
