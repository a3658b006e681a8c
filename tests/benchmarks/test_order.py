"""The order of README's rows on other noises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.schedules.registry import make_schedule
from benchmarks import headline, order
from benchmarks.records import ORACLE, Cell, Record

CELL = Cell("gaussian-1d", "euler", 3)


def _run(name: str, error: float, seed: int = 0) -> Record:
    sigmas = tuple(make_schedule(name, make_problem(CELL.problem), 3, "euler").sigmas.tolist())
    return Record(CELL, 3, name, seed, error, 1.0, 0, 0.0, sigmas=sigmas)


def test_a_row_is_the_median_of_its_runs_on_each_set(tmp_path) -> None:
    row = headline.Row("lists", [_run("uniform", 0.3), _run("edm", 0.2, 1), _run("arctan", 0.1, 2)])
    (line,) = order.measure([row], 4, tmp_path)
    assert (line.cell, line.row, line.noise_set) == (CELL, "lists", 4)
    evaluator = Evaluator(make_problem(CELL.problem), "euler", (4,), metrics=())
    errors = sorted(evaluator.rows(run.schedule())[0].mean for run in row.runs)
    assert errors[0] < errors[1] < errors[2]
    assert line.rmse == errors[1]


def test_an_oracle_is_that_of_the_set(tmp_path) -> None:
    """Another set has another best list; the table's own noises have that of the records."""
    kept = _run("edm", 0.2)
    rows = [headline.Row("copied", [kept]), headline.Row("best", [replace(kept, method=ORACLE)])]
    copied, best = order.measure(rows, order.OWN_SET, tmp_path)
    assert copied.rmse == best.rmse
    assert not list(tmp_path.iterdir())
    problem = make_problem(CELL.problem)
    for noise_set in (1, 2):
        copied, best = order.measure(rows, noise_set, tmp_path)
        evaluator = Evaluator(problem, "euler", (noise_set,), metrics=())
        found = make_schedule("oracle", problem, 3, "euler", evaluator.reference())
        assert best.rmse == pytest.approx(evaluator.rows(found)[0].mean, rel=1e-3)
        assert best.rmse < 0.99 * copied.rmse
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "gaussian-1d__euler__3__1.json",
        "gaussian-1d__euler__3__2.json",
    ]


def test_how_often_a_row_is_below_the_row_above_it() -> None:
    errors = {"best": (0.1, 0.3, 0.1), "worst": (0.4, 0.4, 0.4), "middle": (0.2, 0.2, 0.2)}
    lines = [order.Line(*CELL, row, s, rmse) for row, of in errors.items() for s, rmse in enumerate(of)]
    assert order.table(lines).splitlines()[2:] == [
        "| worst | `euler` | 0.400 | 0.400 |  |",
        "| middle | `euler` | 0.200 | 0.200 | 2 of 2 |",
        "| best | `euler` | 0.100 | 0.200 (0.100 to 0.300) | 1 of 2 |",
    ]
