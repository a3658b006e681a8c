"""A run with workers that is stopped goes on and ends as one that was left alone, and no process is left."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.kills import finish, kill, left_of, off, resumed, same, train

pytestmark = pytest.mark.slow
OPTIONS = "--no-oracle"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a run with two workers that was left alone, by its algorithm."""
    pytest.importorskip("ray")
    place = tmp_path_factory.mktemp("whole")

    def folder(algorithm: str) -> Path:
        if not (place / algorithm).exists():
            command = train(algorithm, place / algorithm, OPTIONS, workers=2)
            assert finish(command) == ""
        return place / algorithm

    return folder


def _when_it_learns(folder: Path) -> None:
    """Wait until its log has a second line, which comes when it has learned something."""
    log, began = folder / "progress.csv", time.monotonic()
    while not log.is_file() or log.read_text().count("\n") < 3:
        assert time.monotonic() - began < 300
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("algorithm", "by", "workers"),
    [
        ("search", signal.SIGKILL, 2),
        ("search", signal.SIGINT, 2),
        ("search", signal.SIGTERM, 1),
        ("evolution", signal.SIGTERM, 2),
        ("art", signal.SIGKILL, 2),
        ("art", signal.SIGTERM, 1),
        ("art", signal.SIGINT, 0),
    ],
)
def test_it_ends_as_left_alone(algorithm: str, by: int, workers: int, whole, tmp_path) -> None:
    folder, alone = tmp_path / "run", whole(algorithm)
    command = train(algorithm, folder, OPTIONS, workers=2)
    code, started = kill(command, lambda: _when_it_learns(folder), by)
    assert code in (-by, 128 + by)
    assert started
    assert not (folder / "summary.json").exists()
    assert left_of(started) == set()
    assert resumed(command, folder, workers) == ""
    assert not list(folder.rglob(".*"))
    assert off(alone, folder) < 1e-6
    if workers == 2:
        assert same(alone, folder)
    counts = [json.loads((place / "summary.json").read_text())["denoiser_evals"] for place in (alone, folder)]
    assert counts[0] == counts[1]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_nothing_of_a_run_with_workers(small_disk, whole) -> None:
    folder, alone = small_disk / "run", whole("art")
    command = train("art", folder, OPTIONS, workers=2)
    error = finish(command)
    assert "No space left on device" in error
    assert str(folder) in error
    assert not list(folder.rglob(".*"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert resumed(command, folder, 2) == ""
    assert same(alone, folder)
