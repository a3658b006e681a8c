"""Scores against the published table, and baselines by name."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from art_env.diffusion import GaussianDenoiser
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import Score, format_table, read_csv, write_csv
from art_env.problems.custom import custom_problem
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules import Schedule, arctan, edm, uniform
from art_env.schedules.registry import check_spec, make_schedule

STEPS = (2, 5, 10, 20, 50, 100)
# Table 1 of the paper, unsquared and without sampling error.
W2 = {
    "uniform": (0.4648, 0.2117, 0.1103, 0.0565, 0.0230, 0.0116),
    "edm": (0.6617, 0.3158, 0.1736, 0.0908, 0.0373, 0.0188),
    "edm:rho=3": (0.4109, 0.1923, 0.1014, 0.0520, 0.0212, 0.0106),
    "log_snr": (0.6674, 0.3982, 0.2081, 0.1097, 0.0453, 0.0229),
    "closed_form": (0.3492, 0.1493, 0.0771, 0.0392, 0.0159, 0.0080),
    "arctan": (0.3419, 0.1459, 0.0752, 0.0383, 0.0155, 0.0078),
}


@pytest.fixture(scope="module")
def gaussian() -> Problem:
    return make_problem("gaussian-1d")


@pytest.fixture(scope="module")
def mixture() -> Problem:
    # The reference is as exact as it need be, and cheap.
    return replace(make_problem("mixture-1d"), num_noises=512)


@pytest.mark.parametrize("spec", W2)
def test_table_1_of_the_paper(spec: str, gaussian: Problem) -> None:
    evaluator = Evaluator(gaussian, "euler")
    for K, expected in zip(STEPS, W2[spec], strict=True):
        rows = {r.metric: r for r in evaluator.rows(make_schedule(spec, gaussian, K, "euler"))}
        assert round(rows["w2"].mean, 4) == pytest.approx(expected, abs=1e-9)
        assert rows["w2"].sd == 0
        assert (rows["w2"].nfe, rows["w2"].n) == (K, 3)
        assert rows["w2"].final_sigmas_type == ("sigma_min" if spec == "log_snr" else "zero")
        # All data is on one line: the paired error is the distance, but for the end at 1e-4.
        assert rows["rmse"].mean == pytest.approx(rows["w2"].mean, abs=1e-7)


def test_exact_scores_agree_with_sampling(gaussian: Problem) -> None:
    exact = {r.metric: r.mean for r in Evaluator(gaussian, "heun").rows(edm(6, 0.0, 3.0))}
    evaluator = Evaluator(replace(gaussian, linear=False), "heun", range(8))
    sampled = {r.metric: r for r in evaluator.rows(edm(6, 0.0, 3.0))}
    assert sampled["rmse"].mean == pytest.approx(exact["rmse"], rel=0.03)
    assert sampled["rmse"].nfe == 11


def test_a_perfect_sampler_scores_the_floor(mixture: Problem) -> None:
    evaluator = Evaluator(mixture, "rk4", seeds=(0, 1, 2))
    rows = {r.metric: r for r in evaluator.rows(make_schedule("closed_form", mixture, 150))}
    (floor,) = evaluator.floor()
    assert (floor.metric, floor.n, floor.schedule) == ("w2", 3, "floor")
    assert rows["rmse"].mean < 1e-3
    assert rows["w2"].mean == pytest.approx(floor.mean, rel=0.8)
    assert evaluator.reference_error() < 1e-4


def test_two_dimensions_use_sliced_w2() -> None:
    problem = replace(make_problem("mixture-2d"), num_noises=256)
    evaluator = Evaluator(problem, "heun", seeds=(3, 4))
    few, many = (evaluator.rows(make_schedule("closed_form", problem, K)) for K in (3, 12))
    assert [r.metric for r in few] == ["rmse", "sliced_w2"]
    for a, b in zip(few, many, strict=True):
        assert a.mean > b.mean
        assert a.sd >= 0
    (floor,) = evaluator.floor()
    assert 0 < floor.mean < 0.5


def test_scores_are_reproducible_and_on_held_out_noises(mixture: Problem) -> None:
    schedule = edm(5, 0.002, 80.0, final_sigmas_type="sigma_min")
    evaluators = [Evaluator(mixture, "heun", (0,)) for _ in range(2)]
    assert len({evaluator.rows(schedule)[0].mean for evaluator in evaluators}) == 1
    held_out = evaluators[0].reference().start
    assert not torch.isin(held_out, mixture.sample_noise(512, 0)).any()


def test_spread_is_over_seed_sets(mixture: Problem) -> None:
    schedule = edm(5, 0.002, 80.0, final_sigmas_type="sigma_min")
    each = [Evaluator(mixture, "heun", (s,)).rows(schedule)[0] for s in (0, 1, 2)]
    assert all(np.isnan(r.sd) and r.n == 1 for r in each)
    (row, _) = Evaluator(mixture, "heun", (0, 1, 2)).rows(schedule)
    assert row.mean == pytest.approx(np.mean([r.mean for r in each]))
    assert row.sd == pytest.approx(np.std([r.mean for r in each], ddof=1))


def test_nothing_scored_is_below_the_oracle(mixture: Problem) -> None:
    evaluator = Evaluator(mixture, "heun", (0, 1))
    others = [
        make_schedule(s, mixture, 5, "heun") for s in ("edm", "closed_form", "dp", "dp:coefficient=1.15")
    ]
    oracle = make_schedule("oracle", mixture, 5, "heun", evaluator.reference(), others)
    ratios = {
        r.schedule: r.mean
        for s in (*others, oracle)
        for r in evaluator.rows(s, oracle)
        if r.metric == "ratio"
    }
    assert ratios["oracle"] == 1.0
    assert min(ratios.values()) == 1.0
    assert ratios["edm"] > ratios["closed_form"] > 1.5
    first = Evaluator(mixture, "heun", (0,)).rows(oracle)[0].mean
    assert first == pytest.approx(oracle.meta["rmse"], rel=1e-9)
    with pytest.raises(ValueError, match="has 5 steps, the oracle 2"):
        evaluator.ratio(oracle, uniform(2, 0.002, 80.0, final_sigmas_type="sigma_min"))


def test_the_oracle_of_a_gaussian_is_arctan(gaussian: Problem) -> None:
    evaluator = Evaluator(gaussian, "euler", (0,))
    # log_snr ends elsewhere: as a start it must not shift the end of the oracle.
    starts = [make_schedule("log_snr", gaussian, 5, "euler"), make_schedule("uniform", gaussian, 5, "euler")]
    oracle = make_schedule("oracle", gaussian, 5, "euler", evaluator.reference(), starts)
    assert oracle.sigma_end == 0
    assert evaluator.ratio(arctan(5, 0.0, 3.0), oracle) == pytest.approx(1.0, abs=1e-3)
    assert evaluator.ratio(starts[0], oracle) == pytest.approx(0.3982 / 0.1459, rel=1e-3)


def test_the_oracle_is_below_grids_that_nobody_listed(gaussian: Problem) -> None:
    # Heun at K=2 has a poor local minimum near EDM's grid.
    evaluator = Evaluator(gaussian, "heun", (0,))
    oracle = make_schedule("oracle", gaussian, 2, "heun", evaluator.reference())
    assert evaluator.ratio(arctan(2, 0.0, 3.0), oracle) >= 1 - 1e-6


def test_a_wrong_noise_range_is_refused(gaussian: Problem, mixture: Problem) -> None:
    with pytest.raises(ValueError, match=r"starts at sigma=80"):
        Evaluator(gaussian, "euler").rows(edm(5, 0.0, 80.0))
    with pytest.raises(ValueError, match=r"ends at sigma=0, the problem at sigma=0.002"):
        Evaluator(mixture, "euler").rows(edm(5, 0.002, 80.0))
    with pytest.raises(ValueError, match=r"ends at sigma=0.0001"):  # only log_snr may
        Evaluator(gaussian, "euler").rows(edm(5, 1e-4, 3.0, final_sigmas_type="sigma_min"))
    with pytest.raises(ValueError, match=r"ends at sigma=0.01"):
        Evaluator(gaussian, "euler").rows(
            replace(edm(5, 0.01, 3.0, final_sigmas_type="sigma_min"), name="log_snr")
        )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"solver": "hen"}, "Did you mean 'heun'"),
        ({"seeds": ()}, "empty"),
        ({"seeds": (0, 0)}, "repeats"),
        ({"seeds": (-1,)}, "between 0 and"),
        ({"num_noises": 1}, "num_noises = 1"),
    ],
)
def test_bad_evaluators(change: dict, match: str, mixture: Problem) -> None:
    with pytest.raises(ValueError, match=match):
        Evaluator(**{"problem": mixture, "solver": "heun", **change})


def test_how_many_held_out_noises(mixture: Problem) -> None:
    """As many as rewards are measured on, but few where evaluations are dear or scores exact."""
    digits = make_problem("digits")
    assert (digits.num_noises, Evaluator(digits, "heun").num_noises) == (1024, 256)
    assert Evaluator(digits, "heun", num_noises=300).num_noises == 300
    assert Evaluator(replace(digits, num_noises=64), "heun").num_noises == 64
    assert Evaluator(mixture, "heun").num_noises == 512
    assert Evaluator(make_problem("gaussian-1d"), "heun").num_noises == 256


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match="num_images = 10 must exceed"):
        Evaluator(make_problem("digits"), "heun", num_images=10)


def test_own_denoiser_has_paired_errors_only() -> None:
    problem = custom_problem(GaussianDenoiser(0.5, shape=(2,)), num_noises=32)
    evaluator = Evaluator(problem, "heun", (0,))
    assert [r.metric for r in evaluator.rows(edm(8, 0.002, 80.0))] == ["rmse"]
    assert evaluator.floor() == []
    assert evaluator.samples(edm(8, 0.002, 80.0), 3).shape == (3, 2)


def test_schedules_by_name(mixture: Problem) -> None:
    digits_like = custom_problem(GaussianDenoiser(0.5), num_noises=32)
    assert make_schedule("edm:rho=3", mixture, 6) == edm(6, 0.002, 80.0, 3.0, final_sigmas_type="sigma_min")
    assert make_schedule("arctan", digits_like, 6) == arctan(6, 0.002, 80.0, 0.5)
    assert make_schedule("arctan:c=2", digits_like, 6) == arctan(6, 0.002, 80.0, 2.0)
    assert make_schedule("cosine", digits_like, 6).name == "cosine"
    for spec in ("uniform", "log_snr", "closed_form", "dp"):
        assert make_schedule(spec, mixture, 1).sigmas.tolist() == pytest.approx([80.0, 0.002])
        assert make_schedule(spec, digits_like, 4).final_sigmas_type == "zero"


def test_schedules_from_files(tmp_path, mixture: Problem) -> None:
    path = tmp_path / "schedule.json"
    edm(20, 0.002, 80.0, final_sigmas_type="sigma_min").save(path)
    assert make_schedule(str(path), mixture, 20).num_steps == 20
    assert make_schedule(str(path), mixture, 40).sigmas == pytest.approx(
        edm(40, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas, rel=1e-2
    )
    Schedule([80.0, 1.0, 0.0], "ends at 0").save(path)
    with pytest.raises(ValueError, match=r"schedule.json: schedule 'ends at 0' ends at sigma=0"):
        check_spec(str(path), mixture)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        check_spec(str(path), mixture)
    with pytest.raises(FileNotFoundError, match="no schedule file"):
        check_spec("runs/nothing.json", mixture)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("emd", "Did you mean 'edm'"),
        ("edm:ro=3", "unknown option 'ro'. Did you mean 'rho'"),
        ("edm:rho=x", "rho = 'x' is not a number"),
        ("edm:rho=-1", "must be a positive number"),
        ("edm:rho=nan", "must be a positive number"),
        ("uniform:rho=3", "unknown option 'rho'"),
        ("closed_form:rho=3", "no options"),
        ("", "unknown schedule ''"),
    ],
)
def test_bad_specs(spec: str, match: str, mixture: Problem) -> None:
    with pytest.raises(ValueError, match=match):
        check_spec(spec, mixture)


def test_csv_and_table(tmp_path) -> None:
    rows = [
        Score("p", "heun", "zero", "edm", 5, 9, "rmse", 0.1234, 0.01, 3),
        Score("p", "heun", "zero", "edm", 5, 9, "frechet", 123.4, float("nan"), 1),
        Score("p", "heun", "zero", "a, b", 3, 5, "rmse", 0.00001, 0.0, 3),
    ]
    write_csv(rows, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        back = list(csv.DictReader(file))
    assert ",".join(back[0]) == "problem,solver,final_sigmas_type,schedule,num_steps,nfe,metric,mean,sd,n"
    assert [b["schedule"] for b in back] == ["edm", "edm", "a, b"]
    assert float(back[0]["mean"]) == 0.1234
    assert np.isnan(float(back[1]["sd"]))
    again = read_csv(tmp_path / "r.csv", Score)
    assert [again[0], again[2]] == [rows[0], rows[2]]
    assert np.isnan(again[1].sd)
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["schedule", "K", "NFE", "final_sigmas_type", "rmse", "frechet"]
    assert lines[2].split() == ["a,", "b", "3", "5", "zero", "1.0e-05"]
    assert lines[-1].split() == ["edm", "5", "9", "zero", "0.1234", "+-", "0.0100", "123.4"]
