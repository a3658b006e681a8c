"""SIGTERM as an exception, which may wait until a checkpoint can be written, or until a library's code is left."""

from __future__ import annotations

import signal
import threading
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


@contextmanager
def held_back() -> Iterator[None]:
    """Within the block SIGTERM and Ctrl-C are noted, and at its end they are as if they came then.

    For calls into compiled code that an exception out of a signal's handler would break. Outside the main thread,
    where no handler runs, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for noted in dict.fromkeys(came):
            signal.raise_signal(noted)


def stop_if_asked(save: Callable[[], object]) -> None:
    """Where a checkpoint can be written: if SIGTERM came, ``save`` and end.

    Raises:
        Terminated: SIGTERM came.
    """
    if _asked:
        save()
        raise Terminated
