"""The fit of universal schedules, and the tables of what they are worth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from art_env.diffusion.denoiser import difference
from art_env.diffusion.solvers import sample
from art_env.problems.random_mixtures import TRAINING_FAMILIES
from art_env.schedules.handcrafted import edm
from benchmarks import many_models, universal, universal_fit
from benchmarks.resampled_weights import interpolated
from benchmarks.universal_fit import Fit, Mixtures


@pytest.fixture(scope="module")
def mixtures() -> Mixtures:
    return Mixtures(6, 3, 0, TRAINING_FAMILIES)


def test_errors_are_those_of_each_mixture(mixtures) -> None:
    found = mixtures.rival("list", 4)
    ends = sample(mixtures.denoiser, mixtures.reference.start, edm(4, 0.002, 80.0).sigmas, "dpmpp_2m")
    off = difference(mixtures.denoiser, ends, mixtures.reference.x_end).square().mean(1)
    for p in range(6):
        assert float(found[p].exp()) == pytest.approx(float(off[mixtures.which == p].mean().sqrt()))


@pytest.mark.parametrize("kind", ["list", "clock"])
@pytest.mark.parametrize("m", [1, 2])
def test_gradient_by_differences(mixtures, kind, m) -> None:
    fit = Fit(kind, 4, m, 2.0, mixtures, mixtures)
    # Away from even times, where the interpolated clocks have their knots.
    z = universal_fit.first_guess(fit)
    z += 0.03 * np.arange(len(z))
    _, gradient = fit.loss(z)
    for i in range(len(z)):
        step = 1e-5 * np.eye(len(z))[i]
        slope = (fit.loss(z + step)[0] - fit.loss(z - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert fit.loss(np.full_like(z, np.nan)) == (1e3, pytest.approx(np.zeros_like(z)))


@pytest.mark.parametrize("kind", ["list", "clock"])
def test_numbers_and_tables_are_inverse(mixtures, kind) -> None:
    fit = Fit(kind, 4, 2, 2.0, mixtures, mixtures)
    z = universal_fit.first_guess(fit) + 0.1 * np.arange(3 + (kind == "clock") + 5)
    entry = fit.table(z)
    again = fit.numbers(np.array(entry["levels"]), np.array(entry["weights"]))
    tensor = torch.from_numpy(again)
    np.testing.assert_allclose(fit.levels(tensor), entry["levels"], rtol=1e-5)
    np.testing.assert_allclose(fit.weights(tensor), entry["weights"], atol=1e-5)


def test_a_fit_is_better_than_its_start_and_goes_on_where_it_stopped(tmp_path, capsys) -> None:
    args = universal_fit.Args(
        steps=(2, 3), weights=(1,), mixtures=6, noises=2, iterations=5, out=tmp_path / "universal.json"
    )
    universal_fit.main(args)
    first = capsys.readouterr().out
    tables = json.loads(args.out.read_text())["tables"]
    assert set(tables) == {"list:2:1", "list:3:1", "clock:2:1", "clock:3:1"}
    assert all(entry["training"]["geometric_mean"] < 1 for entry in tables.values())
    assert first.count("K = ") == 4
    del tables["clock:3:1"]
    body = json.loads(args.out.read_text())
    args.out.write_text(json.dumps({**body, "tables": tables}))
    universal_fit.main(args)
    assert capsys.readouterr().out.count("K = ") == 1
    assert json.loads(args.out.read_text()) == body


def test_tables_of_scores() -> None:
    def line(name: str, solver: str, label: str, rmse: float) -> universal.Line:
        return universal.Line(name, solver, 5, label, rmse, rmse, rmse, 0)

    lines = []
    for name, base in (("digits", 0.2), ("photos", 0.1)):
        lines.append(line(name, "dpmpp_2m", universal.EDM, base))
        lines.append(line(name, "learned_2m", universal.LIST, 0.1))
        lines.append(line(name, "learned_3m", universal.LIST, 0.05))
    rows = universal.table(lines, universal.EDM, universal.LIST).splitlines()
    assert rows[2] == "| digits | 0.200 | 0.100 | 0.050 | 0.50, 0.25 |"
    assert rows[-3] == "| median ratio |  |  |  | **0.75, 0.38** |"
    assert rows[-2] == "| worst ratio |  |  |  | **1.00, 0.50** |"
    assert rows[-1] == "| better on |  |  |  | 1, 2 of 2 |"


def test_table_of_policies() -> None:
    def line(sampler: str, seed: int, rmse: float, ratio: float) -> many_models.Line:
        return many_models.Line("digits", "learned_2m", 5, sampler, seed, rmse, ratio, 1.0)

    lines = [line(many_models.LIST, 0, 0.1, 1.0)]
    lines += [line(many_models.POLICY, seed, 0.09, 0.9 + seed / 100) for seed in range(3)]
    row = many_models.table(lines).splitlines()[-1]
    assert row == "| digits | 0.100 | 0.910 (0.900 to 0.920) |  |"


def test_weights_of_other_steps_are_interpolated() -> None:
    weights = np.array([[0.0], [1.0], [2.0]])
    np.testing.assert_allclose(interpolated(weights, 4)[:, 0], [0.0, 1.0, 1.5, 2.0])
