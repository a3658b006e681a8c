"""A lock on a folder that ends with the process that holds it."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Holds a folder for this process, without a file in it.

    The system itself ends the lock with the process, however that ends, so no lock is ever stale. Where the system
    or the file system knows no such locks (Windows, some network drives), nothing is locked.

    Args:
        folder: must be there.
        field: what the error calls it.

    Raises:
        ValueError: another process, or another part of this one, holds it.
    """

    def __init__(self, folder: Path, field: str) -> None:
        handle = os.open(folder, os.O_RDONLY) if fcntl else -1
        self.release = weakref.finalize(self, os.close, handle) if fcntl else lambda: None
        if not fcntl:
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise ValueError(
                f"{field} = {str(folder)!r} is in use by another process; wait until it has ended, or end it"
            ) from error
        except OSError:  # a file system without locks
            pass
