"""Runs in Weights & Biases or trackio, which take TensorBoard's events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

# What each of them needs, by its name for pip.
PACKAGES = {"wandb": ("wandb",), "trackio": ("trackio", "tbparse")}
INSTALL = {"wandb": "'wandb>=0.31'", "trackio": "'trackio[tensorboard]'"}
PROJECT = "art-rl"
# Projects of one name that trackio may have already.
MOST_PROJECTS = 100


def check_tracker(track: str | None) -> None:
    """Refuse a tracker whose packages are missing, and wandb without an account.

    Raises:
        ImportError: they are; says how to install them.
        ValueError: wandb is online and knows no account.
    """
    for package in PACKAGES.get(track or "", ()):
        try:
            import_module(package)
        except ImportError as error:
            raise ImportError(
                f"track = {track!r} needs the package {package} ({error}); pip install {INSTALL[track or '']}"
            ) from error
    if track == "wandb":
        wandb = import_module("wandb")
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise ValueError("track = 'wandb' knows no account; run `wandb login`, or set WANDB_MODE=offline")


@contextmanager
def tracked(track: str | None, folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Show the run of a block elsewhere too.

    wandb follows the events as they are written; a resumed run is another one there, of the same name. trackio has no
    such sync: it imports the scalars at the end, into a new project of the folder's name, or of that and a number.

    Args:
        track: ``"wandb"`` or ``"trackio"``; None: nowhere.
        folder: of the run; no event has been written by this process yet.
        settings: of the run.
    """
    if track == "wandb":
        wandb = import_module("wandb")
        given = {"project": PROJECT, "name": folder.name, "dir": str(folder), "config": dict(settings)}
        with wandb.init(**given, sync_tensorboard=True):
            yield
        return
    yield
    if track == "trackio":
        _import_events(folder)


def _import_events(folder: Path) -> None:
    """Import the scalars of a run into a project that trackio does not have yet: it refuses others."""
    names = [folder.name, *(f"{folder.name}-{number}" for number in range(2, MOST_PROJECTS + 1))]
    for name in names:
        try:
            import_module("trackio").import_tf_events(str(folder), project=name)
            return
        except ValueError as error:
            if "already exists" not in str(error) or name == names[-1]:
                raise
