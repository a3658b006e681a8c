"""``RunFolder``: the files of one training, and what has been done already."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.logger import Logger, make_output_format

from agents.training.settings import Settings
from art_env import __version__
from art_env._util.files import read_json, write_text


class RunFolder:
    """Paths of a run folder.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.summary = folder / "config.json", folder / "summary.json"
        self.model, self.checkpoint = folder / "model.zip", folder / "checkpoints" / "model.zip"
        self.progress = folder / "checkpoints" / "progress.json"
        self.search = folder / "checkpoints" / "search.npz"
        self.oracle, self.schedule = folder / "oracle.json", folder / "schedule.json"

    @classmethod
    def create(cls, settings: Settings, problem: str, num_envs: int) -> RunFolder:
        """Make the folder and write config.json into it.

        Args:
            settings: of the run.
            problem: its name, part of the default folder's.
            num_envs: rows that step together.

        Raises:
            ValueError: the folder holds something already, or cannot be made.
        """
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        name = f"{problem}__K{settings.num_steps[0]:02d}__{settings.algorithm}__{settings.seed}__{stamp}"
        folder = settings.run_dir or Path("runs") / name
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"run_dir = {str(folder)!r} already exists; go on with --resume {folder}, or name another folder"
            )
        run = cls(folder)
        try:
            run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise ValueError(
                f"run_dir = {str(folder)!r} cannot be made ({why}); name another folder with --run-dir"
            ) from error
        body = {
            "algorithm": settings.algorithm,
            "settings": settings.to_dict() | {"num_envs": num_envs},
            "argv": sys.argv[1:],
            "versions": {
                "art-rl": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "git_commit": git_commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        write_text(run.config, json.dumps(body, indent=2) + "\n")
        return run

    @classmethod
    def reopen(cls, folder: Path) -> tuple[RunFolder, Settings]:
        """The folder of a killed run, and its settings.

        Raises:
            ValueError: no run folder, a finished run, or a config.json that cannot be read.
        """
        run = cls(folder)
        if not run.config.is_file():
            raise ValueError(f"resume = {str(folder)!r} is not a run folder: it has no config.json")
        if run.summary.is_file():
            raise ValueError(f"resume = {str(folder)!r} is finished; its results are in {run.summary}")
        body = read_json(run.config, "a run folder whose config.json is whole, or start a new run")
        try:
            settings = Settings.from_dict(body["algorithm"], body["settings"], run_dir=folder, resume=folder)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{run.config} cannot be read ({error!r}); start a new run") from error
        run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        for stray in run.checkpoint.parent.glob(".*"):  # half-written when the run was killed
            stray.unlink()
        return run, settings

    def logger(self) -> Logger:
        """TensorBoard and CSV in the folder; a resumed run writes a further CSV file."""
        parts = len(list(self.folder.glob("progress*.csv")))
        suffix = f"_{parts}" if parts else ""
        formats = [make_output_format(kind, str(self.folder), suffix) for kind in ("csv", "tensorboard")]
        return Logger(str(self.folder), formats)


def git_commit() -> str | None:
    """The commit that this file is from, if it is in a git checkout."""
    try:
        here = Path(__file__).resolve().parent
        out = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()
