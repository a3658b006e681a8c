"""Tables of docs/experiments.md and docs/images.md, on small files made by hand."""

from __future__ import annotations

import math

from art_env.evaluation.results import Score, write_csv
from benchmarks import budgets, image_tables, noises, resampled_weights, stochastic, tuning
from benchmarks.tables import EXPERIMENTS_PAGE


def test_tuning() -> None:
    width, values, rates = tuning.GRIDS["art"]
    cell = ("mixture-1d", "heun", 5)
    lines = [
        tuning.Line(*cell, 6, "art", rate, width, value, seed, 1 + value + rate + seed / 10, 2.0)
        for _, _, value, rate, seed in tuning.settings(("art",), (0, 1))
    ]
    assert len(lines) == 2 * len(values) * len(rates)
    rows = tuning.table(lines).splitlines()[2:]
    assert rows[0] == "| ART-RL | std_start 0.09 | 0.02: **1.160** | 0.05: 1.190 | 0.1: 1.240 |"
    assert sum("**" in row for row in rows) == 1


def test_one_search_for_all_numbers_of_steps() -> None:
    cell = ("mixture-1d", "heun")
    lines = [budgets.Line(*cell, 5, budgets.EACH, seed, 0.1, 1 + seed / 10) for seed in range(3)]
    lines += [budgets.Line(*cell, K, budgets.ONE, 0, 0.1, 1.5) for K in (4, 5)]
    assert budgets.table(lines).splitlines()[2:] == [
        "| 5 | 1.500 (1.500) | 1.100 (1.200) |  |",
        "| 4, not searched | 1.500 (1.500) |  |  |",
    ]


def test_resampled_weights(tmp_path) -> None:
    lines = [resampled_weights.Line("digits", "learned_2m", 5, 0.05, math.nan, 0.09)]
    write_csv(lines, tmp_path / resampled_weights.FILE, resampled_weights.Line)
    table = resampled_weights.page_tables(tmp_path)[EXPERIMENTS_PAGE]["resampled-weights"]
    assert table.splitlines()[-1] == "| digits | 5 | 0.0500 | - | 0.0900 |"


def test_noises(tmp_path) -> None:
    cell = ("mixture-1d", "heun", 5)
    tails = [noises.TailsLine(*cell, 16384, 0.0146, 0.891, 0.954, "0.8", "0.1")]
    write_csv(tails, tmp_path / noises.TAILS_FILE, noises.TailsLine)
    write_csv(
        [noises.PolishLine(*cell, 3, 1.17, 1.21, 1.15, 1.26)],
        tmp_path / noises.POLISH_FILE,
        noises.PolishLine,
    )
    tables = noises.page_tables(tmp_path)[EXPERIMENTS_PAGE]
    assert tables["few-noises"].splitlines()[-1] == "| mixture-1d, heun, 5 | 0.015 | 0.89 | 0.95 |"
    assert tables["polish"].splitlines()[-1] == "| mixture-1d, heun, 5, 3 | 1.170 | 1.150 | 1.210 | 1.260 |"


def _score(problem: str, schedule: str, K: int, metric: str, mean: float, solver: str = "heun") -> Score:
    return Score(problem, solver, "zero", schedule, K, 2 * K - 1, metric, mean, 0.1, 3)


def test_what_is_worse_than_edm_on_another_model_is_bold(tmp_path) -> None:
    rows = [_score("photos", "edm", K, "rmse", 0.2) for K in (3, 5, 7, 10)]
    rows += [_score("photos", "evolution of digits", K, "rmse", 0.05 * K) for K in (3, 5)]
    write_csv(rows, tmp_path / "images_models.csv")
    line = image_tables.models_table(tmp_path).splitlines()[2]
    assert line.startswith("| photos | 0.200 / 0.200 / 0.200 / 0.200 | 0.150 / **0.250** / - / - |")


def test_saved_evaluations(tmp_path) -> None:
    rows = []
    for name in image_tables.SIZES:
        for metric in ("rmse", "frechet"):
            rows.append(_score(name, "edm", 10, metric, 0.06))
            rows += [_score(name, "evolution", K, metric, 0.3 / K) for K in (4, 5, 6)]
    write_csv(rows, tmp_path / "images_saved.csv")
    table = image_tables.saved_table(tmp_path)
    # Distances within a standard deviation of EDM's count as equal.
    assert (
        "| digits | 0.06 at 19; learned 0.06 at 9: 53% saved | 0.06 at 19; learned 0.075 at 7: 63% saved |"
        in table
    )


def test_the_least_stochastic_distance_is_bold(tmp_path) -> None:
    for name in stochastic.Args().problems:
        rows = [_score(name, "floor", 0, "w2", 0.04, "none")]
        rows += [_score(name, s, 5, "w2", m, "edm_churn") for s, m in (("edm", 1.3), ("search", 0.2))]
        write_csv(rows, tmp_path / f"stochastic_{name}.csv")
    lines = stochastic.table(tmp_path).splitlines()
    assert lines[2] == "| mixture-1d (exact data 0.040): EDM |  |  |  | 1.30 |  |  |"
    assert lines[4] == "| mixture-1d (exact data 0.040): learned |  |  |  | **0.200** |  |  |"
