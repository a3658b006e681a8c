"""``RunFolder``: the files of one training, and what has been done already."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.checkpoint import check_same_settings
from agents.training.settings import Settings
from art_env import __version__
from art_env._util.files import is_temporary, read_json, remove_temporary, write_text
from art_env._util.locks import FolderLock


class RunFolder:
    """Paths of a run folder, which this process holds until ``close``.

    Args:
        folder: where it is.
        field: the setting that names it, for errors.

    Raises:
        ValueError: another process holds it.
    """

    def __init__(self, folder: Path, field: str = "run_dir") -> None:
        self.folder, checkpoints = folder, folder / "checkpoints"
        self.config, self.summary = folder / "config.json", folder / "summary.json"
        self.agent, self.checkpoint = folder / "agent.safetensors", checkpoints / "checkpoint.safetensors"
        self.search, self.settings = checkpoints / "search.npz", checkpoints / "settings.json"
        self.oracle, self.schedule = folder / "oracle.json", folder / "schedule.json"
        self._lock = FolderLock(folder, field)

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.release()

    @classmethod
    def create(cls, settings: Settings, problem: str, num_envs: int) -> RunFolder:
        """Make the folder and write config.json into it.

        What a start that was killed before that has left is no hindrance.

        Args:
            settings: of the run.
            problem: its name, part of the default folder's.
            num_envs: rows that step together.

        Raises:
            ValueError: the folder holds something already, is in use, or cannot be made.
        """
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        name = f"{problem}__K{settings.num_steps[0]:02d}__{settings.algorithm}__{settings.seed}__{stamp}"
        folder = settings.run_dir or Path("runs") / name
        taken = (
            f"run_dir = {str(folder)!r} already exists; go on with --resume {folder}, or name another folder"
        )
        if folder.exists() and not folder.is_dir():
            raise ValueError(taken)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder)
        except OSError as error:
            why = error.strerror or error
            raise ValueError(
                f"run_dir = {str(folder)!r} cannot be made ({why}); name another folder with --run-dir"
            ) from error
        if not _is_bare(folder):  # asked while the folder is held
            run.close()
            raise ValueError(taken)
        kept = settings.to_dict() | {"num_envs": num_envs}
        try:
            remove_temporary(folder)
            run.settings.parent.mkdir(exist_ok=True)
            remove_temporary(run.settings.parent)
            write_text(run.settings, json.dumps(kept, indent=2) + "\n")
            write_text(run.config, json.dumps(_config(settings.algorithm, kept), indent=2) + "\n")
        except OSError:
            run.close()
            raise
        return run

    @classmethod
    def reopen(cls, given: Settings) -> tuple[RunFolder, Settings]:
        """The folder of a killed run, and its settings.

        Args:
            given: ``resume`` names the folder; ``trust_pickle``, ``progress`` and the workers are taken from here
                too.

        Raises:
            ValueError: no run folder, a finished run or one in use, or files that cannot be read or were changed.
        """
        folder = given.resume
        assert folder is not None
        if not (folder / "config.json").is_file():
            begin = "; it was killed at its very beginning: start it again" if _is_bare(folder) else ""
            raise ValueError(f"resume = {str(folder)!r} is not a run folder: it has no config.json{begin}")
        run = cls(folder, "resume")
        try:
            return run, run._settings(given)
        except BaseException:
            run.close()
            raise

    def _settings(self, given: Settings) -> Settings:
        if self.summary.is_file():
            raise ValueError(f"resume = {str(self.folder)!r} is finished; its results are in {self.summary}")
        old = self.checkpoint.with_name("model.zip")
        if old.is_file():
            raise ValueError(
                f"{old} is a checkpoint of an earlier version, which this one cannot go on from; start a new run"
            )
        try:
            body = read_json(self.config, "a run folder whose config.json is whole")
            changes = {
                "trust_pickle": given.trust_pickle,
                "progress": given.progress,
                **given.worker_options(),
            }
            settings = Settings.from_dict(body["algorithm"], body["settings"], **changes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.config} cannot be read ({error}); start a new run") from error
        if self.settings.is_file():
            try:
                kept = json.loads(self.settings.read_text(encoding="utf-8"))
                check_same_settings(self.settings, kept, json.loads(json.dumps(settings.to_dict())))
            except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
                raise ValueError(f"{self.settings} cannot be read ({error}); start a new run") from error
        self.settings.parent.mkdir(exist_ok=True)
        for place in (self.folder, self.settings.parent):
            remove_temporary(place)
        return settings


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds nothing but what a start that was killed has left."""
    if not folder.is_dir():
        return False
    held = [path for path in folder.iterdir() if not is_temporary(path)]
    inside = [path for path in (folder / "checkpoints").glob("*") if not is_temporary(path)]
    return held in ([], [folder / "checkpoints"]) and [path.name for path in inside] in (
        [],
        ["settings.json"],
    )


def _config(algorithm: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "algorithm": algorithm,
        "settings": settings,
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
