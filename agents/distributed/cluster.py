"""The connection to Ray: started once in a process, on this machine or at an address."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from art_env._util.termination import held_back

ROOT = Path(__file__).resolve().parents[2]
# The clone's own packages, which workers on other machines get from here.
PACKAGES = ("art_env", "agents", "benchmarks")
# A worker that dies is started again, and what it was doing is done again, so many times.
RETRIES = 10
# For an answer from the machine of a cluster; Ray itself tries for minutes.
REACH_SECONDS = 10.0
# How often a wait for workers is left, so that SIGTERM and Ctrl-C have an effect.
POLL_SECONDS = 0.5


def connect(address: str | None, num_cpus: int, threads: int = 1) -> Any:
    """The module ``ray``, connected.

    Args:
        address: of a cluster; None: Ray is started on this machine.
        num_cpus: processes that may work at once on this machine.
        threads: of each of them.

    Raises:
        ImportError: Ray is not installed.
        OSError: Ray cannot be started, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"workers need Ray, which cannot be imported ({error}); pip install -c constraints.txt -e '.[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    if address is not None:
        check_reachable(address)
    environ = {"OMP_NUM_THREADS": str(threads)}
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        options |= {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
        options["runtime_env"] = {"env_vars": environ | {"PYTHONPATH": path}}
    else:
        modules = [str(ROOT / name) for name in PACKAGES]
        options |= {"address": address, "runtime_env": {"env_vars": environ, "py_modules": modules}}
    try:
        # Ray would put its own handler of SIGTERM in the place of ours; what that raises is lost in callbacks.
        with held_back(), patch("ray._private.utils.set_sigterm_handler", create=True):
            ray.init(**options)
    except Exception as error:  # a node that does not start in time is a bare one
        raise no_ray(address, f"{error} {error.__cause__ or ''}") from error
    return ray


def no_ray(address: str | None, why: str) -> OSError:
    """The error of a connection that cannot be made; ``why`` may have several lines."""
    where = "on this machine" if address is None else f"at ray_address = {address!r}"
    return OSError(f"no Ray {where} ({' '.join(why.split())[:400]}); see `ray status`")


def check_reachable(address: str) -> None:
    """Refuse an address with a port that nobody answers at; other addresses are left to Ray.

    Raises:
        OSError: nobody answers.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        if not parts.hostname or parts.port is None:
            return
        socket.create_connection((parts.hostname, parts.port), REACH_SECONDS).close()
    except (OSError, ValueError) as error:  # a port that is none is a ValueError
        raise no_ray(address, str(error)) from error


def patiently(ray: Any, call: Callable[[float], Any]) -> Any:
    """What ``call`` gives, however long that takes.

    SIGTERM and Ctrl-C have their effect between two calls: an exception in the midst of Ray's own code may end the
    process by itself.

    Args:
        ray: the module.
        call: takes seconds, and raises TimeoutError if it has nothing to give by then.
    """
    while True:
        with held_back():
            try:
                return call(POLL_SECONDS)
            except TimeoutError as error:
                if isinstance(error, ray.exceptions.RayTaskError):  # of the task itself
                    raise


@contextmanager
def plain_errors(ray: Any) -> Iterator[None]:
    """Within the block the error of a worker is raised as it was there.

    Raises:
        OSError: a worker has died too often.
    """
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:
        text = " ".join(str(error).split())[:300]
        raise OSError(
            f"a worker failed ({text}); its log is in Ray's session folder, /tmp/ray/session_latest/logs"
        ) from error
