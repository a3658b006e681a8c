"""The scripts in examples/ run, and print what they promise."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from art_env import Schedule
from benchmarks.libraries import parse, read
from benchmarks.records import RESULTS

ROOT = Path(__file__).resolve().parents[1]


# Scripts that train a library, with the modules that it needs; CI installs those of the first two.
LIBRARIES = (
    ("train_sb3.py", ("stable_baselines3",)),
    ("train_cleanrl.py", ("torch",)),
    ("train_sb3_contrib.py", ("sb3_contrib",)),
    ("train_sbx.py", ("sbx",)),
    ("train_torchrl.py", ("torchrl",)),
    ("train_skrl.py", ("skrl",)),
    ("train_tianshou.py", ("tianshou",)),
    ("train_agilerl.py", ("agilerl", "peft")),
    ("train_rllib.py", ("ray", "tree")),
)


def run(name: str, folder: Path, *options: str) -> str:
    """What the script prints when it is run in a folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / name), *options]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, text: str) -> float:
    """The number that the pattern's group finds."""
    found = re.search(pattern, text, re.MULTILINE)
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
        assert f'("{script.name}"' in here or script.name == "report.py"  # which the others import


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


@pytest.mark.parametrize(("script", "modules"), LIBRARIES)
def test_train(script: str, modules: tuple[str, ...], tmp_path: Path) -> None:
    """A short training; ``python -m benchmarks.libraries`` has what full ones end with."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {missing[0]}, which is not installed: docs/libraries.md")
    text = run(script, tmp_path, "--steps", "4096")
    found = parse(script, "unknown", 0, text)
    assert found.steps >= 4096
    assert found.mean_return < 0 < found.rmse < 10
    lists = {run.name: run for run in read(RESULTS / "libraries.csv")}
    for name, printed in (("edm", "EDM"), ("closed_form", "action 0")):
        kept = lists[name]
        assert number(rf"^{printed}: mean return (\S+),", text) == pytest.approx(kept.mean_return, rel=1e-3)
        assert number(rf"^{printed}: .*, RMSE (\S+)$", text) == pytest.approx(kept.rmse, rel=1e-3)


@pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("minari", "jax")), reason="needs minari and jax: docs/libraries.md"
)
def test_record_minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for _ in range(2):  # the second takes the place of the first
        text = run("record_minari.py", tmp_path, "--episodes", "10")
    assert ": 10 episodes, 50 steps" in text
    assert number(r"mean return (-[\d.]+)", text) < 0
    assert "the same environment again: ART/Mixture1D-v" in text


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
