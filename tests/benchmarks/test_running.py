"""Trainings that benchmarks start, in tiny runs."""

from __future__ import annotations

from typing import Any

import pytest

from art_env.schedules import Schedule
from benchmarks.running import run_training, short_training

TINY: dict[str, Any] = {
    "problem": "gaussian-1d",
    "solver": "euler",
    "num_steps": 2,
    "num_envs": 16,
    "seed": 3,
}
TINY |= {"noise_groups": 4, "total_timesteps": 320}


def test_a_finished_run_is_not_made_again_and_a_broken_one_is(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{broken")
    summary = run_training(folder, "art", **TINY, oracle=False)
    assert (summary["env_steps"], summary["seed"], summary["ratio"]) == (320, 3, None)
    assert not (folder / "oracle.json").exists()
    (folder / "config.json").unlink()
    assert run_training(folder, "art", **TINY, oracle=False) == summary
    assert not (folder / "config.json").exists()
    assert capsys.readouterr().out == ""


def test_a_short_training_ends_with_the_schedule_of_a_run(tmp_path):
    summary = run_training(tmp_path / "run", "art", **TINY, oracle=False)
    schedule, seconds, evaluations = short_training("art", **TINY)
    assert schedule.sigmas == pytest.approx(Schedule.load(tmp_path / "run" / "schedule.json").sigmas)
    assert seconds > 0
    assert evaluations == summary["denoiser_evals"]


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown algorithm 'arts'"):
        short_training("arts")
    with pytest.raises(ValueError, match="learning_rate = -1"):
        run_training(tmp_path / "run", "art", **TINY, learning_rate=-1)
