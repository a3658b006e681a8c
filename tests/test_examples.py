"""The scripts in examples/ run, and print what they promise."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from art_env import Schedule

ROOT = Path(__file__).resolve().parents[1]


def run(name: str, folder: Path) -> str:
    """What the script prints when it is run in a folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / name)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, text: str) -> float:
    """The number that the pattern's group finds."""
    found = re.search(pattern, text)
    assert found is not None, f"{pattern!r} is not in:\n{text}"
    return float(found.group(1))


def levels(pattern: str, text: str) -> list[float]:
    """The noise levels after the pattern, to the end of the line."""
    found = re.search(pattern + r" *([\d.e+ -]+)$", text, re.MULTILINE)
    assert found is not None, f"{pattern!r} is not in:\n{text}"
    return [float(level) for level in found.group(1).split()]


def test_every_example_is_tested():
    here = Path(__file__).read_text(encoding="utf-8")
    for script in (ROOT / "examples").glob("*.py"):
        assert f'run("{script.name}"' in here


def test_random_policy(tmp_path):
    text = run("random_policy.py", tmp_path)
    random = number(r"random actions: +(-[\d.]+)", text)
    even = number(r"action 0 everywhere: +(-[\d.]+)", text)
    assert random < even < 0
    sigmas, edm = levels("noise levels of action 0:", text), levels("EDM's schedule:", text)
    assert len(sigmas) == len(edm) == 6
    # Action 0 is the closed form.
    assert (sigmas[0], sigmas[-1]) == (edm[0], edm[-1])
    assert sigmas != edm


def test_train_ppo(tmp_path):
    text = run("train_ppo.py", tmp_path)
    sigmas = levels("ppo: error [\\d.]+, noise levels", text)
    assert len(Schedule(sigmas)) == 6
    edm, ppo = number(r"edm: error ([\d.]+)", text), number(r"ppo: error ([\d.]+)", text)
    ratio = number(r"PPO's error is ([\d.]+) times that of EDM", text)
    assert ratio == pytest.approx(ppo / edm, abs=0.01)
    assert ratio < 0.6  # 0.19 to 0.26 with the seeds 0 to 2


def test_train_art_rl_on_my_model(tmp_path):
    text = run("train_art_rl_on_my_model.py", tmp_path)
    edm, art = number(r"edm: error ([\d.]+)", text), number(r"art: error ([\d.]+)", text)
    assert art < 0.5 * edm  # about a quarter
    saved = Schedule.load(tmp_path / "runs" / "spiral.json")
    assert levels("art: error [\\d.]+, noise levels", text) == pytest.approx(list(saved.sigmas), rel=0.01)


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers")
def test_use_in_diffusers(tmp_path):
    text = run("use_in_diffusers.py", tmp_path)
    assert "kwargs = {'sigmas': [80.0, 12.0, 4.0, 1.6, 0.5, 0.0]}" in text
    assert re.findall(r"noise level (\S+) -> (\S+)", text) == [
        ("80", "12"),
        ("12", "4"),
        ("4", "1.6"),
        ("1.6", "0.5"),
        ("0.5", "0"),
    ]
    assert number(r"own Euler: (\S+) of the largest pixel", text) < 1e-5
