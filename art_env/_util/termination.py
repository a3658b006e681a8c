"""SIGTERM as an exception, which may wait until a checkpoint can be written."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM asked this process to end."""


# Blocks under way that end at a boundary of their own, and whether SIGTERM came within one.
_waiting, _asked = 0, False


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    if _waiting == 0:
        raise Terminated
    _asked = True


@contextmanager
def handled() -> Iterator[None]:
    """Within the block SIGTERM raises ``Terminated`` and Ctrl-C KeyboardInterrupt; for the main thread only."""
    global _asked
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, _handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        _asked = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def at_a_boundary() -> Iterator[None]:
    """Within the block ``Terminated`` waits for ``stop_if_asked``, or for the end of the block."""
    global _waiting
    _waiting += 1
    try:
        yield
    finally:
        _waiting -= 1
    if _asked and _waiting == 0:
        raise Terminated


def stop_if_asked(save: Callable[[], object]) -> None:
    """Where a checkpoint can be written: if SIGTERM came, ``save`` and end.

    Raises:
        Terminated: SIGTERM came.
    """
    if _asked:
        save()
        raise Terminated
