"""A training that is stopped at any boundary and goes on ends where it would have ended, to the bit."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train as command
from agents import callbacks
from agents.tensor_file import read_tree
from agents.training import ArtSettings, train
from agents.training.report import write
from art_env._util import files
from art_env._util.termination import Terminated
from art_env.schedules import Schedule
from benchmarks.running import make_settings

ROOT = Path(__file__).parents[2]
TINY = {
    "problem": "mixture-1d",
    "solver": "heun",
    "num_steps": 3,
    "num_envs": 32,
    "num_noises": 64,
    "oracle": False,
    "progress": False,
}


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _stop_after(monkeypatch, rollouts: int) -> None:
    """Let every training die just before its rollout of that number, some rollouts after its last checkpoint."""
    begin, seen = callbacks.CheckpointCallback._on_rollout_start, [0]

    def counted(self) -> None:
        begin(self)
        seen[0] += 1
        if seen[0] > rollouts:
            raise Killed

    monkeypatch.setattr(callbacks.CheckpointCallback, "_on_rollout_start", counted)


def _ends(folder: Path) -> tuple[list[float], dict[str, torch.Tensor], str]:
    agent = read_tree(folder / "agent.safetensors", "agent", "")
    sigmas = Schedule.load(folder / "schedule.json").sigmas.tolist()
    return sigmas, agent["policy"], (folder / "results.csv").read_text()


@pytest.mark.parametrize(
    ("algorithm", "rollouts", "options"),
    [
        ("art", 140, {}),  # long enough for short runs from several starts
        ("art", 20, {"features": ("rms", "turn")}),
        ("art", 20, {"solver": "euler_maruyama", "num_envs": 64, "noise_groups": 4}),
        ("art", 40, {"init": "search"}),
        ("art-paper", 12, {"num_envs": 1, "problem": "gaussian-1d"}),
        ("ppo", 12, {"noise_groups": 4}),
        ("sac", 12, {}),
    ],
)
def test_ends_where_it_would_have_ended(algorithm, rollouts, options, tmp_path, monkeypatch) -> None:
    settings = {**TINY, **options}
    if algorithm == "art-paper":
        settings |= {"iterations": rollouts}
    else:
        settings["total_timesteps"] = rollouts * settings["num_envs"] * 3
    write(train(make_settings(algorithm, **settings, run_dir=tmp_path / "whole")))
    part = make_settings(algorithm, **settings, run_dir=tmp_path / "part")
    with monkeypatch.context() as patch:
        _stop_after(patch, 7 if options.get("init") == "search" else rollouts * 2 // 3)
        with pytest.raises(Killed):
            train(part)
    torch.manual_seed(12345)
    write(train(make_settings(algorithm, resume=tmp_path / "part")))
    (sigmas, policy, scores), (ours, own, table) = (_ends(tmp_path / name) for name in ("whole", "part"))
    assert ours == sigmas
    assert policy.keys() == own.keys()
    assert all(torch.equal(policy[name], own[name]) for name in policy)
    assert table == scores
    numbers = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("whole", "part")]
    assert numbers[0]["denoiser_evals"] == numbers[1]["denoiser_evals"]
    purposes = [{*n["evaluations"]} for n in numbers]
    assert "other" not in purposes[1]
    assert purposes[1] - purposes[0] <= {"resuming"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run of art with a checkpoint and no result; do not change it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = make_settings("art", **TINY, total_timesteps=20 * 96, run_dir=folder)
    with pytest.MonkeyPatch.context() as patch:
        _stop_after(patch, 12)
        with pytest.raises(Killed):
            train(settings)
    return folder


@pytest.fixture
def folder(stopped, tmp_path) -> Path:
    """A copy of it."""
    target = tmp_path / "run"
    for path in stopped.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(stopped)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return target


@pytest.fixture
def call(monkeypatch, capsys):
    """The command in this process: its exit code, and what it said on stderr."""

    def run(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, args)])
        code = command.main()
        return code, capsys.readouterr().err

    return run


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_killed_run_left_is_cleaned_and_nothing_else(folder, call) -> None:
    strays = [folder / ".schedule.abcd1234.png", folder / "checkpoints" / ".checkpoint.a_b2c3d4.safetensors"]
    for path in (*strays, folder / ".gitignore"):
        path.write_text("half")
    code, err = call("--resume", folder)
    assert code == 0, err
    assert list(folder.rglob(".*")) == [folder / ".gitignore"]


def test_an_edited_config_is_refused(folder, call) -> None:
    config = folder / "config.json"
    body = json.loads(config.read_text())
    body["settings"] |= {"solver": "euler", "seed": 3}
    config.write_text(json.dumps(body))
    before = _content(folder)
    for kept in (folder / "checkpoints" / "settings.json", folder / "checkpoints" / "checkpoint.safetensors"):
        code, err = call("--resume", folder)
        assert code == 2
        assert f"the run that {kept} belongs to" in err
        assert "solver = 'euler' (it began with 'heun')" in err
        assert "seed = 3 (it began with 0)" in err
        if kept.suffix == ".json":
            assert _content(folder) == before
            kept.unlink()


@pytest.mark.parametrize(
    "name", ["config.json", "checkpoints/settings.json", "checkpoints/checkpoint.safetensors"]
)
@pytest.mark.parametrize("how", ["empty", "half", "noise", "list"])
def test_damaged_files_are_named(name: str, how: str, folder, call) -> None:
    path = folder / name
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = bytes(b ^ 0xFF for b in data[middle : middle + 32])
    new = {"empty": b"", "half": data[:middle], "list": b"[]"}
    path.write_bytes(new.get(how, data[:middle] + flipped + data[middle + 32 :]))
    code, err = call("--resume", folder)
    assert code == 2
    assert path.name in err
    assert "start a new run" in err
    assert err.count("\n") == 1


def test_a_damaged_record_of_a_search_is_named(tmp_path, call) -> None:
    settings = make_settings("search", **TINY, total_timesteps=20 * 96, run_dir=tmp_path / "run")
    train(settings).run.close()
    record = tmp_path / "run" / "checkpoints" / "search.npz"
    record.write_bytes(record.read_bytes()[:-100])
    code, err = call("--resume", tmp_path / "run")
    assert code == 2
    assert "search.npz cannot be read" in err
    assert "start a new run" in err


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--seed", 0], "--seed"),
        (["--num_steps=5"], "--num-steps"),
        (["--solver", "heun", "--no-oracle"], "--solver, --no-oracle"),
    ],
)
def test_options_beside_resume_are_refused(given, named, folder, call) -> None:
    before = _content(folder)
    for args in (["--resume", folder, *given], [*given, "--resume", folder]):
        code, err = call(*args)
        assert code == 2
        assert f"{named}: the run has its own settings" in err
    code, err = call("sac", "--resume", folder)
    assert (code, "sac: the run has its own settings" in err) == (2, True)
    assert _content(folder) == before


def test_one_process_at_a_time(folder, call, tmp_path) -> None:
    holder = (
        "import sys; from pathlib import Path; from art_env._util.locks import FolderLock\n"
        f"lock = FolderLock(Path({str(folder)!r}), 'x'); print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", holder], cwd=ROOT, **pipes)  # type: ignore[call-overload]
    assert other.stdout.readline() == b"held\n"
    before = _content(folder)
    code, err = call("--resume", folder)
    assert code == 2
    assert f"resume = {str(folder)!r} is in use by another process" in err
    code, err = call("--run-dir", folder)
    assert code == 2
    assert f"run_dir = {str(folder)!r} is in use by another process" in err
    assert _content(folder) == before
    other.kill()
    other.communicate()
    code, err = call("--resume", folder)
    assert code == 0, err


@pytest.mark.parametrize(
    "left", [[], ["checkpoints/"], ["checkpoints/settings.json", ".config.abcd1234.json"]]
)
def test_killed_before_it_began(left, tmp_path, call) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("{")
    code, err = call("--resume", folder)
    assert code == 2
    assert "it was killed at its very beginning: start it again" in err
    train(make_settings("art", **TINY, total_timesteps=5 * 96, run_dir=folder)).run.close()
    assert (folder / "agent.safetensors").is_file()
    assert not list(folder.rglob(".*"))


def test_a_folder_with_something_else_is_left_alone(tmp_path, call) -> None:
    for name in ("mine.txt", ".mine", "checkpoints/mine.txt"):
        folder = tmp_path / name.replace("/", "_")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        code, err = call("--problem", "gaussian-1d", "--run-dir", folder)
        assert code == 2
        assert "already exists" in err
        assert list(_content(folder).values()) == [b"mine"]


def test_a_full_disk_loses_nothing(folder, call, monkeypatch) -> None:
    before = _content(folder / "checkpoints")

    def full(self, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        code, err = call("--resume", folder)
    assert code == 2
    assert "checkpoint.safetensors' (No space left on device); it is as it was before" in err
    assert err.count("\n") == 1
    assert _content(folder / "checkpoints") == before
    code, err = call("--resume", folder)
    assert code == 0, err


def test_a_folder_that_is_removed_while_it_runs(folder, call, monkeypatch) -> None:
    make = files.tempfile.mkstemp
    monkeypatch.setattr(files.tempfile, "mkstemp", lambda **given: _gone(folder, make, given))
    code, err = call("--resume", folder)
    assert code == 2
    assert "cannot write checkpoint.safetensors: folder" in err
    assert "No such file or directory" in err
    assert err.count("\n") == 1


def _gone(folder: Path, make, given):
    """Remove the folder, then make a file in it."""
    for held in sorted(folder.rglob("*"), reverse=True):
        held.rmdir() if held.is_dir() else held.unlink()
    if folder.is_dir():
        folder.rmdir()
    return make(**given)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(folder, call) -> None:
    for place in (folder / "checkpoints", folder):
        place.chmod(0o500)
    code, err = call("--resume", folder)
    for place in (folder, folder / "checkpoints"):
        place.chmod(0o700)
    assert code == 2
    assert str(folder) in err
    assert err.count("\n") == 1


def _start(*args: object, **options) -> subprocess.Popen[str]:
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "train.py", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        **options,
    )


def test_a_limit_on_the_size_of_files(folder) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    before = _content(folder / "checkpoints")
    child = _start("--resume", folder, preexec_fn=limit)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 2
    # matplotlib may have said before that it builds its cache of fonts
    last = err.splitlines()[-1]
    assert "File too large" in last
    assert str(folder) in last
    assert "Traceback" not in err
    assert _content(folder / "checkpoints") == before


@pytest.mark.parametrize("kind", ["start", "resume"])
def test_of_two_at_once_one_goes_on(kind: str, folder, tmp_path) -> None:
    """Two starts of one folder, or two that go on with it, in real processes: the other changes nothing."""
    run = folder if kind == "resume" else tmp_path / "new"
    short = ["art", *LONG, "--total-timesteps", 12_800, "--no-progress", "--run-dir", run]
    children = [_start(*(short if kind == "start" else ["--resume", run])) for _ in range(2)]
    errors = [child.communicate(timeout=600)[1].splitlines() for child in children]
    assert sorted(child.returncode for child in children) == [0, 2]
    refused = errors[0 if children[0].returncode else 1][-1]
    assert str(run) in refused
    assert any(text in refused for text in ("in use", "already exists", "is finished"))
    assert (run / "summary.json").is_file()
    assert not list(run.rglob(".*"))


LONG = ["--problem", "gaussian-1d", "--num-steps", 4, "--num-envs", 32, "--num-noises", 64, "--no-oracle"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("algorithm", ["art", "search"])
def test_signals(algorithm: str, number: int, code: int, tmp_path) -> None:
    """SIGTERM writes a checkpoint first, far from the next one that was due."""
    folder = tmp_path / "run"
    child = _start(algorithm, *LONG, "--total-timesteps", 100_000_000, "--run-dir", folder)
    began = time.monotonic()
    log = folder / "progress.csv"
    try:
        # The first line comes before the first update, which does not take long then.
        while not log.is_file() or log.read_text().count("\n") < 2:
            assert child.poll() is None, child.communicate()
            assert time.monotonic() - began < 60
            time.sleep(0.02)
        time.sleep(1.0)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == code
    # matplotlib may have said before that it builds its cache of fonts
    assert err.endswith("train.py: interrupted; go on with --resume and the run folder\n")
    assert not list(folder.rglob(".*"))
    name = "checkpoint.safetensors" if algorithm == "art" else "search.npz"
    if number == signal.SIGTERM:
        assert (folder / "checkpoints" / name).is_file()


def test_ctrl_c_during_the_imports() -> None:
    child = _start("--problem", "gaussian-1d")
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode in (130, -signal.SIGINT)  # the latter: in Python's own start
    assert "agents" not in err


def test_sigterm_in_a_library_call_waits_for_the_boundary(tmp_path, monkeypatch) -> None:
    from art_env._util import termination

    begin, seen = callbacks.CheckpointCallback._on_rollout_start, [0]

    def counted(self) -> None:
        seen[0] += 1
        if seen[0] == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        begin(self)

    monkeypatch.setattr(callbacks.CheckpointCallback, "_on_rollout_start", counted)
    settings = make_settings("art", **TINY, total_timesteps=400 * 96, run_dir=tmp_path / "run")
    assert isinstance(settings, ArtSettings)
    with termination.handled(), pytest.raises(Terminated):
        train(settings)
    kept = read_tree(tmp_path / "run" / "checkpoints" / "checkpoint.safetensors", "checkpoint", "")
    assert kept["training"]["model"]["num_timesteps"] == 7 * 96
