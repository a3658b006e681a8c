"""What docs/results.md says in words of its own is what the records say."""

from __future__ import annotations

import itertools

import numpy as np

from art_env.evaluation.results import read_csv
from benchmarks import efficiency, headline, order, second_control, state_policies
from benchmarks.board_tables import SEARCHES, read_board
from benchmarks.records import ORACLE, OURS, RESULTS, ROOT
from benchmarks.solvers import needs_nothing
from benchmarks.tables import RESULTS_PAGE

TEXT = " ".join((ROOT / RESULTS_PAGE).read_text("utf-8").split())


def test_lists_that_need_no_search_are_behind_in_every_cell() -> None:
    assert "Lists that need no search are behind in every cell" in TEXT
    board = read_board()
    for cell in board.cells:
        best = min(np.median(board.ratios(cell, m)) for m in SEARCHES)
        others = [m for m in board.methods if m not in (*SEARCHES, ORACLE) and (cell, m) in board.runs]
        assert best < min(board.ratios(cell, m)[0] for m in others), cell


def test_five_evaluations_with_weights_are_better() -> None:
    assert (
        "Five evaluations with weights are better than the best list of any classical solver with five"
        in TEXT
    )
    found, classical = second_control.read_found(), second_control.read_classical()
    cells = [c for c in found.cells_of("art") if c.num_steps == 5]
    assert len(cells) == 4
    for cell in cells:
        errors = second_control.errors_of(found, cell)
        for method in ("art", OURS):
            assert all(
                error < min(second_control.best_classical(classical, cell)) for error in errors[method]
            ), cell


def test_policies_go_below_every_list_but_on_digits() -> None:
    assert "**On unconditional digits it wins nothing.**" in TEXT
    lines = [x for x in read_csv(RESULTS / state_policies.FILE, state_policies.Line) if x.num_steps == 5]
    bounds = {x.cell: x.ratio for x in lines if x.sampler == state_policies.BOUND}
    assert (
        "A policy trained by gradients, which needs a differentiable sampler, is lower in two cells of three"
        in TEXT
    )
    lower = []
    for cell in dict.fromkeys(x.cell for x in lines):
        policy = f"policy, {' '.join(state_policies.seen(cell))}"
        middle = np.median([x.ratio for x in lines if (x.cell, x.sampler) == (cell, policy)])
        assert (middle < 1) == (cell.problem != "digits"), cell
        if cell in bounds:
            lower.append(bounds[cell] < middle)
    assert sorted(lower) == [False, True, True]


def test_what_costs_nothing_in_the_first_table_is_the_best_that_costs_nothing() -> None:
    """With five evaluations of a solver with one a step, and with Heun's nine."""
    classical = second_control.read_classical()
    for method, cell in headline.COPIED[1:]:
        solvers = second_control.SINGLE if cell.solver != "heun" else ("heun",)
        cells = [cell._replace(solver=solver) for solver in solvers]
        free = [r for c in cells for r in classical.records(cell=c) if needs_nothing(r)]
        (shown,) = classical.records(method, cell)
        assert shown.error <= 1.001 * min(r.error for r in free)


def test_rows_that_change_places() -> None:
    assert "Rows that change places are ties: DMN and `simple`, and all that find levels and weights." in TEXT
    rows = list(order.by_row(read_csv(RESULTS / order.FILE, order.Line)).items())
    swapped = {
        (high, low)
        for (high, above), (low, below) in itertools.pairwise(rows)
        if any(below[s].rmse >= above[s].rmse for s in order.OTHER_SETS)
    }
    free = {("DMN", "simple, SD's table")}
    assert free < swapped
    assert all(own[0].solver == "learned_2m" for pair in swapped - free for name, own in rows if name in pair)


def test_who_needs_more_evaluations() -> None:
    assert "PPO needs more evaluations than ART-RL for the same lists, and SAC does not get there." in TEXT
    lines = efficiency.read(RESULTS / efficiency.FILE)
    for problem, near in efficiency.NEAR.items():
        cost = {
            method: efficiency.price(own, near).evaluations
            for method in ("art", "ppo", "sac")
            if (own := [x for x in lines if (x.problem, x.method) == (problem, method)])
        }
        assert cost["art"] < cost["ppo"]
        assert cost.get("sac", np.inf) == np.inf
