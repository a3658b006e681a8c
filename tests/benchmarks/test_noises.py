"""What the initial noises hide, around one schedule."""

from __future__ import annotations

import pytest

from art_env.problems.library import make_problem
from art_env.schedules.registry import make_schedule
from benchmarks.noises import Polish, Tails, measure_tails, searched
from benchmarks.records import RECORDS, Cell, Leaderboard


def test_who_carries_the_error() -> None:
    cell = Cell("mixture-1d", "euler", 4)
    schedule = make_schedule("edm", make_problem(cell.problem), 4, cell.solver)
    line = measure_tails(Tails(num_schedules=6, num_noises=64, draws=5), cell, schedule)
    assert line.pool == 16384
    assert 16 / line.pool < line.top_16 < 1
    assert 0 < line.correlation_even <= 1
    assert 0 < line.correlation_by_cost <= 1
    assert line.edm == line.search  # the schedule that was given is EDM's


@pytest.mark.parametrize("cells", [Tails().cells, Polish().cells])
def test_the_records_have_what_is_read_from_them(cells) -> None:
    board = Leaderboard.read(RECORDS)
    for cell in map(Cell.parse, cells):
        assert searched(board, cell)
