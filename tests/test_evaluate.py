"""The command line of evaluate.py."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from art_env.envs.dynamics import Dynamics
from art_env.evaluation import comparison
from art_env.schedules import edm

ROOT = Path(__file__).parents[1]


def _shell(*args: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "evaluate.py", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=env)


@pytest.fixture
def run(monkeypatch, capsys):
    """The same in this process: fast."""
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("evaluate")

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, args)])
        code = module.main()
        text = capsys.readouterr()
        return code, text.out, text.err

    return call


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_gaussian_from_the_shell(tmp_path) -> None:
    out = tmp_path / "new" / "folder"
    args = [
        "--problem",
        "gaussian-1d",
        "--steps",
        2,
        5,
        "--schedules",
        "uniform",
        "log_snr",
        "arctan",
        "oracle",
    ]
    done = _shell(*args, "--out", out)
    assert done.returncode == 0, done.stderr
    rows = _csv(out / "results.csv")
    w2 = {(r["schedule"], r["num_steps"]): float(r["mean"]) for r in rows if r["metric"] == "w2"}
    assert round(w2["log_snr", "2"], 4) == 0.6674
    assert round(w2["arctan", "5"], 4) == 0.1459
    assert len(rows) == 4 * 2 * 3
    assert sorted(p.name for p in out.iterdir()) == [
        "quality.png",
        "results.csv",
        "samples_2.png",
        "samples_5.png",
    ]
    assert "0.6674" in done.stdout
    assert "ratio" in done.stdout
    assert "some schedules end at 0" in done.stdout
    again = _shell(*args, "--out", out)
    assert again.returncode == 2
    assert "use --overwrite" in again.stderr
    assert "Traceback" not in again.stderr
    assert again.stderr.count("\n") == 1


def test_digits_from_the_shell(tmp_path) -> None:
    done = _shell(
        *["--problem", "digits", "--steps", 3, 5, "--schedules", "edm", "arctan:c=0.5", "--seeds", 0],
        *["--num-images", 64, "--out", tmp_path],
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "quality.png",
        "results.csv",
        "samples_3.png",
        "samples_5.png",
    ]
    rows = _csv(tmp_path / "results.csv")
    assert {r["metric"] for r in rows} == {"rmse", "frechet"}
    assert {r["solver"] for r in rows if r["schedule"] != "floor"} == {"heun"}
    edm_rmse = {
        r["num_steps"]: float(r["mean"]) for r in rows if r["metric"] == "rmse" and r["schedule"] == "edm"
    }
    assert edm_rmse["3"] > edm_rmse["5"] > 0.1
    assert "floor" in done.stdout
    assert "by halving" in done.stdout


def test_a_schedule_file_is_resampled_with_a_note(run, tmp_path) -> None:
    path = tmp_path / "schedule.json"
    edm(8, 0.0, 3.0).save(path)
    small = ["--problem", "gaussian-1d", "--steps", 8, 4, "--schedules", "edm", path]
    code, out, err = run(*small)
    assert code == 0
    assert "edm was made" not in err  # it shares its name with a baseline, so it gets another
    assert "edm (2) was made for K=8; resampled to K=4" in err
    assert "K=8; resampled to K=8" not in err
    lines = [line.split() for line in out.splitlines() if line.strip().startswith("edm") and " 8 " in line]
    assert lines[0][-1] == lines[1][-1]


def test_agents_are_distilled(run, tmp_path, monkeypatch) -> None:
    class Even:
        def predict(self, observation, deterministic=True):
            return np.zeros((len(observation), 1), dtype=np.float32), None

    loading = types.ModuleType("agents.checkpoint")
    loading.load_agent = lambda path, trust_pickle=False, problem=None: (
        Even(),
        Dynamics(problem="gaussian-1d", num_steps=4, reward="euler", base_schedule=3.0),
    )
    monkeypatch.setitem(sys.modules, "agents.checkpoint", loading)
    path = tmp_path / "my_run" / "model.zip"
    path.parent.mkdir()
    path.touch()
    code, out, _ = run("--problem", "gaussian-1d", "--steps", 4, "--schedules", "edm:rho=3", "--agents", path)
    assert code == 0
    values = {line.split()[0]: line.split()[-2:] for line in out.splitlines() if " 4 " in line}
    assert set(values) == {"edm:rho=3", "my_run"}
    assert values["edm:rho=3"] == values["my_run"]


def _error_cases() -> list[tuple[list[object], str]]:
    return [
        (["--problem", "digit"], "Did you mean 'digits'"),
        (["--problem", "gaussian-1d", "--solver", "hen"], "Did you mean 'heun'"),
        (["--problem", "gaussian-1d", "--schedules", "uniform", "emd"], "Did you mean 'edm'"),
        (["--problem", "gaussian-1d", "--schedules", "edm:rho=0"], "positive number"),
        (["--problem", "gaussian-1d", "--schedules", "runs/none/schedule.json"], "no schedule file"),
        (["--problem", "gaussian-1d", "--agents", "runs/none/model.zip"], "no agent file"),
        (["--problem", "gaussian-1d", "--steps", 0], "at least 1"),
        (["--problem", "gaussian-1d", "--final-sigmas-type", "zreo"], "Did you mean 'zero'"),
        (["--problem", "gaussian-1d", "--seeds", 1, 1], "repeats"),
        (["--problem", "gaussian-1d", "--threads", 0], "threads = 0"),
        (["--problem", "gaussian-1d", "--model", "x.safetensors"], "give one of them"),
        (["--problem", "gaussian-1d", "--guidance", 2.0], "give --model too"),
        (["--problem", "gaussian-1d", "--device", "cuda:77"], "is not there"),
        (["--problem", "digits", "--num-images", 20], "num_images = 20"),
        (["--problem", "gaussian-1d", "--out", __file__], "is a file"),
        (["--problem", "gaussian-1d", "--out", f"{__file__}/below"], "--out"),
    ]


@pytest.mark.parametrize(("args", "match"), _error_cases())
def test_errors_are_one_line(run, args: list[object], match: str) -> None:
    code, out, err = run(*args)
    assert code == 2
    assert out == ""
    assert err.startswith("evaluate.py: error: ")
    assert err.count("\n") == 1
    assert match in err


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(run, tmp_path) -> None:
    tmp_path.chmod(0o500)
    code, _, err = run("--problem", "gaussian-1d", "--out", tmp_path / "results")
    assert code == 2
    assert "cannot be made" in err


def test_overwrite_and_failure_in_between(run, tmp_path, monkeypatch) -> None:
    small = ["--problem", "gaussian-1d", "--steps", 2, "--schedules", "edm", "--out", tmp_path]
    assert run(*small)[0] == 0
    before = (tmp_path / "results.csv").read_text()
    assert run(*small, "--overwrite")[0] == 0
    assert (tmp_path / "results.csv").read_text() == before

    def broken(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(comparison, "quality_figure", broken)
    code, _, err = run(*small, "--overwrite")
    assert code == 2
    assert "disk full" in err
    assert (tmp_path / "results.csv").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["quality.png", "results.csv", "samples_2.png"]


def test_what_seeing_the_sample_can_win(run, monkeypatch) -> None:
    import agents.gradient_policy as module

    short = module.train_by_gradients
    monkeypatch.setattr(module, "train_by_gradients", lambda *given: short(*given, updates=4, batch_size=64))
    given = ["--problem", "mixture-2d", "--solver", "learned_2m", "--steps", 2, "--seeds", 0]
    code, out, err = run(*given, "--bound", "change", "denoised", "--schedules", "edm", "oracle")
    assert code == 0, err
    line = next(line.split() for line in out.splitlines() if "bound policy" in line)
    assert 0 < float(line[-1]) <= 1.01
    assert "seeing the sample: with hindsight 0." in err
    code, _, err = run(*given, "--bound", "change", "--schedules", "edm")
    assert code == 2
    assert "--bound change begins at the oracle: add it to --schedules" in err
    code, _, err = run(*given, "--bound", "chnge")
    assert code == 2
    assert "Did you mean 'change'?" in err


def test_a_schedule_with_weights_brings_its_solver(run, tmp_path) -> None:
    schedule = edm(3, 0.002, 80.0)
    weighted = type(schedule)(schedule.sigmas, "mine", {}, np.full((3, 1), 0.5))
    weighted.save(tmp_path / "mine.json")
    given = ["--problem", "digits", "--steps", 3, "--seeds", 0, "--schedules", tmp_path / "mine.json", "edm"]
    code, out, err = run(*given)
    assert code == 0, err
    assert "digits, learned_2m" in out
    # Plain lists have the default weights.
    mine, plain = (next(x.split() for x in out.splitlines() if x.split()[:1] == [n]) for n in ("mine", "edm"))
    assert mine[4] == plain[4]
    code, _, err = run(*given, "--solver", "heun")
    assert code == 2
    assert "solver = 'heun' takes no weights" in err


def test_universal_schedules_bring_their_solver(run) -> None:
    code, out, err = run(
        *(
            "--problem",
            "mixture-2d",
            "--steps",
            5,
            "--seeds",
            0,
            "--schedules",
            "edm",
            "universal",
            "universal_clock",
            "adapted",
        )
    )
    assert code == 0, err
    assert "learned_2m" in out
    assert "adapted" in out
    code, _, err = run("--problem", "mixture-2d", "--steps", 5, 20, "--schedules", "universal")
    assert code == 2
    assert "2 to 12" in err
