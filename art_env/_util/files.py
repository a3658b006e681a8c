"""Writing files so that a crash leaves the old file or the new one, never half of one; reading JSON."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder (same suffix); rename it to ``path`` if the block succeeds.

    Raises:
        OSError: the folder is not there or cannot be written; the text names the folder.
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
    finally:
        temporary.unlink(missing_ok=True)


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
