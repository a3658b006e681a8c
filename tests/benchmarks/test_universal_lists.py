"""The universal list beside others that need no evaluation."""

from __future__ import annotations

from art_env.problems.library import make_problem
from benchmarks.universal import LIST, Args, Line, free_table, measure_free


def _line(problem: str, solver: str, schedule: str, rmse: float) -> Line:
    return Line(problem, solver, 3, schedule, rmse, rmse, rmse, 0)


def test_the_pair_for_all_models_and_the_best_on_each() -> None:
    errors = {
        ("learned_2m", LIST): (0.3, 0.3, 0.5),
        ("unipc_2", "simple"): (0.2, 0.4, 0.6),  # least over all
        ("ipndm", "dmn"): (0.9, 0.2, 0.9),  # best on the second alone
        ("dpmpp_2m", "EDM's grid"): (0.01, 0.01, 0.01),  # of another table
    }
    lines = [
        _line(name, *pair, rmse)
        for pair, of in errors.items()
        for name, rmse in zip(("one", "two", "three"), of, strict=True)
    ]
    header, _, *rows = free_table(lines).splitlines()
    assert "| K = 3: simple, SD's table, UniPC-2 |" in header
    assert rows == [
        "| one | 0.300 | **0.200** | **0.200** simple, SD's table, UniPC-2 |",
        "| two | 0.300 | 0.400 | **0.200** DMN, iPNDM |",
        "| three | **0.500** | 0.600 | 0.600 simple, SD's table, UniPC-2 |",
        "| universal list better on |  | 2 of 3 | 1 of 3 |",
    ]


def test_lists_where_edm_wastes_no_step() -> None:
    """``gaussian-1d`` ends at 0; a problem that ends at sigma_min has EDM's list as it is."""
    for name, end in (("mixture-1d", "sigma_min"), ("gaussian-1d", "zero")):
        problem = make_problem(name)
        assert problem.final_sigmas_type == end
        lines = measure_free(problem, Args(steps=(3,), seeds=(0,)))
        assert len(lines) == len({(line.solver, line.schedule) for line in lines}) == 28
        assert all(line.rmse > 0 for line in lines)
