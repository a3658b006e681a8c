"""A folder has one holder, also where the system locks files alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from art_env._util import locks
from art_env._util.locks import FolderLock

HOLDER = """
import sys
from pathlib import Path
from art_env._util import locks
if sys.argv[2] == "files":
    locks.fcntl = None
lock = locks.FolderLock(Path(sys.argv[1]), "folder")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["folders", "files"])
def kind(request, monkeypatch) -> str:
    """What is locked."""
    if request.param == "files":
        monkeypatch.setattr(locks, "fcntl", None)
    elif locks.fcntl is None:
        pytest.skip("this system locks files alone")
    return request.param


def test_one_holder_in_this_process(kind: str, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    first = FolderLock(folder, "run_dir")
    with pytest.raises(ValueError, match=r"run_dir = '.*run' is in use by another process"):
        FolderLock(folder, "run_dir")
    first.release()
    FolderLock(folder, "run_dir").release()
    assert not list(folder.iterdir())


def test_a_lock_that_nobody_keeps_is_free(kind: str, tmp_path) -> None:
    FolderLock(tmp_path, "run_dir")
    FolderLock(tmp_path, "run_dir")


def test_it_ends_with_its_process(kind: str, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLDER, str(folder), kind]
    holder = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == b"held"
    with pytest.raises(ValueError, match="in use by another process"):
        FolderLock(folder, "resume")
    holder.kill()
    holder.communicate()
    FolderLock(folder, "resume").release()
