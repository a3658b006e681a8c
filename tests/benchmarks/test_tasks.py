"""Trainings of benchmarks as tasks: here, and on Ray's workers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from art_env.schedules import Schedule
from benchmarks import tasks as module
from benchmarks.scaling import Args as ScalingArgs
from benchmarks.scaling import Line, table, trainings
from benchmarks.tasks import Tasks

TINY: dict[str, Any] = {"problem": "gaussian-1d", "solver": "euler", "num_steps": 2, "num_envs": 16}
TINY |= {"noise_groups": 4, "total_timesteps": 320, "oracle": False}


def test_one_worker_trains_here_when_it_is_asked(tmp_path) -> None:
    run = Tasks().train(tmp_path / "run", "art", **TINY)
    assert not (tmp_path / "run").exists()
    assert run()["env_steps"] == 320


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers = 0"):
        Tasks(0)


def test_files_of_another_machine_are_unpacked_once(tmp_path) -> None:
    """A worker without our disk trains in a temporary folder; what comes back is a finished run here."""
    elsewhere = tmp_path / "not" / "there" / "run"
    files = module._trained_files(elsewhere, "art", TINY)
    assert not elsewhere.exists()
    assert {"schedule.json", "progress.csv", "summary.json"} == files.keys()
    folder = tmp_path / "run"
    summary = module._kept(folder, files, "art", TINY)
    assert summary["env_steps"] == 320
    assert Schedule.load(folder / "schedule.json").num_steps == 2
    (folder / "schedule.json").write_text("mine")
    assert module._kept(folder, files, "art", TINY) == summary
    assert (folder / "schedule.json").read_text() == "mine"


def test_one_worker_and_two_take_turns() -> None:
    listed = list(trainings(ScalingArgs(num_envs=(64, 512), repeats=2)))
    assert [w for name, _, _, w in listed if name == "search"] == [1, 2, 2, 1] * 4
    assert [(rows, w) for name, rows, _, w in listed if name == "art"] == [
        (rows, w) for rows in (64, 512) for w in (1, 2, 2, 1)
    ]


def test_the_table_of_scaling() -> None:
    lines = [
        Line("art", 64, 1, 0, 10.0, 1.0, 8.0, 9.0, 0.5, "0.25 0.5"),
        Line("art", 64, 2, 0, 6.0, 1.0, 4.0, 5.0, 0.5, "0.25 0.5000001"),
        Line("art", 512, 1, 0, 9.0, 1.0, 8.0, 9.0, 0.5, "0.25 0.5"),
        Line("art", 512, 2, 0, 9.0, 1.0, 8.0, 9.0, 0.5, "0.25 0.5"),
    ]
    rows = [line.strip("| ").split(" | ") for line in table(lines).splitlines()[2:]]
    assert [row[:2] for row in rows] == [[f"art, {n} rows", w] for n in (64, 512) for w in "12"]
    assert rows[1][-4:] == ["1.67", "1.80", "0.5", "1e-07"]
    assert rows[3][-4:] == ["1.00", "1.00", "0.5", "0"]


@pytest.fixture(scope="module")
def two() -> Iterator[Tasks]:
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield Tasks(2, os.environ.get("RAY_ADDRESS"))
    ray.shutdown()


def dies_once(mark: Path) -> str:
    """Kill this process the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@pytest.mark.slow
def test_a_task_whose_worker_is_killed_is_done_again(two: Tasks, tmp_path) -> None:
    runs = [two.submit(dies_once, tmp_path / name) for name in ("a", "b")]
    assert [run() for run in runs] == ["done", "done"]


@pytest.mark.slow
def test_trainings_at_once_are_those_of_one_process(two: Tasks, tmp_path) -> None:
    runs = [two.train(tmp_path / f"two{seed}", "art", **TINY, seed=seed) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        alone = Tasks().train(tmp_path / f"one{seed}", "art", **TINY, seed=seed)()
        assert run()["rmse"] == alone["rmse"]
        found = [Schedule.load(tmp_path / f"{n}{seed}" / "schedule.json").sigmas for n in ("one", "two")]
        assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.slow
def test_a_training_that_is_refused_says_why(two: Tasks, tmp_path) -> None:
    run = two.train(tmp_path / "run", "art", **TINY, learning_rate=-1)
    with pytest.raises(ValueError, match=r"^learning_rate = -1 must be"):
        run()
