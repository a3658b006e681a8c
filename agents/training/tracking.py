"""Runs in Weights & Biases or trackio, which take TensorBoard's events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

# What each of them needs, by its name for pip.
PACKAGES = {"wandb": ("wandb",), "trackio": ("trackio", "tbparse")}
INSTALL = {"wandb": "wandb", "trackio": "'trackio[tensorboard]'"}
PROJECT = "art-rl"


def check_tracker(track: str | None) -> None:
    """Refuse a tracker whose packages are missing.

    Raises:
        ImportError: they are; says how to install them.
    """
    for package in PACKAGES.get(track or "", ()):
        try:
            import_module(package)
        except ImportError as error:
            raise ImportError(
                f"track = {track!r} needs the package {package} ({error}); pip install {INSTALL[track or '']}"
            ) from error


@contextmanager
def tracked(track: str | None, folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Show the run of a block elsewhere too.

    wandb follows the events as they are written; a resumed run is another one there, of the same name. trackio has no
    such sync: it imports the scalars at the end, into a project of the folder's name.

    Args:
        track: ``"wandb"`` or ``"trackio"``; None: nowhere.
        folder: of the run; no event has been written by this process yet.
        settings: of the run.

    Raises:
        ValueError: trackio has a project of that name already.
    """
    if track == "wandb":
        wandb = import_module("wandb")
        given = {"project": PROJECT, "name": folder.name, "dir": str(folder), "config": dict(settings)}
        with wandb.init(**given, sync_tensorboard=True):
            yield
        return
    yield
    if track == "trackio":
        import_module("trackio").import_tf_events(str(folder), project=folder.name)
