"""What CONTRIBUTING.md says about a mixture of your own: done in a copy of the code, it trains."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PASSAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## A mixture of your own")[1].split("\n## ")[0]


def blocks(language: str) -> list[str]:
    """The code of the passage."""
    return re.findall(rf"```{language}\n(.*?)```", PASSAGE, re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code in which a newcomer has done what the passage says."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("art_env", "agents"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "evaluate.py"):
        shutil.copy(ROOT / name, folder)
    builder, entry, registration = blocks("python")
    library = folder / "art_env" / "problems" / "library.py"
    text = library.read_text("utf-8")
    for mark, code in (("def _mixture_2d(", builder + "\n\n"), ('    "mixture-2d": (', entry)):
        assert text.count(mark) == 1
        text = text.replace(mark, code + mark)
    library.write_text(text, "utf-8")
    with (folder / "art_env" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write(registration)
    return folder


def run(folder: Path, *command: str) -> str:
    """What a command prints in the copy."""
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_short() -> None:
    assert sum(len(code.splitlines()) for code in blocks("python") + blocks("bash")) < 30


def test_it_trains(clone: Path) -> None:
    short = ("--total-timesteps", "2048", "--num-envs", "64", "--num-noises", "128", "--no-oracle")
    train = blocks("bash")[0].splitlines()[0].split()
    run(clone, sys.executable, *train[1:], *short, "--run-dir", "runs/two-hills", "--no-progress")
    assert (clone / "runs" / "two-hills" / "schedule.json").is_file()


def test_it_has_an_id(clone: Path) -> None:
    code = re.search(r'python -c "(.*)"', blocks("bash")[0])
    assert code is not None
    assert "sigma" in run(clone, sys.executable, "-c", code[1].replace(").reset", ", num_noises=16).reset"))
