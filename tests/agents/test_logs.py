"""What a training writes while it goes on: TensorBoard's events and progress.csv."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from agents import callbacks
from agents.schedule_search.objective import Objective
from agents.step_grid import StepGrid
from agents.training import train
from agents.training.report import write
from agents.training.run_log import STEP, Progress
from benchmarks.running import make_settings

# 40 updates of 32 rows of 4 steps.
SMALL = {
    "problem": "gaussian-1d",
    "solver": "heun",
    "num_steps": 4,
    "num_envs": 32,
    "num_noises": 64,
    "total_timesteps": 40 * 32 * 4,
    "progress": False,
}
ALGORITHMS = ("art", "ppo", "sac", "search", "evolution")
CURVES = ("art/rmse", "art/ratio", "time/denoiser_evals")


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _run(algorithm: str, folder: Path, **options) -> Path:
    write_and_close(train(make_settings(algorithm, **{**SMALL, **options}, run_dir=folder)))
    return folder


def write_and_close(result) -> None:
    write(result)
    result.run.close()


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "images"), 0))
    return events.Reload()


def _curve(folder: Path, tag: str) -> dict[int, float]:
    """A curve by step, each of which is there once."""
    points = _events(folder).Scalars(tag)
    steps = [point.step for point in points]
    assert steps == sorted(set(steps))
    return {point.step: point.value for point in points}


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=ALGORITHMS)
def finished(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, _run(request.param, tmp_path_factory.mktemp("runs") / request.param)


def test_curves_have_many_points_from_the_first_step_to_the_last(finished) -> None:
    algorithm, folder = finished
    summary = json.loads((folder / "summary.json").read_text())
    for tag in CURVES:
        curve = _curve(folder, tag)
        assert min(curve) == 0
        assert max(curve) == summary["env_steps"]
        # The search by least squares has converged after fewer updates than that.
        assert len(curve) >= (5 if algorithm == "search" else 21)
    assert _curve(folder, "art/ratio")[summary["env_steps"]] == pytest.approx(summary["ratio"], rel=0.2)
    assert _curve(folder, "time/denoiser_evals")[summary["env_steps"]] == summary["denoiser_evals"]


def test_the_table_has_the_lines_of_the_events(finished) -> None:
    _, folder = finished
    rows = _rows(folder)
    steps = [int(row[STEP]) for row in rows]
    assert steps == sorted(set(steps))
    assert set(steps) == set(_curve(folder, "time/denoiser_evals"))
    measured = {int(row[STEP]): float(row["art/rmse"]) for row in rows if row["art/rmse"]}
    assert measured == pytest.approx(_curve(folder, "art/rmse"), rel=1e-6)


def test_pictures_stand_at_their_steps(finished) -> None:
    _, folder = finished
    events, end = _events(folder), max(_curve(folder, "art/rmse"))
    tags = ["art/samples", "art/schedule", "art/speed_and_weights", "art/step_errors"]
    assert sorted(events.Tags()["images"]) == tags
    for tag in tags:
        steps = [picture.step for picture in events.Images(tag)]
        assert (steps[0], steps[-1]) == (0, end)
        assert set(steps) <= set(_curve(folder, "art/rmse"))


def test_the_result_comes_first_and_no_step_has_a_card_of_its_own(finished) -> None:
    _, folder = finished
    tags = sorted(tag for kind in ("scalars", "images") for tag in _events(folder).Tags()[kind])
    assert tags[:2] == ["art/ratio", "art/rmse"]
    assert not [tag for tag in tags if "step_0" in tag]


def test_constant_lines(finished) -> None:
    algorithm, folder = finished
    known = {name: _curve(folder / name, "art/ratio") for name in ("edm", "closed_form", "oracle")}
    for line in known.values():
        assert list(line) == [0, SMALL["total_timesteps"]]
        assert len(set(line.values())) == 1
    assert known["oracle"][0] == 1
    assert known["edm"][0] > known["closed_form"][0] > 1
    if algorithm != "sac":  # which explores at random first
        assert _curve(folder, "art/ratio")[0] == pytest.approx(known["closed_form"][0], rel=0.1)


def test_settings_beside_the_result(finished) -> None:
    algorithm, folder = finished
    metadata = _events(folder).summary_metadata
    told = {
        kind: HParamsPluginData.FromString(metadata[f"_hparams_/{kind}"].plugin_data.content)
        for kind in ("experiment", "session_start_info")
    }
    hparams = told["session_start_info"].session_start_info.hparams
    assert hparams["algorithm"].string_value == algorithm
    assert hparams["solver"].string_value == "heun"
    assert hparams["num_envs"].number_value == 32
    metrics = {info.name.tag for info in told["experiment"].experiment.metric_infos}
    assert metrics == {"art/ratio", "art/rmse"}


def test_learning_rates_and_what_stands_for_them(finished) -> None:
    algorithm, folder = finished
    search = algorithm in ("search", "evolution")
    tag, other = ("train/step_size", "train/learning_rate")[:: 1 if search else -1]
    assert other not in _events(folder).Tags()["scalars"]
    sizes = list(_curve(folder, tag).values())
    assert len(sizes) >= (4 if algorithm == "search" else 20)
    assert min(sizes) >= 0
    assert max(sizes) > sizes[-1]
    if search:
        assert max(sizes) < 2  # actions lie between -1 and 1
        assert ("train/damping" if algorithm == "search" else "train/std") in _events(folder).Tags()[
            "scalars"
        ]


def test_a_very_short_run_has_a_point_at_every_update(tmp_path) -> None:
    folder = _run("art", tmp_path / "run", total_timesteps=5 * 128, oracle=False)
    assert list(_curve(folder, "art/rmse")) == [128 * n for n in range(6)]
    assert "art/ratio" not in _events(folder).Tags()["scalars"]


def test_a_policy_that_sees_the_sample_has_a_curve_of_its_own(tmp_path) -> None:
    folder = _run("art", tmp_path / "run", features=("rms", "turn"), oracle=False)
    curve = _curve(folder, "art/policy_rmse")
    assert list(curve) == list(_curve(folder, "art/rmse"))
    summary = json.loads((folder / "summary.json").read_text())
    assert curve[summary["env_steps"]] == pytest.approx(summary["policy_rmse"], rel=0.2)
    assert list(_curve(folder / "edm", "art/policy_rmse")) == [0, SMALL["total_timesteps"]]


def test_a_stochastic_solver_is_measured_by_distance(tmp_path) -> None:
    folder = _run(
        "art",
        tmp_path / "run",
        solver="euler_maruyama",
        num_envs=64,
        noise_groups=4,
        total_timesteps=20 * 64 * 4,
    )
    assert len(_curve(folder, "art/sliced_w2")) == 21
    assert "art/step_errors" not in _events(folder).Tags()["images"]


@pytest.mark.parametrize("algorithm", ["art", "sac"])
def test_a_resumed_run_continues_its_curves(algorithm: str, tmp_path, monkeypatch) -> None:
    whole = _run(algorithm, tmp_path / "whole", oracle=False)
    begin, seen = callbacks.CheckpointCallback._on_rollout_start, [0]

    def counted(self) -> None:
        seen[0] += 1
        if seen[0] > 27 * (4 if algorithm == "sac" else 1):
            raise Killed
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.CheckpointCallback, "_on_rollout_start", counted)
        with pytest.raises(Killed):
            _run(algorithm, tmp_path / "part", oracle=False)
    write_and_close(train(make_settings(algorithm, resume=tmp_path / "part")))
    for tag in ("art/rmse", "time/denoiser_evals", "train/learning_rate"):
        assert _curve(tmp_path / "part", tag) == _curve(whole, tag)
    rows = [[(row[STEP], row["art/rmse"]) for row in _rows(tmp_path / name)] for name in ("whole", "part")]
    assert rows[0] == rows[1]
    assert not list((tmp_path / "part").glob("progress_*"))


@pytest.mark.parametrize("algorithm", ["search", "evolution"])
def test_a_resumed_search_continues_its_curves(algorithm: str, tmp_path, monkeypatch) -> None:
    whole = _curve(_run(algorithm, tmp_path / "whole", oracle=False), "art/rmse")
    ask, seen = Objective._episodes, [0]

    def counted(self, *args):
        seen[0] += 1
        if seen[0] > 20:
            raise Killed
        return ask(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "_episodes", counted)
        with pytest.raises(Killed):
            _run(algorithm, tmp_path / "part", oracle=False)
    write_and_close(train(make_settings(algorithm, resume=tmp_path / "part")))
    part = _curve(tmp_path / "part", "art/rmse")
    # Where it goes on a schedule may be measured once more.
    assert part.keys() >= whole.keys()
    assert len(part) <= len(whole) + 1
    assert {step: part[step] for step in whole} == whole


INIT_SEARCH = {"problem": "mixture-1d", "init": "search", "oracle": False, "total_timesteps": 160 * 128}


@pytest.fixture(scope="module")
def begun_by_search(tmp_path_factory) -> Path:
    return _run("art", tmp_path_factory.mktemp("runs") / "run", **INIT_SEARCH)


def test_the_search_that_an_agent_begins_with_is_the_first_part_of_its_curves(begun_by_search) -> None:
    folder, half = begun_by_search, INIT_SEARCH["total_timesteps"] // 2
    summary = json.loads((folder / "summary.json").read_text())
    end, before = summary["env_steps"], summary["env_steps"] - half
    assert 0 < before <= half  # a search that has converged leaves a part of its budget
    errors, evaluations = _curve(folder, "art/rmse"), _curve(folder, "time/denoiser_evals")
    for curve in (errors, evaluations):
        assert {0, before, end} <= curve.keys()
        assert len([step for step in curve if step < before]) >= 5
        assert len([step for step in curve if step > before]) >= 20
    assert list(evaluations.values()) == sorted(evaluations.values())
    assert evaluations[0] == 0
    assert evaluations[end] == summary["denoiser_evals"]
    # The agent begins with the result of the search.
    assert errors[before] == pytest.approx(min(e for step, e in errors.items() if step <= before), rel=0.1)
    assert errors[before] < errors[0] / 2
    assert max(_curve(folder, "train/damping")) <= before < min(_curve(folder, "train/learning_rate"))
    steps = [int(row[STEP]) for row in _rows(folder)]
    assert steps == list(evaluations)


@pytest.mark.parametrize("part", ["search", "agent"])
def test_a_resumed_run_that_begins_with_a_search_continues_its_curves(
    part: str, begun_by_search, tmp_path, monkeypatch
) -> None:
    place, name = {
        "search": (Objective, "_episodes"),
        "agent": (callbacks.CheckpointCallback, "_on_rollout_start"),
    }[part]
    go_on, seen = getattr(place, name), [0]

    def counted(self, *args):
        seen[0] += 1
        if seen[0] > (30 if part == "search" else 47):
            raise Killed
        return go_on(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, counted)
        with pytest.raises(Killed):
            _run("art", tmp_path / "run", **INIT_SEARCH)
    write_and_close(train(make_settings("art", resume=tmp_path / "run")))
    for tag in ("art/rmse", "time/denoiser_evals", "train/learning_rate"):
        whole, resumed = (_curve(folder, tag) for folder in (begun_by_search, tmp_path / "run"))
        assert {step: resumed[step] for step in whole} == whole
        # Where a search goes on a schedule may be measured once more.
        assert len(resumed) <= len(whole) + (part == "search")
    steps = [int(row[STEP]) for row in _rows(tmp_path / "run")]
    assert steps == list(_curve(tmp_path / "run", "time/denoiser_evals"))


@pytest.mark.parametrize(("total", "unit"), [(5120, 128), (640, 128), (1000, 7), (3, 1)])
def test_a_grid_of_steps(total: int, unit: int) -> None:
    steps = range(0, total, unit)
    whole = StepGrid(total, 20)
    due = [step for step in steps if whole.due(step)]
    assert due[0] == 0
    assert len(due) in (20, 21) if len(steps) >= 20 else due == list(steps)
    for done in steps[1:]:
        rest = StepGrid(total, 20, done)
        assert [s for s in steps if s > done and rest.due(s)] == [s for s in due if s > done]


def test_half_a_line_is_dropped(tmp_path) -> None:
    path = tmp_path / "progress.csv"
    path.write_text(f"art/rmse,{STEP}\n0.5,0\n,100\n0.3,200\n0.2,1")
    log = Progress(path, 200)
    log.write({STEP: 200, "x": 1.0}, {STEP: None, "x": None}, 200)
    log.close()
    assert [(row["art/rmse"], row[STEP], row["x"]) for row in _rows(tmp_path)] == [
        ("0.5", "0", ""),
        ("", "100", ""),
        ("", "200", "1.0"),
    ]


@pytest.mark.parametrize(("track", "package"), [("wandb", "wandb"), ("trackio", "tbparse")])
def test_a_tracker_that_is_not_installed(track: str, package: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", sys.modules[__name__])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"track = '{track}' needs the package {package} .*; pip install "):
        train(make_settings("art", **SMALL, track=track, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker() -> None:
    with pytest.raises(ValueError, match="unknown track 'wand'"):
        make_settings("art", **SMALL, track="wand")
