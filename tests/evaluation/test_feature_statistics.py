"""Statistics of features in place of images: the same distances, floors, files, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from art_env.evaluation import Evaluator, FeatureStatistics
from art_env.evaluation.features import Features
from art_env.evaluation.metrics import frechet_distance
from art_env.networks.classifier import DIGIT_FEATURES
from art_env.networks.data import digit_images
from art_env.networks.weights import write_safetensors
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules.registry import make_schedule

DIM = 6


def draw(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Features whose entries depend on each other."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, DIM)) @ np.triu(np.ones((DIM, DIM))) + shift


@pytest.fixture(scope="module")
def digits() -> Problem:
    torch.set_num_threads(1)
    return make_problem("digits")


@pytest.fixture(scope="module")
def kept(digits: Problem, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """The digits without their images."""
    path = tmp_path_factory.mktemp("kept") / "digits_statistics.safetensors"
    real = Features(DIGIT_FEATURES)(digit_images()[0])
    FeatureStatistics.with_floors(real, 300, seed=0).save(path)
    return replace(digits, data=None, num_data=None, statistics=path, metrics=("frechet",))


def test_distances_are_those_of_the_features() -> None:
    real, other = draw(400, 0), draw(300, 1, 0.2)
    statistics = FeatureStatistics.of(real)
    assert statistics.count == 400
    assert statistics.distance(other) == pytest.approx(frechet_distance(other, real), rel=1e-12)
    np.testing.assert_allclose(statistics.mean, real.mean(0))
    np.testing.assert_allclose(statistics.covariance, np.cov(real, rowvar=False))
    assert statistics.distance(real) == pytest.approx(0, abs=1e-10)


def test_floors_are_draws_from_the_same_images() -> None:
    real = draw(500, 0)
    statistics = FeatureStatistics.with_floors(real, 100, seed=3, sets=4)
    rng = np.random.default_rng(3)
    expected = [frechet_distance(real[rng.integers(0, 500, 100)], real) for _ in range(4)]
    assert statistics.floors == pytest.approx(expected, rel=1e-9)
    assert (statistics.floor_size, statistics.floor_seed) == (100, 3)
    assert statistics.floors_of(100) == statistics.floors
    assert FeatureStatistics.of(real).floors_of(100) == ()


def test_floors_of_another_size_are_scaled() -> None:
    """By the inverse of the size: no worse than a fifth off here."""
    real = draw(2000, 0)
    small, large = (FeatureStatistics.with_floors(real, n, seed=n, sets=40) for n in (200, 1000))
    assert np.mean(small.floors_of(1000)) == pytest.approx(np.mean(large.floors), rel=0.2)


def test_files(tmp_path: Path) -> None:
    statistics = FeatureStatistics.with_floors(draw(200, 0), 50, seed=1, sets=3)
    path = tmp_path / "statistics.safetensors"
    statistics.save(path, {"command": "python"})
    again = FeatureStatistics.load(path)
    assert np.array_equal(again.mean, statistics.mean)
    assert np.array_equal(again.covariance, statistics.covariance)
    assert (again.count, again.floors, again.floor_size, again.floor_seed) == (200, statistics.floors, 50, 1)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no weights at .*statistics\.safetensors; make it"):
        FeatureStatistics.load(path, "make it")
    FeatureStatistics.of(draw(50, 0)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"truncated or not a safetensors file.*write it again"):
        FeatureStatistics.load(path)
    with pytest.raises(ValueError, match="does not hold a feature-statistics"):
        FeatureStatistics.load(DIGIT_FEATURES)
    head: dict[str, Any] = {"kind": "feature-statistics", "count": 5, "floors": [], "floor_size": 0}
    tensors = {"mean": torch.zeros(3), "covariance": torch.eye(2)}
    write_safetensors(path, tensors, head)
    with pytest.raises(ValueError, match=r"lacks a part of the statistics \('floor_seed'\)"):
        FeatureStatistics.load(path)
    write_safetensors(path, tensors, head | {"floor_seed": 0})
    with pytest.raises(ValueError, match=r"a mean of shape \(3,\) and a covariance of shape \(2, 2\), not"):
        FeatureStatistics.load(path)


def test_bad_features() -> None:
    statistics = FeatureStatistics.of(draw(50, 0))
    with pytest.raises(ValueError, match="features has 6 rows of 6 features"):
        FeatureStatistics.of(draw(6, 0))
    with pytest.raises(ValueError, match="sets = 0 must be at least 1"):
        FeatureStatistics.with_floors(draw(50, 0), 20, 0, sets=0)
    with pytest.raises(ValueError, match="one set has 5 features and the other 6"):
        statistics.distance(draw(50, 0)[:, :5])
    with pytest.raises(ValueError, match="not finite"):
        statistics.distance(np.full((50, DIM), np.nan))


def test_a_problem_without_images_scores_as_one_with_them(digits: Problem, kept: Problem) -> None:
    schedule = make_schedule("edm", digits, 4, "euler")
    scores = []
    for problem in (digits, kept):
        evaluator = Evaluator(problem, "euler", (0, 1), num_images=100, num_noises=4, metrics=("frechet",))
        scores.append({r.metric: (r.mean, r.sd) for r in evaluator.rows(schedule)})
    assert scores[0]["frechet"] == pytest.approx(scores[1]["frechet"], rel=1e-9)
    assert scores[0]["rmse"] == scores[1]["rmse"]
    with pytest.raises(ValueError, match="has no data"):
        kept.sample_data(1, 0)


def test_floor_without_images(digits: Problem, kept: Problem) -> None:
    (floor,) = Evaluator(kept, "heun", (0,), num_images=300, num_noises=4).floor()
    assert (floor.metric, floor.schedule, floor.n, floor.nfe) == ("frechet", "floor", 10, 0)
    with_images = Evaluator(digits, "heun", range(10), num_images=300, num_noises=4, metrics=("frechet",))
    assert floor.mean == pytest.approx(with_images.floor()[0].mean, rel=0.2)
    (half,) = Evaluator(kept, "heun", (0,), num_images=600, num_noises=4).floor()
    assert half.mean == pytest.approx(floor.mean / 2)
    assert Evaluator(kept, "heun", (0,), metrics=()).floor() == []


def test_stochastic_solvers_are_scored_by_the_statistics_too(kept: Problem) -> None:
    evaluator = Evaluator(kept, "euler_maruyama", (0,), num_images=100, num_noises=4)
    (row,) = evaluator.rows(make_schedule("edm", kept, 4, "euler_maruyama"))
    assert row.metric == "frechet"
    assert row.mean > 1


def test_what_needs_images_is_refused(kept: Problem, digits: Problem) -> None:
    for metric in ("fid", "sliced_w2"):
        with pytest.raises(ValueError, match=f"unknown metric of 'digits' '{metric}'"):
            Evaluator(kept, "heun", (0,), metrics=(metric,))
    with pytest.raises(ValueError, match=r"data and statistics = .* are both given; give one"):
        replace(kept, data=digits.data)
    with pytest.raises(
        ValueError, match=r"metrics = \('frechet', 'sliced_w2'\): statistics serve the Frechet"
    ):
        replace(kept, metrics=("frechet", "sliced_w2"))
    with pytest.raises(ValueError, match="features = None"):
        replace(kept, features=None)
