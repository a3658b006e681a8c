"""A lock on a folder that ends with the process that holds it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Holds a folder for this process, without a file in it.

    The system itself ends the lock with the process, however that ends, so no lock is ever stale. Windows locks files
    alone: there the file ``.NAME.lock`` beside the folder is held. On a file system that knows no locks (some network
    drives) nothing is locked.

    Args:
        folder: must be there.
        field: what the error calls it.

    Raises:
        ValueError: another process, or another part of this one, holds it.
    """

    def __init__(self, folder: Path, field: str) -> None:
        try:
            release = _hold(folder) if fcntl else _hold_file_beside(folder)
        except BlockingIOError as error:
            raise ValueError(
                f"{field} = {str(folder)!r} is in use by another process; wait until it has ended, or end it"
            ) from error
        self.release = weakref.finalize(self, release)


def _hold(folder: Path) -> Callable[[], object]:
    """Lock a folder, and return what frees it.

    Raises:
        BlockingIOError: it is locked.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # a file system without locks
        pass
    return partial(os.close, handle)


def _hold_file_beside(folder: Path) -> Callable[[], object]:
    """The same where folders cannot be locked."""
    place = folder.resolve()
    lock = FileLock(place.with_name(f".{place.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError from error
    except (OSError, NotImplementedError):  # a file system without locks
        pass
    return lock.release
