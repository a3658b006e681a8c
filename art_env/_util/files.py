"""Writing files so that a crash leaves the old file or the new one, never half of one; reading JSON."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# What atomic_path calls its temporary files: .NAME.xxxxxxxx.SUFFIX.
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.[a-z0-9]+)?")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder (same suffix); rename it to ``path`` if the block succeeds.

    Raises:
        OSError: the folder is not there or cannot be written, or the disk is full; the text names folder or file.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write {target.name}: folder {str(target.parent)!r} ({error.strerror})"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if error.filename not in (None, name):  # of another file
            raise
        raise type(error)(
            error.errno, f"cannot write {str(target)!r} ({error.strerror or error}); it is as it was before"
        ) from error
    finally:
        with suppress(OSError):  # the folder itself may be gone
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: not JSON, or nested too deeply; says where.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON (line {error.lineno}: {error.msg})") from error
    except RecursionError as error:
        raise ValueError("not valid JSON: its brackets are nested too deeply") from error


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """What a JSON file says.

    Args:
        path: of the file.
        what: it should be, for the error.

    Raises:
        OSError: no such file, or one that cannot be read.
        ValueError: as ``parse_json``, or not a text file; begins with the path.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file; give {what}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}; give {what}") from error


def is_temporary(path: Path) -> bool:
    """Whether the file is one that ``atomic_path`` left when its process was killed."""
    return TEMPORARY.fullmatch(path.name) is not None and path.is_file()


def remove_temporary(folder: Path) -> None:
    """Remove what processes that were killed have left in a folder; nobody may be writing there.

    Raises:
        OSError: the folder cannot be changed; the text names it.
    """
    for path in folder.glob(".*"):
        if is_temporary(path):
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
