"""The oracle in a file is believed only where it is the one that would be found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem


@pytest.fixture(scope="module")
def mixture() -> Problem:
    return replace(make_problem("mixture-1d"), num_noises=64, num_knots=33)


@pytest.fixture(scope="module")
def kept(mixture, tmp_path_factory) -> Path:
    """The file of an oracle; do not change it."""
    path = tmp_path_factory.mktemp("oracle") / "oracle.json"
    Evaluator(mixture, "heun", (0,)).oracle(2, path)
    return path


def _edited(kept: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    body = json.loads(kept.read_text())
    change(body)
    (folder / "oracle.json").write_text(json.dumps(body))
    return folder / "oracle.json"


def _without_names(body: dict[str, Any]) -> None:
    """As earlier versions wrote it."""
    for name in ("problem", "seed"):
        del body["meta"][name]


def test_it_is_read_again(mixture, kept, tmp_path) -> None:
    before = kept.read_text()
    evaluator = Evaluator(mixture, "heun", (0,))
    evaluator.oracle(2, kept)
    assert kept.read_text() == before
    evaluator.oracle(2, _edited(kept, tmp_path, _without_names))


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"num_steps": 3}, "num_steps = 2, and here it is 3"),
        ({"solver": "euler"}, "solver = 'heun', and here it is 'euler'"),
        ({"seeds": (1,)}, "seed = 0, and here it is 1"),
        ({"problem": {"name": "other"}}, "problem = 'mixture-1d', and here it is 'other'"),
        ({"problem": {"sigma_max": 40.0, "prior_std": 40.0}}, "sigma_max"),
    ],
)
def test_that_of_another_run_is_refused(other, text, mixture, kept) -> None:
    problem = replace(mixture, **other.get("problem", {}))
    evaluator = Evaluator(problem, other.get("solver", "heun"), other.get("seeds", (0,)))
    with pytest.raises(ValueError, match="does not hold the oracle of this run") as refused:
        evaluator.oracle(other.get("num_steps", 2), kept)
    assert text in str(refused.value)
    assert f"{kept}" in str(refused.value)
    assert "delete the file" in str(refused.value)


@pytest.mark.parametrize("seed", [1, 2])
def test_its_error_tells_another_seed_set_where_the_file_does_not(seed, mixture, kept, tmp_path) -> None:
    old = _edited(kept, tmp_path, _without_names)
    with pytest.raises(ValueError, match=r"rmse = 0\.\d+, and here it is 0\.\d+"):
        Evaluator(mixture, "heun", (seed,)).oracle(2, old)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda body: body["sigmas"].__setitem__(1, 30.0), "rmse = "),
        (lambda body: body["meta"].__setitem__("rmse", "0.1"), "rmse = '0.1'"),
        (lambda body: body["meta"].pop("rmse"), "rmse = None"),
        (lambda body: body.__setitem__("sigmas", [1.0]), "sigmas"),
    ],
)
def test_an_edited_one_is_refused(change, text, mixture, kept, tmp_path) -> None:
    path = _edited(kept, tmp_path, change)
    with pytest.raises(ValueError, match="does not hold the oracle of this run") as refused:
        Evaluator(mixture, "heun", (0,)).oracle(2, path)
    assert text in str(refused.value)


def test_that_of_a_linear_problem(tmp_path) -> None:
    """Its scores are exact, and the error of its oracle is over noises."""
    evaluator = Evaluator(make_problem("gaussian-1d"), "heun", (0,))
    found = evaluator.oracle(2, tmp_path / "oracle.json")
    assert evaluator.oracle(2, tmp_path / "oracle.json") == found
