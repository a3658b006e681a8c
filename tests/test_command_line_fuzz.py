"""Command lines of odd values: usage, one line of error, or settings that make sense; never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import HOW_MANY, run
from hypothesis import strategies as st

import evaluate
import train
from agents.training import Settings
from art_env.export.__main__ import LEARNED_TARGETS, TARGETS
from art_env.export.__main__ import main as export
from art_env.schedules import Schedule

VALUES = st.one_of(
    st.sampled_from(
        ["0", "1", "-1", "3", "0.5", "1e-300", "1e308", "nan", "inf", "-inf", "1000000000", "1e9", "", "None"]
    ),
    st.sampled_from(["mps", "meta", "cuda:-1", "cpu", "euler", "learned_2m", "edm", "edm:rho=1e-300", "dp:"]),
    st.sampled_from(["arctan:c=1e300", "gits:coefficient=nan", "sdm:q=1e-9", "universal_clock:noises=1.5"]),
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
)


class Reached(Exception):
    """Every check has passed: the long part would begin."""


def call(main, argv: list[str], monkeypatch) -> tuple[int | None, str]:
    """Exit code (None: the long part was reached) and what it says on stderr."""
    monkeypatch.setattr(sys, "argv", ["program.py", *argv])
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main()
        except SystemExit as stop:  # tyro's usage
            return int(stop.code or 0), ""
        except Reached:
            return None, ""
    return code, err.getvalue()


def check_error(code: int | None, err: str) -> None:
    """An error is one line."""
    assert code in (0, 2, None)
    if code == 2 and err:
        assert err.count("\n") == 1
        assert ": error: " in err
        assert "codec can't decode" not in err
        assert len(err) < 2000


TRAIN = [
    *(
        "--solver",
        "--num-steps",
        "--reward",
        "--base-schedule",
        "--action-range",
        "--sigma-min",
        "--sigma-max",
    ),
    *("--num-noises", "--total-timesteps", "--num-envs", "--seed", "--threads", "--device", "--num-images"),
    *("--learning-rate", "--std-start", "--std-end", "--gae-lambda", "--noise-groups", "--init", "--effort"),
    *("--final-sigmas-type", "--guidance", "--class-label", "--starts", "--target-entropy", "--iterations"),
]


@HOW_MANY
def test_train(examples, monkeypatch):
    def checked(settings: Settings, say: object) -> None:
        problem = settings.env_config().make_problem()
        rows, total = settings.size(problem, False)
        assert 1 <= rows <= 1_000_000
        assert total >= rows * settings.num_steps[0]
        assert settings.num_steps[0] <= 10_000
        assert settings.threads <= 1024
        assert 1e-9 <= problem.sigma_max <= 1e9
        for name in settings.positive:
            value = getattr(settings, name)
            assert value is None or 0 < value <= 10
        raise Reached

    monkeypatch.setattr(train, "train", checked)

    def check(given: tuple) -> None:
        kind, problem, options = given
        argv = [kind, "--problem", problem, *(text for pair in options for text in pair)]
        check_error(*call(train.main, argv, monkeypatch))

    kinds = st.sampled_from(["art", "search", "sac", "ppo", "art-paper"])
    problems = st.sampled_from(["gaussian-1d", "mixture-1d"])
    run(check, st.tuples(kinds, problems, options_of(TRAIN)), examples)


def options_of(names: list[str]) -> st.SearchStrategy:
    return st.lists(st.tuples(st.sampled_from(names), VALUES), max_size=3, unique_by=lambda pair: pair[0])


EVALUATE = [
    *(
        "--solver",
        "--steps",
        "--schedules",
        "--agents",
        "--bound",
        "--seeds",
        "--final-sigmas-type",
        "--metrics",
    ),
    *("--num-images", "--threads", "--device", "--guidance", "--class-label", "--prompt-embeds"),
]


@HOW_MANY
def test_evaluate(examples, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(evaluate.torch, "set_num_threads", lambda n: None)

    def reached(evaluator, steps, names, given, *rest):
        assert all(1 <= K <= 10_000 for K in steps)
        raise Reached

    monkeypatch.setattr(evaluate, "compare", reached)

    def check(given: tuple) -> None:
        problem, options = given
        argv = ["--problem", problem, *(text for pair in options for text in pair)]
        check_error(*call(evaluate.main, argv, monkeypatch))

    run(check, st.tuples(st.sampled_from(["gaussian-1d", "mixture-1d"]), options_of(EVALUATE)), examples)
    assert torch.get_num_threads() == threads


def test_a_model_file_in_the_place_of_a_schedule(tmp_path, monkeypatch):
    path = tmp_path / "model.zip"
    path.write_bytes(b"PK\x03\x04" + np.arange(256, dtype=np.uint8).tobytes())
    code, err = call(evaluate.main, ["--problem", "gaussian-1d", "--schedules", str(path)], monkeypatch)
    assert code == 2
    assert f"{path}: not a text file; give the schedule.json of a run" in err
    assert "--agents" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--std-start", "1e308"], "std_start = 1e+308 must be at most 10; actions lie in [-1, 1]"),
        (["--num-steps", "1000000000"], "num_steps = 1000000000 must be at most 10000"),
        (["--base-schedule", "1e-300"], "base_schedule = 1e-300 must lie between 0.1 and 1000"),
        (["--device", "mps"], "device = 'mps' is not supported (it has no float64); use 'cpu'"),
        (["--device", "meta"], "device = 'meta' is not supported (its tensors have no values); use 'cpu'"),
        (["--action-range", "1100"], "action_range = 1100.0 must lie between 1e-06 and 50"),
        (["--threads", "1000000"], "threads = 1000000 must be at most 1,024"),
        (["--num-envs", "1000000000"], "num_envs = 1000000000 must be at most 1,000,000"),
    ],
)
def test_numbers_out_of_range(argv, message, monkeypatch):
    code, err = call(train.main, ["--problem", "gaussian-1d", *argv], monkeypatch)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@HOW_MANY
def test_export(examples, monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    files = {
        "zero": Schedule([80.0, 3.0, 0.5, 0.0], meta={"solver": "heun"}).to_json(),
        "min": Schedule([14.0, 3.0, 0.5, 0.03]).to_json(),
        "flow": Schedule([999.0, 3.0, 0.5, 0.0], space="flow").to_json(),
        "middle": Schedule([2.0, 0.5, 0.0]).to_json(),
        "weights": Schedule([14.0, 3.0, 0.0], weights=[[0.0], [0.5]]).to_json(),
        "deep": "[" * 100_000,
        "odd": "{}",
        "ddpm": json.dumps({"_class_name": "DDPMScheduler", "clip_sample": True}),
        "shifted": json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}),
        "bad": json.dumps({"_class_name": "EulerDiscreteScheduler", "beta_start": float("nan")}),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    paths = st.sampled_from([str(folder / name) for name in (*files, "binary", "missing")])
    targets = st.one_of(st.sampled_from(sorted({*TARGETS, *LEARNED_TARGETS})), VALUES)
    options = st.lists(
        st.one_of(
            st.tuples(st.just("--scheduler-config"), paths),
            st.tuples(
                st.sampled_from(["--shift", "--space"]), st.one_of(VALUES, st.sampled_from(["ve", "flow"]))
            ),
            st.tuples(st.just("--image-to-image")),
        ),
        max_size=2,
    )
    warned = "export: warning: "

    def check(given: tuple) -> None:
        path, target, more = given
        argv = [path, "--to", target, *(text for pair in more for text in pair)]
        code, err = call(export, argv, monkeypatch)
        lines = [line for line in err.splitlines(keepends=True) if not line.startswith(warned)]
        check_error(code, "".join(lines))
        assert Path(path).name not in ("deep", "odd", "binary", "missing") or code == 2

    run(check, st.tuples(paths, targets, options), examples)
