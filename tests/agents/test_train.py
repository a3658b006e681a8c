"""The command line of train.py: what a run leaves behind, resuming after a kill, and bad input."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

import train
from agents.checkpoint import load_agent, read_settings
from agents.tensor_file import read_tree
from agents.training import Training, report
from art_env.evaluation.evaluator import Evaluator
from art_env.problems import problem as problems
from art_env.problems.library import make_problem
from art_env.schedules import Schedule
from art_env.schedules.registry import make_schedule
from benchmarks.running import make_settings

ROOT = Path(__file__).parents[2]
# 10 updates of 32 rows of 4 steps: seconds.
GAUSSIAN = ["--problem", "gaussian-1d", "--solver", "euler", "--reward", "euler", "--num-steps", 4]
TINY = [*GAUSSIAN, "--num-envs", 32, "--no-progress"]
STEPS = 10 * 32 * 4
ARTEFACTS = {
    "config.json",
    "progress.csv",
    "checkpoints",
    "agent.safetensors",
    "schedule.json",
    "schedule.png",
    "samples.png",
    "results.csv",
    "summary.json",
}
PNG = b"\x89PNG\r\n\x1a\n"


def _environ() -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def _shell(*args: object, script: str = "train.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=_environ())


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: fast."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()

    def call(*args: object, script: str = "train") -> tuple[int, str, str]:
        module = importlib.import_module(script)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, args)])
        try:
            code = module.main()
        except SystemExit as stop:
            code = stop.code
        text = capsys.readouterr()
        return code, text.out, text.err

    yield call
    torch.set_num_threads(threads)


def _check_folder(folder: Path) -> dict:
    """Every artefact is there, whole and of its kind; the summary."""
    names = {p.name for p in folder.iterdir()}
    assert names >= ARTEFACTS
    assert any(name.startswith("events.out.tfevents") for name in names)
    for name in ("schedule.png", "samples.png"):
        data = (folder / name).read_bytes()
        assert data.startswith(PNG)
        assert data.endswith(b"IEND\xaeB`\x82")
    config = json.loads((folder / "config.json").read_text())
    assert {"algorithm", "settings", "argv", "versions", "git_commit"} <= config.keys()
    schedule = Schedule.load(folder / "schedule.json")
    _, dynamics = load_agent(folder / "agent.safetensors", config["algorithm"])
    agent = read_settings(folder / "agent.safetensors")
    summary = json.loads((folder / "summary.json").read_text())
    wanted = {"problem", "solver", "num_steps", "reward", "seed", "ratio", "rmse", "seconds"}
    assert wanted | {"denoiser_evals", "env_steps"} <= summary.keys()
    for key in ("problem", "solver", "reward", "seed"):
        assert summary[key] == config["settings"][key]
    assert [summary["num_steps"]] == config["settings"]["num_steps"]
    assert summary["env_steps"] == agent["num_timesteps"]
    assert summary["denoiser_evals"] >= summary["env_steps"]
    told = summary["evaluations"]
    assert told["training"] == summary["denoiser_evals"]
    assert told["total"] == sum(told.values()) - told["total"]
    assert summary["rmse"] > 0
    assert summary["seconds"] > 0
    assert schedule.num_steps == summary["num_steps"] == dynamics.num_steps
    assert schedule.meta["seed"] == summary["seed"]
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = [float(r["mean"]) for r in rows if r["schedule"] == schedule.name and r["metric"] == "rmse"]
    assert own == [pytest.approx(summary["rmse"], rel=1e-6)]
    assert {"uniform", "log_snr", "edm", "closed_form", schedule.name} <= {r["schedule"] for r in rows}
    return summary


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of art on gaussian-1d from the shell."""
    folder = tmp_path_factory.mktemp("runs") / "new" / "one"
    done = _shell(*TINY, "--total-timesteps", STEPS, "--seed", 5, "--run-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_run_folder(finished) -> None:
    folder, done = finished
    summary = _check_folder(folder)
    assert summary["problem"] == "gaussian-1d"
    assert summary["env_steps"] == STEPS
    assert summary["seed"] == 5
    assert 1.0 <= summary["ratio"] < 1.5
    assert str(folder) in done.stdout
    for name in ("uniform", "log_snr", "edm", "closed_form", "oracle", "ratio", "rmse", "NFE"):
        assert name in done.stdout
    assert "Traceback" not in done.stderr
    assert not list(folder.rglob(".*"))  # no temporary file is left
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"checkpoint.safetensors", "settings.json"}


def test_logs_of_a_run(finished) -> None:
    folder, _ = finished
    with (folder / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert [int(row["time/total_timesteps"]) for row in rows] == [128 * n for n in range(11)]
    assert {"rollout/ep_rew_mean", "train/std", "train/critic_loss", "art/ratio"} <= rows[0].keys()
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    wanted = {"rollout/ep_rew_mean", "train/critic_loss", "train/std", "art/ratio", "art/rmse"}
    assert wanted <= set(tags["scalars"])
    assert "art/schedule" in tags["images"]


def test_same_seed_same_sigmas(finished, run, tmp_path) -> None:
    folder, _ = finished
    sigmas = Schedule.load(folder / "schedule.json").sigmas
    for seed, same in ((5, True), (6, False)):
        args = [*TINY, "--total-timesteps", STEPS, "--seed", seed, "--run-dir", tmp_path / str(seed)]
        code, _, err = run(*args, "--no-oracle")
        assert code == 0, err
        again = Schedule.load(tmp_path / str(seed) / "schedule.json").sigmas
        assert (again == sigmas).all() == same


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_other_algorithms(algorithm: str, run, tmp_path) -> None:
    args = [algorithm, *TINY, "--total-timesteps", 5 * 32 * 4, "--run-dir", tmp_path / "run", "--no-oracle"]
    code, out, err = run(*args)
    assert code == 0, err
    summary = _check_folder(tmp_path / "run")
    assert summary["algorithm"] == algorithm
    assert summary["env_steps"] == 640
    assert summary["ratio"] is None
    assert f"  {algorithm} " in out


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_other_algorithms_with_a_group_baseline(algorithm: str, run, tmp_path) -> None:
    args = [algorithm, "--noise-groups", 8, "--problem", "mixture-1d", "--num-steps", 3, "--num-envs", 32]
    args += ["--num-noises", 64, "--total-timesteps", 10 * 32 * 3, "--no-oracle", "--no-progress"]
    code, _, err = run(*args, "--run-dir", tmp_path / "run")
    assert code == 0, err
    _check_folder(tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["noise_groups"] == 8
    with (tmp_path / "run" / "progress.csv").open(newline="") as file:
        logged = [row["rollout/ep_rew_mean"] for row in csv.DictReader(file)]
    # True returns, minus squared errors: relative ones have the mean 0.
    assert all(float(value) < -1e-3 for value in logged if value)
    assert any(logged)


def test_the_paper_s_algorithm(run, tmp_path) -> None:
    args = ["art-paper", "--iterations", 20, "--num-steps", 6, "--run-dir", tmp_path / "run", "--no-oracle"]
    code, _, err = run(*args, "--no-progress")
    assert code == 0, err
    summary = _check_folder(tmp_path / "run")
    assert (summary["algorithm"], summary["problem"], summary["solver"]) == (
        "art-paper",
        "gaussian-1d",
        "euler",
    )
    assert summary["env_steps"] == 120


def test_mixture_with_features_and_heun(run, tmp_path) -> None:
    args = ["--problem", "mixture-1d", "--num-steps", 3, "--num-envs", 32, "--total-timesteps", 960]
    args += [
        "--features",
        "rms",
        "log_velocity",
        "--num-noises",
        64,
        "--final-sigmas-type",
        "zero",
        "--no-oracle",
        "--solver",
        "heun",
    ]
    code, out, err = run(*args, "--base-schedule", 7, "--no-progress", "--run-dir", tmp_path / "run")
    assert code == 0, err
    summary = _check_folder(tmp_path / "run")
    assert (summary["solver"], summary["reward"], summary["final_sigmas_type"]) == ("heun", "global", "zero")
    assert summary["nfe"] == 5
    assert Schedule.load(tmp_path / "run" / "schedule.json").meta["features"] == ["rms", "log_velocity"]
    assert "own error" in out
    # The policy itself is scored too, on the noises of the schedules.
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        rows = {r["metric"]: float(r["mean"]) for r in csv.DictReader(file) if r["schedule"] == "art policy"}
    assert rows == {m: pytest.approx(summary[f"policy_{m}"], rel=1e-6) for m in ("rmse", "w2")}
    assert summary["policy_ratio"] is None


def test_several_numbers_of_steps_are_trained_one_after_the_other(run, tmp_path, monkeypatch) -> None:
    integrated = []
    real = problems._reference
    monkeypatch.setattr(problems, "_reference", lambda *args: integrated.append(args[1:]) or real(*args))
    folder = tmp_path / "run"
    args = ["--problem", "mixture-1d", "--num-steps", 4, 2, "--num-envs", 32, "--num-noises", 64]
    args += [
        "--solver",
        "heun",
        "--total-timesteps",
        10 * 32 * 4,
        "--no-oracle",
        "--no-progress",
        "--run-dir",
        folder,
    ]
    code, out, err = run(*args)
    assert code == 0, err
    assert sorted(p.name for p in folder.iterdir()) == ["K02", "K04"]
    for K, nfe in ((2, 3), (4, 7)):
        assert f"K = {K}," in out
        summary = _check_folder(folder / f"K0{K}")
        assert (summary["num_steps"], summary["nfe"]) == (K, nfe)
    # Both ask for the same exact trajectories, which are kept in memory.
    assert len(set(integrated)) == len(set(integrated[: len(integrated) // 2]))


def test_less_than_one_episode(run, tmp_path) -> None:
    args = ["--problem", "mixture-1d", "--num-steps", 4, "--num-envs", 32, "--total-timesteps", 127]
    code, _, err = run(*args, "--run-dir", tmp_path / "run")
    assert code == 2
    assert "less than one episode of every row, 128" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algorithm", ["art", "sac"])
def test_killed_and_resumed(algorithm: str, run, tmp_path) -> None:
    folder = tmp_path / "run"
    total = 20 * 32 * 4
    args = [algorithm, *TINY, "--total-timesteps", total, "--run-dir", folder, "--seed", 2]
    args += ["--no-oracle"] if algorithm == "sac" else []
    command = [sys.executable, "train.py", *map(str, args)]
    log = (tmp_path / "log.txt").open("w")
    child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=_environ())
    checkpoint = folder / "checkpoints" / "checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.is_file():
        assert child.poll() is None, (tmp_path / "log.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    log.close()
    assert not (folder / "summary.json").exists()
    assert not (folder / "schedule.json").exists()
    before = read_tree(checkpoint, "checkpoint", "")
    assert 0 < before["training"]["model"]["num_timesteps"] < total
    config = (folder / "config.json").read_text()

    # Not finished: its schedule cannot be scored.
    out = tmp_path / "out"
    schedule = folder / "schedule.json"
    args = ["--problem", "gaussian-1d", "--steps", 4, "--schedules", "edm", schedule, "--out", out]
    code, _, err = run(*args, script="evaluate")
    assert code == 2
    assert "schedule.json" in err
    assert err.count("\n") == 1
    assert not out.exists()

    # Nor can another run go there.
    code, _, err = run(*TINY, "--run-dir", folder)
    assert code == 2
    assert "--resume" in err
    assert (folder / "config.json").read_text() == config

    code, text, err = run("--resume", folder)
    assert code == 0, err
    assert "going on from" in text
    summary = _check_folder(folder)
    assert summary["algorithm"] == algorithm
    assert summary["env_steps"] == total
    assert summary["seed"] == 2
    assert summary["seconds"] > before["spent"]["seconds"]
    assert summary["denoiser_evals"] > before["training"]["env"]["denoiser_evals"]
    assert (folder / "config.json").read_text() == config
    assert [p.name for p in folder.glob("progress*.csv")] == ["progress.csv"]


def test_resume_before_the_first_checkpoint_starts_over(finished, run, tmp_path) -> None:
    source, _ = finished
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    code, _, err = run("--resume", folder)
    assert code == 0, err
    _check_folder(folder)
    ours, theirs = (Schedule.load(f / "schedule.json").sigmas for f in (folder, source))
    assert (ours == theirs).all()


def test_resume_of_what_cannot_be_resumed(finished, run, tmp_path) -> None:
    source, _ = finished
    held = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    code, _, err = run("--resume", source)
    assert code == 2
    assert "is finished" in err
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == held
    for folder in (tmp_path, tmp_path / "missing"):
        code, _, err = run("--resume", folder)
        assert code == 2
        assert "is not a run folder" in err
    assert not list(tmp_path.iterdir())
    old = '{"algorithm": "art", "settings": {"clock": "7"}}'  # of a version with other names
    several = '{"algorithm": "art", "settings": {"num_steps": [3, 5]}}'
    for text in ("{", "[]", '{"algorithm": "art"}', '{"algorithm": "artt", "settings": {}}', old, several):
        (tmp_path / "config.json").write_text(text)
        code, _, err = run("--resume", tmp_path)
        assert code == 2
        assert "config.json" in err
        assert err.count("\n") == 1
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_run_folder_that_exists(finished, run, tmp_path) -> None:
    source, _ = finished
    held = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    code, _, err = run(*TINY, "--run-dir", source)
    assert code == 2
    assert re.search(r"run_dir = .* already exists; .*--resume", err)
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == held
    (tmp_path / "file").write_text("mine")
    code, _, err = run(*TINY, "--run-dir", tmp_path / "file")
    assert code == 2
    assert "already exists" in err
    assert (tmp_path / "file").read_text() == "mine"


BAD = [
    (["--problem", "gausian-1d"], "unknown problem 'gausian-1d'. Did you mean 'gaussian-1d'"),
    (["--solver", "huen"], "unknown solver 'huen'. Did you mean 'heun'"),
    (["--reward", "globl"], "unknown reward 'globl'. Did you mean 'global'"),
    (["--features", "rmss"], "unknown feature 'rmss'. Did you mean 'rms'"),
    (["--base-schedule", "closed"], "unknown base_schedule 'closed'. Did you mean 'closed_form'"),
    (["--final-sigmas-type", "zeros"], "unknown final_sigmas_type 'zeros'. Did you mean 'zero'"),
    (["--num-steps", 0], r"num_steps.*0"),
    (["--num-steps", -3], r"num_steps.*-3"),
    (["--problem", "mixture-1d", "--sigma-min", 90], r"sigma_min.*90"),
    (["--problem", "mixture-1d", "--sigma-min", 0], r"sigma_min.*0"),
    (["--problem", "mixture-1d", "--sigma-max", "nan"], r"sigma_max.*nan"),
    (["--problem", "mixture-1d", "--sigma-max", "inf"], r"sigma_max.*inf"),
    (["--sigma-max", "nan"], r"sigma_max.*nan"),
    (["--action-range", 0], r"action_range = 0"),
    (["--num-noises", 0, "--reward", "global"], r"num_noises.*0"),
    (["--num-envs", -32], r"num_envs.*-32"),
    (["--num-envs", 30], r"noise_groups = 16 must divide num_envs = 30"),
    (["--noise-groups", 0], r"noise_groups = 0"),
    (["--total-timesteps", 5], r"total_timesteps = 5"),
    (["--total-timesteps", -5], r"total_timesteps = -5"),
    (["--threads", 0], r"threads = 0"),
    (["--seed", -1], r"seed = -1"),
    (["--eval-seeds", 1, 1], r"seed"),
    (["--device", "gpu"], r"device = 'gpu'"),
    (["--std-start", 0], r"std_start = 0"),
    (["--learning-rate", "nan"], r"(?i)learning.rate.*nan"),
    (["--num-stps", 5], r"num-stps"),
]


@pytest.mark.parametrize(
    ("args", "match"), BAD, ids=lambda v: "_".join(map(str, v)) if type(v) is list else ""
)
def test_bad_input(args, match: str, run, tmp_path) -> None:
    code, out, err = run(*TINY, *args, "--run-dir", tmp_path / "run")
    assert code == 2
    assert re.search(match, err), err
    assert "Traceback" not in err + out
    assert not list(tmp_path.iterdir())  # nothing half-written


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["sac", "--target-entropy", "nan"], "target_entropy = nan"),
        (["sac", "--learning-rate", 0], "learning_rate = 0"),
        (["ppo", "--std-start", -1], "std_start = -1"),
        (["ppo", "--noise-groups", 0], "noise_groups = 0 must be at least 1"),
        (["ppo", "--noise-groups", 16, "--num-envs", 30], "noise_groups = 16 must divide num_envs = 30; use"),
        (["sac", "--noise-groups", 7], "noise_groups = 7 must divide num_envs = 256; use"),
    ],
)
def test_bad_input_of_the_others(args, match: str, run, tmp_path) -> None:
    code, _, err = run(*args, "--problem", "gaussian-1d", "--run-dir", tmp_path / "run")
    assert code == 2
    assert match in err
    assert not list(tmp_path.iterdir())


def _new_model(*options: object) -> BaseAlgorithm:
    given = ("--problem", "gaussian-1d", "--solver", "heun", "--num-steps", "3")
    settings = train.parse([*map(str, options), *given])
    training = Training(settings)
    return settings.make_model(training.make_env(0), training.total_timesteps)


def test_settings_reach_ppo_and_sac() -> None:
    ppo = _new_model("ppo", "--learning-rate", 0.004, "--std-start", 0.3)
    assert isinstance(ppo, PPO)
    assert ppo.policy.log_std.exp().tolist() == pytest.approx([0.3])
    sac = _new_model("sac", "--learning-rate", 0.002, "--target-entropy", -2)
    assert isinstance(sac, SAC)
    assert sac.target_entropy == -2
    for model, rate in ((ppo, 0.004), (sac, 0.002)):
        assert [model.lr_schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([rate, rate / 2, 0.0])


@pytest.mark.parametrize(("K", "episodes"), [(5, 1000), (10, 1000), (20, 2000)])
def test_many_steps_take_longer_training(K: int, episodes: int) -> None:
    settings = train.parse(["--problem", "mixture-1d", "--num-steps", str(K)])
    assert settings.size(make_problem("mixture-1d"), False) == (1024, episodes * 1024 * K)


@pytest.mark.parametrize(
    ("options", "rows", "episodes"),
    [
        ("--problem gaussian-1d", 256, 300),
        ("--problem mixture-2d", 1024, 1000),
        ("--problem digits", 64, 1200),
        ("sac --problem digits", 64, 1200),
        ("--problem digits --num-envs 128", 128, 600),
        ("--problem mixture-1d --solver euler_maruyama", 4096, 75),
        ("--problem digits --solver edm_churn", 1024, 300),
    ],
)
def test_default_rows_and_episodes(options: str, rows: int, episodes: int) -> None:
    """As many env steps whatever the rows are."""
    training = Training(train.parse([*options.split(), "--num-steps", "3", "--num-noises", "256"]))
    assert (training.total_timesteps, training.num_envs) == (episodes * rows * 3, rows)


@pytest.mark.parametrize(("option", "value"), [("total_timesteps", 100), ("noise_groups", 7)])
def test_sizes_are_checked_before_anything_is_integrated(option, value, run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(problems, "_reference", lambda *_: pytest.fail("integrated"))
    code, _, err = run("--" + option.replace("_", "-"), value, "--run-dir", tmp_path / "run")
    assert code == 2
    assert f"{option} = {value}" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [["--num-stps", 5], ["artpaper"], ["sac", "--std-start", 1, "--sead", 0]])
def test_unknown_option_and_algorithm(args, run, tmp_path) -> None:
    code, _, err = run(*args, "--run-dir", tmp_path / "run")
    assert code == 2
    assert re.search("did you mean|perhaps you meant|similar", err, re.IGNORECASE), err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_bad_name_from_the_shell(tmp_path) -> None:
    done = _shell("--problem", "digit", "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"train\.py: error: unknown problem 'digit'. Did you mean 'digits'.*\n", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_cuda_that_is_not_there(device: str, run, tmp_path) -> None:
    code, _, err = run(*TINY, "--device", device, "--run-dir", tmp_path / "run")
    assert code == 2
    assert f"device = '{device}' is not there" in err
    assert "'cpu'" in err
    assert not list(tmp_path.iterdir())


def test_run_folder_that_cannot_be_made(run, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "run"]
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        places.append(closed / "run")
    for place in places:
        code, _, err = run(*TINY, "--run-dir", place)
        assert code == 2
        assert "run_dir" in err
        assert str(place) in err
        assert err.count("\n") == 1


def test_evaluate_scores_a_policy_that_sees_the_trajectory(run, tmp_path) -> None:
    """At its own K and solver alone; on another problem too."""
    folder = tmp_path / "run"
    settings = ("--problem", "mixture-1d", "--solver", "euler", "--num-steps", 4, "--features", "rms", "turn")
    sizes = (
        "--num-noises",
        64,
        "--num-envs",
        32,
        "--total-timesteps",
        10 * 32 * 4,
        "--no-oracle",
        "--no-progress",
    )
    code, _, err = run(*settings, *sizes, "--run-dir", folder)
    assert code == 0, err
    for problem in ("mixture-1d", "mixture-2d"):
        out = tmp_path / problem
        args = (
            "--problem",
            problem,
            "--solver",
            "euler",
            "--steps",
            3,
            4,
            "--seeds",
            0,
            "--schedules",
            "edm",
        )
        code, _, err = run(*args, "--agents", folder / "agent.safetensors", "--out", out, script="evaluate")
        assert code == 0, err
        with (out / "results.csv").open(newline="") as file:
            rows = [
                r for r in csv.DictReader(file) if r["schedule"] == "run policy" and r["metric"] == "rmse"
            ]
        assert [r["num_steps"] for r in rows] == ["4"]
        assert 0 < float(rows[0]["mean"]) < 5
    summary = json.loads((folder / "summary.json").read_text())
    with (tmp_path / "mixture-1d" / "results.csv").open(newline="") as file:
        (own,) = (
            float(r["mean"])
            for r in csv.DictReader(file)
            if r["schedule"] == "run policy" and r["metric"] == "rmse"
        )
    assert own == pytest.approx(summary["policy_rmse"], rel=1e-6)


def test_evaluate_takes_the_agent(finished, run, tmp_path) -> None:
    folder, _ = finished
    args = ["--problem", "gaussian-1d", "--steps", 4, 8, "--schedules", "edm", folder / "schedule.json"]
    code, out, err = run(
        *args, "--agents", folder / "agent.safetensors", "--out", tmp_path / "out", script="evaluate"
    )
    assert code == 0, err
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"] == "rmse" and r["num_steps"] == "4"]
    values = {r["schedule"]: float(r["mean"]) for r in rows}
    summary = json.loads((folder / "summary.json").read_text())
    assert values["art"] == pytest.approx(summary["rmse"], rel=1e-6)
    assert values[folder.name] == pytest.approx(summary["rmse"], rel=1e-6)
    assert values["edm"] > values["art"]
    assert "resampled to K=8" in err
    assert folder.name in out


def test_evaluate_lets_an_agent_act_on_another_problem(finished, run, tmp_path) -> None:
    """Its speeds are kept and its clock is the new problem's, which differs from the old list of noise levels."""
    folder, _ = finished
    args = ["--problem", "mixture-1d", "--solver", "euler", "--steps", 4, "--schedules", "closed_form", "edm"]
    code, _, err = run(*args, "--agents", folder / "agent.safetensors", "--out", tmp_path, script="evaluate")
    assert code == 0, err
    with (tmp_path / "results.csv").open(newline="") as file:
        values = {r["schedule"]: float(r["mean"]) for r in csv.DictReader(file) if r["metric"] == "rmse"}
    assert values["closed_form"] / 1.5 < values[folder.name] < values["edm"]


def test_killed_while_writing_is_never_half(run, tmp_path, monkeypatch) -> None:
    """An error while the pictures are drawn leaves no summary, so the run counts as unfinished."""
    monkeypatch.syspath_prepend(str(ROOT))

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(report, "samples_figure", broken)
    args = [*TINY, "--total-timesteps", 640, "--no-oracle", "--run-dir", tmp_path / "run"]
    code, _, err = run(*args)
    assert code == 2
    assert "disk full" in err
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(ROOT))
    code, _, err = run("--resume", tmp_path / "run")
    assert code == 0, err
    assert np.isfinite(_check_folder(tmp_path / "run")["rmse"])


def test_a_model_of_ones_own(run, tmp_path) -> None:
    """A file of weights, by path; resumed and evaluated by the same path."""
    weights = ROOT / "art_env" / "models" / "digits_small.safetensors"
    tiny = ["--num-steps", 2, "--solver", "euler", "--num-envs", 16, "--num-noises", 16, "--no-progress"]
    folder = tmp_path / "own"
    code, out, err = run("--model", weights, *tiny, "--total-timesteps", 64, "--run-dir", folder)
    assert code == 0, err
    assert "ratio" not in out  # gradients through a model of unknown size are for those who ask
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["problem"], summary["ratio"]) == ("digits_small", None)
    _, dynamics = load_agent(folder / "agent.safetensors")
    assert dynamics.problem.shape == (1, 8, 8)
    assert read_settings(folder / "agent.safetensors")["num_timesteps"] == 64
    schedule = folder / "schedule.json"
    again = [
        "--model",
        weights,
        "--solver",
        "euler",
        "--steps",
        2,
        "--schedules",
        "edm",
        schedule,
        "--seeds",
        0,
    ]
    code, out, err = run(*again, "--agents", folder / "agent.safetensors", script="evaluate")
    assert code == 0, err
    assert "digits_small" in out


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--model", "x.safetensors", "--problem", "mixture-1d"], "give one of them"),
        (["--model", "{digits}", "--guidance", 2.0], "guidance"),
        (["--class-label", 3], "class_label = 3: .* --model"),
        (["--model", "{digits}", "--sigma-max", 500.0], "sigma_max"),
        (["--model", "{pickle}"], "trust_pickle"),
    ],
)
def test_bad_models(args, match: str, run, tmp_path) -> None:
    pickle = tmp_path / "net.pkl"
    pickle.write_bytes(b"\x80\x04N.")
    names = {"{digits}": ROOT / "art_env" / "models" / "digits_small.safetensors", "{pickle}": pickle}
    code, _, err = run(*(names.get(a, a) for a in args), "--run-dir", tmp_path / "run")
    assert code == 2
    assert re.search(match, err)
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_model_of_diffusers_without_diffusers(run, tmp_path, monkeypatch) -> None:
    for part in ("", "scheduler"):
        (tmp_path / "net" / part).mkdir(parents=True, exist_ok=True)
    (tmp_path / "net" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / "net" / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDPMScheduler"}')
    monkeypatch.setitem(sys.modules, "diffusers", None)
    code, _, err = run("--model", tmp_path / "net", "--run-dir", tmp_path / "run")
    assert code == 2
    assert "art-rl[diffusers]" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("features", [(), ("--features", "rms")])
def test_a_policy_begins_where_a_search_ended(features, run, tmp_path) -> None:
    args = ["--problem", "mixture-1d", "--num-steps", 3, "--num-envs", 64, "--num-noises", 64, "--no-oracle"]
    args += ["--total-timesteps", 40 * 64 * 3, *features, "--no-progress"]
    code, _, err = run(*args, "--init", "search", "--run-dir", tmp_path / "run")
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # Half of them are the search's, which may end before it has used all of its own.
    assert 20 * 64 * 3 < summary["env_steps"] <= 40 * 64 * 3
    assert (tmp_path / "run" / "checkpoints" / "search.npz").is_file()


def test_a_policy_that_begins_where_a_search_ended_explores_narrowly() -> None:
    for init, expected in (("base", (0.05, 0.18)), ("search", (0.005, 0.03))):
        sizes = {"num_envs": 64, "num_noises": 64}
        settings = make_settings("art", problem="mixture-1d", solver="heun", init=init, **sizes)
        model = settings.make_model(Training(settings).make_env(0), 1000)
        assert (model.learning_rate, model.std_start) == expected
    assert replace(settings, std_start=0.1).make_model(model.env, 1000).std_start == 0.1


def test_rows_by_default() -> None:
    """Fewer with features, but not where groups of samples are compared."""
    problem, features = make_problem("mixture-1d"), ("rms",)
    plain, seeing = (
        make_settings("art", problem="mixture-1d", solver="heun", features=f) for f in ((), features)
    )
    rows, total = plain.size(problem, False)
    assert seeing.size(problem, False) == (256, total)
    assert rows > 256
    assert seeing.size(problem, True)[0] == plain.size(problem, True)[0]
    assert replace(seeing, num_envs=512).size(problem, False) == (512, total)


def test_a_policy_begins_with_a_schedule(run, tmp_path) -> None:
    given = tmp_path / "given.json"
    Schedule(np.array([80.0, 7.0, 1.5, 0.002]), "given").save(given)
    settings = train.parse(
        ["--problem", "mixture-1d", "--num-steps", "3", "--num-envs", "64", "--init", str(given)]
    )
    training = Training(settings)
    model = training.new_model(training.make_env(0))
    assert training.schedule(model).sigmas == pytest.approx([80.0, 7.0, 1.5, 0.002], rel=1e-5)
    code, _, err = run("--init", tmp_path / "missing.json", "--run-dir", tmp_path / "run")
    assert code == 2
    assert "no schedule file" in err
    code, _, err = run("--init", "serach", "--run-dir", tmp_path / "run")
    assert code == 2
    assert "unknown init 'serach'. Did you mean 'search'" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("evolution --problem random-mixtures", "the search finds one list; use base_schedule=7"),
        ("art --init search --problem random-mixtures", "the search finds one list; use base_schedule=7"),
        ("evolution --solver euler_maruyama --num-envs 32", "here a group is 2 rows"),
    ],
)
def test_what_a_search_cannot_do_is_refused_before_a_folder_is_made(run, tmp_path, args, message) -> None:
    code, _, err = run(
        *(*args.split(), "--num-noises", 64, "--total-timesteps", 6000, "--run-dir", tmp_path / "run")
    )
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_an_agent_that_diverges_says_so(run, tmp_path, algorithm) -> None:
    """Else the error is the distribution's, that ``loc`` is NaN."""
    options = (
        "--problem mixture-1d --num-envs 16 --num-noises 64 --total-timesteps 1000 --no-oracle --no-progress"
    )
    code, _, err = run(
        *(
            algorithm,
            "--learning-rate",
            10,
            *options.split(),
            "--num-images",
            64,
            "--run-dir",
            tmp_path / "run",
        )
    )
    assert (code, err.count("\n")) == (2, 1)
    assert f"{algorithm} diverged within" in err
    assert "use a smaller learning_rate than 10" in err
    # What it did is in the log.
    assert (tmp_path / "run" / "progress.csv").is_file()


@pytest.mark.parametrize(("effort", "name", "least"), [("none", "universal", 0), ("quick", "adapted", 800)])
def test_without_training(run, tmp_path, effort, name, least) -> None:
    """The schedule is the one that suits many models, and is called so."""
    folder = tmp_path / "run"
    code, out, err = run(
        *("--effort", effort, "--problem", "mixture-2d", "--run-dir", folder, "--no-progress", "--no-oracle")
    )
    assert code == 0, err
    schedule = Schedule.load(folder / "schedule.json")
    assert (schedule.name, schedule.solver) == (name, "learned_2m")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["algorithm"], summary["env_steps"]) == (name, 0)
    evaluations = summary["denoiser_evals"]
    assert least <= evaluations <= 1.25 * least
    assert summary["solver"] == "learned_2m"
    assert f"{evaluations:,} denoiser evaluations" in out
    assert not (folder / "agent.safetensors").exists()


@pytest.mark.parametrize(("end", "name"), [("sigma_min", "edm"), ("zero", "edm:zero=replace")])
def test_other_solvers_stand_on_edms_list(run, tmp_path, end, name) -> None:
    """Where lists end at 0, on the list without the step that EDM's own convention wastes."""
    folder = tmp_path / "run"
    options = ("--problem", "mixture-1d", "--final-sigmas-type", end, "--num-steps", 3, "--eval-seeds", 0)
    code, _, err = run("--effort", "none", *options, "--run-dir", folder, "--no-progress", "--no-oracle")
    assert code == 0, err
    with (folder / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if ", " in row["schedule"] and row["metric"] == "rmse"]
    assert [row["schedule"] for row in rows] == [f"{name}, dpmpp_2m", f"{name}, heun"]
    problem = make_problem("mixture-1d", final_sigmas_type=end)
    edm = make_schedule(name, problem, 3)
    for row, solver in zip(rows, ("dpmpp_2m", "heun"), strict=True):
        (score,) = Evaluator(problem, solver, (0,), metrics=()).rows(edm)
        assert float(row["mean"]) == pytest.approx(score.mean, rel=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--effort", "some"), "Known: none, quick, full"),
        (("--effort", "none", "--solver", "heun"), "use solver='learned_2m'"),
        (("--effort", "quick", "--num-steps", 20), "2 to 12"),
        (("--effort", "none", "--problem", "gaussian-1d"), "train.py --effort quick"),
    ],
)
def test_efforts_that_there_are_no_tables_for(run, args, message) -> None:
    code, _, err = run(*args)
    assert code == 2
    assert message in err
