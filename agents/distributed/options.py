"""The options of a command that may use workers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from art_env._util.cli import CheckedSettings
from art_env._util.numbers import check_whole

if TYPE_CHECKING:
    from agents.distributed.workers import Workers

MOST_WORKERS = 10_000


@dataclass(frozen=True)
class WorkerOptions(CheckedSettings):
    """Where the work is done; results do not depend on it.

    Raises:
        ValueError: a value out of range, or an address or GPUs without workers.
    """

    workers: int | None = None
    """Share the evaluations of the network among so many processes of Ray (extra [ray]), each with its own copy of
    the model; by default all is done in this process."""
    ray_address: str | None = None
    """A Ray cluster that has the workers, such as auto or ray://host:10001; by default they are on this machine."""
    worker_gpus: float | None = None
    """GPUs of each worker, such as 1 or 0.5; by default 1 if --device is cuda, else 0."""

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        if self.workers is not None:
            check_whole("workers", self.workers, 1, MOST_WORKERS)
        given = {"ray_address": self.ray_address, "worker_gpus": self.worker_gpus}
        for name, value in given.items():
            if value is not None and self.workers is None:
                raise ValueError(f"{name} = {value!r} is about workers; give --workers too")
        if self.worker_gpus is not None and not (math.isfinite(self.worker_gpus) and self.worker_gpus >= 0):
            raise ValueError(f"worker_gpus = {self.worker_gpus} must be a number of at least 0")

    def worker_options(self) -> dict[str, Any]:
        """These options alone."""
        return {name: getattr(self, name) for name in WORKER_OPTIONS}

    def start_workers(self, device: str, threads: int) -> Workers | None:
        """The workers of these options, started once in a process; None without ``workers``.

        Args:
            device: of the model.
            threads: of torch, in each worker.

        Raises:
            ImportError: Ray is not installed.
            OSError: Ray cannot be started, or there is no cluster at the address.
        """
        if self.workers is None:
            return None
        from agents.distributed.workers import start_workers

        gpus = self.worker_gpus
        if gpus is None:
            gpus = 1.0 if device.startswith("cuda") else 0.0
        return start_workers(self.workers, self.ray_address, gpus, threads)


WORKER_OPTIONS = ("workers", "ray_address", "worker_gpus")
