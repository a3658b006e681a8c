"""``Workers``: Ray actors that each hold copies of what the caller has, and answer its methods."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch

from agents.distributed.cluster import RETRIES, connect, patiently, plain_errors
from art_env._util.termination import held_back
from art_env.adapters.counting import CountedDenoiser

# Objects that a worker keeps: those of one training. It can get others again.
COPIES = 4


def check_cores(workers: int) -> None:
    """Refuse more workers than this machine has cores for: Ray would start them, and they would wait for each other.

    Raises:
        ValueError: there are not so many.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > cores:
        raise ValueError(f"workers = {workers} and this machine has {cores} cores; use fewer --workers")


class Worker:
    """Answers methods of objects that it keeps copies of.

    It has no state but these copies, which it gets again from Ray's object store after a restart.

    Args:
        threads: of torch.
    """

    def __init__(self, threads: int) -> None:
        import ray

        torch.set_num_threads(threads)
        self._copy = lru_cache(maxsize=COPIES)(ray.get)

    def answer(self, box: list[Any], method: str, args: tuple[Any, ...]) -> tuple[Any, int]:
        """What the method gives, and the rows that have passed the network for it.

        Args:
            box: holds the reference of an object and its counter; in a list, so that Ray does not fetch it each time.
            method, args: of that object.
        """
        (reference,) = box
        copied, counter = self._copy(reference)
        before = 0 if counter is None else counter.evals
        answer = getattr(copied, method)(*args)
        return answer, 0 if counter is None else counter.evals - before


class Workers:
    """So many actors; each has one process, and one copy of every object that is ``held``.

    A worker that dies is started again and its share is done again, up to ten times.

    Args:
        count: workers.
        address: of a Ray cluster; None: this machine.
        num_gpus: GPUs of each worker.
        threads: of torch, in each.

    Raises:
        ValueError: there are not so many cores or GPUs.
        ImportError: Ray is not installed.
        OSError: Ray cannot be started, or there is no cluster at the address.
    """

    def __init__(
        self, count: int, address: str | None = None, num_gpus: float = 0.0, threads: int = 1
    ) -> None:
        if address is None:
            check_cores(count)
        self._ray = connect(address, count, threads)
        self.count = count
        with held_back():
            have = self._ray.cluster_resources()
        for kind, need in (("CPU", count), ("GPU", count * num_gpus)):
            if need > have.get(kind, 0):
                raise ValueError(
                    f"workers = {count} need {need:g} {kind}s and Ray has {have.get(kind, 0):g}; use fewer --workers"
                    + (", or a smaller --worker-gpus" if kind == "GPU" else "")
                )
        kept = {"max_restarts": RETRIES, "max_task_retries": RETRIES}
        actor = self._ray.remote(num_cpus=1, num_gpus=num_gpus, **kept)(Worker)
        with held_back():
            self._actors = [actor.remote(threads) for _ in range(count)]

    def hold(self, thing: Any, counter: CountedDenoiser | None = None) -> Held:
        """Give every worker a copy, when it first needs it.

        Args:
            thing: whose methods are to be answered.
            counter: of the network's evaluations in ``thing``; it counts what the copies evaluate too.
        """
        with held_back():
            return Held(self, self._ray.put((thing, counter)), counter)

    def answers(self, box: list[Any], method: str, shares: Sequence[tuple[Any, ...]]) -> list[Any]:
        """``Worker.answer`` of each share, in order.

        Raises:
            OSError: a worker has died too often.
        """
        from ray.util import ActorPool

        pool = ActorPool(self._actors)  # a new one has no answers left over from a call that was interrupted
        with plain_errors(self._ray):
            with held_back():
                for share in shares:
                    pool.submit(lambda actor, share: actor.answer.remote(box, method, share), share)
            return [patiently(self._ray, pool.get_next) for _ in shares]


class Held:
    """An object that every worker has a copy of.

    Args:
        workers: they.
        reference: Ray's, of the object and its counter.
        counter: the caller's own.
    """

    def __init__(self, workers: Workers, reference: Any, counter: CountedDenoiser | None) -> None:
        self.workers, self._box, self._counter = workers, [reference], counter

    def map(self, method: str, shares: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What the method gives for the arguments of each share, in order.

        A share whose worker died is counted once.

        Raises:
            OSError: a worker has died too often.
            Exception: what the method raises.
        """
        answers = self.workers.answers(self._box, method, shares)
        if self._counter is not None:
            self._counter.add(sum(evaluations for _, evaluations in answers))
        return [answer for answer, _ in answers]


@cache
def start_workers(count: int, address: str | None, num_gpus: float, threads: int) -> Workers:
    """``Workers``, the same for the same arguments; they end with this process."""
    return Workers(count, address, num_gpus, threads)
