"""The table of oracles by solver, and which rows the leaderboard leaves out because another row is the same."""

from __future__ import annotations

import pytest

from art_env.problems.library import make_problem
from art_env.schedules.registry import make_schedule
from benchmarks import leaderboard, solvers
from benchmarks.records import ORACLE, Cell, Leaderboard, Record


def _board(tmp_path, name, errors):
    cells = {Cell("mixture-1d", solver, K): error for (solver, K), error in errors.items()}
    records = [Record(cell, cell.num_steps, ORACLE, 0, e, 1.0, 0, 0.0) for cell, e in cells.items()]
    return Leaderboard(tmp_path / name, records)


def test_table_marks_the_least_classical_oracle(tmp_path):
    classical = _board(tmp_path, "a", {("euler", 5): 0.3, ("dpmpp_2m", 5): 0.2, ("euler", 3): 0.4})
    found = _board(tmp_path, "b", {("unipc_2", 5): 0.1, ("learned_5m", 5): 0.05, ("deis_3", 3): 0.5})
    lines = [line.replace(" ", "") for line in solvers.table(found, classical).splitlines()[2:]]
    assert lines == [
        "|mixture-1d|3|**0.400**|-|-|-|-|-|0.500|-|",
        "|mixture-1d|5|0.300|0.200|-|**0.100**|-|-|-|0.0500|",
    ]


def test_the_best_list_that_needs_nothing(tmp_path):
    """Neither the oracle, nor what looks at the model, nor what evaluations found."""
    cell = Cell("mixture-1d", "euler", 5)
    tried = {ORACLE: 0.1, "gits": 0.2, "edm_tuned:zero=replace": 0.3, "simple": 0.5, "dmn": 0.4, "art": 0.15}
    classical = Leaderboard(
        tmp_path / "a",
        [Record(cell, 5, m, 0, e, 1.0, 9 if m == "art" else 0, 0.0) for m, e in tried.items()],
    )
    found = Leaderboard(
        tmp_path / "b",
        [
            Record(cell._replace(solver="unipc_2"), 5, m, 0, e, 1.0, 0, 0.0)
            for m, e in ((ORACLE, 0.1), ("edm", 0.6))
        ],
    )
    (row,) = solvers.free_table(found, classical).splitlines()[2:]
    assert row == "| mixture-1d | 5 | **0.400** DMN | - | - | 0.600 EDM (rho = 7) | - | - | - |"


def test_all_weights_is_a_solver_that_looks_back_at_everything():
    assert [solvers.all_weights(K) for K in (1, 2, 10)] == ["learned_2m", "learned_2m", "learned_10m"]


@pytest.mark.parametrize(("solver", "same"), [("euler", True), ("unipc_2", True), ("heun", False)])
def test_dynamic_programming_stands_beside_gits_only_where_it_differs(tmp_path, solver, same):
    args = leaderboard.Args(records=tmp_path / "r", oracles=tmp_path / "oracles", runs=tmp_path / "runs")
    problem = make_problem("gaussian-1d")
    runner = leaderboard.CellRunner(problem, solver, 2, args, Leaderboard(args.records))
    assert (runner.seeds("dp") == ()) == same
    assert runner.seeds("gits") == (0,)
    paths = [make_schedule(name, problem, 4, solver).sigmas for name in ("dp", "gits")]
    assert (paths[0].tolist() == paths[1].tolist()) == same


@pytest.mark.parametrize(("end", "seeds"), [("zero", (0,)), ("sigma_min", ())])
def test_a_last_level_called_zero_needs_a_list_that_ends_there(tmp_path, end, seeds):
    args = leaderboard.Args(records=tmp_path / "r", oracles=tmp_path, runs=tmp_path)
    problem = make_problem("gaussian-1d", final_sigmas_type=end)
    runner = leaderboard.CellRunner(problem, "euler", 2, args, Leaderboard(args.records))
    assert runner.seeds("edm:zero=replace") == seeds
