"""The trainings of a benchmark as tasks: one after the other in this process, or several at once by Ray.

python -m benchmarks.leaderboard --workers 2
python -m benchmarks.leaderboard --workers 16 --ray-address auto
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from agents.distributed.cluster import RETRIES, connect, patiently, plain_errors
from art_env._util.files import atomic_path
from benchmarks.running import run_training

# The files of a run folder that tables are made of; the last one says that the run has finished.
KEPT = ("oracle.json", "schedule.json", "progress.csv", "summary.json")


class Tasks:
    """Runs functions: here when their result is asked for, or on Ray's workers at once.

    Ray starts a function again whose process has died, up to ten times.

    Args:
        workers: functions that run at once; 1 without an address: here, without Ray.
        address: of a Ray cluster, which itself decides how many run at once; None: this machine.
        device: of the functions; with cuda each has a GPU to itself.

    Raises:
        ValueError: fewer than one worker.
        ImportError: Ray is needed, and is not installed.
        OSError: Ray cannot be started, or there is no cluster at the address.
    """

    def __init__(self, workers: int = 1, address: str | None = None, device: str = "cpu") -> None:
        if workers < 1:
            raise ValueError(f"workers = {workers} must be at least 1")
        self._ray = None if workers == 1 and address is None else connect(address, workers)
        self._options = {"num_cpus": 1, "num_gpus": int(device.startswith("cuda")), "max_retries": RETRIES}

    def submit(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """Start ``function(*args)``; the function that is returned waits for its result."""
        if self._ray is None:
            return partial(function, *args)
        reference = self._ray.remote(**self._options)(function).remote(*args)
        return partial(_fetched, self._ray, reference)

    def train(self, folder: Path, algorithm: str, **options: Any) -> Callable[[], dict[str, Any]]:
        """Start a training into a run folder; what is returned waits for its summary.

        A finished run is not made again. A worker that has no such place on its disks trains elsewhere; the files
        that tables are made of come back here.
        """
        if self._ray is None or (folder / "summary.json").is_file():
            return partial(run_training, folder, algorithm, **options)
        folder.parent.mkdir(parents=True, exist_ok=True)
        files = self.submit(_trained_files, folder.resolve(), algorithm, options)
        return lambda: _kept(folder, files(), algorithm, options)


def _fetched(ray: Any, reference: Any) -> Any:
    with plain_errors(ray):
        return patiently(ray, lambda seconds: ray.get(reference, timeout=seconds))


def _trained_files(folder: Path, algorithm: str, options: dict[str, Any]) -> dict[str, bytes]:
    """Train, and return the files that are kept."""
    with ExitStack() as stack:
        if not folder.parent.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), "run")
        run_training(folder, algorithm, **options)
        return {name: (folder / name).read_bytes() for name in KEPT if (folder / name).is_file()}


def _kept(folder: Path, files: dict[str, bytes], algorithm: str, options: dict[str, Any]) -> dict[str, Any]:
    """Put the files into the folder, unless the worker shares our disk, and return the summary."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if not (folder / name).is_file():
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(content)
    return run_training(folder, algorithm, **options)
